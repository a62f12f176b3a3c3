"""Engines with layer_output in files with compiled programs equal those that were saved."""

from pathlib import Path
from typing import Any

import it3
import numpy as np
import pytest
import torch
from binary import needs_binary
from binary import run as run_binary
from branching import Branching
from compiled_engines import check_alike, close, is_compiled
from it3 import IT3Engine

EXAMPLE = torch.randn(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def make_engine(path: Any) -> IT3Engine:
    torch.manual_seed(0)
    options = {"num_steps": 2, "lr": 1e-2}
    engine = IT3Engine(Branching().double(), "branches", layer_output=path, optimization_parameters=options).eval()
    engine.uncertainty(EXAMPLE)  # shapes the embedder
    engine.is_trained = True
    return engine


def save(engine: IT3Engine, path: Path, cache: Path) -> Path:
    engine.save(path, EXAMPLE, format="aoti", backend="compiled", cache=cache)
    return path


@pytest.fixture(scope="module")
def saved(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(make_engine(("pair", 1)), tmp_path_factory.mktemp("saved") / "engine.pt2", cache)


def test_they_do_the_same(saved: Path) -> None:
    engine = it3.load(saved)
    assert engine.layer_output == ("pair", 1)
    check_alike(engine, make_engine(("pair", 1)), EXAMPLE, EXAMPLE[:2])


def test_passes_do_the_same(saved: Path) -> None:
    engine = it3.load(saved)
    expected = make_engine(("pair", 1)).adapt(EXAMPLE, anchor="frozen")
    close(engine.adapt(EXAMPLE, anchor="frozen").losses, expected.losses)
    close(engine.adapt(EXAMPLE, anchor="frozen").prediction, expected.prediction)
    assert not is_compiled(engine, EXAMPLE, anchor="frozen")


@needs_binary
@pytest.mark.parametrize("options", [(), ("--anchor", "frozen")])
def test_the_shell(saved: Path, tmp_path: Path, options: tuple[str, ...]) -> None:
    np.save(tmp_path / "x.npy", EXAMPLE.numpy())
    done = run_binary(saved, "--input", tmp_path / "x.npy", "--output", tmp_path / "y.npy", *options)
    assert (done.returncode, done.stderr) == (0, "")
    given = {"anchor": "frozen"} if options else {}
    actual = torch.from_numpy(np.load(tmp_path / "y.npy"))
    close(actual, make_engine(("pair", 1)).adapt(EXAMPLE, **given).prediction)


def test_a_loaded_engine_is_saved_again(saved: Path, cache: Path, tmp_path: Path) -> None:
    again = it3.load(save(it3.load(saved), tmp_path / "again.pt2", cache))
    check_alike(again, make_engine(("pair", 1)), EXAMPLE)


def test_what_a_program_cannot_tell_apart(cache: Path, tmp_path: Path) -> None:
    engine = make_engine(("twice", 0))
    with pytest.raises(ValueError, match="does not reach the prediction"):
        save(engine, tmp_path / "engine.pt2", cache)
    assert list(tmp_path.iterdir()) == []
