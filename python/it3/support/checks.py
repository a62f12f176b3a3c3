"""What an engine is made of."""

from typing import Any

import torch
from torch import Tensor, nn


def like_of(model: nn.Module) -> Tensor:
    """Return a tensor of the model's device and dtype."""
    shaped = (p for p in model.parameters() if not nn.parameter.is_lazy(p) and p.is_floating_point())
    return next(shaped, torch.empty(0))


def callable_or_none(name: str, value: Any) -> Any:
    """Return a function, or None. Raises TypeError for anything else."""
    if value is not None and not callable(value):
        raise TypeError(f"{name} must be callable or None, not {value!r}")
    return value


def eager(model: nn.Module) -> nn.Module:
    """Return the module inside torch.compile's wrapper, which would ignore the hook."""
    inner = getattr(model, "_orig_mod", model)
    return inner if isinstance(inner, nn.Module) else model


def check_count(name: str, value: object, least: int) -> None:
    """Raise ValueError for what is no whole number, or less than the least."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} must be a whole number, {least} or more, not {value!r}")


def check_model(model: object) -> None:
    """Raise TypeError or ValueError for what is no model, and for a model that is wrapped to run in parallel."""
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"model must be a torch.nn.Module or a torch.export.ExportedProgram, not a {type(model).__name__}"
        )
    if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
        raise ValueError(
            f"model is wrapped in {type(model).__name__}; give model.module, and wrap the engine to train in parallel"
        )
