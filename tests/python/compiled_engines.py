"""Engines that are compiled, in float64, and equal ones that are not."""

import copy
import shutil
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import it3
import pytest
import torch
from filelock import FileLock
from it3 import IT3Engine
from it3.compiling import compile as compilation
from it3.compiling.capture import Captured
from torch import Tensor, nn

close = partial(torch.testing.assert_close, rtol=1e-9, atol=1e-9)


class Dense(nn.Module):
    """With a weight that is used twice, one that nothing depends on, and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.layer, self.last = nn.Linear(6, 12), nn.Linear(12, 12), nn.Linear(12, 3)
        self.twice = nn.Linear(12, 12)
        self.unused = nn.Parameter(torch.ones(2))
        self.register_buffer("scale", torch.full((12,), 1.5))

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.twice(self.layer(torch.tanh(self.first(x))) * self.scale)
        return self.last(torch.tanh(self.twice(torch.tanh(hidden))))


class Images(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm, self.last = nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Linear(4 * 16, 3)
        self.norm.running_mean.normal_()
        self.norm.running_var.uniform_(0.5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.norm(self.layer(x))).flatten(1))


def batch(samples: int, *shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(samples, *(shape or (6,)), dtype=torch.float64, generator=generator)


def make_engine(model: type[nn.Module] = Dense, arguments: dict[str, Any] | None = None, **options: Any) -> IT3Engine:
    torch.manual_seed(0)
    given = {"num_steps": 3, "lr": 1e-2, **options}
    engine = IT3Engine(model().double(), "layer", optimization_parameters=given, **(arguments or {})).eval()
    engine.is_trained = True
    engine.uncertainty(batch(4) if model is Dense else batch(4, 2, 6, 6))  # shapes the embedder
    return engine


def engines(cache: Path, example: Tensor, *given: Any, **options: Any) -> tuple[IT3Engine, IT3Engine]:
    """Return a compiled engine, and an equal one that is not."""
    engine = make_engine(*given, **options)
    plain = copy.deepcopy(engine)
    assert it3.compile(engine, example, backend="compiled", cache=cache, progress=False) is engine
    return engine, plain


def dense(cache: Path, **options: Any) -> tuple[IT3Engine, IT3Engine]:
    """Return engines that are compiled with a threshold, so that some samples may be left out."""
    with FileLock(f"{cache}.lock"):  # many files begin with these programs
        engine, plain = engines(cache, batch(8), threshold=0.0)
    for each in (engine, plain):
        each.optimization_parameters.update({"threshold": None, **options})
    return engine, plain


def record(engine: IT3Engine, example: Any) -> Captured:
    """Return what would be compiled for an engine."""

    def stop(_: Path, captured: Captured, __: bool) -> None:
        raise LookupError(captured)

    with pytest.MonkeyPatch.context() as patch, TemporaryDirectory() as empty:
        patch.setattr(compilation, "_make", stop)
        with pytest.raises(LookupError) as raised:
            it3.compile(engine, example, backend="compiled", cache=empty, progress=False)
    return raised.value.args[0]


def copy_cache(cache: Path, to: Path) -> Path:
    """Copy compiled programs, while other processes may write more."""
    return shutil.copytree(cache, to, ignore=shutil.ignore_patterns(".making-*"), dirs_exist_ok=True)


def is_compiled(engine: IT3Engine, inputs: Any, **overrides: Any) -> bool:
    explanation = engine._setup_for(inputs).explain(inputs, {**engine.optimization_parameters, **overrides})
    return explanation.compiled == "evaluated by programs of AOTInductor"


VECTORIZED_AT_ANY_SIZE = torch.__version__ >= (2, 13)
"""Whether torch compiles programs of stacked samples for other numbers of them than the example's; 2.11 does not."""


def check_alike(engine: IT3Engine, plain: IT3Engine, *batches: Any, is_any_size: bool = True, **overrides: Any) -> None:
    """Compare with what is not compiled; at other sizes than the first, programs are evaluated if they can take any."""
    for place, inputs in enumerate(batches):
        torch.manual_seed(3)
        actual = engine.adapt(inputs, **overrides)
        torch.manual_seed(3)
        expected = plain.adapt(inputs, **overrides)
        assert is_compiled(engine, inputs, **overrides) or (place > 0 and not is_any_size)
        for name in ("prediction", "first", "second", "losses"):
            close(getattr(actual, name), getattr(expected, name))
        close(actual._weights, expected._weights)
        close(engine.uncertainty(inputs), plain.uncertainty(inputs))
