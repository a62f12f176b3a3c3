import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import it3
import pytest
import torch
from browser import CHROMIUM
from forbidden_torchscript import forbid_torchscript
from installed import build_against
from models import Case, make_case

if TYPE_CHECKING:
    from it3.compiling.capture import Captured

# Tests compile some hundred programs, and run each a few times. Only the code around their kernels is meant.
os.environ.setdefault("AOT_INDUCTOR_COMPILE_WRAPPER_OPT_LEVEL", "O0")

LONG = {
    "test_installed.py",
    "test_differential.py",
    "test_docs.py",
    "test_header_examples.py",
    "test_search_goes_on.py",
    "test_compilation.py",
    "test_saved_programs.py",
    "test_compiled_functions.py",
    "test_compilation_limits.py",
    "test_saved_functions.py",
    "test_programs_in_channels_last.py",
    "test_compiled_exported.py",
    "test_hoisting.py",
}
"""Files whose tests take long come first, so that processes that share the tests end together."""


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def device(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def case(device: str) -> Case:
    """An MLP in float64."""
    return make_case("mlp", device=device)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--without-torchscript",
        action="store_true",
        help="make torch.jit raise, and skip the tests that ask for TorchScript",
    )


@pytest.fixture(autouse=True)
def _without_torchscript(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.config.getoption("--without-torchscript"):
        forbid_torchscript(monkeypatch, tests_may_ask=True)


def pytest_configure(config: pytest.Config) -> None:
    # It takes half as long as g++, with which the tests' own processes compile.
    if shutil.which("clang++"):
        torch._inductor.config.cpp.cxx = ("clang++",)
        os.environ["CCC_OVERRIDE_OPTIONS"] = "# +-Wl,--as-needed"  # so that programs need no more libraries than by g++
    config.addinivalue_line("markers", "cuda: needs a CUDA device")
    config.addinivalue_line("markers", "memory: measures or limits a process's memory, of which sanitizers take more")
    config.addinivalue_line("markers", "two_cuda_devices: needs two")
    config.addinivalue_line("markers", "browser: needs Chromium")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    # Deselected rather than skipped: where there is no CUDA device, these are not tests that should have run.
    devices = torch.cuda.device_count()
    needs = {"cuda": 1, "two_cuda_devices": 2}
    can_run = [item for item in items if all(n <= devices or not item.get_closest_marker(m) for m, n in needs.items())]
    if CHROMIUM is None:
        can_run = [item for item in can_run if not item.get_closest_marker("browser")]
    config.hook.pytest_deselected(items=[item for item in items if item not in can_run])
    items[:] = sorted(can_run, key=lambda item: item.path.name not in LONG)


@pytest.fixture
def in_double_precision() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture(scope="session")
def consumer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A C++ program built against the wheel: consumer ENGINE INPUTS PREDICTION."""
    return build_against(it3.cmake_prefix_path, "tests/consumer", tmp_path_factory.mktemp("consumer")) / "consumer"


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where compiled programs are kept, for all tests together."""
    return tmp_path_factory.mktemp("compiled")


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> "list[Captured]":
    """What is recorded for compilers in the test, in turn."""
    from it3.compiling import compile as compilation  # noqa: PLC0415  (with parts of torch that take long to import)

    captured: list[Captured] = []
    make = compilation._make

    def make_too(place: Path, what: "Captured", progress: bool) -> None:
        captured.append(what)
        make(place, what, progress)

    monkeypatch.setattr(compilation, "_make", make_too)
    return captured
