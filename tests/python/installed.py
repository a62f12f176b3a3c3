"""Builds of it3 and of projects that use it."""

import subprocess
from pathlib import Path

import it3
import torch
from torch import Tensor

ROOT = Path(__file__).parents[2]


def run(*command: object) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def build_against(prefix: object, project: str, build: Path, target: str = "all") -> Path:
    """Build one of our example projects as a user of an installed it3 does."""
    run("cmake", "-S", ROOT / project, "-B", build, f"-DCMAKE_PREFIX_PATH={prefix}")
    run("cmake", "--build", build, "--target", target)
    return build


def build_program(source: str, folder: Path) -> Path:
    """Build a program of one file against the it3 that is installed."""
    (folder / "program.cpp").write_text(source)
    (folder / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.25)\n"
        "project(one_file LANGUAGES CXX)\n"
        "find_package(it3 REQUIRED)\n"
        "add_executable(program program.cpp)\n"
        "target_link_libraries(program PRIVATE it3::it3)\n"
    )
    return build_against(it3.cmake_prefix_path, str(folder), folder / "build") / "program"


def install(prefix: Path) -> Path:
    """Install the C++ library alone, a static one; the build is kept for the next time."""
    build = ROOT / "build" / "static"
    how = ("-DCMAKE_BUILD_TYPE=Debug", "-DCMAKE_CXX_FLAGS_DEBUG=-O0")  # which is made in less time
    run("cmake", "-S", ROOT, "-B", build, "-G", "Ninja", *how)
    run("cmake", "--build", build)
    run("cmake", "--install", build, "--prefix", prefix)
    return prefix


def assert_adapts_the_same(consumer: Path, engine: Path, inputs: Tensor) -> None:
    """Compare what the C++ program makes of an engine with what Python makes of it."""
    files = [engine.parent / name for name in ("inputs.pt", "prediction.pt")]
    torch.save(inputs, files[0])
    assert "after 2 steps" in run(consumer, engine, *files)
    torch.testing.assert_close(torch.load(files[1]), it3.load(engine)(inputs)[0])
