"""What forward() reads of Python is watched, or the model runs whole."""

import copy
import os
import random
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import reading_models
import reference
import torch
from it3 import IT3Engine
from reading_models import NOT_WATCHED, WATCHED, Reading
from torch import Tensor, nn

close = partial(torch.testing.assert_close, rtol=1e-10, atol=1e-10)
X = torch.randn(5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def engine_of(model: nn.Module) -> IT3Engine:
    engine = IT3Engine(model.double().eval(), "layer").eval()
    engine(X)
    return engine


def why_not(engine: IT3Engine) -> str:
    return engine.explain(X).why_whole


def expected_of(engine: IT3Engine) -> Tensor:
    """By the formula, on the model as it is now."""
    weights = [w.detach() for w in engine.embedder.parameters()]

    def embed(y: Tensor, features: Tensor) -> Tensor:
        return reference.embed(y, features, *weights)

    return reference.adapt(SharesWhatItReads(engine.model), "model.layer", embed, X)[0]


class SharesWhatItReads(nn.Module):
    """A copy of it has weights of its own, but reads the same objects."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def __deepcopy__(self, memo: dict) -> "SharesWhatItReads":
        return SharesWhatItReads(copy.deepcopy(self.model, {**memo, id(self.model.get): self.model.get}))

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


@pytest.mark.parametrize("read", WATCHED)
def test_what_is_read_is_watched(read: Callable) -> None:
    get, change = read()
    engine = engine_of(Reading(get))
    assert why_not(engine) == ""
    close(engine(X)[0], expected_of(engine))
    change(3.0)
    assert get() != 1.0
    close(engine(X)[0], expected_of(engine))
    assert why_not(engine) == ""


@pytest.mark.parametrize("read", NOT_WATCHED)
def test_what_cannot_be_watched_runs_whole(read: Callable) -> None:
    get, change = read()
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002
    engine = IT3Engine(Reading(get).double().eval(), "layer", optimization_parameters={"num_steps": 0}).eval()
    first = engine(X)[0]
    why = why_not(engine)
    assert why != ""
    change(3.0)
    assert not torch.equal(engine(X)[0], first)  # as plain calls do
    assert why_not(engine) == why


def test_looking_draws_and_uses_up_nothing() -> None:
    """A call takes what as many plain calls take."""
    for read in NOT_WATCHED:
        if read.__name__ in (
            "iterator",
            "generator",
        ):  # which nothing can put back: the look before the first call takes from it too
            continue
        taken = []
        for call in (lambda e: e(X), lambda e: e.model(X)):
            get, _ = read()
            random.seed(0)
            np.random.seed(0)  # noqa: NPY002
            model = Reading(get).double().eval()
            engine = IT3Engine(model, "layer", optimization_parameters={"num_steps": 0}).eval()
            call(engine)
            taken.append(get())
        assert taken[0] == taken[1], read.__name__


def test_files(tmp_path: Path) -> None:
    get, change = reading_models.file(str(tmp_path / "temp"))
    engine = engine_of(Reading(get))
    assert "forward() calls" in why_not(engine)
    change(3.0)
    close(engine(X)[0], expected_of(engine))


def test_writes_to_globals_are_those_of_plain_calls() -> None:
    state = {"calls": 0}

    def count() -> float:
        state["calls"] += 1
        return 1.0

    engine = IT3Engine(Reading(count).double().eval(), "layer", optimization_parameters={"num_steps": 2}).eval()
    engine(X)
    assert state["calls"] == 5  # two a step, and the answer
    assert why_not(engine) == "forward() changes Python variables that it reads"


@pytest.mark.parametrize(
    "harmless", [torch.float64, torch.device("cpu"), torch.Size([1]), print, np.float32(1), os.path]
)
def test_what_never_changes_is_no_obstacle(harmless: object) -> None:
    def get() -> float:
        return 1.0 if harmless is not None else 2.0

    assert why_not(engine_of(Reading(get))) == ""


def test_the_caller_may_be_profiled() -> None:
    import sys  # noqa: PLC0415

    seen = []
    sys.setprofile(lambda *_: seen.append(1))
    try:
        engine_of(Reading(lambda: 1.0))
        seen.clear()
        sum(range(3))
        assert seen
    finally:
        sys.setprofile(None)
