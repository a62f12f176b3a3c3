"""How tests use the command line: in this process, or as a program."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import it3
import torch
from it3 import IT3Engine
from it3.command_line.application import app
from torch import nn
from typer.testing import CliRunner, Result

PYTHON_FOLDER = Path(it3.__file__).parents[1]


def call(*args: object) -> Result:
    """Run a command in this process."""
    return CliRunner().invoke(app, [str(arg) for arg in args])


def answer(*args: object, code: int = 0) -> Any:
    """Return the JSON document that a command prints, and nothing else."""
    result = call(*args, "--json")
    assert result.exit_code == code, result.stderr
    return json.loads(result.stdout)


def error(*args: object, code: int) -> str:
    """Return the one line that a command says of an error."""
    result = call(*args)
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("it3: ")
    return lines[0]


def program(*args: object, cwd: Path, **variables: str) -> "subprocess.CompletedProcess[str]":
    """Run a command as a program."""
    command = [sys.executable, "-m", "it3", *map(str, args)]
    return subprocess.run(command, check=False, timeout=120, **options_of(cwd, variables))


def options_of(cwd: Path, variables: dict[str, str]) -> dict[str, Any]:
    """Return what subprocess needs to run it3 as it is here."""
    environment = {**os.environ, "PYTHONPATH": str(PYTHON_FOLDER), "OMP_NUM_THREADS": "1", **variables}
    return {"cwd": cwd, "env": environment, "text": True, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}


def trained_engine() -> IT3Engine:
    """Make an engine for 4 features and 3 classes, with an embedder that has learned something."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
    engine = IT3Engine(model, "0", distance_fn="js", optimization_parameters={"num_steps": 2, "lr": 0.05})
    optimizer = torch.optim.Adam(engine.parameters(), 0.01)
    x = torch.randn(32, 4)
    for _ in range(5):
        prediction, loss_ttt = engine(x, target=(x[:, 0] > 0).long())
        optimizer.zero_grad()
        (nn.functional.cross_entropy(prediction, (x[:, 0] > 0).long()) + loss_ttt).backward()
        optimizer.step()
    return engine.eval()


MODELS = """
import torch
from torch import nn


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 2)

    def forward(self, x):
        return self.last(self.norm(self.first(x)).relu())


def make():
    print("this is printed by the user's code")
    torch.manual_seed(3)
    return Small()


made = make()
number = 5


def fails():
    raise KeyError("no such thing")
"""
"""A file of models."""
