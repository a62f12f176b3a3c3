"""What functions of the user's raise comes out as it is, whatever it is, and nothing is changed."""

import traceback
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from interrupting import Everything
from it3 import IT3Engine, evaluate
from kinds_of_network import NETWORKS
from models import make_case
from test_transaction import Bomb
from torch import Tensor, nn


class OnlyBase(BaseException):
    """Nobody expects it."""


class UnspeakableError(Exception):
    """Has no text."""

    def __str__(self) -> str:
        raise ValueError("there is none")

    __repr__ = __str__


ERRORS: dict[str, Callable[[], BaseException]] = {
    "of BaseException": OnlyBase,
    "KeyboardInterrupt": KeyboardInterrupt,
    "StopIteration": lambda: StopIteration(3),
    "StopAsyncIteration": StopAsyncIteration,
    "GeneratorExit": GeneratorExit,
    "SystemExit": lambda: SystemExit(3),
    "MemoryError": MemoryError,
    "RecursionError": RecursionError,
    "AssertionError": AssertionError,
    "NotImplementedError": NotImplementedError,
    "group": lambda: ExceptionGroup("several", [ValueError("one")]),
    "warning": lambda: UserWarning("raised"),
    "out of memory": lambda: torch.OutOfMemoryError("out of memory"),
    "raises in __str__": UnspeakableError,
    "long": lambda: ValueError("x" * 10_000_000),
    "surrogate": lambda: ValueError("\ud800"),
    "zero byte": lambda: ValueError("a\0b"),
}

PLACES = [
    ("hooks", "model"),  # the others run no Python of a model's
    *((network, place) for network in NETWORKS for place in ("embedder", "combine_fn", "distance_fn", "backward")),
]


class Raising(Bomb):
    """Raises one object, now and again."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(-1, type(error))
        self.raised, self.is_armed = error, False

    def tick(self) -> None:
        if self.is_armed:
            raise self.raised


def build(network: str, place: str, bomb: Raising) -> tuple[IT3Engine, Tensor]:
    """An engine in which the bomb goes off at one place, and inputs."""
    case = make_case("residual")

    def ticking(where: str, function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return bomb.ticking(function) if where == place else function

    class Model(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: Tensor) -> Tensor:
            bomb.tick()
            return self.inner(x)

    model = NETWORKS[network](case.model)
    is_outside = place == "model"
    weights = torch.randn(2, 10, dtype=torch.float64)
    engine = IT3Engine(
        Model(model) if is_outside else model,
        f"inner.{case.layer}" if is_outside else case.layer,
        embedder=ticking("embedder", lambda y: y @ weights),
        combine_fn=ticking("combine_fn", lambda f, e: f + e),
        distance_fn=ticking(
            "distance_fn", lambda a, b: F.mse_loss(bomb.in_backward(a) if place == "backward" else a, b)
        ),
    ).eval()
    return engine, case.inputs


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize(("network", "place"), PLACES)
def test_the_very_object(network: str, place: str, error: str) -> None:
    bomb = Raising(ERRORS[error]())
    engine, inputs = build(network, place, bomb)
    engine.optimization_parameters["copy_model"] = network != "traced"
    for is_first in (True, False):
        before = Everything(engine)
        bomb.is_armed = True
        for call in (engine, engine.adapt, engine.uncertainty, lambda x: evaluate(engine, [(x, x[:, :2])], "mse")):
            if call == engine.uncertainty and place in ("distance_fn", "backward"):
                continue
            with pytest.raises(type(bomb.raised)) as caught:
                call(inputs)
            assert caught.value is bomb.raised
            assert traceback.extract_tb(caught.tb)[-1].name == "tick"
            bomb.raised.__traceback__ = None
            before.check()
        bomb.is_armed = False
        if is_first:
            engine(inputs)
            engine.reset()


@pytest.mark.parametrize("error", ERRORS)
def test_of_a_metric(error: str) -> None:
    raised = ERRORS[error]()
    engine, inputs = build("script", "", Raising(raised))
    engine(inputs)
    before = Everything(engine)

    def metric(prediction: Tensor, targets: Tensor) -> Tensor:
        raise raised

    with pytest.raises(type(raised)) as caught:
        evaluate(engine, [(inputs, inputs[:, :2])], metric)
    assert caught.value is raised
    before.check()
