"""Modes, weights and other state that forward() depends on, or writes to, are as plain calls have them, and stay so."""

import copy
from functools import partial
from typing import Any

import pytest
import reference
import torch
from it3 import IT3Engine
from torch import Tensor, nn

close = partial(torch.testing.assert_close, rtol=1e-10, atol=1e-10)
exact = partial(torch.testing.assert_close, rtol=0, atol=0)
X = torch.randn(5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
TOKENS = torch.randint(20, (5, 4), generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.layer, self.last = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.layer(self.first(x).tanh()).tanh())


def why_not(engine: IT3Engine, x: Tensor) -> str:
    return engine.explain(x).why_whole


def agrees(engine: IT3Engine, x: Tensor, **options: Any) -> None:
    """With the formula on a copy in eval mode; the model is afterwards as it was."""
    weights = [w.detach() for w in engine.embedder.parameters()]

    def embed(y: Tensor, features: Tensor) -> Tensor:
        embedding = reference.embed(y, features, *weights)
        return embedding if features.dim() == 2 else embedding[:, None]

    model = copy.deepcopy(engine.model).eval()
    expected, losses, _ = reference.adapt(model, engine.features_layer_name, embed, x, **options)
    before = copy.deepcopy(engine.model.state_dict())
    flags = [m.training for m in engine.model.modules()]
    actual = engine.adapt(x, **options)
    close(actual.losses.tolist(), losses)
    close(actual.prediction, expected)
    exact(engine.model.state_dict(), before)
    assert [m.training for m in engine.model.modules()] == flags


class Modes(Plain):
    """Everything in it depends on the mode. `whole` makes it run whole."""

    def __init__(self, whole: bool) -> None:
        super().__init__()
        self.drop, self.norm, self.whole = nn.Dropout(0.5), nn.BatchNorm1d(8), whole
        self.norm.running_mean.uniform_()

    def forward(self, x: Tensor) -> Tensor:
        x = self.drop(self.norm(self.first(x)))
        if self.whole and bool(x.sum() > 1e9):
            x = -x
        x = self.layer(x)
        if self.training:
            x = x + 100
        return self.last(nn.functional.dropout(x, 0.3, self.training))

    def train(self, mode: bool = True) -> "Modes":
        raise AssertionError("a user's train() may do more than set flags")


def set_modes(model: nn.Module, training: bool) -> None:
    for module in model.modules():
        module.training = training


@pytest.mark.parametrize("whole", [False, True])
def test_adapting_runs_in_eval_mode(whole: bool) -> None:
    model = Modes(whole).double()
    set_modes(model, False)
    engine = IT3Engine(model, "layer")
    expected = engine.adapt(X)
    assert (why_not(engine, X) != "") is whole
    for partly in (False, True):
        set_modes(model, True)
        model.norm.training = partly
        flags = [m.training for m in model.modules()]
        exact(engine.adapt(X).prediction, expected.prediction)
        exact(engine.uncertainty(X), engine.uncertainty(X))
        assert [m.training for m in model.modules()] == flags
    first = IT3Engine(model, "layer", engine.embedder)  # made while the flags are on
    exact(first.adapt(X).prediction, expected.prediction)


def test_flags_are_back_after_an_exception() -> None:
    model = Modes(True).double()
    engine = IT3Engine(model, "layer", combine_fn=lambda f, e: 1 / 0)
    flags = [m.training for m in model.modules()]
    with pytest.raises(ZeroDivisionError):
        engine.adapt(X)
    assert [m.training for m in model.modules()] == flags


def test_modes_that_flip_need_no_new_cut() -> None:
    calls = []

    class Counts(Plain):
        def forward(self, x: Tensor) -> Tensor:
            calls.append(1)
            return super().forward(x)

    engine = IT3Engine(Counts().double(), "layer").eval()
    engine.adapt(X)
    before = len(calls)
    for training in (True, False, True):
        engine.model.train(training)
        engine.adapt(X)
    assert (len(calls) == before) is (why_not(engine, X) == "")


def test_training_uses_the_flags() -> None:
    class Tells(Plain):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + (100 if self.training else 0)

    engine = IT3Engine(Tells().double(), "layer").train()
    engine.model.eval()
    low = engine(X)[0]
    engine.model.train()
    close(engine(X)[0], low + 100)


class Embeds(nn.Module):
    def __init__(self, frozen: bool) -> None:
        super().__init__()
        self.table = nn.Embedding(20, 6, max_norm=1.0)
        self.table.weight.data.mul_(10)
        self.table.weight.requires_grad_(not frozen)
        self.layer, self.last = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.layer(self.table(x)).tanh().mean(1))


class CopiesIntoWeight(Plain):
    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            self.first.weight.copy_(self.first.weight / self.first.weight.norm())
        return super().forward(x)


class AssignsData(Plain):
    def forward(self, x: Tensor) -> Tensor:
        self.first.weight.data = self.first.weight.data / self.first.weight.data.norm()
        return super().forward(x)


class WritesToData(Plain):
    def forward(self, x: Tensor) -> Tensor:
        self.last.bias.data.mul_(0.5)
        return super().forward(x)


class CountsInBuffer(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros((), dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return super().forward(x) * self.calls.clone()


class CountsInAttributes(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.calls, self.log, self.seen = 0, [], torch.zeros(1, dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.log.append(self.calls)
        self.seen += 1
        return super().forward(x) * (self.calls + len(self.log) + self.seen)


WRITERS = [CopiesIntoWeight, AssignsData, WritesToData, CountsInBuffer, CountsInAttributes]


@pytest.mark.parametrize("steps", [0, 3])
@pytest.mark.parametrize("frozen", [False, True])
def test_embeddings_that_renormalize(frozen: bool, steps: int) -> None:
    engine = IT3Engine(Embeds(frozen).double().eval(), "layer").eval()
    engine.adapt(TOKENS, num_steps=0)
    for _ in range(2):
        agrees(engine, TOKENS, num_steps=steps)
    exact(engine.adapt(TOKENS, num_steps=0).prediction, copy.deepcopy(engine.model)(TOKENS).detach())


def test_what_forward_writes_is_no_change_of_the_users() -> None:
    engine = IT3Engine(Embeds(frozen=False).double().eval(), "layer").eval()
    engine.optimization_parameters.update(copy_model=False, lr=0.1)
    start = copy.deepcopy(engine.model.state_dict())
    engine.adapt(TOKENS)
    drift = engine.drift().distance
    assert drift > 0.1
    kept = copy.deepcopy(engine.model.state_dict())
    engine.uncertainty(TOKENS)
    engine.adapt(TOKENS[:0])
    engine.adapt(TOKENS, num_steps=0)
    engine.adapt(TOKENS, threshold=1e9)
    IT3Engine(engine.model, "last").eval().adapt(TOKENS)
    exact(engine.model.state_dict(), kept)
    assert engine.drift().distance == drift
    engine.reset()
    exact(engine.model.state_dict(), start)


@pytest.mark.parametrize("anchor", ["self", "frozen", "ema"])
def test_what_forward_writes_stays_out_of_the_start(anchor: str) -> None:
    engine = IT3Engine(Embeds(frozen=False).double().eval(), "layer").eval()
    engine.optimization_parameters.update(copy_model=False, anchor=anchor, lr=0.1)
    start = copy.deepcopy(engine.model.state_dict())
    for _ in range(2):
        engine.adapt(TOKENS)
    moved = [(value - start[name]).norm() for name, value in engine.model.state_dict().items()]
    close(engine.drift().distance, float(torch.stack(moved).norm()))
    engine.reset()
    exact(engine.model.state_dict(), start)


def test_weights_made_in_inference_mode_stay() -> None:
    with torch.inference_mode():
        model = Embeds(frozen=False).double().eval()
    before = model.table.weight.clone()
    prediction = IT3Engine(model, "layer").eval().adapt(TOKENS, num_steps=0).prediction
    assert torch.equal(model.table.weight, before)
    exact(prediction, copy.deepcopy(model)(TOKENS).detach())


def test_graphs_of_the_users_can_still_be_gone_through() -> None:
    model = CopiesIntoWeight().double().eval()
    loss = model(X).square().sum()
    versions = [p._version for p in model.parameters()]
    IT3Engine(model, "layer").eval().adapt(X)
    assert [p._version for p in model.parameters()] == versions
    loss.backward()
    assert model.last.weight.grad is not None


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("model", WRITERS)
def test_forward_may_write(model: type[Plain], frozen: bool) -> None:
    engine = IT3Engine(model().double().eval(), "layer").eval()
    if frozen:
        engine.model.first.requires_grad_(False)
        engine.model.last.requires_grad_(False)
    before = copy.deepcopy(engine.model)
    engine.adapt(X, num_steps=0)
    exact(engine.model.state_dict(), before.state_dict())
    for _ in range(2):
        agrees(engine, X, num_steps=2)
    agrees(engine, X, num_steps=0)
    for name in ("calls", "log", "seen"):
        assert repr(getattr(engine.model, name, None)) == repr(getattr(before, name, None))


class KeepsHidden(Plain):
    """State with a graph; each pass starts from the state as given."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.last_pair = None, (None,)

    def forward(self, x: Tensor) -> Tensor:
        self.hidden = self.first(x).tanh() + (0 if self.hidden is None else self.hidden)
        self.last_pair = (self.hidden * 2,)
        return self.last(self.layer(self.hidden).tanh())


class KeepsHiddenInBuffer(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("hidden", torch.zeros(5, 8, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        self.hidden = self.first(x).tanh() + self.hidden
        return self.last(self.layer(self.hidden).tanh())


@pytest.mark.parametrize("model", [KeepsHidden, KeepsHiddenInBuffer])
def test_state_with_a_graph(model: type[Plain]) -> None:
    class Stateless(Plain):
        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.layer(self.first(x).tanh()).tanh())

    engine = IT3Engine(model().double().eval(), "layer").eval()
    hidden = engine.model.hidden
    stateless = Stateless().double().eval()
    stateless.load_state_dict(engine.model.state_dict(), strict=False)
    actual = engine.adapt(X)
    expected = IT3Engine(stateless, "layer", engine.embedder).eval().adapt(X)
    close(actual.prediction, expected.prediction)
    close(actual.losses, expected.losses)
    assert engine.model.hidden is hidden
    engine.train()
    _, loss = engine(X, target=torch.zeros(5, 3, dtype=torch.float64))
    loss.backward()


class WritesToInput(Plain):
    def forward(self, x: Tensor) -> Tensor:
        x.mul_(0.5)
        return super().forward(x)


def test_making_a_cut_leaves_the_inputs() -> None:
    engine = IT3Engine(WritesToInput().double().eval(), "layer").eval()
    x = X.clone()
    engine.explain(x)
    exact(x, X)


def test_objects_in_inputs_are_given_anew_to_each_pass() -> None:
    class Batch:
        def __init__(self) -> None:
            self.x = X

    class TakesBatch(Plain):
        def forward(self, batch: Batch) -> Tensor:
            batch.x = batch.x * 0.5
            return super().forward(batch.x)

    engine = IT3Engine(TakesBatch().double().eval(), "layer").eval()
    plain = Plain().double().eval()
    plain.load_state_dict(engine.model.state_dict())
    actual = engine.adapt(Batch())
    close(actual.prediction, IT3Engine(plain, "layer", engine.embedder).eval().adapt(X * 0.5).prediction)


class Captures(Plain):
    """Registers a hook at its first call, as transformers' models do, and predicts by what it caught."""

    def __init__(self) -> None:
        super().__init__()
        self.has_hook = False
        self.caught: list[Tensor] = []

    def catch(self, _: nn.Module, __: Any, out: Tensor) -> None:
        self.caught.append(out)

    def forward(self, x: Tensor) -> Tensor:
        if not self.has_hook:
            self.first.register_forward_hook(self.catch)
            self.has_hook = True
        self.caught.clear()
        self.first(x)
        return self.last(self.layer(torch.stack(self.caught).sum(0)).tanh())


@pytest.mark.parametrize("is_called", [False, True])
def test_hooks_that_forward_registers_go_again(is_called: bool) -> None:
    model = Captures().double().eval()
    if is_called:
        with torch.no_grad():
            model(X)
    engine = IT3Engine(model, "layer").eval()
    engine.uncertainty(X)
    for _ in range(2):
        agrees(engine, X, lr=1e-2)
        assert len(model.first._forward_hooks) == is_called
        assert model.has_hook == is_called
