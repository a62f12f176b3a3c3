"""What a way of using an engine is, and small networks for it."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from it3 import IT3Engine
from torch import Tensor, nn


@dataclass(frozen=True)
class Use:
    """What is called again and again."""

    call: Callable[[], object]
    again: Callable[[], Tensor]
    """Gives the same result before all calls and after them, bit for bit."""


@dataclass(frozen=True)
class Way:
    """A way of using an engine."""

    make: Callable[[Path], Use]
    share: float = 1.0
    """Of the number of calls, where 10,000 would take long."""


def independent(call: Callable[[], Tensor]) -> Use:
    """Use where each call gives what the first one gives."""
    return Use(call, call)


X = torch.randn(7, 6, generator=torch.Generator().manual_seed(0))
TARGET = torch.randn(7, 3, generator=torch.Generator().manual_seed(1))
ONE_STEP = {"num_steps": 1}


def mlp() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3)).eval()


def _nothing(*_: object) -> None:
    pass


def hooked() -> nn.Module:
    """Make a model that runs whole, as it has a hook of the user's."""
    model = mlp()
    model.register_forward_hook(_nothing)
    return model


MODELS: dict[str, Callable[[], nn.Module]] = {"whole": hooked, "cut": mlp, "script": lambda: torch.jit.script(mlp())}
STARTS = {
    "whole": "run whole",
    "cut": "cut at the layer, exported by torch.export",
    "script": "cut at the layer, a TorchScript module",
}
"""How explain() tells them apart."""


def engine_of(kind: str, **arguments: Any) -> IT3Engine:
    """Make an engine in eval mode that has seen its first batch."""
    engine = IT3Engine(MODELS[kind](), "0", **{"optimization_parameters": ONE_STEP} | arguments).eval()
    engine.is_trained = True
    how = engine.explain(X).runs
    if not how.startswith(STARTS[kind]):
        raise RuntimeError(f"it should {STARTS[kind]}, but would {how}")
    engine.uncertainty(X)
    return engine


class Pixels(nn.Module):
    """Takes images of any size, and a number."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder, self.decoder = nn.Conv2d(2, 6, 3, padding=1), nn.Conv2d(6, 3, 1)

    def forward(self, x: Tensor, scale: float = 1.0) -> Tensor:
        return self.decoder(torch.tanh(scale * self.encoder(x)))


def pixels(kind: str, **options: Any) -> IT3Engine:
    torch.backends.mkldnn.set_flags(_enabled=False)  # oneDNN keeps what it compiled for up to 1,024 shapes
    model = Pixels().eval()
    if kind == "whole":
        model.register_forward_hook(_nothing)
    given = torch.jit.script(model) if kind == "script" else model
    engine = IT3Engine(given, "encoder", optimization_parameters=ONE_STEP | options).eval()
    engine.is_trained = True
    engine(images(629))  # for which torch's work space grows
    return engine


def images(i: int) -> Tensor:
    """Of 630 shapes in turn, of which the last one is the largest."""
    return torch.ones(1 + i % 5, 2, 4 + i % 14, 4 + i % 18)


def quiet() -> None:
    """Ignore what torch says of TorchScript."""
    warnings.simplefilter("ignore")
