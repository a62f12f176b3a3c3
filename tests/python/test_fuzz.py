"""Drawn damage to files, command lines and options; `make fuzz` draws more."""

import os
from pathlib import Path

import pytest
from fuzz import run

pytestmark = pytest.mark.skipif("IT3_ADAPT" not in os.environ, reason="IT3_ADAPT does not name the binary")


def test_drawn_inputs_give_errors_or_the_right_result(tmp_path: Path) -> None:
    arguments = {"--cases": 600, "--seconds": 120, "--seed": 20, "--jobs": 2, "--out": tmp_path}
    assert run.main([str(part) for pair in arguments.items() for part in pair]) == 0
