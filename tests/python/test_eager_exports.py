"""What torch.export does not note of a model, or a graph of its program cannot do, gives no wrong number."""

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from it3 import IT3Engine
from torch import Tensor, nn

X = torch.randn(4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """Does with its inputs and its prediction what a function says."""

    def __init__(self, function: Callable[..., Tensor] | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.head = nn.Linear(4, 8), nn.Linear(8, 3)
        self.register_buffer("bank", torch.ones(5, 3))
        self.function = function or (lambda y, *_: y)

    def forward(self, x: Tensor, *more: Tensor) -> Tensor:
        return self.function(self.head(self.layer(x)), x, *more)


def engine_of(model: nn.Module, layer: str = "layer", **options: Any) -> IT3Engine:
    engine = IT3Engine(model.double().eval(), layer, **options).eval()
    engine.is_trained = True
    return engine


def agrees(engine: IT3Engine, *inputs: Tensor) -> None:
    given = inputs if len(inputs) > 1 else inputs[0]
    actual = engine.adapt(given, num_steps=0).prediction
    torch.testing.assert_close(actual, engine.model(*inputs), rtol=1e-12, atol=1e-12)


POSITIVE = X.abs()
ONE_HIT = torch.cat([X[:1].abs(), -X[1:].abs()])
FORWARDS: dict[str, tuple[Callable[..., Tensor], tuple[Tensor, ...]]] = {
    "squeeze": (lambda y, x: y * (x.mean(1).squeeze().dim() + 1), (X, X[:1], X[:3])),
    "squeeze, one first": (lambda y, x: y * (x.mean(1).squeeze().dim() + 1), (X[:1], X, X[:3])),
    "squeeze by size": (lambda y, x: y * (x[:, :1].squeeze(1).shape[0] + 1), (X, X[:1], X[:3])),
    "squeeze of values": (lambda y, x: y * ((x[:, 0] > 0).nonzero().squeeze().dim() + 1), (POSITIVE, ONE_HIT)),
    "branch on size": (lambda y, x: y * (2 if x.shape[0] > 2 else 3), (X, X[:2], X[:1], X)),
    "even size": (lambda y, x: y * (x.shape[0] // 2), (X, X[:3], X[:1], X[:2])),
    "contiguous": (lambda y, x: y * (2 if x.is_contiguous() else 1), (X, X.t(), X)),
    "strides": (lambda y, x: y * x.stride(0), (X, X.t(), X[:2])),
    "full of booleans": (lambda y, _: y.masked_fill(~torch.full(y.shape, True), 0.0), (X, X[:2])),
    "times a boolean": (lambda y, x: y * (x.shape[0] > 2), (X, X[:2])),
    "and a boolean": (lambda y, x: y.masked_fill((x[:, :3] > 0) & True, 0.0), (X, X[:2])),
    "view as": (lambda y, x: y + x.view(torch.int64)[:, :3] % 3, (X, X[:2])),
    "no samples": (lambda y, x: y + x.sum(), (X, X[:0], X)),
}


@pytest.mark.parametrize("forward", FORWARDS)
def test_calls_of_other_sizes_and_strides(forward: str) -> None:
    function, calls = FORWARDS[forward]
    engine = engine_of(Net(function))
    for x in calls:
        agrees(engine, x)


def test_samples_by_themselves_are_batches_of_one() -> None:
    engine = engine_of(Net(FORWARDS["squeeze"][0]))
    agrees(engine, X)
    each = torch.cat([engine.model(sample) for sample in X.split(1)])
    torch.testing.assert_close(engine.adapt(X, num_steps=0, per_sample=True).prediction, each)


def test_one_tensor_for_two_inputs() -> None:
    engine = engine_of(Net(lambda y, x, other: y * 2 if x is other else y + other.mean()))
    for inputs in ((X, X.clone()), (X, X), (X, X.clone())):
        agrees(engine, *inputs)


def test_checks_of_values_are_kept() -> None:
    def checked(y: Tensor, x: Tensor) -> Tensor:
        torch._check((x[:, 0] > 0).nonzero().shape[0] > 0)
        return y

    engine = engine_of(Net(checked))
    agrees(engine, POSITIVE)
    with pytest.raises(RuntimeError, match="Expected cond"):
        engine.adapt(-POSITIVE)


def test_buffers_of_other_sizes() -> None:
    engine = engine_of(Net())
    bank = engine.model.bank
    engine.model.function = lambda y, _: y + bank.sum(0) / bank.shape[0]
    agrees(engine, X)
    bank.resize_(9, 3).fill_(1)
    agrees(engine, X)
    bank.data = torch.ones(3, 3, dtype=torch.float64)
    agrees(engine, X)


def test_what_an_output_function_reads() -> None:
    scale = [2.0]
    engine = engine_of(Net(), output=lambda y: y * scale[0])
    for scale[0] in (2.0, 5.0):
        actual = engine.adapt(X, num_steps=0).prediction
        torch.testing.assert_close(actual, engine.model(X) * scale[0])


class Activation:
    slope = 2.0

    def __call__(self, x: Tensor) -> Tensor:
        return F.relu(x) * self.slope


def test_functions_that_modules_of_torch_are_given() -> None:
    activation = Activation()
    encoder = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True, activation=activation)
    engine = engine_of(nn.Sequential(encoder, nn.Linear(4, 2)), "0")
    x = X[None]
    agrees(engine, x)
    activation.slope = 50.0
    agrees(engine, x)


def test_a_lock_that_the_caller_has() -> None:
    lock = threading.RLock()

    def locked(y: Tensor, _: Tensor) -> Tensor:
        with lock:
            return y * 2

    engine = engine_of(Net(locked))
    with lock:
        agrees(engine, X)


def test_an_engine_in_a_model() -> None:
    inner = engine_of(Net())
    engine = engine_of(Net(lambda y, x: y + inner.adapt(x, num_steps=0).prediction.detach()))
    agrees(engine, X)
