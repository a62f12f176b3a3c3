"""A layer before all others of a model, at which y0 is fed back at the model's input."""

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from it3 import _C
from it3.embedder import Embedder
from it3.support.checks import check_count, check_model, eager


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
        check_count("extra_channels", extra_channels, 0)
        check_count("argument", argument, 0)
        self.input = InputLayer(extra_channels, channel_dim)
        self.model = model
        self.argument = argument
        self._parameter = _parameter_of(model, argument)
        self.training = self.input.training = getattr(model, "training", False)  # modules in the model keep theirs

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Call the model."""
        args, kwargs = self.widened(args, kwargs)
        return self.model(*args, **kwargs)

    def widened(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return what the model is called with where this is called with these arguments.

        Raises
        ------
        TypeError
            If the argument that the layer takes is not among them, or no tensor.

        Examples
        --------
        >>> args, kwargs = it3.WithInputLayer(nn.Linear(3 + 2, 2), 2).widened((torch.randn(4, 3),), {})
        >>> args[0].shape
        torch.Size([4, 5])
        """
        if len(args) > self.argument:
            given = list(args)
            given[self.argument] = self.input(self._checked(given[self.argument]))
            return tuple(given), kwargs
        if self._parameter not in kwargs:
            raise TypeError(
                f"the input layer takes argument {self.argument} of the model, but it was called with "
                f"{len(args)} positional arguments and the keywords {', '.join(kwargs) or 'none'}"
            )
        return args, {**kwargs, self._parameter: self.input(self._checked(kwargs[self._parameter]))}

    def _checked(self, value: Any) -> Tensor:
        if not isinstance(value, Tensor):
            raise TypeError(
                f"the input layer takes argument {self.argument} of the model, which must be a tensor, not a "
                f"{type(value).__name__}; wrap the model in a module whose forward() takes the tensor by itself"
            )
        return value


def for_the_input(
    model: nn.Module, extra_channels: int, features_layout: _C.Layout | None, embedder: Any
) -> tuple[nn.Module, _C.Layout | None, Any]:
    """Return the model behind an input layer, where its input has its channels, and the embedder for it.

    A model that has a layer called "input" stays as it is, and so does an :class:`it3.WithInputLayer`. TorchScript
    stays TorchScript; a wrapper of torch.compile, which no engine runs, is taken off.

    Raises
    ------
    ValueError
        For extra channels of a model that has such a layer, or other ones than its; and for samples and channels in one
        dimension.
    """
    inner = eager(model)
    own = inner.input if isinstance(inner, WithInputLayer) else None
    if own is None and "input" in dict(inner.named_modules()):
        if extra_channels != 0:
            raise ValueError(
                f"extra_channels={extra_channels} is for a layer before the model, but the model has a layer called "
                "'input', at which y0 is fed back; rename that layer, or give an it3.WithInputLayer around the model"
            )
        return model, features_layout, embedder
    if own is not None and extra_channels not in (0, own.extra_channels):
        raise ValueError(
            f"extra_channels={extra_channels} contradicts the it3.WithInputLayer, which has {own.extra_channels}; "
            "leave it out"
        )
    of_embedder = embedder.features_layout if isinstance(embedder, Embedder) else None
    layout = features_layout or of_embedder or _C.Layout(1 if own is None else own.channel_dim)
    channel_dim = layout.channel_dim if layout.channel_dim is not None else 1
    if own is not None and channel_dim != own.channel_dim:
        raise ValueError(
            f"features_layout has channel_dim={channel_dim}, but the it3.WithInputLayer has {own.channel_dim}; "
            "leave it out"
        )
    if channel_dim == layout.batch_dim:
        raise ValueError(
            f"features_layout has both the samples and the channels of the input in dimension {channel_dim}; give "
            "it3.Layout(channel_dim=..., batch_dim=...) with two different ones"
        )
    if own is not None:
        extra_channels = own.extra_channels
    else:
        around = WithInputLayer(inner, extra_channels, channel_dim)
        model = scripted(around, inner) if isinstance(inner, torch.jit.ScriptModule) else around
    if embedder is None and extra_channels > 0:
        embedder = Embedder(extra_channels=extra_channels)
    return model, _C.Layout(channel_dim, layout.batch_dim), embedder


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
