"""Eager models and functions as TorchScript or exported programs, compared with what they were made from."""

import copy
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from it3 import _C

Method = Literal["script", "trace"]


def copy_of(model: nn.Module) -> nn.Module:
    """Make a deep copy of a model.

    What a forward left on a module, such as the weight that weight_norm computes, belongs to a graph and cannot be
    deep-copied; the copy's next forward makes it anew.
    """
    attributes = (value for module in model.modules() for value in vars(module).values())
    left = [value for value in attributes if isinstance(value, Tensor) and not value.is_leaf]
    return copy.deepcopy(model, {id(t): t.detach().clone() for t in left})


def to_torchscript(model: nn.Module, example_inputs: Any, method: Method) -> torch.jit.ScriptModule:
    """Export a model, in the mode that it is in; a TorchScript module is returned as it is.

    Parameters
    ----------
    model
        A module, or a function in :class:`FunctionOfOne` or :class:`FunctionOfTwo`.
    example_inputs
        What it is called with: one tensor, a tuple or list (positional) or a mapping (keywords).
    method
        "script" compiles the source, "trace" records one call.

    Raises
    ------
    ValueError
        For another method.
    """
    if method not in ("script", "trace"):
        raise ValueError(f"method must be 'script' or 'trace', not {method!r}")
    if isinstance(model, torch.jit.ScriptModule):
        return model
    args, kwargs = _C.arguments_of(example_inputs)
    script: torch.jit.ScriptModule
    with quiet_torchscript():
        if method == "script":
            script = torch.jit.script(model)
        elif kwargs:
            script = torch.jit.trace(model, example_kwarg_inputs=kwargs)
        else:
            script = torch.jit.trace(model, args)
    return script


def to_exported_program(model: nn.Module, example_inputs: Any) -> torch.export.ExportedProgram:
    """Export a model with torch.export; the first dimension of every tensor may be of another size, where that works.

    Raises
    ------
    ValueError
        For a TorchScript module, which torch.export does not take.
    """
    if isinstance(model, torch.jit.ScriptModule):
        raise ValueError("torch.export takes eager models, not TorchScript; save as .pt with method='script'")
    args, kwargs = _C.arguments_of(example_inputs)

    def any_batch(leaf: object) -> dict[int, Any] | None:
        return {0: torch.export.Dim.AUTO} if isinstance(leaf, Tensor) and leaf.dim() else None

    shapes = pytree.tree_map(any_batch, kwargs or args)
    return torch.export.export(model, args, kwargs, dynamic_shapes=shapes, strict=False)


def first_tensor(value: Any) -> Tensor:
    """Give the first tensor in what a model returned."""
    return next(leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, Tensor))


class FunctionOfOne(nn.Module):
    """A function of a tensor as a module, which can be compiled."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, a: Tensor) -> Tensor:
        """Call the function."""
        result: Tensor = self.function(a)
        return result


class FunctionOfTwo(nn.Module):
    """A function of two tensors as a module, which can be compiled."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Call the function."""
        result: Tensor = self.function(a, b)
        return result


@contextmanager
def quiet_torchscript() -> Iterator[None]:
    """Silence the deprecation of all of TorchScript; that the format is used is our choice, not the user's."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`torch.jit")  # of a category that depends on torch's version
        yield


@contextmanager
def complete_file(path: str | os.PathLike[str]) -> Iterator[str]:
    """Give the name of a file to write, which is renamed to `path` at the end, or removed after an exception."""
    whole = Path(path)
    partial = whole.with_name(f"{whole.stem}.partial{whole.suffix}")
    try:
        yield str(partial)
        partial.replace(whole)
    finally:
        partial.unlink(missing_ok=True)


def check_close(actual: Tensor, expected: Tensor, what: str) -> None:
    """Raise ValueError if an export's predictions are not those of its source."""
    if not torch.allclose(actual, expected, rtol=1e-3, atol=1e-5, equal_nan=True):
        difference = float((actual - expected).abs().max())
        raise ValueError(f"{what}, by {difference:.3g}; nothing was written. Try the other method")
