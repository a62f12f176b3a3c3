"""What a trace cannot see makes the model run whole, and tracing changes nothing."""

import contextlib
import copy

import pytest
import torch
from it3 import IT3Engine
from test_eager_state import Plain, X, why_not
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


class Guarded(nn.Module):
    """Looks at values where an export, which goes on after the exception, does not see it."""

    def __init__(self, guard: str) -> None:
        super().__init__()
        self.guard = guard
        self.layer, self.last = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        if self.guard == "try":
            with contextlib.suppress(Exception):
                x = x / 10 if x.abs().max() > 10 else x
        elif self.guard == "float":
            x = x / 10 if isinstance(x, Tensor) and float(x.abs().max()) > 10 else x
        elif self.guard == "equal":
            x = x / 10 if torch.is_tensor(x) and torch.equal(x, X * 100) else x
        elif self.guard == "tolist":
            x = x / 10 if torch.is_tensor(x) and max(x.abs().max(1)[0].tolist()) > 10 else x
        elif isinstance(x, Tensor) and x.abs().max() > 10:
            x = x / 10
        return self.last(self.layer(x).tanh())


@pytest.mark.parametrize("guard", ["isinstance", "float", "equal", "tolist", "try"])
def test_values_that_decide_are_seen_behind_a_guard(guard: str) -> None:
    engine = IT3Engine(Guarded(guard).double().eval(), "layer").eval()
    for x in (X, X * 100):
        torch.testing.assert_close(engine.adapt(x, num_steps=0).prediction, engine.model(x))
    assert "tensor" in why_not(engine, X)


class Tosses(Plain):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(-x if torch.rand(()) < 0.5 else x)


def test_what_is_tossed_while_tracing_is_not_fixed() -> None:
    """Half of the comparisons would not see it."""
    for seed in range(8):
        torch.manual_seed(seed)
        engine = IT3Engine(Tosses().double().eval(), "layer").eval()
        engine.adapt(X)
        assert "forward() depends on the values of tensors" in why_not(engine, X)


class WritesThroughContainers(Plain):
    """Writes to all its buffers, and weights, without naming one, so that nothing of it is in a trace."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))
        self.what = what

    def forward(self, x: Tensor) -> Tensor:
        if self.what == "buffers":
            for buffer in self.buffers():
                buffer.add_(1)
        elif self.what == "_buffers":
            self._buffers["calls"].add_(1)
        else:
            for parameter in self.parameters():
                parameter.data.mul_(0.9)
        return super().forward(x)


@pytest.mark.parametrize("what", ["buffers", "_buffers", "weights"])
def test_the_first_call_leaves_what_forward_writes_to_while_it_is_traced(what: str) -> None:
    engine = IT3Engine(WritesThroughContainers(what).double(), "layer").eval()
    before = copy.deepcopy(engine.model.state_dict())
    for _ in range(2):
        engine.adapt(X)
        torch.testing.assert_close(engine.model.state_dict(), before, rtol=0, atol=0)


@pytest.mark.parametrize("is_known", [True, False])
def test_weights_that_are_computed_keep_their_graphs(is_known: bool) -> None:
    engine = IT3Engine(Plain().double(), "layer").eval()
    if is_known:
        engine(X)
    fast = {name: p * 0.9 for name, p in engine.model.named_parameters()}
    expected = torch.func.functional_call(engine.model, fast, (X,))
    actual = torch.func.functional_call(engine, {f"model.{name}": w for name, w in fast.items()}, (X,))
    assert actual[0].shape == expected.shape
    assert all(weight.grad_fn is not None for weight in fast.values())
    gradients = torch.autograd.grad(expected.sum(), list(engine.model.parameters()), allow_unused=True)
    assert all(g is not None for g in gradients)


@pytest.mark.parametrize("is_known", [True, False])
@pytest.mark.parametrize("is_whole", [True, False])
def test_a_call_inside_of_an_activation_checkpoint(is_known: bool, is_whole: bool) -> None:
    """Whose hooks run the function again where its graph is differentiated, which a call does by itself."""
    engine = IT3Engine(Plain().double(), "layer").eval()
    if is_whole:
        engine.model.register_forward_hook(lambda *_: None)
    x = X.clone().requires_grad_()
    if is_known:
        engine(x)
    calls = []

    def adapt(inputs: Tensor) -> Tensor:
        calls.append(1)
        return engine(inputs)[0]

    inside = checkpoint(adapt, x * 1, use_reentrant=False)
    assert len(calls) == 1
    torch.testing.assert_close(inside, engine(x)[0], rtol=0, atol=0)
