"""Threads that use one eager model get what they would get in turn, whether it runs whole or is cut."""

import copy
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from it3 import _C, IT3Engine
from it3.cutting.tracing import Plan
from torch import Tensor, nn

X = torch.randn(5, 4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


class Recurrent(nn.Module):
    """Runs whole."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.layer, self.fc = nn.LSTM(6, 8, batch_first=True), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        out, _ = self.lstm(x)
        if bool(out.sum() > 1e9):
            out = -out
        return self.fc(self.layer(out[:, -1]).tanh())


class Cut(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.layer, self.fc = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.layer(self.first(x[:, -1]).tanh()).tanh())


def run_in_threads(calls: list[Callable[[], Tensor]]) -> list[Tensor]:
    with ThreadPoolExecutor(4) as pool:
        return [future.result() for future in [pool.submit(call) for call in calls]]


@pytest.mark.parametrize("kind", [Recurrent, Cut])
def test_several_engines_share_a_model(kind: type[nn.Module]) -> None:
    torch.manual_seed(0)
    model = kind().double().eval()
    before = copy.deepcopy(model.state_dict())
    engines = [IT3Engine(model, layer).eval() for layer in ("layer", "fc")]
    batches = [X * (1 + i / 10) for i in range(12)]
    calls = [lambda x=x, e=e: e.adapt(x).prediction for x in batches for e in engines]
    for engine in engines:
        engine.adapt(X)
    expected = [call() for call in calls]
    actual = run_in_threads(calls)
    assert all(torch.equal(a, e) for a, e in zip(actual, expected, strict=True))
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
    assert all(p.requires_grad for p in model.parameters())
    assert not any(m._forward_hooks for m in model.modules())


@pytest.mark.parametrize("kind", [Recurrent, Cut])
def test_a_call_that_fails_takes_no_shape_from_others(kind: type[nn.Module]) -> None:
    for _ in range(10):
        torch.manual_seed(0)
        engine = IT3Engine(kind().double().eval(), "layer").eval()
        bad = torch.full_like(X, torch.nan)

        def call(x: Tensor, engine: IT3Engine = engine) -> Tensor | None:
            try:
                return engine.adapt(x, num_steps=0 if x is X else 1).prediction
            except ValueError as error:
                assert "nan" in str(error)  # noqa: PT017  (other threads' errors go another way)
                return None

        with ThreadPoolExecutor(4) as pool:
            results = list(pool.map(call, [bad, X, bad, X, bad, X]))
        plain = engine.model(X).detach()
        for result in results[1::2]:
            torch.testing.assert_close(result, plain, rtol=0, atol=1e-12)
        assert engine.embedder.is_built


def test_results_are_read_beside_other_calls() -> None:
    torch.manual_seed(0)
    engine = IT3Engine(Recurrent().double().eval(), "layer", optimization_parameters={"parameters": "fc"}).eval()
    engine.adapt(X)
    batches = [X * (1 + i / 10) for i in range(24)]
    expected = [engine.adapt(x).state_dict() for x in batches]
    with ThreadPoolExecutor(4) as pool:
        actual = list(pool.map(lambda x: engine.adapt(x).state_dict(), batches))
    for a, e in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, e, rtol=0, atol=0)


def test_the_first_call_may_be_in_threads() -> None:
    torch.manual_seed(0)
    model = Recurrent().double().eval()
    embedder = IT3Engine(model, "layer").eval()
    expected = embedder.adapt(X).prediction
    fresh = [IT3Engine(model, "layer", embedder.embedder).eval() for _ in range(4)]
    actual = run_in_threads([lambda e=e: e.adapt(X).prediction for e in fresh])
    assert all(torch.equal(a, expected) for a in actual)


@pytest.mark.parametrize("kind", [Recurrent, Cut])
def test_training_beside_adapting(kind: type[nn.Module]) -> None:
    torch.manual_seed(0)
    model = kind().double()
    adapts = IT3Engine(model, "layer").eval()
    trains = IT3Engine(model, "layer", adapts.embedder).train()
    expected = adapts.adapt(X).prediction
    target = torch.zeros(5, 3, dtype=torch.float64)
    losses = trains(X, target=target)[1].detach()
    calls = [lambda: adapts.adapt(X).prediction, lambda: trains(X, target=target)[1] * 1] * 10
    for i, actual in enumerate(run_in_threads(calls)):
        assert torch.equal(actual.detach(), losses if i % 2 else expected)


@pytest.mark.parametrize("kind", [Recurrent, Cut, lambda: torch.jit.script(Cut())])
def test_weights_are_kept_when_nobody_reads_them(kind: Callable[[], nn.Module]) -> None:
    """A call that keeps adapted weights writes them when no other call is between its two passes."""
    torch.manual_seed(0)
    model = kind().double().eval()
    embedding = torch.randn(3, 8, dtype=torch.float64)
    in_the_middle, has_kept = threading.Event(), threading.Event()

    def embed_slowly(prediction: Tensor) -> Tensor:
        if has_looked:
            in_the_middle.set()
            has_kept.wait(0.2)
        return prediction @ embedding

    has_looked = False
    online = {"copy_model": False, "lr": 0.1}
    reads = IT3Engine(model, "layer", embed_slowly).eval()
    keeps = IT3Engine(model, "layer", lambda y: y @ embedding, optimization_parameters=online).eval()
    expected = reads.adapt(X, num_steps=0).second
    keeps.adapt(X)
    keeps.reset()
    has_looked = True

    def keep() -> Tensor:
        in_the_middle.wait()
        keeps.adapt(X)
        has_kept.set()
        return model(X)

    actual, after = run_in_threads([lambda: reads.adapt(X, num_steps=0).second, keep])
    assert torch.equal(actual, expected)
    assert keeps.drift().distance > 0
    assert torch.equal(after, model(X))


@pytest.mark.parametrize("kind", [Recurrent, Cut, lambda: torch.jit.script(Cut())])
def test_weights_are_kept_when_nobody_copies_them(kind: Callable[[], nn.Module]) -> None:
    """As a state dict and a file do."""
    torch.manual_seed(0)
    model = kind().double().eval()
    keeps = IT3Engine(model, "layer", optimization_parameters={"copy_model": False, "lr": 0.1}).eval()
    keeps.adapt(X)
    before = [p.detach().clone() for p in model.parameters()]
    with ThreadPoolExecutor(1) as pool:
        with _C.ModelHold(model):
            adaptation = pool.submit(keeps.adapt, X)
            time.sleep(0.2)
            assert not adaptation.done()
            assert all(torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))
        adaptation.result()
    assert not all(torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))


class Part(nn.Module):
    """Runs cut, around layers that another model has too."""

    def __init__(self, whole: Recurrent) -> None:
        super().__init__()
        self.layer, self.fc = whole.layer, whole.fc

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.layer(x).tanh())


def test_models_that_share_a_part() -> None:
    """A call that runs whole has other weights in tensors that the cut of another model reads."""
    torch.manual_seed(0)
    whole = Recurrent().double().eval()
    part, h = Part(whole), torch.randn(5, 8, dtype=torch.float64)
    options = {"lr": 0.5}
    hooked = IT3Engine(whole, "layer", optimization_parameters=options).eval()
    cut = IT3Engine(part, "layer", optimization_parameters={"num_steps": 0}).eval()
    hooked.adapt(X)
    expected = cut.adapt(h).prediction
    calls = [lambda: hooked.adapt(X).prediction, lambda: cut.adapt(h).prediction] * 30
    for i, actual in enumerate(run_in_threads(calls)):
        assert i % 2 == 0 or torch.equal(actual, expected)


def test_a_model_that_shares_a_part_with_one_that_is_exported(monkeypatch: pytest.MonkeyPatch) -> None:
    """Meanwhile the part holds fake tensors."""
    torch.manual_seed(0)
    whole = Recurrent().double().eval()
    engine = IT3Engine(whole, "layer").eval()
    expected = engine.adapt(X).prediction
    is_exporting, mark = threading.Event(), Plan._mark

    def mark_slowly(plan: Plan, *given: Any) -> Any:
        is_exporting.set()
        time.sleep(0.3)
        return mark(plan, *given)

    monkeypatch.setattr(Plan, "_mark", mark_slowly)
    other = IT3Engine(Part(whole), "layer").eval()
    thread = threading.Thread(target=other.adapt, args=(torch.randn(5, 8, dtype=torch.float64),))
    thread.start()
    assert is_exporting.wait(30)
    assert torch.equal(engine.adapt(X).prediction, expected)
    thread.join()


@pytest.mark.parametrize("kind", [Recurrent, Cut])
def test_a_model_that_is_cut_may_be_adapted_while_it_adapts(kind: type[nn.Module]) -> None:
    """The locks are recursive: here the distance adapts the same model."""
    torch.manual_seed(0)
    model = kind().double().eval()
    inner = IT3Engine(model, "fc", optimization_parameters={"num_steps": 0}).eval()
    inner.adapt(X)

    def distance(y1: Tensor, y0: Tensor) -> Tensor:
        inner.adapt(X)
        return nn.functional.mse_loss(y1, y0)

    outer = IT3Engine(model, "layer", distance_fn=distance).eval()
    plain = IT3Engine(model, "layer", outer.embedder).eval()
    if kind is Cut:
        assert torch.equal(outer.adapt(X).prediction, plain.adapt(X).prediction)
        return
    with pytest.raises(
        ValueError, match=r"distance_fn computes with the model's weight 'lstm\.weight"
    ):  # the adapted ones
        outer.adapt(X)
    assert torch.isfinite(plain.adapt(X).prediction).all()


def test_reasons_are_those_of_the_call() -> None:
    class Takes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.last = nn.Linear(6, 8), nn.Linear(8, 3)

        def forward(self, x: Tensor, anything: object = None) -> Tensor:
            return self.last(self.layer(x).tanh())

    engine = IT3Engine(Takes().double().eval(), "layer").eval()
    x = torch.randn(5, 6, dtype=torch.double)
    engine.adapt(x)
    opaque = {"x": x, "anything": object()}
    asked = [lambda: engine.explain(x).why_whole, lambda: engine.explain(opaque).why_whole]
    reasons = run_in_threads(asked * 50)
    assert set(reasons[::2]) == {""}
    assert set(reasons[1::2]) == {"the inputs hold objects other than tensors, numbers and strings"}


def test_a_model_trained_inside_a_call_beside_one_that_keeps_weights() -> None:
    """Both calls come to an end: one of them with its result, the other one with it or with a clear error."""
    torch.manual_seed(0)
    model = Cut().double()
    target = torch.zeros(5, 3, dtype=torch.float64)
    trains = IT3Engine(model, "layer").train()
    trains(X, target=target)
    both_are_inside = threading.Barrier(2)
    is_inside = threading.local()

    def distance(a: Tensor, b: Tensor) -> Tensor:
        if has_looked and not getattr(is_inside, "value", False):
            is_inside.value = True
            both_are_inside.wait(5)
            if is_inside.trains:
                time.sleep(0.2)  # until the other call wants to write
                trains(X, target=target)
        return (a - b).square().mean()

    has_looked = False
    reads = IT3Engine(model, "layer", distance_fn=distance, optimization_parameters={"num_steps": 1}).eval()
    keeps = IT3Engine(model, "layer", distance_fn=distance, optimization_parameters={"copy_model": False}).eval()
    expected = reads.adapt(X).prediction
    keeps.adapt(X)
    keeps.reset()
    before = copy.deepcopy(model.state_dict())
    has_looked = True
    outcomes: dict[str, Tensor | RuntimeError] = {}

    def call(name: str, engine: IT3Engine) -> None:
        is_inside.trains = name == "reads"
        try:
            outcomes[name] = engine.adapt(X).prediction
        except RuntimeError as error:
            outcomes[name] = error

    threads = [threading.Thread(target=call, args=a, daemon=True) for a in (("reads", reads), ("keeps", keeps))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert set(outcomes) == {"reads", "keeps"}
    errors = [str(o) for o in outcomes.values() if isinstance(o, RuntimeError)]
    assert len(errors) == 1
    assert "wait for each other for ever" in errors[0]
    has_looked = False
    keeps.reset()
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    assert torch.equal(reads.adapt(X).prediction, expected)


def test_copies_made_while_another_thread_adapts_are_of_the_model_as_it_is() -> None:
    torch.manual_seed(0)
    model = Recurrent().double().eval()
    engine = IT3Engine(model, "layer", optimization_parameters={"lr": 0.1}).eval()
    expected, plain = engine.adapt(X).prediction, model(X).detach()
    ends = threading.Event()

    def adapt() -> None:
        while not ends.is_set():
            engine.adapt(X)

    thread = threading.Thread(target=adapt)
    thread.start()
    copies = [copy.deepcopy(engine) for _ in range(30)]
    states = [engine.state_dict() for _ in range(30)]
    ends.set()
    thread.join()
    for other, state in zip(copies, states, strict=True):
        assert torch.equal(other.model(X), plain)
        assert torch.equal(other.adapt(X).prediction, expected)
        for name, value in model.state_dict().items():
            assert torch.equal(state[f"model.{name}"], value)


def test_a_copy_of_the_model_that_another_thread_made_meanwhile_runs_as_it_does() -> None:
    """It has the hook of that moment, which does nothing in it."""
    torch.manual_seed(0)
    model = Recurrent().double().eval()
    copies: list[nn.Module] = []

    def embed(prediction: Tensor) -> Tensor:
        if not copies:
            copies.append(copy.deepcopy(model))
        return prediction.sum(1, keepdim=True).expand(-1, 8)

    IT3Engine(model, "layer", embed).eval().adapt(X, num_steps=0)
    torch.testing.assert_close(copies[0](X), model(X), rtol=0, atol=1e-12)


def test_an_embedder_that_counts_its_calls_is_as_it_was() -> None:
    class Counts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, prediction: Tensor) -> Tensor:
            self.calls += 1
            return prediction.sum(1, keepdim=True).expand(-1, 8) * self.calls

    torch.manual_seed(0)
    embedder = Counts()
    buffer = embedder.calls
    engine = IT3Engine(Cut().double().eval(), "layer", embedder).eval()
    expected = engine.adapt(X).prediction
    actual = run_in_threads([lambda: engine.adapt(X).prediction] * 60)
    assert all(torch.equal(a, expected) for a in actual)
    assert embedder.calls is buffer
    assert embedder.calls == 0
