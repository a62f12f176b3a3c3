"""Whatever goes wrong in adaptation, the model is bit for bit as before."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from it3 import IT3Engine
from models import Case, make_case
from torch import Tensor, nn


class Bomb:
    """Goes off at its n-th call."""

    def __init__(self, at: int, error: type[BaseException]):
        self.at, self.error, self.calls = at, error, 0

    def tick(self) -> None:
        self.calls += 1
        if self.calls == self.at:
            raise self.error("bomb")

    def ticking(self, function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """A function that ticks before it does its work."""

        def call(*arguments: Tensor) -> Tensor:
            self.tick()
            return function(*arguments)

        return call

    def in_backward(self, y: Tensor) -> Tensor:
        """The same values, whose gradient ticks."""
        bomb = self

        class Backward(torch.autograd.Function):
            @staticmethod
            def forward(ctx: Any, y: Tensor) -> Tensor:
                return y.clone()

            @staticmethod
            def backward(ctx: Any, gradient: Tensor) -> Tensor:
                bomb.tick()
                return gradient

        return Backward.apply(y)


class Net(nn.Module):
    """With all that a pass can change: batch statistics, a counter, random numbers."""

    def __init__(self, tick: Callable[[], None]):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.dropout = nn.Dropout(0.1)
        self.frozen = nn.Linear(4, 4).requires_grad_(False)
        self.fc = nn.Linear(4, 3)
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))
        self.register_buffer("last", torch.zeros(4), persistent=False)
        self.tick = tick

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        features = self.dropout(self.norm(self.conv(x))).mean((2, 3))
        self.last = features.detach().mean(0)
        self.tick()
        return self.fc(self.frozen(features).relu())


class Snapshot:
    """All that must be as before."""

    def __init__(self, engine: IT3Engine):
        self.engine = engine
        self.tensors = [*engine.parameters(), *engine.buffers()]
        self.values = copy.deepcopy([t.detach() for t in self.tensors])
        self.storages = [t.data_ptr() for t in self.tensors]
        self.versions = [t._version for t in self.tensors]
        self.flags = [p.requires_grad for p in engine.parameters()]
        self.grads = [None if p.grad is None else p.grad.clone() for p in engine.parameters()]
        self.modes = [m.training for m in engine.modules()]
        self.hooks = [dict(m._forward_hooks) for m in engine.modules()]
        self.random = torch.get_rng_state()
        self.cuda_random = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []

    def check(self, *, random: bool) -> None:
        now = Snapshot(self.engine)
        assert all(a is b for a, b in zip(self.tensors, now.tensors, strict=True))
        assert all(torch.equal(a, b) for a, b in zip(self.values, now.values, strict=True))
        assert self.storages == now.storages
        assert self.versions == now.versions
        assert self.flags == now.flags
        assert all(a is b or torch.equal(a, b) for a, b in zip(self.grads, now.grads, strict=True))
        assert self.modes == now.modes
        assert self.hooks == now.hooks
        if random:
            assert torch.equal(self.random, now.random)
            assert all(torch.equal(a, b) for a, b in zip(self.cuda_random, now.cuda_random, strict=True))


def build(
    device: str, bomb: Bomb, place: str, options: dict[str, Any], is_built: bool, neutral: float | None = None
) -> tuple[IT3Engine, Tensor]:
    torch.manual_seed(0)
    inputs = torch.randn(4, 1, 6, 6).to(device)

    def ticking(name: str, function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return bomb.ticking(function) if place == name else function

    def distance(y1: Tensor, y0: Tensor) -> Tensor:
        return F.mse_loss(bomb.in_backward(y1) if place == "backward" else y1, y0)

    class Embed(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(3, 4)
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, y: Tensor) -> Tensor:
            self.calls += 1
            return ticking("embedder", self.fc)(y)

    model = Net(bomb.tick if place == "model" else lambda: None)
    engine = IT3Engine(
        model.to(device),
        "conv",
        embedder=Embed().to(device) if place == "embedder" else None,
        combine_fn=ticking("combine_fn", lambda f, e: f + e[:, :, None, None]),
        distance_fn=ticking("distance_fn", distance),
        optimization_parameters=options,
        neutral=neutral,
    ).eval()
    if is_built:
        at, bomb.at = bomb.at, -1
        engine.uncertainty(inputs)
        bomb.at, bomb.calls = at, 0
    model.norm.train()
    model.dropout.train()
    model.fc.register_forward_hook(lambda *_: None)
    engine.train(engine.training)
    model.norm.train()
    model.dropout.train()
    (model.fc.weight.square().sum()).backward()
    return engine, inputs


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("step", [1, 2, 3])
@pytest.mark.parametrize("place", ["model", "embedder", "combine_fn", "distance_fn", "backward"])
@pytest.mark.parametrize("copy_model", [True, False])
@pytest.mark.parametrize("parameters", ["all", "norm"])
@pytest.mark.parametrize("is_built", [True, False])
def test_exception(
    error: type[BaseException],
    step: int,
    place: str,
    copy_model: bool,
    parameters: str,
    is_built: bool,
    device: str,
) -> None:
    bomb = Bomb(2 * step if place == "model" else step, error)
    options = {"copy_model": copy_model, "parameters": parameters}
    engine, inputs = build(device, bomb, place, options, is_built)
    before = Snapshot(engine)
    with pytest.raises(error, match=r"bomb"):
        engine(inputs)
    before.check(random=True)
    assert bomb.calls in (bomb.at, 0)  # in the look before the first call, what the model counts is put back too
    bomb.at = -1
    engine(inputs)  # and it works afterwards


OTHER_OPTIONS = [
    {"anchor": "frozen"},
    {"anchor": "ema", "norm_statistics": "blend"},
    {"norm_statistics": "batch"},
    {"threshold": 0.0, "prediction": "mean", "anchor": "frozen"},
    {"restore_probability": 0.5, "tolerance": 0.0, "patience": 9},
]


@pytest.mark.parametrize("options", OTHER_OPTIONS, ids=str)
@pytest.mark.parametrize("neutral", [None, 5.0])
@pytest.mark.parametrize("copy_model", [True, False])
@pytest.mark.parametrize("place", ["model", "embedder", "distance_fn", "backward"])
def test_exception_with_other_options(
    place: str, copy_model: bool, neutral: float | None, options: dict, device: str
) -> None:
    for at in (1, 2, 3, 4, 5):
        bomb = Bomb(at, KeyboardInterrupt)
        all_options = {"copy_model": copy_model, "num_steps": 5, **options}
        engine, inputs = build(device, bomb, place, all_options, True, neutral)
        engine.model.norm.eval()
        before = Snapshot(engine)
        with pytest.raises(KeyboardInterrupt):
            engine(inputs)
        before.check(random=True)
        assert bomb.calls == at
        engine(inputs)


@pytest.mark.parametrize("options", OTHER_OPTIONS, ids=str)
def test_success_with_other_options_leaves_the_model_as_it_was(options: dict, device: str) -> None:
    engine, inputs = build(device, Bomb(-1, ValueError), "model", options, True)
    engine.model.norm.eval()
    engine.neutral = 5.0
    before = Snapshot(engine)
    for call in (engine, engine.adapt, engine.uncertainty):
        call(inputs)
        before.check(random=False)


@pytest.mark.parametrize("at", [7, 8])
def test_exception_after_the_last_step(at: int, device: str) -> None:
    engine, inputs = build(device, Bomb(at, KeyboardInterrupt), "model", {"copy_model": False}, True)
    before = Snapshot(engine)
    with pytest.raises(KeyboardInterrupt):
        engine.adapt(inputs)
    before.check(random=True)


@pytest.mark.parametrize("at", [1, 2])
def test_exception_in_uncertainty(at: int, device: str) -> None:
    engine, inputs = build(device, Bomb(at, KeyboardInterrupt), "model", {}, False)
    before = Snapshot(engine)
    with pytest.raises(KeyboardInterrupt):
        engine.uncertainty(inputs)
    before.check(random=True)


def test_exception_in_the_optimizer(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, inputs = build(device, Bomb(-1, ValueError), "model", {}, True)
    engine.model.fc.weight.register_hook(lambda grad: grad[:, :2])  # of a shape that no optimizer can use
    before = Snapshot(engine)
    with pytest.raises(RuntimeError):
        engine(inputs)
    before.check(random=True)


@pytest.mark.parametrize("call", ["forward", "adapt", "uncertainty"])
def test_success_leaves_the_model_as_it_was_too(call: str, device: str) -> None:
    engine, inputs = build(device, Bomb(-1, ValueError), "model", {}, True)
    before = Snapshot(engine)
    getattr(engine, call)(inputs)
    before.check(random=False)


def test_backward_of_a_graph_from_before_an_adaptation(case: Case) -> None:
    engine = IT3Engine(case.model, case.layer)
    y0, loss = engine(case.inputs, target=case.target)
    expected = torch.autograd.grad(y0.sum() + loss, list(case.model.parameters()), retain_graph=True)
    engine.eval()(case.inputs)
    (y0.sum() + loss).backward()
    assert all(torch.equal(p.grad, g) for p, g in zip(case.model.parameters(), expected, strict=True))


@pytest.mark.parametrize(
    ("spoil", "match"),
    [
        (lambda case: {"inputs": case.inputs.fill_(float("nan"))}, "loss at step 1 of 3 is nan"),
        (lambda case: {"inputs": case.inputs[:, :1].fill_(float("inf"))}, "loss at step 2 of 3 is nan"),
        (lambda case: {"options": {"optimizer_name": "sgd", "lr": 1e200}}, "loss at step 2 of 3 is infinite"),
    ],
)
def test_values_that_are_not_finite_are_reported(case: Case, spoil: Callable, match: str) -> None:
    engine = IT3Engine(case.model, case.layer).eval()
    engine.uncertainty(case.inputs)
    changed = spoil(case)
    before = Snapshot(engine)
    with pytest.raises(ValueError, match=match):
        engine.adapt(case.inputs, **changed.get("options", {}))
    before.check(random=True)


def test_gradients_that_are_not_finite_are_reported(case: Case) -> None:
    # The slope of a square root is infinite at 0.
    engine = IT3Engine(case.model, case.layer, distance_fn=lambda y1, y0: (y1 - y0).mul(0).sqrt().mean()).eval()
    engine.uncertainty(case.inputs)
    before = Snapshot(engine)
    with pytest.raises(ValueError, match=r"adapted (prediction|weight) is not finite"):
        engine.adapt(case.inputs, num_steps=1)
    before.check(random=True)


@pytest.mark.memory
def test_memory_is_flat() -> None:
    case = make_case("cnn", torch.float32)
    engine = IT3Engine(case.model, case.layer).eval()

    def resident() -> int:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * 4096

    for _ in range(200):
        engine(case.inputs)
    before = resident()
    for _ in range(1000):
        engine(case.inputs)
    assert resident() - before < 2**20
