"""Labels of batches and of their samples."""

from collections.abc import Callable, Hashable, Sequence
from typing import Any

from torch import Tensor

Labels = Sequence[Any] | Callable[[int], Sequence[Any]]


def labels_of(given: Labels | None, run: int, batches: int, name: str) -> list[Any] | None:
    """Return a run's labels, one entry a batch.

    Raises
    ------
    ValueError, TypeError
        Unless there are as many as batches.
    """
    if given is None:
        return None
    labels = given(run) if callable(given) else given
    if hasattr(labels, "tolist"):  # a tensor's, array's or column's
        labels = labels.tolist()
    if isinstance(labels, str) or not isinstance(labels, Sequence):
        raise TypeError(
            f"{name} must be a list with an entry for each batch, or a function of the run's number that returns one, "
            f"not a {type(labels).__name__}"
        )
    if len(labels) != batches:
        raise ValueError(f"{name} has {len(labels)} entries for the {batches} batches of run {run}; give one for each")
    return list(labels)


def label_of(entry: Any, name: str) -> Hashable:
    """Return the label of a whole batch. Raises TypeError for what cannot be one."""
    label = entry.item() if isinstance(entry, Tensor) and entry.numel() == 1 else entry
    if isinstance(label, Tensor) or not isinstance(label, Hashable):
        raise TypeError(f"an entry of {name} must be one label, such as a number or a name, not a {_kind(label)}")
    return label


def labels_of_samples(entry: Any, samples: int, name: str) -> list[Hashable]:
    """Return the labels of a batch's samples, of an entry that is one label for all, or one for each.

    Raises
    ------
    ValueError, TypeError
        For another number of labels.
    """
    given = entry.tolist() if hasattr(entry, "tolist") else entry  # a tensor's or array's
    if not isinstance(given, list | tuple):
        return [label_of(given, name)] * samples
    if len(given) != samples:
        raise ValueError(
            f"an entry of {name} must be one label for the batch, or one for each of its {samples} samples; it has "
            f"{len(given)}"
        )
    return [label_of(label, name) for label in given]


def _kind(value: object) -> str:
    return f"tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
