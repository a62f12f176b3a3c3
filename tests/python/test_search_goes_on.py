"""search() goes on after whatever ended it, in one process and in several."""

import fcntl
import os
import signal
import subprocess
import sys
import time
import types
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import pytest
import searched
from it3 import IT3Engine
from searched import CALLS, PLANTED, make, of_settings, results, search

SECONDS = 120
"""After which a program hangs."""


def run(way: str, path: Path, **environment: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", searched.__file__, way, str(path)],
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_going_on_after_a_kill_is_as_if_there_had_been_none(tmp_path: Path) -> None:
    path = tmp_path / "search.log"
    process = run("killed", path)
    process.communicate(timeout=SECONDS)
    assert process.returncode == -signal.SIGKILL
    with path.open("ab") as file:  # killed while it was writing
        file.write(b'{"op_code":8,"worker_')
    found = search(path=path)
    assert len(CALLS) == 3  # of six
    assert results(found) == results(search())
    CALLS.clear()
    again = search(path=path)
    assert CALLS == []
    assert results(again) == results(found)
    assert again.retrain(1)[0].optimization_parameters["num_steps"] == 3
    assert len(search(path=path, budget=3).trials) == 6


def test_an_interrupt_loses_the_trial_that_was_running_alone(tmp_path: Path) -> None:
    path = tmp_path / "search.log"

    def interrupted(settings: dict[str, Any], seed: int) -> IT3Engine:
        if len(CALLS) == 2:
            raise KeyboardInterrupt
        return make(settings, seed)

    with pytest.raises(KeyboardInterrupt):
        search(interrupted, path=path)
    found = search(path=path)
    assert len(CALLS) == 4
    assert results(found) == results(search())


def test_two_processes_run_each_trial_once_and_one_that_dies_loses_its_trial_alone(tmp_path: Path) -> None:
    path = tmp_path / "search.log"
    with pytest.warns(UserWarning, match="'gain': 1.0} failed: its process ended with exit code 3"):
        found = search(searched.make_or_die, processes=2, path=path)
    assert active_children() == []
    trials = of_settings(found)
    for trial, alone in zip(trials, of_settings(search()), strict=True):
        if trial["settings"]["gain"] == 1.0:
            assert trial["settings"] == alone["settings"]
            assert trial["failure"] == "its process ended with exit code 3"
            assert trial["score"] is None
        else:
            assert trial == alone
    assert "with 0 steps; 6 trials, of which 2 failed" in str(found)
    assert of_settings(search(path=path, processes=2)) == trials


def test_an_interrupt_ends_the_processes(tmp_path: Path) -> None:
    path = tmp_path / "search.log"
    # A shell has what it starts in the background ignore the signal.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            search(searched.make_or_interrupt, processes=2, path=path)
    finally:
        signal.signal(signal.SIGINT, before)
    assert active_children() == []
    assert of_settings(search(path=path)) == of_settings(search())


def test_processes_end_when_the_one_that_searches_is_killed(tmp_path: Path) -> None:
    process = run("slow", tmp_path / "search.log", IT3_TEST_FOLDER=str(tmp_path))
    try:
        until = time.monotonic() + SECONDS
        while not (numbers := [int(place.name) for place in tmp_path.iterdir() if place.name.isdecimal()]):
            assert time.monotonic() < until
            time.sleep(0.05)
    finally:
        process.kill()
        process.communicate()
    while any(Path("/proc", str(number)).exists() for number in numbers):
        assert time.monotonic() < until
        time.sleep(0.05)


def test_a_path_that_holds_something_else(tmp_path: Path) -> None:
    path = tmp_path / "search.log"
    search(path=path, budget=1)
    content = path.read_bytes()
    others: dict[str, dict[str, Any]] = {
        r"space was layer: \['0', '2'\], gain: \[0.5, 1.0, 2.0\], and is gain: \(0.5, 2.0\)": {
            "space": {"gain": (0.5, 2.0)}
        },
        r"adaptation was .*, and is num_steps: \[1\]": {"adaptation": {"num_steps": [1]}},
        "adaptation_budget was 12, and is 3": {"adaptation_budget": 3},
        "seeds was 1 from 0, and is 2 from 1": {"seeds": 2, "seed": 1},
        "metric was 'mse' to minimize, and is 'mae' to minimize": {"metric": "mae"},
        "validation was": {"validation": [(x + 1, y) for x, y in searched.batches()]},
    }
    for said, arguments in others.items():
        with pytest.raises(ValueError, match=f"holds another search, .*{said}"):
            search(path=path, **arguments)
    assert path.read_bytes() == content

    with path.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(RuntimeError, match=r"another process is searching in '.*search.log'; wait"):
            search(path=path)
    for text in ("notes", '{"op_code":1\nnonsense\n'):
        path.write_text(text)
        with pytest.raises(ValueError, match="holds something else than a search; give another path"):
            search(path=path)
        assert path.read_text() == text
    with pytest.raises(FileNotFoundError):
        search(path=tmp_path / "none" / "search.log")


def test_what_processes_cannot_be_sent(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"train cannot be sent to other processes, as pickle says: .*processes=1"):
        search(lambda _settings, seed: make(PLANTED, seed), processes=2)
    with pytest.raises(ValueError, match="metric cannot be sent to other processes"):
        search(metric=lambda a, b: (a - b).abs().mean(1), processes=2)
    module = types.ModuleType("made_up")
    exec("def train(settings, seed): pass", vars(module))
    monkeypatch.setitem(sys.modules, "made_up", module)
    with pytest.raises(
        ValueError, match="cannot load what it was sent: ModuleNotFoundError: No module named 'made_up'"
    ):
        search(vars(module)["train"], processes=2, budget=1)
    script = tmp_path / "script.py"
    script.write_text("import searched\nsearched.search(processes=2, budget=1)\n")
    done = subprocess.run(
        [sys.executable, script],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert "RuntimeError: a process of the search ended with exit code 1 before its first trial" in done.stderr
    assert 'under `if __name__ == "__main__":`' in done.stderr
