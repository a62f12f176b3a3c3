"""Engines with functions of the user's own, compiled: they are right, and are left when the functions change."""

import copy
import random
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import it3
import numpy as np
import pytest
import reference
import torch
from compiled_engines import VECTORIZED_AT_ANY_SIZE, batch, check_alike, close, is_compiled, make_engine
from it3 import IT3Engine
from it3.compiling.capture import Captured
from torch import Tensor, nn

SCALE = 2.0
SHIFT = torch.full((12,), 0.1, dtype=torch.float64)
WEIGHTS = np.array([1.0, 3.0, 0.5])
CALLS: list[int] = []


class Signal(nn.Module):
    """An embedder with buffers, and attributes that it reads."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.dropout = nn.Linear(3, 12), nn.Dropout(0.5)
        self.register_buffer("mean", torch.full((3,), 0.2))
        self.gain = 0.5

    def forward(self, prediction: Tensor) -> Tensor:
        return self.dropout(torch.tanh(self.linear(prediction - self.mean))) * self.gain


class Weighted(nn.Module):
    """A distance with a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0, 2.0, 0.5]))

    def forward(self, second: Tensor, first: Tensor) -> Tensor:
        return (self.weight * (second - first).abs().clamp(min=0.01)).mean() * SCALE


def combine(features: Tensor, embedding: Tensor) -> Tensor:
    return features * SHIFT + embedding


def in_place(second: Tensor, first: Tensor) -> Tensor:
    """Compute a distance in place, with tensors that it makes, and a global array of NumPy."""
    difference = second - first
    difference.mul_(torch.tensor([1.0, 0.5, 2.0], dtype=second.dtype))
    total = torch.zeros_like(difference)
    total += difference.square() * torch.from_numpy(WEIGHTS)
    return total.mean()


class Scaled(it3.Embedder):
    def forward(self, prediction: Tensor, features: Tensor) -> Tensor:
        return 0.5 * super().forward(prediction, features)


def arguments() -> dict[str, Any]:
    torch.manual_seed(1)
    return {"embedder": Signal().double(), "combine_fn": combine, "distance_fn": Weighted().double()}


def in_one(second: Tensor, first: Tensor, *, reduction: str) -> Tensor:
    return nn.functional.l1_loss(second, first, reduction=reduction)


def scaled() -> dict[str, Any]:
    return {"embedder": Scaled(), "distance_fn": partial(in_one, reduction="mean"), "neutral": 0.5}


def both(cache: Path, given: dict[str, Any], **options: Any) -> tuple[IT3Engine, IT3Engine]:
    engine = make_engine(arguments=given, **options, threshold=0.0)  # so that some samples may be left out
    plain = make_engine(arguments=given, **options)  # around the same functions
    it3.compile(engine, batch(8), backend="compiled", cache=cache, progress=False)
    engine.optimization_parameters["threshold"] = None
    return engine, plain


@pytest.mark.parametrize("samples", [1, 8, 31])
def test_the_formula(cache: Path, samples: int) -> None:
    given = arguments()
    engine, _ = both(cache, given)
    x = batch(samples, seed=samples)
    embedder = lambda prediction, _: given["embedder"](prediction)  # noqa: E731
    parts = {"combine": combine, "distance": given["distance_fn"]}
    for _ in range(2):  # the first call is tried in both ways
        expected, losses, _ = reference.adapt(engine.model, "layer", embedder, x, num_steps=3, lr=1e-2, **parts)
        result = engine.adapt(x)
        assert is_compiled(engine, x)
        close(result.prediction, expected)
        close(result.losses, torch.tensor(losses, dtype=torch.float64))


def test_they_are_not_called_any_more(cache: Path) -> None:
    engine, plain = both(cache, {"distance_fn": in_place, "neutral": 0.3})
    check_alike(engine, plain, batch(8), batch(5, seed=1), num_steps=4)
    calls = []
    sys.setprofile(lambda frame, event, _: calls.append(event) if frame.f_code is in_place.__code__ else None)
    engine.adapt(batch(8))
    sys.setprofile(None)
    assert calls == []


@pytest.mark.cuda
def test_on_a_cuda_device(cache: Path) -> None:
    torch.manual_seed(1)
    engine = make_engine(arguments={"embedder": Signal().double()}).cuda()
    plain, x = copy.deepcopy(engine), batch(8).cuda()
    it3.compile(engine, x, backend="compiled", cache=cache, progress=False)
    for seed in range(100):  # kernels whose threads race are right most of the times
        check_alike(engine, plain, batch(8, seed=seed).cuda(), batch(5, seed=seed).cuda())
    engine.embedder.gain = plain.embedder.gain = 0.7
    close(engine.adapt(x).prediction, plain.adapt(x).prediction)
    assert not is_compiled(engine, x)


def test_each_sample_by_itself_and_a_class_of_embedders(cache: Path) -> None:
    engine, plain = both(cache, scaled(), per_sample=True)
    check_alike(engine, plain, batch(8), batch(5, seed=1), is_any_size=VECTORIZED_AT_ANY_SIZE)


def test_some_samples_count(cache: Path) -> None:
    engine, plain = both(cache, {"distance_fn": in_place, "neutral": 0.3})
    x = batch(8)
    ordered = plain.uncertainty(x).sort().values
    check_alike(engine, plain, x, threshold=float(ordered[3:5].mean()))


def set_scale(value: float) -> None:
    global SCALE  # noqa: PLW0603  (which is what is tested)
    SCALE = value


def set_attribute(given: dict[str, Any]) -> None:
    given["embedder"].gain = 0.7


def replace_parameter(given: dict[str, Any]) -> None:
    given["embedder"].linear.weight = nn.Parameter(torch.full((12, 3), 0.3, dtype=torch.float64))


def add_hook(given: dict[str, Any]) -> None:
    given["embedder"].linear.register_forward_hook(lambda *given: given[2] * 2)


def replace_module(given: dict[str, Any]) -> None:
    given["embedder"].linear = nn.Linear(3, 12).double()


def replace_code(given: dict[str, Any]) -> None:
    given["embedder"].forward = lambda prediction: prediction.sum(1, keepdim=True)


@pytest.mark.parametrize(
    "change",
    [lambda _: set_scale(5.0), set_attribute, replace_parameter, add_hook, replace_module, replace_code],
    ids=["global", "attribute", "parameter", "hook", "module", "code"],
)
def test_a_change_is_seen(cache: Path, change: Callable[[dict[str, Any]], None]) -> None:
    given = arguments()
    engine, plain = both(cache, given)
    check_alike(engine, plain, batch(8))
    before = engine.adapt(batch(8)).losses
    try:
        change(given)
        result, expected = engine.adapt(batch(8)), plain.adapt(batch(8))
        assert not is_compiled(engine, batch(8))
        assert "or something that they read, has changed since it was compiled" in engine.explain(batch(8)).compiled
        close(result.prediction, expected.prediction)
        close(result.losses, expected.losses)
        assert not torch.allclose(result.losses, before, atol=1e-4)
    finally:
        set_scale(2.0)


def test_values_are_read_at_each_call(cache: Path) -> None:
    given = arguments()
    engine, plain = both(cache, given)
    check_alike(engine, plain, batch(8))
    before = engine.adapt(batch(8)).prediction
    try:
        with torch.no_grad():
            SHIFT.mul_(3)
            given["embedder"].linear.weight.add_(0.1)
            given["embedder"].mean.add_(1)
            given["distance_fn"].weight.mul_(2)
        check_alike(engine, plain, batch(8))
        assert not torch.allclose(engine.adapt(batch(8)).prediction, before, atol=1e-6)
    finally:
        SHIFT.div_(3)


def test_arrays_are_watched(cache: Path) -> None:
    engine, plain = both(cache, {"distance_fn": in_place, "neutral": 0.3})
    check_alike(engine, plain, batch(8))
    try:
        WEIGHTS[1] = 7
        close(engine.adapt(batch(8)).losses, plain.adapt(batch(8)).losses)
        assert not is_compiled(engine, batch(8))
    finally:
        WEIGHTS[1] = 3


def test_training_between_calls(cache: Path) -> None:
    given = arguments()
    engine, plain = both(cache, given)
    optimizer = torch.optim.SGD(engine.parameters(), lr=0.1)
    engine.train()
    _, loss = engine(batch(8), target=torch.zeros(8, 3, dtype=torch.float64))
    loss.backward()
    optimizer.step()
    engine.eval()
    plain.model.load_state_dict(engine.model.state_dict())
    plain.eval()
    check_alike(engine, plain, batch(8))


def noisy(second: Tensor, first: Tensor) -> Tensor:
    return (second - first + 0.1 * torch.randn_like(first)).square().mean()


def branches(second: Tensor, first: Tensor) -> Tensor:
    difference = (second - first).abs().mean()
    return difference if difference > 0.1 else 2 * difference


def of_the_time(second: Tensor, first: Tensor) -> Tensor:
    return (second - first).square().mean() * (1 + time.time() % 2)


def of_pythons_random(second: Tensor, first: Tensor) -> Tensor:
    return (second - first).square().mean() * random.random()


def counts(second: Tensor, first: Tensor) -> Tensor:
    CALLS.append(1)
    return (second - first).square().mean() * len(CALLS)


def of_values(second: Tensor, first: Tensor) -> Tensor:
    return (second - first).square().mean() * SHIFT.sum() * SHIFT.tolist()[0]


@pytest.mark.parametrize(
    ("distance", "words"),
    [
        (noisy, "the engine draws random numbers, by aten.randn_like"),
        (branches, "torch cannot record this engine|depends on the values of tensors"),
        (of_the_time, r"embedder or distance_fn calls time\.time\(\)"),
        (of_pythons_random, r"embedder or distance_fn calls random\.random\(\)|draws random numbers"),
        (counts, "changes Python variables that it reads"),
        (of_values, "embedder or distance_fn depends on the values of tensors"),
        (torch.jit.script(nn.MSELoss()), "distance_fn is TorchScript"),
    ],
)
def test_what_is_no_function_of_tensors(tmp_path: Path, distance: Any, words: str) -> None:
    engine = make_engine(arguments={"distance_fn": distance})
    torch.manual_seed(5)
    states = torch.get_rng_state(), random.getstate()
    with pytest.raises(ValueError, match=words):
        it3.compile(engine, batch(8), cache=tmp_path, progress=False)
    torch.testing.assert_close(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert list(tmp_path.iterdir()) == []
    assert not is_compiled(engine, batch(8))


def test_the_cache_knows_functions_by_what_they_do(cache: Path, tmp_path: Path, made: list[Captured]) -> None:
    both(cache, arguments())
    made.clear()
    again = copy.deepcopy(arguments())
    check_alike(*both(cache, again), batch(8))
    assert made == []
    code = f"""
import sys, time
sys.path.insert(0, {str(Path(__file__).parent)!r})
import torch
torch.set_num_threads({torch.get_num_threads()})
from pathlib import Path
from test_compiled_functions import arguments, batch, both, is_compiled
from it3.compiling import compile as compilation
compilation._make = None  # nothing is made
engine, _ = both(Path({str(cache)!r}), arguments())
engine.adapt(batch(8))
assert is_compiled(engine, batch(8))
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, timeout=120)
