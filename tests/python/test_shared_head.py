"""Training computes once what comes before the layer, and gives what two separate passes give."""

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from it3 import IT3Engine
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

X = torch.randn(24, 3, 24, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
TARGET = torch.randn(24, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


class Net(nn.Module):
    """What it does before its layer is given."""

    def __init__(self, head: Callable[[Any, Tensor], Tensor] | None = None) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.layer = nn.Conv2d(4, 4, 3)
        self.second_norm, self.last = nn.BatchNorm2d(4), nn.Linear(4 + 4, 2)
        self.register_buffer("average", torch.zeros(()))
        self.head = head
        self.generator = torch.Generator().manual_seed(3)

    def forward(self, x: Tensor) -> Tensor:
        hidden = F.relu(self.norm(self.conv(x))) if self.head is None else self.head(self, x)
        features = torch.relu(self.second_norm(self.layer(hidden)))
        return self.last(torch.cat([features.mean((2, 3)), hidden.mean((2, 3))], 1))


DRAWN: list[float] = []
"""What draw() returns next. It stands for Python's random, NumPy's, a clock, and what else torch does not know of."""


def draw() -> float:
    return DRAWN.pop(0) if DRAWN else 0.3


def two_passes(model: nn.Module, embedder: nn.Module, x: Tensor, target: Tensor | None) -> Any:
    """The formula: f(x), and f(x | target), whose head is run anew, with a hook that adds what is embedded."""
    first = model(x)
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    signal = first if target is None else target
    handle = model.layer.register_forward_hook(lambda _, __, y: y + embedder(signal, y)[:, :, None, None])
    try:
        second = model(x)
    finally:
        handle.remove()
    for name, buffer in model.named_buffers():
        buffer.data = buffers[name]
    return first, F.mse_loss(second, signal)


def gradients(loss: Tensor, *modules: nn.Module) -> list[Tensor]:
    parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
    return [
        torch.zeros_like(p) if g is None else g
        for p, g in zip(parameters, torch.autograd.grad(loss, parameters, allow_unused=True), strict=True)
    ]


def check_step(engine: IT3Engine, x: Tensor = X, target: Tensor | None = TARGET, attempts: int = 0) -> None:
    """`attempts`: passes that are ended and run anew."""
    model, embedder = copy.deepcopy((engine.model, engine.embedder))
    torch.manual_seed(5)
    DRAWN[:] = [0.3, 0.6]
    expected, expected_ttt = two_passes(model, embedder, x, target)
    torch.manual_seed(5)
    DRAWN[:] = [0.3, *(attempts * [0.6]), 0.6]
    prediction, loss_ttt = engine(x, target)
    torch.testing.assert_close(prediction, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(loss_ttt, expected_ttt, rtol=1e-12, atol=1e-12)
    of = (engine.model, engine.embedder), (model, embedder)
    actual = gradients(prediction.square().sum() + loss_ttt, *of[0])
    torch.testing.assert_close(
        actual, gradients(expected.square().sum() + expected_ttt, *of[1]), rtol=1e-10, atol=1e-12
    )
    torch.testing.assert_close(dict(engine.model.named_buffers()), dict(model.named_buffers()), rtol=0, atol=1e-12)


def in_place(net: Any, x: Tensor) -> Tensor:
    hidden = net.norm(net.conv(x))
    hidden[:, :2].mul_(2)
    return F.relu(hidden, inplace=True)


def frozen(net: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        return torch.relu(net.norm(net.conv(x)))


def weight_normalized(net: Any, x: Tensor) -> Tensor:
    weight = net.conv.weight / net.conv.weight.square().sum((1, 2, 3), keepdim=True).sqrt()
    largest = torch.max(F.conv2d(x, weight, padding=1), dim=1, keepdim=True)
    return net.norm(net.conv(x)) * largest.values + x.shape[0]


def by_values(net: Any, x: Tensor) -> Tensor:
    hidden = net.norm(net.conv(x))
    return hidden.tanh() if float(hidden.sum()) > 0 else hidden.sin()


def with_a_derivative(net: Any, x: Tensor) -> Tensor:
    hidden = net.conv(x).tanh()
    if not hidden.requires_grad:
        return hidden
    return hidden + torch.autograd.grad(hidden.mean(), net.conv.bias, create_graph=True)[0].view(1, 4, 1, 1)


SHARED = [None, in_place, weight_normalized]


def dropped_out(net: Any, x: Tensor) -> Tensor:
    return F.dropout(net.conv(x), 0.5)


def noisy_by_numpy(net: Any, x: Tensor) -> Tensor:
    return net.conv(x) + torch.from_numpy(np.full((4, 1, 1), draw()))


def noisy_by_python(net: Any, x: Tensor) -> Tensor:
    return net.conv(x) * draw()


def of_depth(net: Any, x: Tensor) -> Tensor:
    return net.norm(net.conv(x)) if draw() < 0.5 else net.conv(x)


def of_an_average(net: Any, x: Tensor) -> Tensor:
    hidden = net.conv(x)
    net.average.mul_(0.5).add_(0.5 * hidden.detach().mean())
    return hidden - net.average


def of_an_assigned_average(net: Any, x: Tensor) -> Tensor:
    hidden = net.conv(x)
    net.average = 0.5 * net.average + 0.5 * hidden.detach().mean()
    return hidden - net.average


class Clipped(torch.autograd.Function):
    @staticmethod
    def forward(_: Any, x: Tensor) -> Tensor:
        return 2 * x

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> Tensor:
        return -2 * gradient.clamp(-1e-3, 1e-3)


class Reversed(Clipped):
    @staticmethod
    def forward(_: Any, x: Tensor) -> Tensor:
        return x.view_as(x)


def clipped_gradients(net: Any, x: Tensor) -> Tensor:
    return F.relu(Clipped.apply(net.conv(x)), inplace=True)


def reversed_gradients(net: Any, x: Tensor) -> Tensor:
    return Reversed.apply(net.conv(x)) * 1


def hooked(net: Any, x: Tensor) -> Tensor:
    hidden = net.conv(x)
    if hidden.requires_grad:
        hidden.register_hook(lambda gradient: gradient.clamp(-1e-3, 1e-3))
    return hidden


def hooked_at_its_node(net: Any, x: Tensor) -> Tensor:
    hidden = net.conv(x)
    if hidden.requires_grad:
        hidden.grad_fn.register_prehook(lambda gradients: tuple(g.clamp(-1e-3, 1e-3) for g in gradients))
    return hidden


def checkpointed(net: Any, x: Tensor) -> Tensor:
    return checkpoint(lambda x: net.conv(x).tanh(), x, use_reentrant=False, preserve_rng_state=False)


def clipped_weights(net: Any, x: Tensor) -> Tensor:
    net.average.data.add_(1)
    return net.conv(x) * net.average.clone()


def drawn_by_a_generator(net: Any, x: Tensor) -> Tensor:
    return net.conv(x) + torch.rand(4, 1, 1, dtype=x.dtype, generator=net.generator)


def momentum_in_place(net: Any, x: Tensor) -> Tensor:
    net.average.data = net.average.data + 1
    return net.conv(x) * net.average.clone()


def minus_its_own_mean(net: Any, x: Tensor) -> Tensor:
    return net.norm(net.conv(x)) - net.norm.running_mean.view(1, 4, 1, 1)


def by_the_count(net: Any, x: Tensor) -> Tensor:
    return net.norm(net.conv(x)) * net.norm.num_batches_tracked.double()


def by_numpy(net: Any, x: Tensor) -> Tensor:
    hidden = net.conv(x) * 1
    array = hidden.detach().numpy()
    array *= 2
    return hidden


@torch.jit.script
def scripted_doubling(x: Tensor) -> Tensor:
    return x.mul_(2)


def by_a_script(net: Any, x: Tensor) -> Tensor:
    hidden = net.conv(x) * 1
    scripted_doubling(hidden)
    return hidden + 0


def without_functions(net: Any, x: Tensor) -> Tensor:
    hidden = net.conv(x) * 1
    with torch._C.DisableTorchFunction():
        hidden.mul_(2)
    return hidden + 0


def freezing(net: Any, x: Tensor) -> Tensor:
    net.last.weight.requires_grad_(False)
    return net.conv(x)


def of_a_sparse_matrix(net: Any, x: Tensor) -> Tensor:
    graph = torch.eye(len(x), dtype=x.dtype).to_sparse()
    return F.relu(net.conv(torch.sparse.mm(graph, x.flatten(1)).view_as(x)), inplace=True)


def of_a_jacobian(net: Any, x: Tensor) -> Tensor:
    jacobian = torch.func.jacrev(lambda w: w.square().sum())(net.conv.bias)
    return net.conv(x) * jacobian.view(1, 4, 1, 1)


def of_a_condition(net: Any, x: Tensor) -> Tensor:
    hidden = net.conv(x)
    return torch.cond(hidden.sum() > 0, lambda t: t.tanh(), lambda t: t.sin(), (hidden,))


class Two(NamedTuple):
    first: Tensor
    second: Tensor


def of_a_named_tuple(net: Any, x: Tensor) -> Tensor:
    return net.conv(x) * torch.stack(Two(net.norm.running_mean, net.norm.running_var)).sum()


def reseeding(net: Any, x: Tensor) -> Tensor:
    state = torch.get_rng_state()
    torch.manual_seed(int(1000 * draw()))
    hidden = net.conv(x) + torch.randn(4, 1, 1, dtype=x.dtype)
    torch.set_rng_state(state)
    return hidden


def catching_all(net: Any, x: Tensor) -> Tensor:
    try:
        return net.conv(x) * draw()
    except:  # noqa: E722
        return net.conv(x)


UNKNOWN = "which is not known to depend on its arguments alone"
NO_GRADIENTS = "gradients are switched off"
OTHER_WRITES = "it writes to tensors that it has not computed"
UNSEEN_WRITES = "a tensor is written to in a way that cannot be seen"
OTHER_PASSES = "the passes compute different things"
NOT_SHARED = {
    frozen: UNKNOWN,
    by_values: UNKNOWN,
    with_a_derivative: UNKNOWN,
    dropped_out: "random numbers are drawn",
    noisy_by_numpy: OTHER_PASSES,
    noisy_by_python: OTHER_PASSES,
    of_depth: OTHER_PASSES,
    of_an_average: OTHER_WRITES,
    of_an_assigned_average: "",
    clipped_gradients: NO_GRADIENTS,
    reversed_gradients: "",
    hooked: UNKNOWN,
    hooked_at_its_node: UNKNOWN,
    # Until torch 2.12, an empty tensor is made first.
    checkpointed: UNKNOWN if hasattr(torch.utils.checkpoint, "_NoopSaveInputs") else "checkpointing",
    drawn_by_a_generator: UNKNOWN,
    clipped_weights: UNKNOWN,
    momentum_in_place: UNKNOWN,
    minus_its_own_mean: "running statistics are read",
    by_the_count: "",
    by_numpy: UNKNOWN,
    by_a_script: UNKNOWN,
    without_functions: UNSEEN_WRITES,
    freezing: UNKNOWN,
    of_a_sparse_matrix: UNKNOWN,
    of_a_jacobian: "",
    of_a_condition: "",
    of_a_named_tuple: "Two",
    reseeding: UNKNOWN,
    catching_all: OTHER_PASSES,
}


def make_engine(head: Any) -> IT3Engine:
    torch.manual_seed(0)
    engine = IT3Engine(Net(head).double(), "layer").eval()
    engine.uncertainty(X)  # shapes the embedder
    return engine.train()


@pytest.mark.parametrize("head", SHARED, ids=lambda head: getattr(head, "__name__", "plain"))
@pytest.mark.parametrize("target", [TARGET, None], ids=["target", "none"])
def test_what_is_shared(head: Any, target: Tensor | None) -> None:
    engine = make_engine(head)
    for step in range(3):
        check_step(engine, X * (1 + step), target)
    assert not engine.explain(X).why_not_shared


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # by torch.cond
@pytest.mark.parametrize("head", NOT_SHARED, ids=lambda head: head.__name__)
def test_what_is_not_shared(head: Any) -> None:
    engine = make_engine(head)
    is_run_anew = NOT_SHARED[head] == OTHER_PASSES
    for step in range(3):
        check_step(engine, X * (1 + step), attempts=int(is_run_anew and step == 0))
    assert NOT_SHARED[head] in engine.explain(X).why_not_shared


def test_small_heads_are_not_worth_it() -> None:
    engine = make_engine(None)
    calls = []
    engine.model.conv.register_forward_hook(lambda _, __, y: calls.append(y))
    for x, target, is_shared in [(X[:2, :, :4, :4], TARGET[:2], False), (X, TARGET, True)] * 2:
        calls.clear()
        check_step(engine, x, target)
        assert len(calls) == 4  # of the formula, and of the engine
        assert (calls[2] is calls[3]) == is_shared
    assert not engine.explain(X).why_not_shared


@pytest.mark.parametrize("mode", ["eager", "aot_eager"])
def test_compiled_parts_are_left_alone(mode: str) -> None:
    engine = make_engine(None)
    engine.model.conv.compile(backend=mode)
    check_step(engine)


def test_what_the_tail_writes_to() -> None:
    class Tail(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.layer, self.last = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(torch.relu_(self.layer(self.conv(x))).mean((2, 3)))

    torch.manual_seed(0)
    engine = IT3Engine(Tail().double(), "layer").eval()
    engine.uncertainty(X)
    engine.train()
    for _ in range(3):
        check_step(engine)
    assert "is written to behind it" in engine.explain(X).why_not_shared


def test_a_step_that_fails_leaves_no_mode_behind() -> None:
    def failing(net: Any, x: Tensor) -> Tensor:
        if draw() > 0.5:
            raise OverflowError("too much")
        return net.conv(x)

    engine = make_engine(None)
    engine.model.head = failing
    for drawn in ([0.9], [0.3, 0.9]):
        DRAWN[:] = drawn
        with pytest.raises(OverflowError, match="too much"):
            engine(X, TARGET)
        assert torch.overrides._get_current_function_mode() is None
    DRAWN[:] = [0.3, 0.3]
    engine(X, TARGET)
