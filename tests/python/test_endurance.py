"""Memory and handles stay flat over some hundred calls; `make endurance` makes 10,000 of each kind."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from endurance.controls import CONTROLS
from endurance.measures import growing, growth

_TESTS = Path(__file__).parents[1]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "endurance.run", *arguments],
        cwd=_TESTS,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(_TESTS), os.environ.get("PYTHONPATH", "")])},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.mark.memory
def test_nothing_grows() -> None:
    done = run("--calls=200", "--quick")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "nothing grows" in done.stdout


@pytest.mark.memory
def test_what_leaks_is_found() -> None:
    done = run("--calls=400", "--controls")
    assert done.returncode == 1, done.stdout + done.stderr
    rows = done.stdout.splitlines()
    for name in CONTROLS:
        verdict = next(row for row in rows if row.startswith(name)).split("  ")[-1]
        assert ("the result is another one" if name == "forgets" else f"{name.split()[-1]} grow by") in verdict


def test_a_leak_is_told_from_a_step() -> None:
    calls = range(100, 2100, 100)
    assert abs(growth(calls, [1000 + 5 * c for c in calls]) - 5) < 1e-9
    assert growth(calls, [2**20 * (c > 1000) for c in calls]) == 0
    assert growth(calls, [2**20 + 4096 * (c % 300 == 0) for c in calls]) < 1
    assert growing(calls, {"descriptors": [4 + c // 400 for c in calls]}, {}).keys() == {"descriptors"}
    assert growing(calls, {"descriptors": [4 + (c < 300) for c in calls]}, {}) == {}
