"""Test data in the orders in which they may come, one batch after another."""

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from it3.support.checks import check_count
from it3.support.kept import seeded_runs

Order = Literal["continual", "gradual", "mixed", "correlated"]


@dataclass(frozen=True, repr=False)
class Stream:
    """What :func:`it3.stream` makes.

    Attributes
    ----------
    batches
        Pairs of inputs and targets, in their order, for :func:`it3.evaluate`.
    groups
        For each batch a list of its samples' shifts, for ``evaluate(groups=)``.
    order
        See :func:`it3.stream`.

    Examples
    --------
    >>> it3.stream({"clean": (x, y), "shifted": (x + 1, y)}, "mixed", batch_size=10)
    mixed stream of 2 shifts: 64 samples, each once, in 7 batches
    """

    batches: list[tuple[Any, Tensor]]
    groups: list[list[Hashable]]
    order: Order

    def __repr__(self) -> str:
        """Return in short what it holds."""
        labels = [label for of_batch in self.groups for label in of_batch]
        return (
            f"{self.order} stream of {len(set(labels))} shifts: {len(labels)} samples, each once, in "
            f"{len(self.batches)} batches"
        )


def stream(
    shifts: Mapping[Any, tuple[Any, Tensor]],
    order: Order = "continual",
    batch_size: int = 64,
    *,
    concentration: float | None = None,
    seed: int = 0,
) -> Stream:
    """Put test data of several shifts into an order, with every sample exactly once.

    The orders are those of the benchmark of Marsden, Döbler and Yang (Universal Test-time Adaptation, WACV 2024, arXiv
    2306.00650; github.com/mariodoebler/test-time-adaptation). Whether a network adapts episodically, to each batch from
    the same weights, or continually, from those that the last batch left, is not the stream's matter but a variant's:
    its option ``copy_model``, True or False.

    Parameters
    ----------
    shifts
        By name, inputs and targets of a shift, such as images with a corruption. Inputs are a tensor, or several in a
        tuple, list or mapping, with the samples in the first dimension.
    order
        "continual": one shift after another, as they are given, the samples of each shuffled. "gradual": names are
        pairs (kind, severity); of one kind after another the severities go up to the greatest and down again, the
        first half of a severity's samples on the way up, the others on the way down. "mixed": the samples of all shifts
        shuffled together. "correlated": as "continual", but in each shift the classes come one after another.
    batch_size
        Samples of a batch, from 1. Where a shift, or of "gradual" a severity, ends, and at the end of all, the last
        batch may be smaller.
    concentration
        Of "correlated": classes come less strictly one after another. A shift is cut into as many parts as there are
        classes, and each class is spread over them in proportions of a Dirichlet distribution with this concentration
        (NOTE: Gong et al., NeurIPS 2022, arXiv 2208.05117), the samples of a part shuffled: near 0 a class lies in one
        part, and of large numbers each part holds all classes alike. None: samples are sorted by class.
    seed
        Of what is shuffled and drawn. The global random generators are left as they are.

    Raises
    ------
    ValueError, TypeError
        For an unknown order, no shifts, inputs and targets of different lengths, names that "gradual" cannot sort, and
        targets that are no class indices where classes are needed.

    Examples
    --------
    >>> shifts = {"clean": (x, y), "shifted": (x + 1, y)}
    >>> in_turn = it3.stream(shifts, "continual", batch_size=20)
    >>> [len(targets) for _, targets in in_turn.batches]
    [20, 12, 20, 12]
    >>> evaluation = it3.evaluate(engine, in_turn.batches, "mse", {"a": {"copy_model": False}}, groups=in_turn.groups)
    >>> evaluation.rows[0]["worst_group"] in shifts
    True
    """
    _check(shifts, order, batch_size, concentration)
    with seeded_runs():
        torch.manual_seed(seed)
        if order == "mixed":
            places = [(name, row) for name, (_, targets) in shifts.items() for row in range(len(targets))]
            stages = [[places[i] for i in torch.randperm(len(places)).tolist()]]
        else:
            stages = [[(name, row) for row in rows] for name, rows in _stages(shifts, order, concentration)]
    batches, groups = [], []
    for stage in stages:
        for start in range(0, len(stage), batch_size):
            samples = stage[start : start + batch_size]
            batches.append(_batch_of(shifts, samples))
            groups.append([name for name, _ in samples])
    return Stream(batches, groups, order)


def _stages(
    shifts: Mapping[Any, tuple[Any, Tensor]], order: Order, concentration: float | None
) -> Iterable[tuple[Hashable, list[int]]]:
    """Return the shifts in their order, each with the samples that come there, in theirs."""
    if order == "correlated":
        return [(name, _by_class(targets, concentration)) for name, (_, targets) in shifts.items()]
    shuffled = {name: torch.randperm(len(targets)).tolist() for name, (_, targets) in shifts.items()}
    if order == "continual":
        return shuffled.items()
    stages: list[tuple[Hashable, list[int]]] = []
    for kind in dict.fromkeys(kind for kind, _ in shifts):
        names = sorted((name for name in shifts if name[0] == kind), key=lambda name: name[1])
        halves = {name: (len(shuffled[name]) + 1) // 2 for name in names[:-1]}
        stages += [(name, shuffled[name][: halves.get(name)]) for name in names]
        stages += [(name, shuffled[name][halves[name] :]) for name in reversed(names[:-1])]
    return stages


def _by_class(targets: Tensor, concentration: float | None) -> list[int]:
    """Return a shift's samples, class by class; of one class they are shuffled."""
    shuffled = torch.randperm(len(targets))
    classes = targets[shuffled].unique()
    of_classes = [shuffled[targets[shuffled] == label] for label in classes]
    if concentration is None:
        return [row for rows in of_classes for row in rows.tolist()]
    parts: list[list[int]] = [[] for _ in classes]
    proportions = torch.distributions.Dirichlet(torch.full((len(classes),), concentration, dtype=torch.double))
    for rows in of_classes:
        ends = (proportions.sample().cumsum(0) * len(rows)).round().long().clamp(max=len(rows))
        ends[-1] = len(rows)
        starts = [0, *ends[:-1].tolist()]
        for place, (start, end) in enumerate(zip(starts, ends.tolist(), strict=True)):
            parts[place] += rows[start:end].tolist()
    return [part[i] for part in parts for i in torch.randperm(len(part)).tolist()]


def _batch_of(shifts: Mapping[Any, tuple[Any, Tensor]], samples: list[tuple[Hashable, int]]) -> tuple[Any, Tensor]:
    """Put samples of several shifts together."""
    names = list(dict.fromkeys(name for name, _ in samples))
    rows = {name: [row for of, row in samples if of == name] for name in names}
    order = [place for name in names for place, (of, _) in enumerate(samples) if of == name]
    back = torch.tensor(order).argsort()
    parts = [pytree.tree_map(lambda leaf, name=name: leaf[rows[name]], shifts[name]) for name in names]
    inputs, targets = pytree.tree_map(lambda *leaves: torch.cat(leaves)[back], *parts)
    return inputs, targets


def _check(shifts: object, order: object, batch_size: object, concentration: object) -> None:
    if order not in get_args(Order):
        raise ValueError(f"order must be one of {', '.join(get_args(Order))}, not {order!r}")
    check_count("batch_size", batch_size, 1)
    if concentration is not None:
        if order != "correlated":
            raise ValueError(f"concentration is about the order 'correlated', not {order!r}; leave it out")
        if isinstance(concentration, bool) or not isinstance(concentration, int | float) or not concentration > 0:
            raise ValueError(f"concentration must be a number above 0, or None, not {concentration!r}")
    if not isinstance(shifts, Mapping):
        raise TypeError(f"shifts must map names to pairs (inputs, targets), not be a {type(shifts).__name__}")
    if not shifts:
        raise ValueError("there are no shifts to make a stream of")
    for name, shift in shifts.items():
        _check_shift(name, shift, needs_classes=order == "correlated")
        if order == "gradual" and not (isinstance(name, tuple) and len(name) == 2):
            raise ValueError(f"the order 'gradual' needs names that are pairs (kind, severity), not {name!r}")


def _check_shift(name: object, shift: object, *, needs_classes: bool) -> None:
    if not isinstance(shift, tuple | list) or len(shift) != 2 or not isinstance(shift[1], Tensor):
        raise TypeError(f"the shift {name!r} must be a pair of inputs and targets, of which the targets are a tensor")
    inputs, targets = shift
    leaves = pytree.tree_leaves(inputs)
    if not leaves or not all(isinstance(leaf, Tensor) and leaf.dim() for leaf in (*leaves, targets)):
        raise TypeError(f"the shift {name!r} must hold tensors with the samples in their first dimension")
    lengths = {len(leaf) for leaf in (*leaves, targets)}
    if len(lengths) > 1 or not len(targets):
        raise ValueError(
            f"the shift {name!r} must have as many inputs as targets, at least one, but has tensors of the lengths "
            f"{', '.join(map(str, sorted(lengths)))}"
        )
    if needs_classes and (targets.dim() != 1 or targets.is_floating_point()):
        raise ValueError(
            f"the order 'correlated' needs class indices, (B,), as targets; those of {name!r} have the shape "
            f"{tuple(targets.shape)} and the dtype {targets.dtype}"
        )
