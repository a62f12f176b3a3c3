"""A caller's profiler or tracer waits while a model is recorded or exported, and goes on afterwards."""

import cProfile
import ctypes
import pstats
import sys

import pytest
import torch
from it3 import IT3Engine
from it3.cutting.recording import Recorder
from torch import nn

X = torch.randn(5, 4)
IS_MONITOR = sys.version_info >= (3, 12)
"""Whether cProfile is a tool of sys.monitoring, which stays on. It then loses the functions that are on the stack while
torch.export.export() runs, without it3 too."""
C_HOOK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.py_object, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)


def engine_of_layers() -> IT3Engine:
    engine = IT3Engine(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1)), "0")
    engine.is_trained = True
    return engine


def marker() -> None:
    """A call to be seen."""


def names_in(profile: cProfile.Profile) -> set[str]:
    return {name for _, _, name in pstats.Stats(profile).stats}


def test_the_first_call_may_be_profiled_with_cprofile() -> None:
    engine = engine_of_layers()

    def profiled() -> None:
        engine.adapt(X)
        marker()

    profile = cProfile.Profile()
    profile.runcall(profiled)
    assert "marker" in names_in(profile)
    assert IS_MONITOR or "adapt" in names_in(profile)
    assert engine.explain(X).is_cut
    assert sys.getprofile() is None


def test_fitting_may_be_profiled_with_cprofile() -> None:
    engine, batches = engine_of_layers(), [(X, torch.randn(5, 1))]

    def profiled() -> None:
        engine.fit(batches, nn.functional.mse_loss, validation=batches, metric="mse")
        marker()

    profile = cProfile.Profile()
    profile.runcall(profiled)
    assert "marker" in names_in(profile)
    assert IS_MONITOR or "fit" in names_in(profile)


def test_what_raises_while_it_is_recorded_leaves_the_profiler() -> None:
    def fails() -> None:
        raise KeyError

    def profiled() -> None:
        with pytest.raises(KeyError):
            Recorder().run(fails)
        marker()

    profile = cProfile.Profile()
    profile.runcall(profiled)
    assert "marker" in names_in(profile)
    assert IS_MONITOR or "fails" not in names_in(profile)  # which waited


@pytest.mark.parametrize("setter", ["PyEval_SetProfile", "PyEval_SetTrace"])
def test_hooks_in_c_that_python_cannot_call(setter: str) -> None:
    """Such as those of coverage, pyinstrument and line_profiler."""
    seen: list[str] = []

    def note(_object, frame, _event, _arg):
        seen.append(ctypes.cast(frame, ctypes.py_object).value.f_code.co_name)
        return 0

    callback, state = C_HOOK(note), object()
    engine = engine_of_layers()
    set_hook = getattr(ctypes.pythonapi, setter)
    set_hook.argtypes, set_hook.restype = [ctypes.c_void_p, ctypes.py_object], None
    set_hook(ctypes.cast(callback, ctypes.c_void_p), state)
    try:
        engine.adapt(X)
        seen.clear()
        marker()
    finally:
        (sys.setprofile if setter == "PyEval_SetProfile" else sys.settrace)(None)
    assert "marker" in seen
