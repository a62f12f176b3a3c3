"""What of a loader's batches are the inputs."""

import inspect
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn


def inputs_in_batches(batches: Iterable[Any], model: nn.Module, has_targets: bool | None, caller: str) -> Iterator[Any]:
    """Return the inputs in each batch; see :meth:`it3.IT3Engine.calibrate`.

    Parameters
    ----------
    caller
        The method that takes the batches, for messages.

    Raises
    ------
    ValueError, TypeError
        For what are no batches, and where inputs and targets cannot be told apart.
    """
    if isinstance(batches, Tensor | Mapping | str):
        raise TypeError(
            f"{caller}() takes batches, such as a DataLoader, not a {type(batches).__name__}; put a single one in a "
            "list"
        )
    if has_targets not in (None, True, False):
        raise TypeError(f"has_targets must be True, False or None, not {has_targets!r}")
    for batch in batches:
        yield _inputs_in(batch, model, has_targets)


def _inputs_in(batch: Any, model: nn.Module, has_targets: bool | None) -> Any:
    count = len(batch) if isinstance(batch, tuple | list) else 0
    if has_targets:
        if count < 2:
            raise ValueError(
                f"has_targets is True, but a batch is a {type(batch).__name__}"
                + (f" of {count}" if count else "")
                + "; it must be a tuple or list whose last item is the targets"
            )
        return batch[0] if count == 2 else tuple(batch[:-1])
    if has_targets is False or count not in (1, 2):
        return batch
    if count == 2 and all(isinstance(item, Tensor) for item in batch) and _may_take_two(model):
        raise ValueError(
            f"a batch holds two tensors, and the model, a {type(model).__name__}, can be called with two inputs; say "
            "has_targets=True if they are the input and the targets, or has_targets=False if both are inputs"
        )
    return batch[0]


def _may_take_two(model: nn.Module) -> bool:
    """Return whether forward() takes a second tensor by position, as far as its signature says."""
    if isinstance(model, torch.jit.ScriptModule):
        given = list(model._c._get_method("forward").schema.arguments)[1:]  # the first is the module
        return len(given) > 1 and "Tensor" in str(given[1].type)
    try:
        parameters = list(inspect.signature(model.forward).parameters.values())
    except (TypeError, ValueError):
        return True
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return True
    return len(positional) > 1 and positional[1].default in (None, inspect.Parameter.empty)
