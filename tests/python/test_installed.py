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
from installed import ROOT, assert_adapts_the_same, build_against, install, run
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
    program = build_against(prefix, "tests/consumer", tmp_path / "build", "consumer") / "consumer"
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


def find(package: str, folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Have CMake find a package, and tell where torch is."""
    (folder / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.25)\n"
        "project(finds LANGUAGES CXX)\n"
        f"find_package({package} REQUIRED)\n"
        'message(STATUS "torch in ${LibTorch_LIBRARY_DIR}")\n'
    )
    cmake = Path(sys.executable).parent / "cmake"
    command = [cmake, "-S", folder, "-B", folder / "build", *arguments]
    environment = {"PATH": "/usr/bin:/bin", **environment}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def assert_torch_is_in(root: Path, done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 0, done.stdout + done.stderr
    found = re.search("torch in (.*)", done.stdout)
    assert found is not None
    assert Path(found[1]).resolve() == (root / "lib").resolve()


def make_torch(root: Path, version: str) -> Path:
    """Write what of torch is looked for: empty files, and its version."""
    header = root / "include/torch/csrc/api/include/torch/torch.h"
    header.parent.mkdir(parents=True)
    header.touch()
    (root / "lib").mkdir()
    for library in ("torch", "torch_cpu", "c10", "torch_python"):
        (root / f"lib/lib{library}.so").touch()
    parts = zip(("MAJOR", "MINOR", "PATCH"), version.split("."), strict=True)
    (header.parent / "version.h").write_text("".join(f"#define TORCH_VERSION_{part} {n}\n" for part, n in parts))
    return root


def test_the_wheel_finds_its_torch_whatever_python_is_first(tmp_path: Path) -> None:
    done = find("it3", tmp_path, f"-DCMAKE_PREFIX_PATH={it3.cmake_prefix_path}")
    assert_torch_is_in(Path(torch.__file__).parent, done)


@pytest.mark.parametrize(("minor", "is_found"), [(0, True), (1, False)])
def test_the_wheel_takes_any_patch_of_its_torch(minor: int, is_found: bool, tmp_path: Path) -> None:
    major, built_for = map(int, it3._build.torch_version.split(".")[:2])
    other = make_torch(tmp_path / "torch", f"{major}.{built_for + minor}.99")
    arguments = (f"-DCMAKE_PREFIX_PATH={it3.cmake_prefix_path}", f"-DLibTorch_ROOT={other}")
    done = find("it3", tmp_path, *arguments)
    if is_found:
        assert_torch_is_in(other, done)
    else:
        assert f'is exact version "{major}.{built_for}"' in done.stderr


def test_the_torch_of_python_comes_before_one_of_the_system(tmp_path: Path) -> None:
    make_torch(tmp_path / "system", "1.13.1")  # as Debian's libtorch-dev
    arguments = (f"-DCMAKE_MODULE_PATH={ROOT / 'cmake'}", f"-DPython_EXECUTABLE={sys.executable}")
    done = find("LibTorch", tmp_path, *arguments, INCLUDE=str(tmp_path / "system/include"))
    assert_torch_is_in(Path(torch.__file__).parent, done)
