"""Which code of the user's a call runs, and what it asks of the world outside of Python's objects."""

import os
import random
import sys
import sysconfig
from types import CodeType, FrameType
from typing import TYPE_CHECKING, Any

import torch

from it3 import _C
from it3.cutting.exported_model import ExportedModel
from it3.paths import package_folder

if TYPE_CHECKING:
    from collections.abc import Callable

# What runs in these is known to read nothing that a prediction depends on, or is watched otherwise.
_STDLIB = sysconfig.get_path("stdlib") + os.sep
_QUIET = (
    os.path.dirname(torch.__file__) + os.sep,
    package_folder + os.sep,
    "<frozen importlib",
    "<frozen abc",
    "<frozen _collections_abc",
    "<frozen codecs",
    *(
        _STDLIB + name
        for name in (
            *(
                "logging",
                "warnings.py",
                "typing.py",
                "enum.py",
                "contextlib.py",
                "functools.py",
                "collections",
                "abc.py",
            ),
            *(
                "_collections_abc.py",
                "inspect.py",
                "dataclasses.py",
                "copy.py",
                "re",
                "types.py",
                "importlib",
                "weakref.py",
            ),
            *("numbers.py", "traceback.py", "linecache.py", "tokenize.py", "textwrap.py", "string.py", "copyreg.py"),
        )
    ),
)

_OUTSIDE = {"time", "_random", "random", "posix", "nt", "_io", "io", "select", "_socket", "secrets", "gc", "_uuid"}
"""Modules of C whose functions tell of the world, or change it."""

_REFUSED = {
    "builtins": {"id", "input", "open", "globals", "locals"},
    "sys": {"_getframe", "getrefcount", "_current_frames"},
    "datetime": {"now", "utcnow", "today"},
    "_thread": {"get_ident", "get_native_id"},
    "torch": {
        *("is_grad_enabled", "is_inference_mode_enabled", "is_autocast_enabled", "is_autocast_cpu_enabled"),
        *("get_autocast_dtype", "get_autocast_gpu_dtype", "get_num_threads", "is_anomaly_enabled", "initial_seed"),
        *("are_deterministic_algorithms_enabled", "get_rng_state", "memory_allocated", "current_stream"),
    },
}


def is_users(code: CodeType) -> bool:
    """Whether code is neither torch's, ours nor of a quiet part of the standard library."""
    return not code.co_filename.startswith(_QUIET)


class Recorder:
    """Records the code of the user's that a function runs in this thread.

    Parameters
    ----------
    subject
        What such code is called in an objection.

    Attributes
    ----------
    codes
        The code objects by identity, with the globals that they ran with.
    objection
        Why what was run cannot be repeated without Python; empty if nothing is known.
    """

    def __init__(self, subject: str = "forward()") -> None:
        self.codes: dict[int, tuple[CodeType, dict[str, Any]]] = {}
        self._subject = subject
        self.objection = ""
        self._quiet: dict[int, CodeType] = {}
        self._skipped: FrameType | None = None

    def run(self, function: "Callable[[], Any]") -> Any:
        """Call a function and return its result; a profiler of the caller's waits meanwhile."""
        states = global_random_states()
        try:
            return _C.run_profiled(self._event, function)
        finally:
            self._skipped = None
            if not _are_same(states, global_random_states()):
                self.object_to("draws random numbers with Python's random or NumPy")

    def object_to(self, objection: str) -> None:
        """Note what the code does, so that it cannot be repeated without Python; the first reason stays."""
        self.objection = self.objection or f"{self._subject} {objection}"

    def _event(self, frame: FrameType, event: str, arg: Any) -> None:
        code = frame.f_code
        if self._skipped is not None:
            if event == "return" and frame is self._skipped:
                self._skipped = None
        elif event == "call" and id(code) not in self.codes and id(code) not in self._quiet:
            self._enter(frame, code)
        elif event == "c_call" and id(code) in self.codes:
            objection = _objection_to(arg)
            if objection:
                self.object_to(objection)

    def _enter(self, frame: FrameType, code: CodeType) -> None:
        is_import = code.co_filename.startswith(
            "<frozen importlib"
        )  # what a module does when it is loaded is done once
        if is_import or code is ExportedModel.forward.__code__:  # which reads its tensors only
            self._skipped = frame
        elif code.co_filename in ("<frozen os>", os.__file__) and code.co_qualname.startswith(("_Environ", "getenv")):
            self.object_to("reads os.environ")
        elif is_users(code):
            self.codes[id(code)] = (code, frame.f_globals)
        else:
            self._quiet[id(code)] = code
            caller = frame.f_back
            if caller is not None and id(caller.f_code) in self.codes and code.co_name in _REFUSED["torch"]:
                self.object_to(f"calls {code.co_name}()")


def _objection_to(function: Any) -> str:
    name = getattr(function, "__name__", "")
    owner = getattr(function, "__self__", None)
    module = getattr(function, "__module__", None)
    if module is None and owner is not None:
        module = getattr(owner, "__module__", None) if isinstance(owner, type) else type(owner).__module__
    module = str(module or "")
    is_refused = (
        module in _OUTSIDE
        or module.startswith("numpy.random")
        or name in _REFUSED.get(module.partition(".")[0], ())
        or (module in ("", "module") and name in _REFUSED["torch"])
    )
    return f"calls {module + '.' if module else ''}{name}()" if is_refused else ""


def global_random_states() -> list[Any]:
    """Return the states of the generators of Python and NumPy that everybody shares; see :func:`set_random_states`."""
    numpy = sys.modules.get("numpy")
    return [random.getstate(), numpy.random.get_state() if numpy is not None else None]


def set_random_states(states: list[Any]) -> None:
    """Put the generators back."""
    random.setstate(states[0])
    if states[1] is not None:
        sys.modules["numpy"].random.set_state(states[1])


def _are_same(a: list[Any], b: list[Any]) -> bool:
    if a[0] != b[0]:
        return False
    if a[1] is None or b[1] is None:
        return True
    return all((x == y).all() if hasattr(x, "all") else x == y for x, y in zip(a[1], b[1], strict=True))
