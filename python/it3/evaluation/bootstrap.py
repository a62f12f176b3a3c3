"""How sure a difference of scores is, by a bootstrap that knows what hangs together."""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from it3.evaluation.student_t import p_value, quantile

_CHUNK = 500  # draws at a time, for which weights of all batches are held
_ROUNDING = 1e-9  # a share of a number that is none; a standard error of such a share of the gain is none either


@dataclass(frozen=True)
class Gain:
    """How much better one row's score is than another's, above 0 for better.

    Attributes
    ----------
    value
        The difference of the scores.
    low, high
        Its interval; nan where there is nothing to draw, a row has no score, or the difference is the same in all
        batches and these are fewer than a sign test needs.
    p
        How probable a difference as large or larger would be, in either direction, if there were none; nan without
        draws.
    level
        The share of such intervals that hold the true difference.

    Examples
    --------
    >>> from it3.evaluation.bootstrap import Gain
    >>> print(Gain(value=0.02, low=0.01, high=0.03, p=0.001))
    +0.02 (95 % interval +0.01 to +0.03)
    """

    value: float
    low: float
    high: float
    p: float
    level: float = 0.95

    def __str__(self) -> str:
        """Write it as people read it."""
        if math.isnan(self.low):
            return f"{self.value:+.4g} (no interval)"
        return f"{self.value:+.4g} ({100 * self.level:.3g} % interval {self.low:+.4g} to {self.high:+.4g})"


class Bootstrap:
    """Draws of networks and of data, the same for all rows.

    The scores of a table hang together in two ways: those of one network, and those of one part of the data, which all
    networks see. Networks and parts are therefore drawn with replacement by themselves, and a batch counts in a draw as
    often as its network times as often as its part (the pigeonhole bootstrap; Owen, Annals of Applied Statistics 2007,
    doi 10.1214/07-AOAS122). Where scores do not hang together, intervals are somewhat wider than they have to be.

    There are usually few networks or parts, of which draws vary too little, and their quantiles lie too near. So the
    draws give a standard error, n / (n - 1) times as large in its square for what is drawn from n; and the interval is
    that of Student's t, with the degrees of freedom of Welch and Satterthwaite (Biometrics Bulletin 1946), of what the
    networks contribute and of what the parts do, rounded down.

    Parameters
    ----------
    sums
        Of each row's scores, (rows, cells), float64: a cell is a batch in a run.
    counts
        How many samples a cell has, (cells,), float64.
    networks, parts
        What each cell is of; the same label is the same.
    resamples
        How often is drawn.

    Examples
    --------
    Of two rows, each of two networks' numbers of right answers in two batches of 10:

    >>> from it3.evaluation.bootstrap import Bootstrap
    >>> right = torch.tensor([[8, 6, 7, 9], [10, 10, 10, 10]], dtype=torch.float64)
    >>> counts = torch.full((4,), 10, dtype=torch.float64)
    >>> bootstrap = Bootstrap(right, counts, networks=[0, 0, 1, 1], parts=[0, 1, 0, 1], resamples=1000)
    >>> gain = bootstrap.difference(1, 0)
    >>> gain.value, gain.low < gain.value < gain.high
    (0.25, True)
    """

    def __init__(
        self,
        sums: Tensor,
        counts: Tensor,
        networks: Sequence[Hashable],
        parts: Sequence[Hashable],
        resamples: int,
    ) -> None:
        self._means = sums.sum(1) / counts.sum()
        of_network, of_part = _numbered(networks), _numbered(parts)
        self._drawn = int(of_network.max()) + 1, int(of_part.max()) + 1
        columns = torch.cat([sums, counts[None]]).T  # one product gives the sums of all rows
        generator = torch.Generator().manual_seed(0)
        draws: list[list[Tensor]] = []
        for start in range(0, resamples, _CHUNK):
            size = min(_CHUNK, resamples - start)
            network, part = (_draw(n, size, generator) for n in self._drawn)
            by_network, by_part = network[:, of_network], part[:, of_part]
            weights = (by_network * by_part, by_network, by_part)
            draws.append([_means_of(weight @ columns) for weight in weights])
        self._draws = [torch.cat(of) for of in zip(*draws, strict=True)]  # of both, networks alone and parts alone

    def difference(self, row: int, other: int, level: float = 0.95) -> Gain:
        """Return how much greater the mean score of one row is than another's."""
        value = float(self._means[row] - self._means[other])
        if max(self._drawn) == 1 or math.isnan(value):
            return Gain(value, math.nan, math.nan, math.nan, level)
        both, networks, parts = (float((of[:, row] - of[:, other]).var(correction=0)) for of in self._draws)
        variance, squares = both, 0.0
        for alone, n in zip((networks, parts), self._drawn, strict=True):
            if n > 1:
                variance += alone / (n - 1)
                squares += alone**2 / (n - 1)
        error = math.sqrt(variance)
        if error <= _ROUNDING * abs(value):
            return _without_variation(value, max(self._drawn), level)
        # A whole number must not become the one below it by rounding.
        degrees = max(1, math.floor((1 + _ROUNDING) * (networks + parts) ** 2 / squares)) if squares else 1
        half = quantile(1 - level, degrees) * error
        return Gain(value, value - half, value + half, p_value(value / error, degrees), level)


def holm(p_values: Sequence[float], alpha: float = 0.05) -> tuple[list[float], list[float]]:
    """Correct several p-values for being several (Holm, Scandinavian Journal of Statistics 1979).

    The smallest of m is tested at alpha / m, the next at alpha / (m - 1), and so on, until one is not significant;
    those behind it are not either. nan is never significant.

    Returns
    -------
    corrected
        The p-values to compare with alpha.
    levels
        At which level each was tested, which for those behind the first that is not significant is its level.
    """
    corrected, levels = [math.nan] * len(p_values), [alpha] * len(p_values)
    most, stopped = 0.0, 0
    for rank, place in enumerate(sorted(range(len(p_values)), key=lambda i: (math.isnan(p_values[i]), p_values[i]))):
        p = p_values[place]
        factor = len(p_values) - rank
        stopped = stopped or (0 if p <= alpha / factor else factor)
        levels[place] = alpha / (stopped or factor)
        most = max(most, min(1.0, factor * p))
        corrected[place] = math.nan if math.isnan(p) else most
    return corrected, levels


def _without_variation(value: float, drawn: int, level: float) -> Gain:
    """Return a gain that is the same in all networks and data, of which by chance alone few may be alike.

    Its p-value is that of the sign test: all are of one sign. If that is not significant there is no interval.
    """
    p = 1.0 if value == 0 else 2.0 ** (1 - drawn)
    bound = value if value == 0 or p <= 1 - level else math.nan
    return Gain(value, bound, bound, p, level)


def _numbered(labels: Sequence[Hashable]) -> Tensor:
    """Return a number from 0 for each label."""
    numbers: dict[Hashable, int] = {}
    return torch.tensor([numbers.setdefault(label, len(numbers)) for label in labels])


def _draw(n: int, size: int, generator: torch.Generator) -> Tensor:
    """Return how often each of n is drawn in n draws with replacement, (size, n)."""
    drawn = torch.randint(n, (size, n), generator=generator)
    return torch.zeros(size, n, dtype=torch.double).scatter_add_(1, drawn, torch.ones(size, n, dtype=torch.double))


def _means_of(sums: Tensor) -> Tensor:
    """Divide all columns by the last, how many samples were drawn; leave out draws of none."""
    drawn = sums[sums[:, -1] > 0]
    return drawn[:, :-1] / drawn[:, -1:]
