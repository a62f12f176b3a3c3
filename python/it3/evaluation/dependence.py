"""What hangs together in the data of an evaluation, and is therefore drawn together for its intervals."""

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from it3.engine import IT3Engine
from it3.evaluation.bootstrap import Bootstrap
from it3.evaluation.labels import label_of
from it3.evaluation.rows import Row
from it3.support.batches import Batches
from it3.support.checks import eager


class Dependence:
    """How many samples each batch of each run has, and what hangs together in them."""

    def __init__(self) -> None:
        self.counts: list[list[int]] = []
        self._models: list[int] = []
        self._parts: list[list[Any]] = []
        self._targets: list[Tensor] = []  # of the first run, while all that follow may be in another order

    def add(self, engine: IT3Engine, batches: Batches, counts: list[int], clusters: list[Any] | None) -> None:
        """Add a run, with the labels of its batches where there are some."""
        if clusters is None:
            self._warn_if_reordered(batches)
        self.counts.append(counts)
        self._models.append(id(eager(engine.model)))
        labels = range(len(counts)) if clusters is None else [label_of(label, "clusters") for label in clusters]
        self._parts.append(list(labels))

    def bootstrap(self, rows: Mapping[str, Row], resamples: int) -> Bootstrap:
        """Make the draws for an evaluation's rows: of networks, or of the runs of the one that there is, and of data.

        Runs that share weights are drawn together. So are runs of one network that are the same to the bit, as nothing
        was drawn there.
        """
        networks = self._models
        if len(set(networks)) == 1:
            first: dict[Any, int] = {}
            networks = [
                first.setdefault(tuple(tuple(row.sums[run]) for row in rows.values()), run)
                for run in range(len(self.counts))
            ]
        cells = [(network, part) for network, of in zip(networks, self._parts, strict=True) for part in of]
        sums = [[score for of_run in row.sums for score in of_run] for row in rows.values()]
        counts = [count for of_run in self.counts for count in of_run]
        return Bootstrap(
            torch.tensor(sums, dtype=torch.double),
            torch.tensor(counts, dtype=torch.double),
            [network for network, _ in cells],
            [part for _, part in cells],
            resamples,
        )

    def _warn_if_reordered(self, batches: Batches) -> None:
        """Warn if a run has the first one's targets in another order, so that intervals would be too narrow."""
        targets = [target for _, target in batches]
        if not all(isinstance(target, Tensor) for target in targets):
            return
        if not self.counts:
            self._targets = targets
        if not self._targets:  # they were warned of
            return
        first, now = (torch.cat([target.flatten() for target in of_run]) for of_run in (self._targets, targets))
        if first.shape != now.shape or first.is_complex() or torch.equal(first, now):
            return
        if torch.equal(first.sort().values, now.sort().values):
            warnings.warn(
                "the runs have the same targets in different orders. Intervals draw what lies at one place in all runs "
                "together: if these are the same samples, give them in one order (without shuffle=True), or intervals "
                "are too narrow",
                stacklevel=4,
            )
            self._targets = []
