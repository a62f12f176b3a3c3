"""What a process holds, and whether it grows."""

import ctypes
import gc
import os
import sys
import time
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

WARM_UP = 0.2
"""The share of the calls after which memory has to stay flat."""

_PAGE = os.sysconf("SC_PAGE_SIZE")
_FIELDS = ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")


class _Mallinfo(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in _FIELDS]


_LIBC = ctypes.CDLL(None)
_LIBC.mallinfo2.restype = _Mallinfo


@dataclass(frozen=True)
class Measure:
    """A number that a process can be asked for, and by how much it may grow."""

    per_call: float
    """By how much a call may make it grow."""
    at_most: float
    """What it may grow by in all where the calls are too few to tell growth from noise."""
    read: Callable[[int, Path], int] | None = None
    """Reads it of a process, by its number, and a folder for its temporary files; None if only the process knows."""


def _entries(name: str) -> Callable[[int, Path], int]:
    return lambda process, _: len(os.listdir(f"/proc/{process}/{name}"))


# pybind11 3.0.1, in torch 2.11's headers, leaves a block behind of each function of C++ that is made for Python.
_BLOCKS = 0.01 if torch.__version__ >= (2, 13) else 8

# Of what does not leak, the heap and all that is counted are the same to a few bytes over 10,000 calls, in the
# environment that run.py asks for; some resident pages, and a mapped region or two, come and go.
MEASURES = {
    "resident": Measure(50, 2**18, lambda process, _: _resident(process)),
    "heap": Measure(1, 2**13),
    "blocks": Measure(_BLOCKS, 10),
    "objects": Measure(0, 0),
    "tensors": Measure(0, 0),
    "descriptors": Measure(0, 0, _entries("fd")),
    "threads": Measure(0, 0, lambda process, _: _threads(process)),
    "maps": Measure(0, 3, lambda process, _: Path(f"/proc/{process}/maps").read_bytes().count(b"\n")),
    "files": Measure(0, 0, lambda _, folder: sum(1 for _ in folder.rglob("*"))),
}
"""Bytes that are resident, bytes that malloc() has given out, blocks of Python's own allocator, what the collector of
garbage knows, tensors among it, open files, threads, mapped regions and temporary files."""


def _resident(process: int) -> int:
    return int(Path(f"/proc/{process}/statm").read_bytes().split()[1]) * _PAGE


def _threads(process: int) -> int:
    """Count them some times, as one that has ended, and was joined, may still be there for a moment."""
    found = []
    while len(found) < 5 and 1 not in found:
        found.append(len(os.listdir(f"/proc/{process}/task")))
        time.sleep(0.001)
    return min(found)


def _heap() -> int:
    info = _LIBC.mallinfo2()
    return int(info.uordblks) + int(info.hblkhd)


class Samples:
    """Numbers read at some points of a run, in memory that is taken before."""

    def __init__(self, folder: Path, points: int) -> None:
        self._folder = folder
        self.calls = array("q", bytes(8 * points))
        self.values = {name: array("q", bytes(8 * points)) for name in MEASURES}
        self._point = 0

    def take(self, call: int) -> None:
        """Read what this process holds, when garbage is collected and free memory given back."""
        sys._clear_type_cache()  # which keeps up to 4,096 names of attributes, at more and more addresses
        for _ in range(2):  # what the finalizers of the first leave behind
            gc.collect()
        _LIBC.malloc_trim(0)
        point, process = self._point, os.getpid()
        heap, blocks = _heap(), sys.getallocatedblocks()
        for name, measure in MEASURES.items():
            if measure.read is not None:
                self.values[name][point] = measure.read(process, self._folder)
        objects = gc.get_objects()
        self.values["objects"][point] = len(objects)
        # By its type, as proxies would answer for what they stand for.
        self.values["tensors"][point] = sum(issubclass(type(o), Tensor) for o in objects)
        del objects
        self.values["heap"][point], self.values["blocks"][point] = heap, blocks
        self.calls[point] = call
        self._point += 1


def of_process(process: int, folder: Path) -> dict[str, int]:
    """Read what another process holds, so far as it can be seen from outside."""
    return {name: m.read(process, folder) for name, m in MEASURES.items() if m.read is not None}


def slope(calls: Sequence[float], values: Sequence[float]) -> float:
    """Fit a line by least squares and return by how much it rises a call."""
    middle, mean = sum(calls) / len(calls), sum(values) / len(values)
    spread = sum((c - middle) ** 2 for c in calls)
    return sum((c - middle) * (v - mean) for c, v in zip(calls, values, strict=True)) / spread


def growth(calls: Sequence[int], values: Sequence[int]) -> float:
    """Return by how much a call makes a number grow, after the warm-up.

    What leaks grows all the time. A step up that is taken once, such as a further arena of an allocator, is no leak;
    therefore it is the lesser of the slopes in the first and in the second half, and nothing if the last quarter is not
    above the first.
    """
    begin = next(i for i, call in enumerate(calls) if call >= WARM_UP * calls[-1])
    calls, values = calls[begin:], values[begin:]
    half, quarter = len(calls) // 2, len(calls) // 4
    if max(values[-quarter:]) <= max(values[:quarter]):
        return 0.0
    first, second = slope(calls[: half + 1], values[: half + 1]), slope(calls[half:], values[half:])
    return max(0.0, min(first, second))


def growths(calls: Sequence[int], values: dict[str, Sequence[int]]) -> dict[str, float]:
    """Return by how much a call makes each number grow."""
    return {name: growth(calls, column) for name, column in values.items()}


def growing(calls: Sequence[int], values: dict[str, Sequence[int]], beside: dict[str, float]) -> dict[str, float]:
    """Return, of what grows by more than it may, the growth a call; `beside` is what is no fault."""
    found = {}
    for name, column in values.items():
        measure = MEASURES[name]
        each = growth(calls, column)
        noise = max(measure.per_call, measure.at_most / ((1 - WARM_UP) * calls[-1]))
        if each > noise + 1.25 * beside.get(name, 0):
            found[name] = each
    return found
