"""The binary it3-adapt, as tests call it."""

import os
import subprocess
from functools import partial
from pathlib import Path

import it3
import numpy as np
import pytest
import torch
from it3 import IT3Engine
from models import make_case
from torch import Tensor

close = partial(torch.testing.assert_close, rtol=1e-5, atol=1e-6)
BINARY = os.environ.get("IT3_ADAPT", "")
needs_binary = pytest.mark.skipif(not BINARY, reason="IT3_ADAPT does not name the binary; make test builds it")


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([BINARY, *map(str, arguments)], capture_output=True, text=True, check=False)


def adapt(folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    done = run(folder / "engine.pt", "--input", folder / "x.npy", "--output", folder / "y.npy", *arguments)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done


def trained(engine: IT3Engine) -> IT3Engine:
    """One that does not warn of an embedder that was never trained."""
    engine.is_trained = True
    return engine


def saved_engine(folder: Path, kind: str = "mlp", **options: object) -> tuple[IT3Engine, Tensor]:
    """An engine as it is loaded from its file, and inputs that lie beside it."""
    case = make_case(kind, torch.float32)
    engine = trained(IT3Engine(case.model, case.layer, optimization_parameters=options).eval())
    engine.save(folder / "engine.pt", case.inputs)
    np.save(folder / "x.npy", case.inputs.numpy())
    return it3.load(folder / "engine.pt"), case.inputs


def result(path: Path) -> Tensor:
    return torch.from_numpy(np.load(path)) if path.suffix == ".npy" else torch.load(path)
