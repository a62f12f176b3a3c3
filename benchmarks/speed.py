"""Time adaptation and measure its memory, against torch-ttt and against the same passes written by hand.

Medians of the ratios of neighboring blocks of calls, the engines in turn in one process. Timed are an eager model, a
TorchScript one and, on the CPU, the latter in a C++ program. Writes OUTPUT/performance-DEVICE.json, and of that .md and
.png; report.py makes docs/performance.md of such files in docs/measurements.
"""

import argparse
import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import IO, Any, cast

import it3
import torch
from engines import Call, Floor, loop, make_engines
from installed import build_against
from it3 import _C, IT3Engine
from report import table_of
from rich.console import Console
from rich.progress import track
from rows import CPU, CUDA, CUDA_VARIANTS, Row
from speed_picture import draw
from torch import Tensor

LOOPED = 4
"""Samples that torch-ttt adapts one after another; its time for all is theirs, scaled."""


KEEPS_MEMORY = {"MALLOC_TRIM_THRESHOLD_": "4294967296", "MALLOC_MMAP_THRESHOLD_": "4294967296"}
"""With these glibc keeps freed memory. Else it gives and takes back pages now and then, which can double a time."""


def seconds(call: Call, inputs: Tensor, calls: int, scale: float = 1) -> float:
    """Time a block of calls; give the mean of one."""
    if inputs.is_cuda:
        torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(calls):
        call(inputs)
    if inputs.is_cuda:
        torch.cuda.synchronize()
    return scale * (time.perf_counter() - start) / calls


@contextmanager
def cpp_timer(
    program: Path, engine: IT3Engine, inputs: Tensor, steps: int, calls: int, threads: int, **saving: Any
) -> Iterator[Callable[[], float]]:
    """Run the engine in a C++ program; give a function that times a block of its calls."""
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / "engine", Path(folder) / "inputs.pt"]
        engine.save(files[0], inputs, **saving)
        torch.save(inputs, files[1])
        command = [str(part) for part in (program, *files, steps, calls, threads)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            questions, answers = cast("IO[str]", process.stdin), cast("IO[str]", process.stdout)

            def time_block() -> float:
                print(file=questions, flush=True)
                return float(answers.readline())

            yield time_block
            questions.close()


def variant(engine: IT3Engine, options: dict[str, Any]) -> Call:
    """Call an engine with some options."""

    def call(inputs: Tensor) -> object:
        before = dict(engine.optimization_parameters)
        engine.optimization_parameters.update(options)
        try:
            return engine(inputs)
        finally:
            engine.optimization_parameters = before

    return call


def calls_of(row: Row, inputs: Tensor, steps: int) -> tuple[dict[str, Call], IT3Engine]:
    """Return what is timed, torch-ttt first, and the TorchScript engine."""
    torch.manual_seed(0)
    engines = make_engines(row.make_model().to(inputs.device).eval(), row.layer, inputs, steps)
    ours, script = cast("IT3Engine", engines["it3"]), cast("IT3Engine", engines["it3, TorchScript"])
    calls: dict[str, Call] = {"torch-ttt": engines["torch-ttt"], "it3": ours, "it3, TorchScript": script}
    if row.per_sample:
        ours.optimization_parameters["per_sample"] = script.optimization_parameters["per_sample"] = True
        calls["torch-ttt"] = loop(engines["torch-ttt"], LOOPED)
    elif not row.name.startswith("ResNet-18") and not row.name.startswith("ResNet-50"):
        calls["by hand"] = Floor(ours, steps)
    if inputs.is_cuda:
        calls.update({f"it3, {name}": variant(ours, options) for name, options in CUDA_VARIANTS.items()})
    return calls, script


def measure(row: Row, steps: int, device: str, program: Path | None, threads: int, budget: float) -> dict[str, Any]:
    """Return the seconds of each engine's calls, by blocks, the engines in turn, and the peaks of memory."""
    inputs = torch.randn(row.shape, device=device, generator=torch.Generator(device).manual_seed(1))
    calls, script = calls_of(row, inputs, steps)
    for call in calls.values():
        for _ in range(3 if inputs.is_cuda else 1):  # cuts, records and warms up
            call(inputs)
    peaks = {name: _C.peak_memory(partial(call, inputs)) for name, call in calls.items()}
    scales = {"torch-ttt": row.shape[0] / LOOPED} if row.per_sample else {}
    slowest = max(seconds(call, inputs, 1) for call in calls.values())
    count = max(1, min(100, int(0.05 / slowest)))  # calls a block
    runs: dict[str, Callable[[], float]] = {
        name: partial(seconds, call, inputs, count, scales.get(name, 1)) for name, call in calls.items()
    }
    with ExitStack() as stack:
        if program is not None and not row.per_sample:
            runs["it3, C++"] = stack.enter_context(cpp_timer(program, script, inputs, steps, count, threads))
            if row.name == "MLP":
                by_hand = program.with_name("time_by_hand")
                runs["by hand, C++"] = stack.enter_context(cpp_timer(by_hand, script, inputs, steps, count, threads))
        for run in runs.values():
            run()
        blocks = max(3, min(25, int(budget / (count * slowest * len(runs)))))
        times = [{name: run() for name, run in runs.items()} for _ in range(blocks)]
    of_engine = {name: [block[name] for block in times] for name in runs}
    loops = {"it3": "by hand", "it3, C++": "by hand, C++"}
    return {
        "network": row.name,
        "batch": row.shape[0],
        "each_by_itself": row.per_sample,
        "layer": row.layer,
        "steps": steps,
        "threads": threads,
        "milliseconds": {name: rounded(1e3 * statistics.median(of)) for name, of in of_engine.items()},
        "times_as_fast": {
            name: ratios(of_engine["torch-ttt"], of) for name, of in of_engine.items() if name.startswith("it3")
        },
        "by_hand": {
            name: ratios(of_engine[name], of_engine[loop_by_hand])[0]
            for name, loop_by_hand in loops.items()
            if loop_by_hand in of_engine
        },
        "peak_mib": {name: rounded(peak / 2**20) for name, peak in peaks.items()},
    }


def ratios(slower: list[float], faster: list[float]) -> list[float]:
    """Return the median and the quartiles of one engine's time over another's, of neighboring blocks."""
    low, middle, high = statistics.quantiles((a / b for a, b in zip(slower, faster, strict=True)), n=4)
    return [rounded(middle), rounded(low), rounded(high)]


def rounded(value: float) -> float:
    """Round to four digits."""
    return float(f"{value:.4g}")


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", default="1,all", help="numbers of threads, with commas; default 1,all")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rows", default="", help="only rows with this in their titles")
    parser.add_argument("--steps", type=int, help="only this number of steps")
    parser.add_argument("--seconds", type=float, default=4, help="for each comparison, beside three blocks; default 4")
    parser.add_argument("--output", type=Path, default=Path("output"), help="a folder")
    arguments = parser.parse_args()
    is_cpu = arguments.device == "cpu"
    if is_cpu and KEEPS_MEMORY.items() - os.environ.items():
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **KEEPS_MEMORY})
    rows = [row for row in (CPU if is_cpu else CUDA) if arguments.rows in row.title]
    cores = len(os.sched_getaffinity(0))
    threads = (
        sorted({cores if text == "all" else int(text) for text in arguments.threads.split(",")}) if is_cpu else [1]
    )
    work = [
        (n, row, steps)
        for n, row in itertools.product(threads, rows)
        for steps in row.steps
        if arguments.steps in (None, steps)
    ]
    results = []
    with tempfile.TemporaryDirectory() as build:
        program = (
            build_against(it3.cmake_prefix_path, "benchmarks/cpp", Path(build)) / "time_engine" if is_cpu else None
        )
        for n, row, steps in track(work, console=Console(stderr=True)):
            torch.set_num_threads(n)
            results.append(measure(row, steps, arguments.device, program, n, arguments.seconds))
    about = {
        "torch": torch.__version__,
        "machine": platform.processor() or platform.machine() if is_cpu else torch.cuda.get_device_name(),
        "cores": cores,
        "date": datetime.now(tz=UTC).date().isoformat(),
        "command": " ".join(sys.argv),
    }
    arguments.output.mkdir(exist_ok=True)
    stem = arguments.output / f"performance-{arguments.device}"
    stem.with_suffix(".json").write_text(
        json.dumps({**about, "results": results}, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    stem.with_suffix(".md").write_text(table_of(results) + "\n", encoding="utf-8")
    draw(results, stem.with_suffix(".png"))
    print(about, table_of(results), sep="\n")


if __name__ == "__main__":
    main()
