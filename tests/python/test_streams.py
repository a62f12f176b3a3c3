"""Streams hold every sample once, in the order that they say."""

import random
from typing import Any

import it3
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_evaluation import engine_and_batches
from torch import Tensor

ORDERS = ("continual", "gradual", "mixed", "correlated")
Shifts = dict[Any, tuple[Tensor, Tensor]]


def numbered(sizes: list[int], names: list[Any], classes: int = 4) -> Shifts:
    """Shifts whose inputs are the numbers from 0, so that each sample can be told."""
    shifts, start = {}, 0
    for name, size in zip(names, sizes, strict=True):
        x = torch.arange(start, start + size)
        shifts[name] = (x.double()[:, None], x % classes)
        start += size
    return shifts


def told(made: it3.Stream) -> list[int]:
    return [int(number) for x, _ in made.batches for number in x[:, 0]]


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_every_sample_comes_once_with_its_target_and_shift(data) -> None:
    order = data.draw(st.sampled_from(ORDERS))
    sizes = data.draw(st.lists(st.integers(1, 30), min_size=1, max_size=5))
    size = data.draw(st.integers(1, 256))
    names = [("fog", place) for place in range(len(sizes))]
    concentration = data.draw(st.sampled_from([None, 1e-3, 0.1, 100.0])) if order == "correlated" else None
    shifts = numbered(sizes, names)
    made = it3.stream(shifts, order, size, concentration=concentration, seed=data.draw(st.integers(0, 9)))
    assert sorted(told(made)) == list(range(sum(sizes)))
    for (x, y), labels in zip(made.batches, made.groups, strict=True):
        assert len(x) == len(y) == len(labels) <= size
        for number, target, name in zip(x[:, 0], y, labels, strict=True):
            assert target == number.long() % 4
            assert number in shifts[name][0]


def test_continual_has_one_shift_after_another_and_keeps_the_last_batches() -> None:
    made = it3.stream(numbered([50, 7, 32], ["b", "a", "c"]), "continual", 16)
    assert [(len(y), *set(labels)) for (_, y), labels in zip(made.batches, made.groups, strict=True)] == [
        *([(16, "b")] * 3),
        (2, "b"),
        (7, "a"),
        *([(16, "c")] * 2),
    ]
    assert told(made)[:50] != sorted(told(made)[:50])
    assert repr(made) == "continual stream of 3 shifts: 89 samples, each once, in 7 batches"


def test_gradual_goes_up_and_down_in_severity() -> None:
    names = [(kind, severity) for kind in ("fog", "snow") for severity in (3, 1, 2)]
    made = it3.stream(numbered([9] * 6, names), "gradual", 256)
    stages = [(*next(iter(labels)), len(labels)) for labels in made.groups]
    assert stages == [(kind, *stage) for kind in ("fog", "snow") for stage in ((1, 5), (2, 5), (3, 9), (2, 4), (1, 4))]
    assert all(len(set(labels)) == 1 for labels in made.groups)
    alone = it3.stream(numbered([1, 1], [("fog", 0.5), ("fog", 1)]), "gradual", 1)
    assert alone.groups == [[("fog", 0.5)], [("fog", 1)]]  # no half is left for the way down


def test_mixed_has_all_shifts_in_a_batch() -> None:
    made = it3.stream(numbered([200, 200], ["a", "b"]), "mixed", 50)
    assert [len(y) for _, y in made.batches] == [50] * 8
    for labels in made.groups:
        assert 10 < labels.count("a") < 40


def same_as_before(made: it3.Stream) -> float:
    """How often a sample's class is that of the one before it."""
    classes = torch.cat([y for _, y in made.batches])
    return (classes[1:] == classes[:-1]).double().mean().item()


def test_correlated_comes_class_by_class() -> None:
    shifts = numbered([400, 100], ["a", "b"], classes=10)
    made = it3.stream(shifts, "correlated", 25)
    classes = torch.cat([y for _, y in made.batches])
    assert torch.equal(classes, torch.cat([torch.arange(10).repeat_interleave(n) for n in (40, 10)]))
    assert told(made)[:40] != sorted(told(made)[:40])
    drawn = {
        concentration: same_as_before(it3.stream(shifts, "correlated", 25, concentration=concentration))
        for concentration in (0.01, 0.1, 1.0, 1000.0)
    }
    assert same_as_before(made) > 0.95
    assert 0.5 < drawn[0.01] <= 1
    assert drawn[0.01] > drawn[0.1] > drawn[1.0] > drawn[1000.0]
    # In "a" each part has about 4 of each of 10 classes, in "b" about 1.
    assert drawn[1000.0] == pytest.approx(0.8 * 3 / 39, abs=0.04)


@pytest.mark.parametrize("order", ORDERS)
def test_the_seed_decides_and_nobody_elses_draws_change(order: str) -> None:
    shifts = numbered([40, 40], [("a", 1), ("a", 2)])
    torch.manual_seed(3)
    random.seed(3)
    state = torch.get_rng_state(), random.getstate()
    first, again, other = (told(it3.stream(shifts, order, 7, seed=seed)) for seed in (0, 0, 1))
    assert first == again != other
    assert torch.equal(torch.get_rng_state(), state[0])
    assert random.getstate() == state[1]


def test_inputs_of_several_tensors() -> None:
    shifts = {name: ({"x": x, "pair": (x + 1, x + 2)}, y) for name, (x, y) in numbered([9, 9], ["a", "b"]).items()}
    made = it3.stream(shifts, "mixed", 4)
    for inputs, y in made.batches:
        assert torch.equal(inputs["pair"][1], inputs["x"] + 2)
        assert torch.equal(inputs["x"][:, 0].long() % 4, y)


def test_a_stream_is_evaluated_with_its_worst_shift() -> None:
    engine, batches = engine_and_batches()
    x, y = (torch.cat(parts) for parts in zip(*batches, strict=True))
    shifts = {"none": (x, engine.model(x).detach()), "far": (x + 9, y)}
    for order in ("continual", "mixed"):
        made = it3.stream(shifts, order, 3)
        variants = {"episodic": {}, "continual": {"copy_model": False}}
        evaluation = it3.evaluate(engine, made.batches, "mse", variants, groups=made.groups)
        row = evaluation.rows[0]
        assert row["worst_group"] == "far"
        assert row["worst"] == pytest.approx((engine.model(x + 9) - y).square().mean().item())
        assert row["score"] == pytest.approx(row["worst"] / 2)


def test_errors() -> None:
    shifts = numbered([4, 4], ["a", "b"])
    x, y = shifts["a"]
    with pytest.raises(ValueError, match="order must be one of continual, gradual, mixed, correlated, not 'random'"):
        it3.stream(shifts, "random")
    with pytest.raises(ValueError, match="batch_size must be a whole number, 1 or more, not 0"):
        it3.stream(shifts, batch_size=0)
    with pytest.raises(ValueError, match=r"'gradual' needs names that are pairs \(kind, severity\), not 'a'"):
        it3.stream(shifts, "gradual")
    with pytest.raises(ValueError, match="concentration is about the order 'correlated', not 'mixed'"):
        it3.stream(shifts, "mixed", concentration=0.1)
    with pytest.raises(ValueError, match="concentration must be a number above 0, or None, not 0"):
        it3.stream(shifts, "correlated", concentration=0)
    with pytest.raises(ValueError, match="there are no shifts"):
        it3.stream({})
    with pytest.raises(TypeError, match=r"shifts must map names to pairs .* not be a list"):
        it3.stream([(x, y)])
    with pytest.raises(TypeError, match="the shift 'a' must be a pair of inputs and targets"):
        it3.stream({"a": x})
    with pytest.raises(TypeError, match="the shift 'a' must hold tensors with the samples in their first dimension"):
        it3.stream({"a": ("x", y)})
    with pytest.raises(ValueError, match=r"as many inputs as targets, .* tensors of the lengths 3, 4"):
        it3.stream({"a": (x[:3], y)})
    with pytest.raises(
        ValueError, match=r"needs class indices, \(B,\), as targets; those of 'a' have the shape \(4, 1\)"
    ):
        it3.stream({"a": (x, x)}, "correlated")
