"""What this installation of it3 has, and what works with it."""

import contextlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import nn

import it3
from it3._build import torch_version
from it3.compiling.cache_folder import default_cache
from it3.support.kept import KeptRandomState

_PACKAGES = {
    "numpy": "the command line, .npy files",
    "optuna": "it3.search, it3.tune",
    "Pillow": "folders of images",
    "pandas": "to_frame(), .csv and .parquet files",
    "pyarrow": ".parquet files",
    "rich": "the command line",
    "tqdm": "progress bars",
    "typer": "the command line",
}
"""Optional packages, and what needs them."""

_PROGRAM = "#include <omp.h>\n#include <vector>\nint main() { return static_cast<int>(std::vector<int>().size()); }\n"
"""What those of AOTInductor need at least: the headers of C++ and of OpenMP."""


@dataclass(frozen=True)
class Check:
    """Whether something works.

    Attributes
    ----------
    name
        What it is.
    works
        None: it was not tried.
    why
        How it works, or why not.
    is_needed
        Whether it3 is of no use without it.
    """

    name: str
    works: bool | None
    why: str
    is_needed: bool = False


def versions() -> dict[str, str | None]:
    """Return versions by name; None for what is not there."""
    found: dict[str, str | None] = {"it3": it3.__version__, "Python": platform.python_version()}
    found |= {"torch": torch.__version__, "torch that it3 was built for": torch_version}
    return found | {name: _version_of(name) for name in _PACKAGES}


def uses_of_packages() -> dict[str, str]:
    """Return what needs the optional packages, by their names."""
    return dict(_PACKAGES)


def devices() -> dict[str, Any]:
    """Return what can compute: threads of the CPU, and the names of the CUDA devices."""
    count = torch.cuda.device_count()
    names = [torch.cuda.get_device_name(number) for number in range(count)]
    return {"CPU threads": torch.get_num_threads(), "CUDA devices": names}


def cache() -> dict[str, Any]:
    """Return where compiled programs are kept, and why nothing can be written there, or ""."""
    folder = default_cache()
    place = next((path for path in (folder, *folder.absolute().parents) if path.exists()), folder)
    why = ""
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        why = f"nothing can be written in {place}: {error.strerror}"
    return {"folder": str(folder), "is_writable": not why, "why_not": why}


def checks(*, thorough: bool = False) -> list[Check]:
    """Return what works, and what does not.

    Parameters
    ----------
    thorough
        Whether to try what takes long too: torch.export some seconds, and compiling up to a minute.
    """
    with warnings.catch_warnings(), KeptRandomState():
        warnings.simplefilter("ignore")  # torch's about itself
        torch.manual_seed(0)
        script = _tried("TorchScript", _script)
        adapting = _tried("adapting", _adapt, is_needed=True)
        compiler = _compiler()
        if thorough:
            export = _tried("torch.export", _export)
            compiled = _tried("compiled programs", _compile) if compiler.works else _none("compiled programs", compiler)
        else:
            export = Check("torch.export", None, "it takes some seconds; --thorough tries it")
            compiled = (
                Check("compiled programs", None, "a C++ compiler is there; --thorough compiles one")
                if compiler.works
                else _none("compiled programs", compiler)
            )
    return [adapting, script, export, compiler, compiled, _cuda_graphs()]


def report(*, thorough: bool = False) -> dict[str, Any]:
    """Return all that is known, as one document."""
    tried = checks(thorough=thorough)
    return {
        "versions": versions(),
        "devices": devices(),
        "checks": [asdict(check) for check in tried],
        "cache": cache(),
        "is_usable": all(check.works is not False for check in tried if check.is_needed),
    }


def _version_of(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _tried(name: str, attempt: Callable[[], str], *, is_needed: bool = False) -> Check:
    try:
        return Check(name, True, attempt(), is_needed)
    except Exception as error:  # whatever a broken installation raises
        lines = str(error).splitlines() or [""]
        return Check(name, False, f"{type(error).__name__}: {lines[0]}", is_needed)


def _none(name: str, compiler: Check) -> Check:
    return Check(name, False, f"they need a C++ compiler: {compiler.why}")


def _network() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 1)).eval()


def _script() -> str:
    network, x = _network(), torch.ones(3, 2)
    if not torch.equal(torch.jit.script(network)(x), network(x)):
        raise RuntimeError("a network gives other predictions as a TorchScript module")
    return "engines can be saved as TorchScript, which is the default"


def _adapt() -> str:
    network, x = _network(), torch.ones(3, 2)
    with contextlib.suppress(Exception):  # what is wrong with it, _script() tells
        network = torch.jit.script(network)  # else torch.export is imported, which takes long
    options = {"num_steps": 2, "lr": 0.01, "optimizer_name": "sgd"}
    before = {name: weight.clone() for name, weight in network.state_dict().items()}
    engine = it3.IT3Engine(network, "0", optimization_parameters=options).eval()
    adaptation = engine.adapt(x)
    if not (adaptation.losses.isfinite().all() and adaptation.losses[1] <= adaptation.losses[0]):
        raise RuntimeError(f"the losses of two steps are {adaptation.losses.tolist()}, which do not fall")
    if not all(torch.equal(weight, before[name]) for name, weight in network.state_dict().items()):
        raise RuntimeError("adapting changed the weights of the model")
    return "a small network took two steps on the CPU, and is as before"


def _export() -> str:
    network, x = _network(), torch.ones(3, 2)
    program = torch.export.export(network, (x,))
    torch.testing.assert_close(program.module()(x), network(x))
    return "eager models are cut at the layer, and adapt faster"


def _compile() -> str:
    engine, x = it3.IT3Engine(_network(), "0").eval(), torch.ones(3, 2)
    with tempfile.TemporaryDirectory() as folder:
        it3.compile(engine, x, backend="compiled", cache=folder, progress=False)
        explanation = engine.explain(x)
    if not explanation.is_compiled:
        raise RuntimeError(f"a network was compiled, but its programs are not called: {explanation.compiled}")
    return "it3.compile makes programs that are called"


def _compiler() -> Check:
    """Return whether the compiler that torch's AOTInductor takes is there, and compiles."""
    command = shlex.split(os.environ.get("CXX", "")) or ["g++"]
    path = shutil.which(command[0])
    if path is None:
        return Check("C++ compiler", False, f"there is no {command[0]}; install g++, or name another one by CXX")
    tried = [*command, "-x", "c++", "-std=c++17", "-fopenmp", "-fsyntax-only", "-"]
    try:
        run = subprocess.run(tried, input=_PROGRAM, text=True, capture_output=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return Check("C++ compiler", False, f"{path} does not run: {error}")
    if run.returncode:
        lines = run.stderr.strip().splitlines() or ["it says nothing"]
        return Check("C++ compiler", False, f"{path} does not compile a small program: {lines[0]}")
    return Check("C++ compiler", True, str(Path(path)))


def _cuda_graphs() -> Check:
    if torch.cuda.is_available():
        return Check("CUDA graphs", True, "a CUDA device is there")
    built = torch.version.cuda
    why = "there is no CUDA device here" if built else "this torch was built without CUDA"
    return Check("CUDA graphs", False, why)
