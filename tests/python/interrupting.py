"""Interrupts at chosen instants of a call, and all that they must leave as it was."""

import contextlib
import dis
import random
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import it3
import numpy as np
import optuna
import torch
from it3 import IT3Engine
from test_transaction import Snapshot
from torch import nn

POINTS = 24
"""At how many points each call is interrupted, spread over it. With a large number it is at all: that takes hours."""

FEW = POINTS // 4
"""The same for calls that take long."""

UNSAFE = (
    "torch/autograd/grad_mode.py",
    "torch/overrides.py",
    "torch/utils/weak.py",
    "/weakref.py",
    "logging/__init__.py",
)
"""Where an interrupt leaves torch in another mode, or a lock of Python taken, or is dropped by a callback."""

LOST = "_recursive_compile_class"
"""A function of torch's whose caller, torch._C._jit_try_infer_type, takes any exception for the answer no."""

OURS = str(Path(it3.__file__).parent)

_CALLS = {dis.opmap["CALL"], dis.opmap["CALL_FUNCTION_EX"], dis.opmap.get("PRECALL")}
_LOOPS = {code for name, code in dis.opmap.items() if "JUMP_BACKWARD" in name and "NO_INTERRUPT" not in name}


class Interrupt(KeyboardInterrupt):
    """No code catches it, but what catches whatever is raised."""


class At:
    """Interrupts what runs in it at the n-th place where Python acts on signals; counts these places if n is 0.

    They are where a function begins or a generator goes on, behind a call of a function that is written in C, and where
    a loop goes on. Anywhere else, a signal waits. With `ours` only those in it3's own code and in context managers
    count, and each of them twice at most, however often it runs.
    """

    def __init__(self, n: int = 0, *, ours: bool = False) -> None:
        self.n, self.count, self.where = n, 0, ""
        self._ours = ours
        self._met: Counter[tuple[CodeType, int]] = Counter()
        self._frames: dict[int, list[int]] = {}  # of each frame the instruction before, and the frames that it called
        self._spared: set[int] = set()

    def __enter__(self) -> "At":
        sys.settrace(self._enter)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)

    def _enter(self, frame: FrameType, event: str, arg: Any) -> Any:
        code = frame.f_code
        caller = self._frames.get(id(frame.f_back))
        if caller is not None:
            caller[1] += 2 if frame.f_lasti > 0 else 1  # a generator is called by what is written in C
        if self._is_spared(frame):
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        own = self._frames[id(frame)] = [-1, 0]
        instructions = code.co_code

        def step(frame: FrameType, event: str, arg: Any) -> Any:
            if event == "return":
                self._frames.pop(id(frame), None)
            if event != "opcode":
                return step
            now, before, callees = instructions[frame.f_lasti], own[0], own[1]
            own[:] = now, callees
            if before in _CALLS and now not in _CALLS:
                own[1] = 0
                if callees != 1:  # else it was a function of Python, after which none looks for signals
                    self._point(frame)
            elif before in _LOOPS or before == dis.opmap["RESUME"]:
                self._point(frame)
            return step

        return step

    def _is_spared(self, frame: FrameType) -> bool:
        code, caller = frame.f_code, frame.f_back
        is_spared = code is At.__exit__.__code__ or code.co_filename.endswith(UNSAFE) or code.co_name == LOST
        if caller is not None:
            is_spared = is_spared or id(caller) in self._spared
            is_spared = is_spared or caller.f_code.co_filename.endswith(UNSAFE)
        (self._spared.add if is_spared else self._spared.discard)(id(frame))
        return is_spared

    def _point(self, frame: FrameType) -> None:
        if self._ours:
            place = (frame.f_code, frame.f_lasti)
            self._met[place] += 1
            if self._met[place] > 2 or not frame.f_code.co_filename.startswith((OURS, contextlib.__file__)):
                return
        self.count += 1
        if self.count == self.n:
            sys.settrace(None)
            self.where = f"{frame.f_code.co_filename}:{frame.f_lineno}"
            raise Interrupt(f"point {self.n}, {self.where}")


def is_interrupted(call: Callable[[], object], at: At) -> bool:
    """Whether a call comes to a point; it is interrupted there."""
    try:
        with at:
            call()
    except Interrupt:
        return True
    assert not at.where, f"an interrupt at {at.where} was lost"
    return False


def world() -> dict[str, Any]:
    """What a call could leave changed outside of an engine."""
    return {
        "torch's generator": torch.get_rng_state().tolist(),
        "Python's generator": random.getstate(),
        "NumPy's generator": [np.asarray(part).tolist() for part in np.random.get_state()],  # noqa: NPY002
        "grad mode": (torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_anomaly_enabled()),
        "autocast": (torch.is_autocast_enabled("cpu"), torch.is_autocast_cache_enabled()),
        "default dtype": torch.get_default_dtype(),
        "threads": torch.get_num_threads(),
        "tracing": (torch._C._get_tracing_state(), torch.jit._trace._trace_module_map),
        "torch.fx": getattr(sys.modules["torch.fx._symbolic_trace"], "_is_fx_tracing_flag", None),
        "modes": (torch._C._len_torch_dispatch_stack(), torch._C._len_torch_function_stack()),
        "vmap": torch._C._functorch.peek_interpreter_stack() is None,
        "fast path of attention": torch.backends.mha.get_fastpath_enabled(),
        "warnings": (list(warnings.filters), warnings.showwarning),
        "profiler": sys.getprofile(),
        "torch.nn.Module": [vars(nn.Module)[name] for name in ("__call__", "__getattr__", "__setattr__")],
        "hooks for all": [len(hooks) for name, hooks in vars(nn.modules.module).items() if name.endswith("_hooks")],
        "Optuna": optuna.logging.get_verbosity(),
    }


def attributes_of(engine: IT3Engine) -> dict[str, Any]:
    """What its modules hold, by identity: methods that were replaced and hooks too."""
    held: dict[str, Any] = {}
    for name, module in engine.named_modules():
        for key, value in vars(module).items() if not isinstance(module, torch.jit.ScriptModule) else ():
            is_dict = isinstance(value, dict)
            held[f"{name}.{key}"] = [(k, id(v)) for k, v in value.items()] if is_dict else id(value)
    held.pop("embedder._layouts", None)  # what the first look found out
    return held


class Everything:
    """All that must be as before."""

    def __init__(self, engine: IT3Engine) -> None:
        self.engine = engine
        self.snapshot, self.attributes, self.world = Snapshot(engine), attributes_of(engine), world()

    def check(self) -> None:
        self.snapshot.check(random=True)
        assert attributes_of(self.engine) == self.attributes
        now = world()
        changed = {name: (before, now[name]) for name, before in self.world.items() if now[name] != before}
        assert not changed, changed


def interruptions(
    prepare: Callable[[], IT3Engine], call: Callable[[IT3Engine], object], most: int = POINTS, *, ours: bool = False
) -> Iterator[tuple[IT3Engine, Everything]]:
    """Interrupt a call at its first and its last points, and at others between them.

    Gives each time the engine that it was made with, and what has to be as before.
    """
    call(prepare())  # what torch and Python do but once is done
    engine = prepare()
    with At(ours=ours) as at:
        call(engine)
    points = {*range(at.count, 0, -max(1, at.count // most)), *range(1, at.count + 1)[:2], *range(1, at.count + 1)[-2:]}
    count = 0
    for n in sorted(points):
        engine = prepare()
        torch.manual_seed(3)
        before = Everything(engine)
        if is_interrupted(partial(call, engine), At(n, ours=ours)):
            count += 1
            yield engine, before
    assert count >= 0.8 * len(points), (count, sorted(points))
