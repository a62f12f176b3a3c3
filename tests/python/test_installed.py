"""C++ projects outside of it3 find what the wheel and `cmake --install` carry, and adapt as Python does."""

from pathlib import Path

import it3
import pytest
import torch
from installed import assert_adapts_the_same, build_against, install, run
from it3 import IT3Engine
from models import KINDS, make_case


def save_engine(kind: str, path: Path) -> torch.Tensor:
    case = make_case(kind, torch.float32)
    engine = IT3Engine(case.model, case.layer, distance_fn="l1", optimization_parameters={"num_steps": 2}).eval()
    engine.save(path, case.inputs)
    return case.inputs


@pytest.mark.parametrize("kind", KINDS)
def test_a_program_built_against_the_wheel(kind: str, consumer: Path, tmp_path: Path) -> None:
    inputs = save_engine(kind, tmp_path / "engine.pt")
    assert_adapts_the_same(consumer, tmp_path / "engine.pt", inputs)


@pytest.mark.parametrize("library", ["static", "shared"])
def test_a_program_built_against_the_library_alone(library: str, tmp_path: Path) -> None:
    prefix = install(library, tmp_path / "prefix")
    found = sorted(path.name for path in (prefix / "lib").glob("libit3*"))
    assert found == ["libit3.a" if library == "static" else "libit3.so"]
    program = build_against(prefix, "tests/consumer", tmp_path / "build") / "consumer"
    inputs = save_engine("cnn", tmp_path / "engine.pt")
    assert_adapts_the_same(program, tmp_path / "engine.pt", inputs)


def test_the_example_trains_adapts_and_saves(tmp_path: Path) -> None:
    build = build_against(it3.cmake_prefix_path, "examples/cpp", tmp_path / "build")
    told = run(build / "train_adapt_save", tmp_path)
    first_losses = [float(line.split("= ")[1].split(",")[0]) for line in told.splitlines() if "d(f(x), y)" in line]
    assert first_losses[-1] < 0.2 * first_losses[0]
    assert "adapts equally" in told
    assert (tmp_path / "model.pt").exists()
    assert (tmp_path / "embedder.pt").exists()
