"""Time engines that are compiled ahead against the same engines as they are, and against torch-ttt.

Medians of the ratios of neighboring blocks of calls, in turn in one process; times to compile; what "auto" chooses; and
peaks of memory of a call, on CUDA without CUDA graphs.
Prints a table. Run it from this folder with one thread: OMP_NUM_THREADS=1 python compiled.py --device cpu
"""

import argparse
import copy
import statistics
import tempfile
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import it3
import torch
from engines import make_engines
from it3 import _C
from rich.console import Console
from rich.table import Table
from rows import CPU, CUDA, Row
from speed import cpp_timer, seconds, variant


def quartiles(values: list[float]) -> str:
    """Write a median with its quartiles."""
    low, middle, high = statistics.quantiles(values, n=4)
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


def time_row(row: Row, steps: int, device: str, cache: str, blocks: int, program: Path | None) -> list[str]:
    """Compile one engine, and time it; by a C++ program, too, if one is given."""
    torch.manual_seed(0)
    inputs = torch.randn(row.shape, device=device)
    engines = make_engines(row.make_model().to(device).eval(), row.layer, inputs, steps)
    engine, theirs = engines["it3"], engines["torch-ttt"]
    assert isinstance(engine, it3.IT3Engine)
    engine.optimization_parameters["per_sample"] = row.per_sample
    plain, auto = copy.deepcopy(engine), copy.deepcopy(engine)
    start = time.perf_counter()
    try:
        it3.compile(engine, inputs, backend="compiled", cache=cache, progress=False)
    except ValueError as error:
        return [row.title, str(steps), str(error)[:60]]
    compiling = time.perf_counter() - start
    it3.compile(auto, inputs, cache=cache, progress=False)
    for each in (engine, plain, auto):
        for _ in range(3):
            each(inputs)
    calls = max(1, int(0.1 / seconds(plain, inputs, 2)))
    timed = [plain, engine] if row.per_sample else [plain, engine, theirs]
    runs: list[Any] = [partial(seconds, each, inputs, calls) for each in timed]
    with ExitStack() as stack:
        if program is not None and not row.per_sample:
            saving = {"format": "aoti", "backend": "compiled", "cache": cache}
            timer = cpp_timer(program, plain, inputs, steps, calls, torch.get_num_threads(), **saving)
            runs.append(stack.enter_context(timer))
            runs[-1]()
        times = [tuple(run() for run in runs) for _ in range(blocks)]
    middle = [1e3 * statistics.median(each) for each in zip(*times, strict=True)]
    without_graph = [variant(each, {"cuda_graphs": "off"}) for each in (plain, engine)]
    peaks = [_C.peak_memory(partial(each, inputs)) / 2**20 for each in without_graph]
    choice = "programs" if auto.explain(inputs).is_compiled else "passes"
    return [
        row.title,
        str(steps),
        f"{middle[0]:.3g}",
        f"{middle[1]:.3g}",
        quartiles([t[0] / t[1] for t in times]),
        "" if row.per_sample else quartiles([t[2] / t[1] for t in times]),
        quartiles([t[2] / t[3] for t in times]) if len(runs) > 3 else "",
        choice,
        f"{compiling:.0f}" if compiling > 2 else "",  # else it was found in the cache
        "{:.3g}, {:.3g}".format(*peaks),
        "" if engine.explain(inputs).is_compiled else engine.explain(inputs).compiled,
    ]


def main() -> None:
    """Time all rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--rows", type=int, nargs="*", help="numbers of rows of rows.py; default: all")
    parser.add_argument("--steps", type=int, nargs="*", default=[1, 3])
    parser.add_argument("--blocks", type=int, default=15)
    parser.add_argument(
        "--program", type=Path, help="time_engine, built from cpp/; to time compiled engines in C++, too"
    )
    parser.add_argument("--cache", help="where programs are kept; default: nowhere, so that all are compiled")
    given = parser.parse_args()
    rows = CPU if given.device == "cpu" else CUDA
    table = Table("network, batch, layer", "steps", "it3, ms", "compiled, ms", "it3 / compiled", "torch-ttt / compiled")
    for title in ("torch-ttt / compiled, C++", "auto", "to compile, s", "memory, MiB", "why not"):
        table.add_column(title)
    with tempfile.TemporaryDirectory() as folder:
        for number in given.rows or range(len(rows)):
            for steps in given.steps:
                values = time_row(rows[number], steps, given.device, given.cache or folder, given.blocks, given.program)
                print("|", " | ".join(values), "|", flush=True)
                table.add_row(*values)
    Console(width=220).print(table)


if __name__ == "__main__":
    main()
