"""Uses an engine in one way, in a process of its own."""

import gc
import multiprocessing
import os
import tempfile
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import torch.export._trace  # takes a second, which each child that cuts a model would spend anew

from endurance.measures import Samples
from endurance.uses import Way, quiet

POINTS = 20


def measured(way: Way, calls: int, folder: Path) -> dict[str, Any]:
    """Return what was held at each of some points, how long it took, and whether results stayed as they were."""
    use = way.make(folder)
    first = use.again().clone()
    gc.collect()
    gc.freeze()  # what was imported, of which there is so much that looking for garbage takes long
    samples = Samples(folder / "temporary", POINTS)
    start = time.perf_counter()
    done = 0
    for point in range(POINTS):
        until = calls * (point + 1) // POINTS
        for _ in range(done, until):
            use.call()
        done = until
        samples.take(done)
    seconds = time.perf_counter() - start
    is_same = torch.equal(use.again(), first)
    values = {name: column.tolist() for name, column in samples.values.items()}
    return {"calls": samples.calls.tolist(), "values": values, "seconds": seconds, "is_same": is_same}


def _run(work: Callable[[Path], dict[str, Any]], folder: Path, answer: Connection) -> None:
    tempfile.tempdir = os.environ["TMPDIR"] = str(folder / "temporary")
    torch.set_num_threads(1)
    quiet()
    try:
        answer.send(work(folder))
    except Exception:
        answer.send({"fault": traceback.format_exc(limit=-2).strip()})


def in_child(work: Callable[[Path], dict[str, Any]], seconds: float) -> dict[str, Any]:
    """Give a function an empty folder, in a fork of this process, which must not have used torch."""
    context = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        (folder / "temporary").mkdir()
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_run, args=(work, folder, theirs))
        process.start()
        theirs.close()
        try:
            result: dict[str, Any] = ours.recv() if ours.poll(seconds) else {"fault": f"takes more than {seconds} s"}
        except EOFError:
            process.join()
            result = {"fault": f"its process ended with {process.exitcode}"}
        process.kill()
        process.join()
        return result
