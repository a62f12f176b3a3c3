"""Drawn damage to files, command lines and options; `make fuzz` draws more."""

from pathlib import Path

from binary import needs_binary
from fuzz import run

pytestmark = needs_binary


def test_drawn_inputs_give_errors_or_the_right_result(tmp_path: Path) -> None:
    arguments = {"--cases": 100, "--seconds": 60, "--seed": 20, "--jobs": 2, "--out": tmp_path}
    assert run.main([str(part) for pair in arguments.items() for part in pair]) == 0
