"""Engines in threads and processes give what they give one after another, and nothing hangs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SECONDS = 120
"""After which a program hangs."""
ALL = "whole,cut,script"


def run(folder: Path, *arguments: str) -> None:
    """Run a function of processes.py on its own, for each of some kinds of network."""
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("processes.py"), *arguments],
        env=os.environ | {"OMP_NUM_THREADS": "1", "TMPDIR": str(folder)},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize(("kind", "calls"), [("cut", "1000"), ("script", "1000"), ("whole", "100")])
def test_eight_threads_share_an_engine(tmp_path: Path, kind: str, calls: str) -> None:
    run(tmp_path, "threads", kind, calls)


def test_two_threads_use_two_engines_around_one_model(tmp_path: Path) -> None:
    run(tmp_path, "two_engines", ALL, "150")


@pytest.mark.parametrize(("kinds", "context"), [(ALL, "fork"), ("cut", "spawn"), ("script", "spawn")])
def test_workers_of_a_data_loader_adapt(tmp_path: Path, kinds: str, context: str) -> None:
    run(tmp_path, "loader", kinds, context)


@pytest.mark.parametrize("first", ["parent", "child"])
def test_a_fork_uses_the_engine(tmp_path: Path, first: str) -> None:
    run(tmp_path, "fork", ALL, first)


def test_a_fork_goes_on_online(tmp_path: Path) -> None:
    run(tmp_path, "fork_online", ALL)


@pytest.mark.parametrize(("kinds", "use"), [("cut,script", "same"), ("cut,script", "model"), (ALL, "other")])
def test_a_fork_while_a_thread_is_in_a_call(tmp_path: Path, kinds: str, use: str) -> None:
    run(tmp_path, "fork_inside", kinds, use)


def test_spawned_processes_get_the_engine(tmp_path: Path) -> None:
    run(tmp_path, "spawn", ALL)
