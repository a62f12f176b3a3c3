"""The binary it3-adapt: many batches in one process, which is watched from outside, and many processes."""

import os
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from endurance.measures import of_process
from endurance.uses import ONE_STEP, X, engine_of

BINARY = os.environ.get("IT3_ADAPT", "")
PROGRAMS: dict[str, Sequence[str]] = {
    "it3-adapt, batches": ["--per-batch-reset"],
    "it3-adapt, per sample": ["--per-batch-reset", "--per-sample"],
    "it3-adapt, online": ["--online", "--anchor", "ema", "--set", "recovery_factor=1.5"],
}
"""With what options."""
RUNS = "it3-adapt, runs"


def _prepare(folder: Path, batches: int) -> list[str]:
    """Write an engine and inputs, the same batch again and again."""
    engine_of("script").save(folder / "engine.pt", X)
    inputs = np.lib.format.open_memmap(folder / "x.npy", "w+", np.float32, (batches * len(X), X.shape[1]))
    inputs.reshape(batches, len(X), -1)[:] = X.numpy()
    inputs.flush()
    arguments = ["engine.pt", "--input", "x.npy", "--output", "y.npy", "--batch-size", str(len(X)), "--threads", "1"]
    return [BINARY, *arguments, "--steps", str(ONE_STEP["num_steps"])]


LEAST_BATCHES = 2500
"""Fewer are over before enough is read."""


def one_process(options: Sequence[str], batches: int, folder: Path) -> dict[str, Any]:
    """Run it over some batches, and read what it holds, time and again."""
    batches = max(batches, LEAST_BATCHES)
    command = _prepare(folder, batches)
    environment = os.environ | {"TMPDIR": str(folder / "temporary")}
    samples: list[tuple[float, dict[str, int]]] = []
    start = begin = time.perf_counter()
    with subprocess.Popen([*command, *options], cwd=folder, env=environment, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            if not samples and not any(folder.glob(".partial-*")):  # the engine is being loaded
                time.sleep(0.001)
                begin = time.perf_counter()
                continue
            try:
                samples.append((time.perf_counter() - begin, of_process(process.pid, folder / "temporary")))
            except (OSError, IndexError):  # it has just ended
                break
            time.sleep(0.005)
    end = time.perf_counter()
    if process.returncode != 0:
        raise RuntimeError(f"it3-adapt ended with {process.returncode}")
    predictions = np.load(folder / "y.npy", mmap_mode="r").reshape(batches, len(X), -1)
    is_same = "--online" in options or bool((predictions == predictions[0]).all())
    # The first and the last few are of a process that begins and ends.
    samples = [(at, values) for at, values in samples if values["resident"] > 0]
    inner = samples[len(samples) // 20 : -max(2, len(samples) // 50)]
    calls = [round(batches * at / (end - begin)) for at, _ in inner]
    values = {name: [values[name] for _, values in inner] for name in inner[0][1]}
    return {"calls": calls, "values": values, "seconds": end - start, "is_same": is_same}


def many_processes(runs: int, folder: Path) -> dict[str, Any]:
    """Run it many times, every second time so that it fails, and count the files that lie about."""
    command = _prepare(folder, 3)
    environment = os.environ | {"TMPDIR": str(folder / "temporary")}
    found: list[int] = []
    results = set()
    start = time.perf_counter()
    for run in range(runs):
        failing = ["--steps", "-1"] if run % 4 == 1 else ["--set", "lr=1e300"] if run % 4 == 3 else []
        given = command[:-2] if "--steps" in failing else command
        code = subprocess.run(
            [*given, *failing], cwd=folder, env=environment, capture_output=True, check=False
        ).returncode
        if (code != 0) != bool(failing):
            raise RuntimeError(f"it3-adapt {failing} ended with {code}")
        results.add((folder / "y.npy").read_bytes())
        found.append(sum(1 for _ in folder.rglob("*")))
    seconds = time.perf_counter() - start
    return {
        "calls": list(range(1, runs + 1)),
        "values": {"files": found},
        "seconds": seconds,
        "is_same": len(results) == 1,
    }
