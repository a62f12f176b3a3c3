"""A process that is killed, or a disk that fails, at each step of writing leaves the old file or the new one."""

import errno
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import it3
import numpy as np
import pytest
import torch
from binary import needs_binary
from it3 import IT3Engine
from torch import nn

pytestmark = pytest.mark.filterwarnings("ignore:The given buffer is not writable")  # torch.export.load of torch 2.11

KILLED = 0


@pytest.fixture(scope="module")
def failing(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What to preload for steps to fail: the library that does it, compiled, behind what is preloaded already."""
    library = tmp_path_factory.mktemp("failing") / "failing_files.so"
    source = Path(__file__).parents[1] / "faults/failing_files.cpp"
    subprocess.run(["g++", "-std=c++20", "-shared", "-fPIC", str(source), "-o", str(library)], check=True)
    return f"{os.environ.get('LD_PRELOAD', '')} {library}"


def make_engine(seed: int) -> IT3Engine:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3))
    engine = IT3Engine(model, "0", optimization_parameters={"lr": 0.05}).eval()
    engine.is_trained = True
    return engine


def inputs() -> torch.Tensor:
    return torch.linspace(-1, 1, 30).reshape(6, 5)


SAVING = """
import os, shutil, sys, torch, it3
sys.path.insert(0, {tests!r})
from test_failing_files import inputs, make_engine
torch.set_num_threads(1)
engine, x = make_engine(1), inputs()
adaptation = engine.adapt(x)

def attempt(step):
    child = os.fork()
    if child == 0:
        os.environ.update(FAIL_AT=str(step), FAIL_WITH={error!r})
        try:
            {statement}
        except Exception as raised:
            print("message", step, raised, flush=True)
            os._exit(1)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    print("status", step, os.waitstatus_to_exitcode(status), flush=True)
    os.rename("old.pt", f"old.pt.{{step}}")
    shutil.copy("before.pt", "old.pt")

attempt(0)  # at which nothing fails
count = int(open("count").read())
for step in sorted({{*range(1, min(5, count)), *range(5, count, 20), *range(max(1, count - 5), count + 1)}}):
    attempt(step)
"""


def loads_engine(path: Path, expected: torch.Tensor) -> bool:
    plain = torch.jit.load(path)(inputs())
    return plain.shape == expected.shape and torch.equal(it3.load(path).adapt(inputs()).prediction, expected)


def loads_model(path: Path, expected: torch.Tensor) -> bool:
    return torch.allclose(torch.jit.load(path)(inputs()), expected)


def loads_program(path: Path, expected: torch.Tensor) -> bool:
    return torch.allclose(torch.export.load(path).module()(inputs()), expected)


KINDS: dict[str, Any] = {
    "engine": ('engine.save("old.pt", x)', loads_engine),
    "torchscript": ('adaptation.save("old.pt", x)', loads_model),
    "program": ('adaptation.save("old.pt", x, method="export")', loads_program),
}


@pytest.mark.parametrize("error", [KILLED, errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("kind", KINDS)
def test_python_leaves_the_old_file_or_the_new_one(kind: str, error: int, failing: str, tmp_path: Path) -> None:
    statement, is_new = KINDS[kind]
    expected = make_engine(1).adapt(inputs()).prediction
    before = b"what was there before"
    for name in ("old.pt", "before.pt"):
        (tmp_path / name).write_bytes(before)
    program = SAVING.format(tests=str(Path(__file__).parent), statement=statement, error=str(error))
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        cwd=tmp_path,
        env={**os.environ, "LD_PRELOAD": failing, "FAIL_COUNT": str(tmp_path / "count")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    statuses = {int(step): int(status) for step, status in re.findall(r"status (\d+) (-?\d+)", done.stdout)}
    assert statuses.pop(0) == 0
    assert is_new(tmp_path / "old.pt.0", expected)
    assert len(statuses) > 5
    for step, status in statuses.items():
        file = tmp_path / f"old.pt.{step}"
        assert status == (-signal.SIGKILL if error == KILLED else 1), step
        assert file.read_bytes() == before or is_new(file, expected), step
        if error != KILLED:
            message = next(line for line in lines if line.startswith(f"message {step} "))
            assert f"cannot write 'old.pt': {os.strerror(error)}" in message
    assert (error == KILLED) == bool(list(tmp_path.glob("*.partial*")))


@needs_binary
@pytest.mark.parametrize("suffix", ["npy", "pt"])
@pytest.mark.parametrize("error", [KILLED, errno.ENOSPC, errno.EIO])
def test_it3_adapt_leaves_the_old_files_or_the_new_ones(error: int, suffix: str, failing: str, tmp_path: Path) -> None:
    make_engine(1).save(tmp_path / "engine.pt", inputs())
    np.save(tmp_path / "x.npy", inputs().numpy())
    outputs = [f"y.{suffix}", f"u.{suffix}", "a.pt"]
    arguments = ["--input", "x.npy", "--output", outputs[0], "--uncertainty", outputs[1], "--save-adapted", outputs[2]]
    command = [os.environ["IT3_ADAPT"], "engine.pt", *arguments, "--batch-size", "2", "--online"]

    def run(step: int) -> subprocess.CompletedProcess[str]:
        for name in outputs:
            (tmp_path / name).write_bytes(b"before")
        fault = {"FAIL_AT": str(step), "FAIL_WITH": str(error), "FAIL_COUNT": str(tmp_path / "count")}
        return subprocess.run(
            command,
            cwd=tmp_path,
            env={**os.environ, "LD_PRELOAD": failing, **fault},
            capture_output=True,
            text=True,
            check=False,
        )

    assert run(10**6).returncode == 0
    new = {name: (tmp_path / name).read_bytes() for name in outputs}
    count = int((tmp_path / "count").read_text())
    for step in sorted({*range(1, 5), *range(5, count, 9), *range(count - 9, count + 1)}):
        done = run(step)
        assert done.returncode == (-signal.SIGKILL if error == KILLED else 1), (step, done.stderr)
        found = {name: (tmp_path / name).read_bytes() for name in outputs}
        assert all(found[name] in (b"before", new[name]) for name in outputs), step
        if error != KILLED:
            assert done.stderr.count("\n") == 1
            assert os.strerror(error) in done.stderr
            assert not list(tmp_path.glob("*.partial*"))
