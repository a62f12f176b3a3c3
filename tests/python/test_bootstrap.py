"""Intervals and p-values are those of the theory, and hold the truth as often as they say."""

import math
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from it3.evaluation.bootstrap import Bootstrap, holm
from it3.evaluation.student_t import p_value, quantile
from scipy import stats
from torch import Tensor

draw = partial(torch.randn, dtype=torch.double)


def bootstrap_of(gains: Tensor, networks=None, parts=None, resamples: int = 1000) -> Bootstrap:
    """Of one row with these gains, [run, batch], on batches of one, and one row of zeros."""
    runs, batches = gains.shape
    networks = range(runs) if networks is None else networks
    parts = range(batches) if parts is None else parts
    return Bootstrap(
        torch.stack([gains.flatten(), torch.zeros(gains.numel(), dtype=torch.double)]),
        torch.ones(gains.numel(), dtype=torch.double),
        [network for network in networks for _ in range(batches)],
        [part for _ in range(runs) for part in parts],
        resamples,
    )


@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 5, 10, 29, 200])
def test_students_t_against_scipy(degrees: int) -> None:
    for t in (0.0, 0.3, 1.0, 2.5, -7.0, 40.0):
        assert p_value(t, degrees) == pytest.approx(2 * stats.t.sf(abs(t), degrees), abs=1e-12)
    for p in (1.0, 0.3, 0.05, 0.01, 0.001):
        assert quantile(p, degrees) == pytest.approx(stats.t.isf(p / 2, degrees), rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("shape", [(1, 4), (1, 30), (5, 1), (12, 1)])
def test_with_one_thing_to_draw_it_is_students_test(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    gains = draw(shape) + 0.5
    gain = bootstrap_of(gains, resamples=100_000).difference(0, 1, 0.9)
    expected = stats.ttest_1samp(gains.flatten().numpy(), 0)
    low, high = expected.confidence_interval(0.9)
    assert gain.value == pytest.approx(gains.mean().item(), rel=1e-12)
    assert (gain.low, gain.high) == pytest.approx((low, high), abs=0.01 * (high - low))
    assert gain.p == pytest.approx(expected.pvalue, rel=0.05)
    other = bootstrap_of(gains, resamples=100_000).difference(1, 0, 0.9)
    assert (other.low, other.high, other.p) == pytest.approx((-gain.high, -gain.low, gain.p))


def test_batches_of_a_cluster_are_drawn_together() -> None:
    """They are as one batch that holds the samples of all."""
    gains = draw((1, 9), generator=torch.Generator().manual_seed(0))
    together = bootstrap_of(gains, parts="aaabbbccc").difference(0, 1)
    of_clusters = bootstrap_of(gains.view(3, 3).mean(1)[None]).difference(0, 1)
    assert (together.value, together.low, together.high) == pytest.approx(
        (of_clusters.value, of_clusters.low, of_clusters.high)
    )


def test_by_hand_where_every_draw_can_be_counted() -> None:
    """Two networks and two batches: each is drawn twice, once or never, with probabilities of 1/4, 1/2 and 1/4."""
    gains = torch.tensor([[1.0, 3.0], [2.0, 8.0]], dtype=torch.double)
    draws = [((0, 2), 0.25), ((1, 1), 0.5), ((2, 0), 0.25)]

    def variance(means: list[tuple[float, float]]) -> float:
        return sum(p * m**2 for m, p in means) - sum(p * m for m, p in means) ** 2

    of_both = [
        (sum(u[i] * v[j] * gains[i, j].item() for i in range(2) for j in range(2)) / 4, p * q)
        for u, p in draws
        for v, q in draws
    ]
    networks = variance([(2.0, 0.25), (3.5, 0.5), (5.0, 0.25)])  # the means over batches are 2 and 5
    parts = variance([(1.5, 0.25), (3.5, 0.5), (5.5, 0.25)])  # and over networks 1.5 and 5.5
    error = (variance(of_both) + networks / (2 - 1) + parts / (2 - 1)) ** 0.5
    assert int((networks + parts) ** 2 / (networks**2 + parts**2)) == 1  # degree of freedom
    gain = bootstrap_of(gains, resamples=200_000).difference(0, 1)
    assert gain.value == 3.5
    assert gain.high - 3.5 == pytest.approx(stats.t.isf(0.025, 1) * error, rel=0.01)
    assert gain.p == pytest.approx(2 * stats.t.sf(3.5 / error, 1), rel=0.01)


@pytest.mark.parametrize("value", [0.1, -3.0])
def test_gains_that_are_all_the_same(value: float) -> None:
    """They are tested by their sign, as a coin that falls on one side each time."""
    for batches in range(2, 12):
        gain = bootstrap_of(torch.full((1, batches), value, dtype=torch.double)).difference(0, 1)
        assert gain.value == pytest.approx(value)
        assert gain.p == stats.binomtest(batches, batches).pvalue
        assert math.isnan(gain.low) == (gain.p > 0.05)
        assert gain.low == pytest.approx(value) or gain.p > 0.05
    none = bootstrap_of(torch.zeros(3, 4, dtype=torch.double)).difference(0, 1)
    assert (none.low, none.high, none.p) == (0, 0, 1)


def test_nothing_to_draw() -> None:
    gain = bootstrap_of(torch.ones(1, 1, dtype=torch.double)).difference(0, 1)
    assert gain.value == 1
    assert all(map(math.isnan, (gain.low, gain.high, gain.p)))


def test_weights_of_unequal_batches() -> None:
    """The mean is that of samples, also where a draw holds none of a network's."""
    sums = torch.tensor([[6.0, 1.0, 0.5], [0.0, 0.0, 0.0]], dtype=torch.double)
    bootstrap = Bootstrap(sums, torch.tensor([6.0, 2.0, 2.0], dtype=torch.double), [0, 0, 1], ["a", "b", "c"], 500)
    gain = bootstrap.difference(0, 1)
    assert gain.value == 0.75
    assert gain.low < 0.75 < gain.high


def percentiles(gains: Tensor, generator: torch.Generator) -> tuple[float, float]:
    """What evaluate() had before: runs are drawn, in each its batches anew, and quantiles of the draws taken."""
    runs, batches = gains.shape
    drawn = torch.randint(runs, (400, runs), generator=generator)
    of_run = torch.randint(batches, (400, runs, batches), generator=generator)
    means = gains[drawn[..., None], of_run].mean((1, 2))
    low, high = means.quantile(torch.tensor([0.025, 0.975], dtype=torch.double)).tolist()
    return low, high


WORLDS: dict[str, tuple[Callable[[torch.Generator], Tensor], dict, float]] = {
    "the same batches for all runs": (lambda g: draw(5, 1, generator=g) * 0.1 + draw(1, 12, generator=g), {}, 0.7),
    "few networks that differ": (lambda g: draw(4, 1, generator=g) + 0.3 * draw(4, 40, generator=g), {}, 0.9),
    "crops of one photo": (
        lambda g: draw(1, 10, generator=g).repeat_interleave(8, 1) + 0.3 * draw(1, 80, generator=g),
        {"parts": [place // 8 for place in range(80)]},
        0.7,
    ),
    "runs that share weights": (
        lambda g: draw(4, 1, generator=g).repeat_interleave(5, 0) + 0.3 * draw(20, 10, generator=g),
        {"networks": [run // 5 for run in range(20)]},
        0.75,
    ),
    "all of it": (
        lambda g: (
            draw(4, 1, generator=g).repeat_interleave(3, 0)
            + 2 * draw(1, 8, generator=g).repeat_interleave(4, 1)
            + draw(12, 32, generator=g)
        ),
        {"networks": [run // 3 for run in range(12)], "parts": [place // 4 for place in range(32)]},
        0.85,
    ),
}


@pytest.mark.parametrize("world", WORLDS)
def test_intervals_hold_the_truth_as_often_as_they_say(world: str) -> None:
    """The true gain is 0."""
    make, together, coverage_before = WORLDS[world]
    generator = torch.Generator().manual_seed(0)
    now = before = 0
    tries = 400
    for _ in range(tries):
        gains = make(generator)
        gain = bootstrap_of(gains, **together, resamples=300).difference(0, 1)
        now += gain.low < 0 < gain.high
        assert (gain.p > 0.05) == (gain.low < 0 < gain.high)
        low, high = percentiles(gains, generator)
        before += low < 0 < high
    assert now / tries >= 0.93
    assert before / tries <= coverage_before


def test_where_nothing_hangs_together_intervals_are_at_most_somewhat_wide() -> None:
    """With as much of each: twice the standard error of independent batches, sqrt(3) in the limit."""
    generator = torch.Generator().manual_seed(0)
    widths = []
    for _ in range(100):
        gain = bootstrap_of(draw(10, 30, generator=generator), resamples=300).difference(0, 1)
        widths.append((gain.high - gain.low) / (2 * 1.96 / 300**0.5))
    assert 1 < np.mean(widths) < 2.1


def test_holm_by_hand() -> None:
    corrected, levels = holm([0.04, 0.01, 0.02])
    assert corrected == pytest.approx([0.04, 0.03, 0.04])
    assert levels == pytest.approx([0.05, 0.05 / 3, 0.05 / 2])
    corrected, levels = holm([0.04, 0.02, 0.001])  # at 0.02 it stops: 0.02 <= 0.05 / 2, but 0.03 is not
    assert corrected == pytest.approx([0.04, 0.04, 0.003])
    corrected, levels = holm([0.03, 0.04, 0.001, 0.9])
    assert corrected == pytest.approx([0.09, 0.09, 0.004, 0.9])
    assert levels == pytest.approx([0.05 / 3, 0.05 / 3, 0.05 / 4, 0.05 / 3])
    assert holm([]) == ([], [])
    corrected, levels = holm([float("nan"), 0.01])
    assert corrected[0] != corrected[0]
    assert corrected[1] == pytest.approx(0.02)


def test_holm_decides_as_its_levels_and_its_definition() -> None:
    """Against the step-down procedure written as it is stated, for drawn p-values."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(200):
        p = (torch.rand(5, generator=generator) ** 4).tolist()
        corrected, levels = holm(p)
        rejected = set()
        for rank, place in enumerate(np.argsort(p)):
            if p[place] > 0.05 / (5 - rank):
                break
            rejected.add(int(place))
        assert {place for place in range(5) if corrected[place] <= 0.05} == rejected
        assert {place for place in range(5) if p[place] <= levels[place]} == rejected
