"""An interrupt such as Ctrl-C, at any instant of a call, leaves everything as it was, and is not lost."""

import copy
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import it3
import pytest
import torch
import torch.nn.functional as F
from interrupting import FEW, POINTS, Everything, Interrupt, interruptions, world
from it3 import IT3Engine
from kinds_of_network import NETWORKS
from models import Case, make_case
from test_failing_operators import OPTIONS
from torch import Tensor, nn


class Embed(nn.Module):
    """Writes to a buffer."""

    def __init__(self, channels: int, features: int) -> None:
        super().__init__()
        self.fc = nn.Linear(channels, features, dtype=torch.float64)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, prediction: Tensor) -> Tensor:
        self.calls += 1
        return self.fc(prediction)


def combine(features: Tensor, embedding: Tensor) -> Tensor:
    return features + embedding.reshape(*embedding.shape, *(1,) * (features.dim() - 2))


def distance(second: Tensor, first: Tensor) -> Tensor:
    return F.mse_loss(second, first)


def build(network: str, *, own: bool = False, kind: str = "cnn", is_new: bool = False, **options: Any) -> Any:
    """An engine and its case; with `own` with functions of the user's, and unless it is new, called before."""
    case = make_case(kind)
    case.model.eval()
    torch.manual_seed(5)
    functions: dict[str, Any] = {}
    if own:
        sizes = (5, 4) if kind == "cnn" else (2, 10)
        functions = {"embedder": Embed(*sizes), "combine_fn": combine, "distance_fn": distance}
    steps = {"num_steps": 2, "lr": 0.01, **options}
    engine = IT3Engine(NETWORKS[network](case.model), case.layer, optimization_parameters=steps, **functions).eval()
    engine.is_trained = True
    if not is_new:
        engine(case.inputs)
        engine.reset()
    return engine, case


def predict(engine: IT3Engine, case: Case) -> Tensor:
    torch.manual_seed(3)
    return engine(case.inputs)[0]


def check_others_may_use(engine: IT3Engine, case: Case) -> None:
    """Check that no lock is held: another thread adapts."""
    thread = threading.Thread(target=lambda: engine.adapt(case.inputs), daemon=True)
    thread.start()
    thread.join(60)
    assert not thread.is_alive()


OURS = pytest.mark.parametrize("ours", [False, True], ids=["anywhere", "in it3"])


# An interrupt between the standard library's opening of a source file and its `with`.
SOURCES = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")


@SOURCES
@pytest.mark.filterwarnings("ignore:per_sample")
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("network", NETWORKS)
def test_ways_to_adapt(network: str, options: str) -> None:
    engine, case = build(network, own=True, **OPTIONS[options])
    expected = predict(engine, case)
    complete = engine.drift().distance
    after = predict(engine, case)
    engine.reset()
    how = str(engine.explain(case.inputs))

    def prepare() -> IT3Engine:
        engine.reset()
        return engine

    for _, before in interruptions(prepare, lambda engine: engine.adapt(case.inputs)):
        if complete and engine.drift().distance == complete:  # the call was over
            torch.testing.assert_close(predict(engine, case), after, rtol=0, atol=0)
        else:
            assert engine.drift().distance == 0
            before.check()
            torch.testing.assert_close(predict(engine, case), expected, rtol=0, atol=0)
    engine.reset()
    assert str(engine.explain(case.inputs)) == how
    check_others_may_use(engine, case)


CALLS: dict[str, Callable[[IT3Engine, Case], object]] = {
    "forward": lambda engine, case: engine(case.inputs),
    "uncertainty": lambda engine, case: engine.uncertainty(case.inputs),
    "explain": lambda engine, case: engine.explain(case.inputs),
    "calibrate": lambda engine, case: engine.calibrate([(case.inputs, case.target)]),
    "training": lambda engine, case: engine(case.inputs, case.target),
    "drift": lambda engine, case: engine.drift(),
    "reset": lambda engine, case: engine.reset(),
    "state_dict": lambda engine, case: engine.state_dict(),
    "to": lambda engine, case: engine.to(torch.float64),
    "copy": lambda engine, case: copy.copy(engine),
    "constructor": lambda engine, case: IT3Engine(engine.model, engine.features_layer_name),
    "deepcopy": lambda engine, case: copy.deepcopy(engine),
    "evaluate": lambda engine, case: it3.evaluate(
        engine, [(case.inputs, case.target)], "mse", {"a": {"num_steps": 1}}, resamples=100
    ),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("network", NETWORKS)
@OURS
def test_other_calls(network: str, call: str, ours: bool) -> None:
    if (network, call) == ("hooks", "deepcopy"):
        pytest.skip("the hook refers to a function of the original")
    is_training = call == "training"  # of networks without statistics, which it changes
    engine, case = build(network, own=not is_training, kind="residual" if is_training else "cnn")
    expected = predict(engine, case)

    def prepare() -> IT3Engine:
        engine.optimization_parameters.pop("threshold", None)  # of calibrate(), whose last act it is
        return engine.train(is_training)

    most = FEW if call == "evaluate" or ours else POINTS
    for _, before in interruptions(prepare, lambda engine: CALLS[call](engine, case), most, ours=ours):
        prepare()
        before.check()
    torch.testing.assert_close(predict(engine.eval(), case), expected, rtol=0, atol=0)
    check_others_may_use(engine, case)


def test_loading_a_state_dict() -> None:
    engine, case = build("traced")
    state = {name: value.clone() for name, value in engine.state_dict().items()}
    expected = predict(engine, case)
    for _, before in interruptions(lambda: engine, lambda engine: engine.load_state_dict(state)):
        assert world() == before.world
    torch.testing.assert_close(predict(engine, case), expected, rtol=0, atol=0)


@OURS
def test_tune(ours: bool) -> None:
    engine, case = build("script")
    search: dict[str, Any] = {"lr": [1e-3, 1e-2], "copy_model": [True, False]}
    batches = [(case.inputs, case.target)]
    for _, before in interruptions(
        lambda: engine, lambda engine: it3.tune(engine, batches, "mse", budget=2, search=search), FEW, ours=ours
    ):
        before.check()


def test_search(tmp_path: Path) -> None:
    """And the search goes on from there. Elsewhere, as in Optuna, files may stay open until they are collected."""
    engine, case = build("script")
    batches = [(case.inputs, case.target)]
    given: dict[str, Any] = {"adaptation": {"lr": [1e-3, 1e-2]}, "adaptation_budget": 1, "budget": 2, "seeds": 1}
    path = tmp_path / "search.log"

    def search(engine: IT3Engine) -> it3.Search:
        def train(settings: dict[str, Any], _seed: int) -> IT3Engine:
            engine.optimization_parameters["num_steps"] = settings["steps"]
            return engine

        return it3.search(train, batches, "mse", {"steps": [2, 1]}, path=path, **given)

    for _, before in interruptions(lambda: engine, search, 4 * FEW, ours=True):
        assert world() == before.world
        assert len(search(engine).trials) == 2
        path.unlink()


@SOURCES
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("own", [True, False])
@OURS
def test_first_call(network: str, own: bool, ours: bool) -> None:
    """Where the embedder gets its shape, and the model is traced and cut."""
    first, case = build(network, own=own, is_new=True)
    expected = predict(first, case)
    how, later = str(first.explain(case.inputs)), predict(first, case)
    for engine, before in interruptions(
        lambda: build(network, own=own, is_new=True)[0], lambda engine: engine(case.inputs), ours=ours
    ):
        is_over = not own and engine.embedder.is_built
        if not is_over:
            before.check()
        torch.testing.assert_close(predict(engine, case), later if is_over else expected, rtol=0, atol=0)
        assert str(engine.explain(case.inputs)) == how


@pytest.mark.parametrize(("network", "way"), [("script", "engine"), ("script", "adapted"), ("traced", "adapted")])
@OURS
def test_files(network: str, way: str, ours: bool, tmp_path: Path) -> None:
    path = tmp_path / "file.pt"
    engine, case = build(network)
    saved = engine if way == "engine" else engine.adapt(case.inputs)
    load = it3.load if way == "engine" else torch.jit.load

    def prepare() -> IT3Engine:
        path.write_bytes(b"before")
        return engine

    for _, before in interruptions(prepare, lambda _: saved.save(path, case.inputs), FEW, ours=ours):
        before.check()
        assert os.listdir(tmp_path) == ["file.pt"]
        if path.read_bytes() != b"before":
            load(str(path))
    saved.save(path, case.inputs)
    for _, before in interruptions(lambda: engine, lambda _: load(str(path)), FEW, ours=ours):
        before.check()


@contextmanager
def alarm_in(seconds: float) -> Iterator[list[int]]:
    """Have a signal interrupt what runs; gives a list that then has an item."""
    rung: list[int] = []

    def ring(number: int, frame: FrameType | None) -> None:
        rung.append(number)
        raise Interrupt

    old = signal.signal(signal.SIGALRM, ring)
    try:
        signal.setitimer(signal.ITIMER_REAL, seconds)
        yield rung
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("network", NETWORKS)
def test_signals_at_random_instants(network: str, own: bool) -> None:
    engine, case = build(network, own=own)
    expected = predict(engine, case)
    draw = random.Random(0)
    for _ in range(3 * POINTS):
        torch.manual_seed(3)
        before = Everything(engine)
        is_out = False
        try:
            with alarm_in(draw.uniform(2e-5, 4e-3)) as rung:
                engine(case.inputs)
        except Interrupt:
            is_out = True
        assert is_out or not rung
        if is_out:
            before.check()
        torch.testing.assert_close(predict(engine, case), expected, rtol=0, atol=0)


ALONE = """
import torch
from it3 import IT3Engine
from torch import nn
from torch.backends import mha
from torch.utils.hooks import RemovableHandle
model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
model[1].register_forward_hook(lambda *_: seen.append(mha) if mha.get_fastpath_enabled() else None)
engine, x, seen, calls = IT3Engine(model, "0").eval(), torch.randn(5, 3), [], []
engine.is_trained = True
engine(x)
holder, name, place = {}
own = getattr(holder, name)
def interrupted(*arguments):
    calls.append(name)
    if len(calls) == place:
        raise KeyboardInterrupt
    return own(*arguments)
setattr(holder, name, interrupted)
try:
    engine(x)
except KeyboardInterrupt:
    pass
setattr(holder, name, own)
assert not model[0]._forward_hooks
assert mha.get_fastpath_enabled()
engine(x)
assert not seen
"""


@pytest.mark.parametrize(
    "place", ["RemovableHandle, 'remove', 1", *(f"mha, 'set_fastpath_enabled', {n}" for n in (1, 2))]
)
def test_interrupts_of_what_a_pass_sets_and_sets_back(place: str) -> None:
    subprocess.run([sys.executable, "-c", ALONE.replace("{}", place)], check=True, capture_output=True, timeout=120)
