"""C++ projects outside of it3 find what the wheel and `cmake --install` carry, and adapt as Python does."""

import re
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path

import it3
import pytest
import torch
import torch.nn.functional as F
from installed import assert_adapts_the_same, build_against, install, run
from it3 import IT3Engine
from models import KINDS, make_case
from torch import nn


def save_engine(kind: str, path: Path) -> torch.Tensor:
    case = make_case(kind, torch.float32)
    engine = IT3Engine(case.model, case.layer, distance_fn="l1", optimization_parameters={"num_steps": 2}).eval()
    engine.save(path, case.inputs)
    return case.inputs


@pytest.mark.parametrize("kind", KINDS)
def test_a_program_built_against_the_wheel(kind: str, consumer: Path, tmp_path: Path) -> None:
    inputs = save_engine(kind, tmp_path / "engine.pt")
    assert_adapts_the_same(consumer, tmp_path / "engine.pt", inputs)


def test_a_program_built_against_the_library_alone(tmp_path: Path) -> None:
    prefix = install(tmp_path / "prefix")
    assert [path.name for path in (prefix / "lib").glob("libit3*")] == ["libit3.a"]  # a wheel's is a shared one
    program = build_against(prefix, "tests/consumer", tmp_path / "build") / "consumer"
    inputs = save_engine("cnn", tmp_path / "engine.pt")
    assert_adapts_the_same(program, tmp_path / "engine.pt", inputs)


def test_the_examples_train_adapt_and_save(tmp_path: Path) -> None:
    build = build_against(it3.cmake_prefix_path, "examples/cpp", tmp_path / "build")
    told = run(build / "train_adapt_save", tmp_path)
    first_losses = [float(line.split("= ")[1].split(",")[0]) for line in told.splitlines() if "d(f(x), y)" in line]
    assert first_losses[-1] < 0.2 * first_losses[0]
    assert "adapts equally" in told
    model = nn.Sequential(
        OrderedDict(encoder=nn.Linear(8, 64), relu1=nn.ReLU(), hidden=nn.Linear(64, 64), relu2=nn.ReLU())
        | OrderedDict(head=nn.Linear(64, 1))
    )
    engine = it3.IT3Engine(model, "encoder")
    engine.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=False)["state_dict"])
    assert engine.is_trained
    x = torch.randn(512, 8)
    y = (x[:, 0].sin() + x[:, 1] * x[:, 2]).unsqueeze(1)
    assert F.mse_loss(model(x), y) < 0.5 * y.var()
    assert "adapted by it3 and by hand" in run(build / "own_network", tmp_path)  # which fails if they differ


@pytest.mark.parametrize("path", ["/usr/bin:/bin"])
def test_the_wheel_finds_its_torch_whatever_python_is_first(path: str, tmp_path: Path) -> None:
    (tmp_path / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.25)\n"
        "project(finds LANGUAGES CXX)\n"
        "find_package(it3 REQUIRED)\n"
        'message(STATUS "torch in ${LibTorch_LIBRARY_DIR}")\n'
    )
    cmake = Path(sys.executable).parent / "cmake"
    done = subprocess.run(
        [cmake, "-S", tmp_path, "-B", tmp_path / "build", f"-DCMAKE_PREFIX_PATH={it3.cmake_prefix_path}"],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": path},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = re.search("torch in (.*)", done.stdout)
    assert found is not None
    assert Path(found[1]).resolve() == (Path(torch.__file__).parent / "lib").resolve()
