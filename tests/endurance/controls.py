"""Ways that leak, or forget, which have to be found."""

import ctypes
import itertools
import mmap
import os
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from endurance.uses import Use, Way, X, engine_of

_LIBC = ctypes.CDLL(None)
_LIBC.malloc.restype = ctypes.c_void_p
kept: list[object] = []


def _leaking(leak: Callable[[], object]) -> Way:
    """A way that keeps what a function makes, at every tenth call, as a process may only have some thousand of some."""

    def make(_: Path) -> Use:
        engine = engine_of("cut")
        numbers = itertools.count()

        def call() -> Tensor:
            if next(numbers) % 10 == 0:
                kept.append(leak())
            return engine(X)[0]

        return Use(call, lambda: engine(X)[0])

    return Way(make)


def _malloc() -> None:
    address = _LIBC.malloc(2000)
    ctypes.memset(address, 1, 2000)


def _thread() -> threading.Thread:
    thread = threading.Thread(target=threading.Event().wait, daemon=True)
    thread.start()
    return thread


def _pages() -> mmap.mmap:
    """Memory of the system's, which neighbors merge with, so that there is one region."""
    pages = mmap.mmap(-1, 2**16, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    pages.write(bytes(range(256)) * 2**8)
    return pages


def _file() -> None:
    descriptor, _ = tempfile.mkstemp()
    os.close(descriptor)


def _forgetting(_: Path) -> Use:
    results = itertools.count()
    return Use(lambda: None, lambda: torch.tensor(next(results)))


CONTROLS = {
    "leaks heap": _leaking(_malloc),
    "leaks objects": _leaking(list),
    "leaks blocks": _leaking(lambda: [bytes(200) for _ in range(100)]),  # more than any limit allows
    "leaks tensors": _leaking(lambda: torch.zeros(1)),
    "leaks descriptors": _leaking(lambda: os.open("/dev/null", os.O_RDONLY)),
    "leaks threads": _leaking(_thread),
    "leaks resident": _leaking(_pages),
    "leaks maps": _leaking(lambda: mmap.mmap(-1, 4096)),
    "leaks files": _leaking(_file),
    "forgets": Way(_forgetting),
}
