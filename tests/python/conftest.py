import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import it3
import pytest
import torch
from browser import CHROMIUM
from filelock import FileLock
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
    config.addinivalue_line("markers", "memory: measures or limits a process's memory, of which sanitizers take more")
    config.addinivalue_line("markers", "browser: needs Chromium")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    # Deselected rather than skipped: where there is no browser, these are not tests that should have run.
    without_browser = [item for item in items if not item.get_closest_marker("browser")]
    if CHROMIUM is None:
        config.hook.pytest_deselected(items=[item for item in items if item not in without_browser])
        items[:] = without_browser
    items.sort(key=lambda item: item.path.name not in LONG)


@pytest.fixture
def in_double_precision() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of all processes that share the tests, for what takes long to make."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


@pytest.fixture(scope="session")
def consumer(shared: Path) -> Path:
    """A C++ program built against the wheel: consumer ENGINE INPUTS PREDICTION."""
    with FileLock(shared / "consumer.lock"):  # whoever comes later finds it built
        return build_against(it3.cmake_prefix_path, "tests/consumer", shared / "consumer") / "consumer"


@pytest.fixture(scope="session")
def cache(shared: Path) -> Path:
    """Where compiled programs are kept, for all tests together."""
    return shared / "compiled"


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
