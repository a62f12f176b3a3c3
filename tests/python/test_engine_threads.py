"""Engines that threads use while their attributes change, or around parts of one another."""

import copy
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from it3 import _C, IT3Engine
from small_networks import X, network, shaped_embedder
from torch import Tensor, nn


@pytest.mark.parametrize(
    ("name", "values"), [("distance_fn", ("mse", "l1")), ("embedder", (shaped_embedder(0), shaped_embedder(1)))]
)
def test_attributes_change_while_threads_adapt(name: str, values: tuple[Any, Any]) -> None:
    given = {"model": network(), "features_layer_name": "0", "embedder": shaped_embedder()}
    engine = IT3Engine(**given).eval()
    right = [IT3Engine(**given | {name: value}).eval().adapt(X, lr=0.1).prediction for value in values]
    ends, wrong = threading.Event(), []

    def run() -> None:
        while not ends.is_set():
            actual = engine.adapt(X, lr=0.1).prediction
            if not any(torch.equal(actual, expected) for expected in right):
                wrong.append(actual)

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for i in range(200):
        setattr(engine, name, values[1 - i % 2])
        engine.adapt(X, num_steps=0)
    ends.set()
    for thread in threads:
        thread.join()
    assert not wrong


class Counting(nn.Module):
    """Writes to its buffer, which is to stay as it was; a model, and an embedder too."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 8), nn.Linear(8, width)
        self.register_buffer("calls", torch.zeros((), dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.b(self.a(x).tanh())


@pytest.mark.parametrize("use", ["adapt", "state_dict", "train"])
def test_the_embedder_of_one_engine_is_the_model_of_another_one(use: str) -> None:
    """The other engine waits while its model is used as an embedder, whose buffers are put back then."""
    torch.manual_seed(0)
    shared = Counting(8).double().eval()
    calls = shared.calls
    x = torch.randn(5, 3, dtype=torch.float64)
    of_shared = IT3Engine(shared, "a", optimization_parameters={"num_steps": 1}).eval()
    expected = of_shared.adapt(x).prediction
    is_inside, may_end = threading.Event(), threading.Event()

    def distance(y1: Tensor, y0: Tensor) -> Tensor:
        if is_timed:
            is_inside.set()
            may_end.wait(10)
        return (y1 - y0).square().mean()

    is_timed = False
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    engine = IT3Engine(model, "0", shared, distance_fn=distance).eval()
    engine.adapt(X)
    is_timed = True
    uses = {
        "adapt": lambda: of_shared.adapt(x).prediction,
        "state_dict": lambda: of_shared.state_dict()["model.calls"],
        "train": lambda: of_shared.train()(x, target=x[:, :1].expand(-1, 8))[0],
    }
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(engine.adapt, X)
        assert is_inside.wait(10)
        second = pool.submit(uses[use])
        time.sleep(0.2)
        may_end.set()
        first.result()
        result = second.result()
    assert shared.calls is calls
    assert calls.item() == (1 if use == "train" else 0)
    if use == "state_dict":
        assert result.item() == 0
    if use == "adapt":
        assert torch.equal(result, expected)


class Whole(nn.Module):
    """Runs whole, as it branches on values."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.fc = nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.layer(x).tanh()
        return self.fc(-hidden if bool(hidden.sum() > 1e9) else hidden)


@pytest.mark.parametrize("use", ["adapt", "reset"])
def test_a_model_is_replaced_while_a_call_on_the_old_one_waits(use: str) -> None:
    """What is kept of adapted weights is each model's own."""
    torch.manual_seed(0)
    options = {"copy_model": False, "lr": 0.05, "num_steps": 2}
    models = [Whole().double().eval() for _ in range(2)]
    engine = IT3Engine(models[0], "layer", optimization_parameters=options).eval()
    engine.adapt(X)
    alone = IT3Engine(copy.deepcopy(models[1]), "layer", engine.embedder, optimization_parameters=options).eval()
    expected = [alone.adapt(X).prediction for _ in range(2)]
    with ThreadPoolExecutor(1) as pool:
        with _C.ModelHold(models[0]):
            waiting = pool.submit(engine.adapt, X) if use == "adapt" else pool.submit(engine.reset)
            time.sleep(0.2)
            engine.model = models[1]
            actual = [engine.adapt(X).prediction]
        waiting.result()
        actual.append(engine.adapt(X).prediction)
    for one, right in zip(actual, expected, strict=True):
        assert torch.equal(one, right)
