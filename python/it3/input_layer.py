"""A layer before all others of a model, at which y0 is fed back at the model's input."""

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from it3 import _C
from it3.checks import check_count, check_model


class InputLayer(nn.Module):
    """Gives its input, with channels of zeros behind its own if it has extra ones."""

    def __init__(self, extra_channels: int, channel_dim: int) -> None:
        super().__init__()
        self.extra_channels = extra_channels
        self.channel_dim = channel_dim

    def forward(self, x: Tensor) -> Tensor:
        """Return the input, (B, F, ...), as (B, F + extra, ...)."""
        if self.extra_channels == 0:
            return x.view_as(x)  # an operation, by which programs know the layer
        sizes = list(x.shape)
        sizes[self.channel_dim] = self.extra_channels
        return torch.cat([x, x.new_zeros(sizes)], self.channel_dim)

    def extra_repr(self) -> str:
        """Return what it was made with, for print()."""
        return f"extra_channels={self.extra_channels}, channel_dim={self.channel_dim}"


class WithInputLayer(nn.Module):
    """A model behind a layer, called ``input``, that takes one of its arguments.

    ``it3.IT3Engine(model, "input", extra_channels=10)`` makes it by itself; it is for networks that are used without an
    engine too, such as one that is trained alone for comparison. Its parameters are the model's, behind ``model.``.

    Parameters
    ----------
    model
        A module; of TorchScript too.
    extra_channels
        How many channels of zeros follow those of the input. The model's first layer is that much wider than the data,
        and y0 goes there: it is concatenated. With 0, y0's embedding is added to the input.
    channel_dim
        The dimension of the input's channels, columns or node features.
    argument
        Which of the arguments of ``forward()`` the layer takes, counted from 0: a floating-point tensor.

    Raises
    ------
    ValueError, TypeError
        For what is no module, a negative number of channels, and for an argument that ``forward()`` does not have.

    Examples
    --------
    >>> wide = it3.WithInputLayer(nn.Linear(3 + 2, 2), extra_channels=2)  # for data of 3 columns, 2 classes
    >>> wide(torch.randn(4, 3)).shape
    torch.Size([4, 2])
    >>> wide.input
    InputLayer(extra_channels=2, channel_dim=1)
    """

    def __init__(self, model: nn.Module, extra_channels: int = 0, channel_dim: int = 1, argument: int = 0) -> None:
        super().__init__()
        check_model(model)
        check_count("extra_channels", extra_channels)
        check_count("argument", argument)
        self.input = InputLayer(extra_channels, channel_dim)
        self.model = model
        self.argument = argument
        self._parameter = _parameter_of(model, argument)
        self.train(model.training)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Call the model."""
        if len(args) > self.argument:
            given = list(args)
            given[self.argument] = self.input(self._checked(given[self.argument]))
            return self.model(*given, **kwargs)
        if self._parameter not in kwargs:
            raise TypeError(
                f"the input layer takes argument {self.argument} of the model, but it was called with "
                f"{len(args)} positional arguments and the keywords {', '.join(kwargs) or 'none'}"
            )
        return self.model(*args, **{**kwargs, self._parameter: self.input(self._checked(kwargs[self._parameter]))})

    def _checked(self, value: Any) -> Tensor:
        if not isinstance(value, Tensor):
            raise TypeError(
                f"the input layer takes argument {self.argument} of the model, which must be a tensor, not a "
                f"{type(value).__name__}; wrap the model in a module whose forward() takes the tensor by itself"
            )
        return value


def with_input_layer(
    model: nn.Module, extra_channels: int = 0, channel_dim: int = 1, argument: int = 0
) -> WithInputLayer | torch.jit.ScriptModule:
    """Put the layer before a model: TorchScript stays TorchScript."""
    around = WithInputLayer(model, extra_channels, channel_dim, argument)
    return scripted(around, model) if isinstance(model, torch.jit.ScriptModule) else around


def scripted(model: WithInputLayer, inner: torch.jit.ScriptModule) -> torch.jit.ScriptModule:
    """Return the same around a model of TorchScript, to which ``*args`` cannot be compiled."""
    layer = model.input
    module = _C.with_input_layer(inner, layer.extra_channels, layer.channel_dim, model.argument)
    wrapped: torch.jit.ScriptModule = torch.jit._recursive.wrap_cpp_module(module)
    return wrapped


def _parameter_of(model: nn.Module, argument: int) -> str:
    """Return what an argument of forward() is called; empty where only its place is known."""
    if isinstance(model, torch.jit.ScriptModule):
        names = [str(each.name) for each in model._c._get_method("forward").schema.arguments[1:]]
    else:
        parameters = inspect.signature(model.forward).parameters.values()
        named = [p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
        if len(named) < len(parameters):
            return named[argument].name if argument < len(named) else ""
        names = [p.name for p in named]
    if argument >= len(names):
        raise ValueError(f"the model's forward() has no argument {argument}; it takes {', '.join(names) or 'none'}")
    return names[argument]
