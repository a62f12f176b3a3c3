"""Batches of inputs and targets: what may be a loader, and what it gives."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, IterableDataset

Batches = list[tuple[Any, Any]]
Loader = Iterable[tuple[Any, Any]] | Callable[[int], Iterable[tuple[Any, Any]]]


def batches_of(loader: Loader, run: int) -> Batches:
    """Return a run's batches, for which torch's random generators are seeded with its number.

    Raises
    ------
    ValueError, TypeError
        Unless there are batches, and each is a pair of inputs and targets.
    """
    check_loader(loader)
    torch.manual_seed(run)
    batches = list(loader(run) if callable(loader) else loader)
    if not batches:
        raise ValueError(
            "the loader gave no batches; a generator or iterator is used up after one run: give a list, a "
            "DataLoader, or a function of the run's number that returns the batches"
        )
    return [pair_in(batch, place) for place, batch in enumerate(batches)]


def check_loader(loader: object, name: str = "loader") -> None:
    """Raise TypeError for what gives no batches (inputs, targets)."""
    if isinstance(loader, Tensor | nn.Module | str | Mapping) or not (callable(loader) or _can_iterate(loader)):
        raise TypeError(
            f"{name} must be an iterable of batches (inputs, targets), such as a DataLoader, or a function that "
            f"returns one, not a {_kind(loader)}"
        )
    check_is_no_dataset(loader, name)


def check_is_no_dataset(loader: object, name: str) -> None:
    """Raise TypeError for a dataset of torch's that gives one sample after another."""
    if isinstance(loader, Dataset) and not isinstance(loader, IterableDataset):
        raise TypeError(
            f"{name} is a {type(loader).__name__}, a Dataset, which gives single samples; put it into a "
            "torch.utils.data.DataLoader, which makes batches of them"
        )


def pair_in(batch: Any, place: int) -> tuple[Any, Any]:
    """Return the inputs and the targets of a batch.

    Raises
    ------
    ValueError
        Unless it is a pair.
    """
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        of = f" of {len(batch)}" if isinstance(batch, tuple | list) else ""
        raise ValueError(
            f"batch {place} must be a pair (inputs, targets), but is a {_kind(batch)}{of}; several inputs are a "
            "tuple or a mapping in the pair's first place"
        )
    inputs, targets = batch
    return inputs, targets


def _can_iterate(value: object) -> bool:
    return hasattr(value, "__iter__") or hasattr(value, "__getitem__")


def _kind(value: object) -> str:
    return f"tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
