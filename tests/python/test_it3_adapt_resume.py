"""it3-adapt --resume: a run that was killed goes on where it was, and comes out as one that was not."""

import errno
import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from binary import BINARY, needs_binary, run, trained
from it3 import IT3Engine
from test_failing_files import KILLED, failing
from torch import nn

pytestmark = needs_binary
__all__ = ["failing"]

WAYS = {
    "each batch by itself": [],
    "online": ["--online", "--save-adapted", "a.pt"],
    "online, random": [
        *("--online", "--set", "restore_probability=0.3", "--set", "anchor=ema", "--set", "recovery_factor=1.01"),
    ],
    "calibrated": ["--calibrate", "x.npy", "--quantile", "0.4"],
}


def prepare(folder: Path, samples: int = 12) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3))
    engine = trained(IT3Engine(model, "0", optimization_parameters={"lr": 0.05}).eval())
    x = torch.randn(samples, 5)
    engine.save(folder / "engine.pt", x)
    np.save(folder / "x.npy", x.numpy())


def command_of(way: str, suffix: str, *more: str) -> list[str]:
    files = ["--input", "x.npy", "--output", f"y.{suffix}", "--uncertainty", f"u.{suffix}"]
    return [BINARY, "engine.pt", *files, "--batch-size", "2", "--json", *WAYS[way], *more]


def call(command: list[str], folder: Path, **environment: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, **{name: str(value) for name, value in environment.items()}},
        capture_output=True,
        text=True,
        check=False,
    )


def files_in(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "count"}


def figures(report: str) -> dict[str, Any]:
    return {name: value for name, value in json.loads(report).items() if name != "seconds"}


@pytest.mark.parametrize("error", [KILLED, errno.ENOSPC])
@pytest.mark.parametrize(("way", "suffix"), [*((way, "npy") for way in WAYS), ("online, random", "pt")])
def test_goes_on_after_each_step(way: str, suffix: str, error: int, failing: str, tmp_path: Path) -> None:
    prepare(tmp_path)
    before = files_in(tmp_path)
    whole = call(command_of(way, suffix), tmp_path)
    assert whole.returncode == 0, whole.stderr
    expected = files_in(tmp_path)
    resuming = command_of(way, suffix, "--resume")
    fault = {"LD_PRELOAD": failing, "FAIL_WITH": error, "FAIL_COUNT": tmp_path / "count"}
    assert call(resuming, tmp_path, **fault, FAIL_AT=10**6).returncode == 0
    assert files_in(tmp_path) == expected
    count = int((tmp_path / "count").read_text())
    assert count > 20
    went_on = 0
    points = 7 if error == KILLED else 3
    for step in sorted({round(1 + i * (count - 1) / (points - 1)) for i in range(points)}):
        for name in expected.keys() - before.keys():
            (tmp_path / name).unlink()
        first = call(resuming, tmp_path, **fault, FAIL_AT=step)
        was_reached = int((tmp_path / "count").read_text()) >= step  # how often it notes depends on time
        failed = -signal.SIGKILL if error == KILLED else 1
        assert first.returncode == (failed if was_reached else 0), (step, first.stderr)
        second = call(resuming, tmp_path)
        assert second.returncode == 0, (step, second.stderr)
        went_on += "goes on after" in second.stderr
        assert figures(second.stdout) == figures(whole.stdout)
        found = {name: file for name, file in files_in(tmp_path).items() if not name.startswith(".partial-")}
        assert found == expected, step
        for path in tmp_path.glob(".partial-*"):
            assert error == KILLED
            path.unlink()
    assert went_on > 0 or error != KILLED


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_goes_on_after_an_interruption(number: signal.Signals, tmp_path: Path) -> None:
    prepare(tmp_path, 4000)
    command = [BINARY, "engine.pt", "--input", "x.npy", "--output", "y.npy", "--batch-size", "1"]
    assert call(command, tmp_path).returncode == 0
    expected = files_in(tmp_path)
    (tmp_path / "y.npy").unlink()
    command.append("--resume")
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
        while not (tmp_path / "y.npy.resume").exists():
            time.sleep(0.01)
        second = call(command, tmp_path)
        process.send_signal(number)
        error = process.communicate(timeout=60)[1]
    assert "cannot write 'y.npy': another process is writing y.npy.partial-" in second.stderr
    assert second.returncode == process.returncode == 1
    assert error == f"it3-adapt: interrupted by the signal {number.value}; given once more, the command goes on\n"
    left = files_in(tmp_path).keys() - expected.keys()
    assert left == {"y.npy.resume", *(path.name for path in tmp_path.glob("y.npy.partial-*"))}
    done = call(command, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "goes on after" in done.stderr
    assert files_in(tmp_path) == expected


def kill_after_first_batch(command: list[str], folder: Path, failing: str) -> dict[str, object]:
    """Return the environment in which steps kill a run."""
    fault = {"LD_PRELOAD": failing, "FAIL_WITH": KILLED, "FAIL_COUNT": folder / "count"}
    for step in range(24, 60):  # the first note is at about this step
        if (folder / "y.npy.resume").exists():
            break
        call(command, folder, **fault, FAIL_AT=step)
    return fault


def begin(folder: Path, failing: str) -> list[str]:
    """Leaves a run that was killed after its first batch, and returns its command."""
    prepare(folder)
    command = command_of("online, random", "npy", "--resume")
    fault = kill_after_first_batch(command, folder, failing)
    assert call(command, folder, **fault, FAIL_AT=5).returncode == -signal.SIGKILL
    return command


def partial_of(folder: Path, name: str) -> Path:
    return next(iter(folder.glob(f"{name}.partial-*")))


def touched(folder: Path, name: str) -> None:
    os.utime(folder / name, ns=(1, 1))


def changed(command: list[str], option: str, value: str | None) -> list[str]:
    """The command with another value of an option, or without a flag."""
    if value is None:
        return [part for part in command if part != option]
    at = command.index(option)
    return [*command[: at + 1], value, *command[at + 2 :]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda c, _: changed(c, "--batch-size", "3"),
            "it was begun with --batch-size 2, and this is with --batch-size 3; give what it was begun with, or delete",
        ),
        (lambda c, _: [*c, "--lr", "1"], "it was begun with no --lr, and this is with --lr 1;"),
        (lambda c, _: changed(c, "--online", None), "it was begun with --online true, and this is with no --online;"),
        (lambda c, f: touched(f, "x.npy"), "x.npy has changed since it was begun; delete it to begin anew"),
        (lambda c, f: touched(f, "engine.pt"), "engine.pt has changed since it was begun; delete it to begin anew"),
        (lambda c, f: partial_of(f, "y.npy").unlink(), "with the results so far, is gone or has changed; delete it to"),
        (
            lambda c, f: os.truncate(partial_of(f, "u.npy"), 9),
            "with the results so far, is gone or has changed; delete",
        ),
        (lambda c, f: os.truncate(f / "y.npy.resume", 99), "which is damaged, or not what --resume wrote; delete it"),
        (lambda c, f: torch.save({"a": 1}, f / "y.npy.resume"), "which is damaged, or not what --resume wrote; delete"),
    ],
)
def test_does_not_go_on_with_another_run(change: Any, message: str, failing: str, tmp_path: Path) -> None:
    command = begin(tmp_path, failing)
    command = change(command, tmp_path) or command
    before = files_in(tmp_path)
    done = call(command, tmp_path)
    assert done.returncode == 1
    assert message in done.stderr
    errors = [line for line in done.stderr.splitlines() if "goes on after" not in line]
    assert len(errors) == 1
    assert "y.npy.resume" in errors[0]
    assert files_in(tmp_path).keys() <= before.keys()
    assert {name: file for name, file in files_in(tmp_path).items() if name in before} == before


def test_threads_and_the_form_of_the_report_may_differ(failing: str, tmp_path: Path) -> None:
    command = begin(tmp_path, failing)
    done = call([*changed(command, "--json", None), "--threads", "1"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("it3-adapt: goes on after ")
    assert "12 samples, 6 batches" in done.stdout


def test_its_file_replaces_no_other(tmp_path: Path) -> None:
    prepare(tmp_path)
    (tmp_path / "engine.pt").rename(tmp_path / "y.npy.resume")
    done = run(tmp_path / "y.npy.resume", "--input", "x.npy", "--output", tmp_path / "y.npy", "--resume")
    assert done.returncode == 2
    assert "this file would replace that of the engine" in done.stderr


def test_a_run_that_fails_at_once_leaves_nothing(tmp_path: Path) -> None:
    prepare(tmp_path)
    before = files_in(tmp_path)
    np.save(tmp_path / "x.npy", np.zeros((4, 7), dtype=np.float32))
    done = call(command_of("online", "npy", "--resume"), tmp_path)
    assert done.returncode == 1
    assert files_in(tmp_path).keys() == before.keys()


def test_runs_of_other_commands_do_not_mix(failing: str, tmp_path: Path) -> None:
    """Two that write one of their files by the same name, of which each is killed and goes on."""
    command = begin(tmp_path, failing)
    other = [*changed(command, "--output", "z.npy"), "--lr", "0.5"]
    whole = call([*(part for part in command if part != "--resume")], tmp_path)
    assert whole.returncode == 0, whole.stderr
    expected = {name: (tmp_path / name).read_bytes() for name in ("y.npy", "u.npy")}
    fault = {"LD_PRELOAD": failing, "FAIL_WITH": KILLED, "FAIL_COUNT": tmp_path / "count", "FAIL_AT": 25}
    assert call(other, tmp_path, **fault).returncode == -signal.SIGKILL
    done = call(command, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "goes on after" in done.stderr
    assert {name: (tmp_path / name).read_bytes() for name in expected} == expected


def begin_to_name(folder: Path, failing: str) -> list[str]:
    """Leaves a run that failed as its complete files were to get their names, and returns its command."""
    command = begin(folder, failing)
    fault = {"LD_PRELOAD": failing, "FAIL_WITH": errno.ENOSPC, "FAIL_COUNT": folder / "count"}
    for step in range(12, 200, 3):
        assert call(command, folder, **fault, FAIL_AT=step).returncode == 1
        if "goes on after 6 of 6 batches" in call(command, folder, **fault, FAIL_AT=3).stderr:
            return command
    raise AssertionError("no run failed there")


def test_a_failure_at_the_very_end_loses_nothing(failing: str, tmp_path: Path) -> None:
    command = begin_to_name(tmp_path, failing)
    done = call(command, tmp_path)
    assert done.returncode == 0, done.stderr
    found = files_in(tmp_path)
    whole = call([part for part in command if part != "--resume"], tmp_path)
    assert figures(done.stdout) == figures(whole.stdout)
    assert found == files_in(tmp_path)


def test_complete_results_that_were_deleted_are_not_taken_for_written(failing: str, tmp_path: Path) -> None:
    command = begin_to_name(tmp_path, failing)
    partial_of(tmp_path, "y.npy").unlink()
    done = call(command, tmp_path)
    assert done.returncode == 1
    assert "with all results, is gone, and so is y.npy; delete the .resume file to begin anew" in done.stderr


class Counting(nn.Module):
    """A distance that depends on how often it was called."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        self.calls.add_(1)
        return ((a - b) ** 2).mean() * (1 + 0.01 * self.calls)


def test_functions_with_a_state(failing: str, tmp_path: Path) -> None:
    prepare(tmp_path)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3))
    engine = trained(IT3Engine(model, "0", distance_fn=Counting(), optimization_parameters={"lr": 0.05}).eval())
    engine.save(tmp_path / "engine.pt", torch.randn(12, 5))
    whole = call(command_of("each batch by itself", "npy"), tmp_path)
    assert whole.returncode == 0, whole.stderr
    expected = files_in(tmp_path)
    command = command_of("each batch by itself", "npy", "--resume")
    kill_after_first_batch(command, tmp_path, failing)
    done = call(command, tmp_path)
    assert "goes on after" in done.stderr
    assert figures(done.stdout) == figures(whole.stdout)
    assert {name: (tmp_path / name).read_bytes() for name in ("y.npy", "u.npy")} == {
        name: expected[name] for name in ("y.npy", "u.npy")
    }
