"""TorchScript made to raise, so that tests see what uses it."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from it3.cutting import export

OWN = (str(Path(__file__).parent), str(export.__file__))
"""Where a test asks for TorchScript by itself, and where the library makes it for those who save as TorchScript."""


def forbid_torchscript(monkeypatch: pytest.MonkeyPatch, *, tests_may_ask: bool = False) -> None:
    """Have torch.jit raise AssertionError; where a test asks for TorchScript, and may, skip that test."""

    def fails(*_: Any, **__: Any) -> None:
        frame: Any = sys._getframe(1)
        while frame is not None and frame.f_globals.get("__name__", "").partition(".")[0] == "torch":
            frame = frame.f_back
        if tests_may_ask and frame is not None and frame.f_code.co_filename.startswith(OWN):
            pytest.skip("this test is of TorchScript's own ways")
        raise AssertionError("TorchScript is used")

    for name in ("script", "trace", "trace_module", "freeze", "optimize_for_inference", "save", "load"):
        monkeypatch.setattr(torch.jit, name, fails)
    # For those who have taken hold of the functions before.
    monkeypatch.setattr(torch.jit._script, "_script_impl", fails)
    monkeypatch.setattr(torch.jit._trace, "_trace_impl", fails)
