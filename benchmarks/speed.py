"""Time adaptation against torch-ttt: medians of the ratios of neighbouring blocks of calls.

Timed are an eager model, a TorchScript one and, on the CPU, the latter in a C++ program.
"""

import argparse
import platform
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, cast

import it3
import torch
from engines import make_engines
from installed import build_against
from it3 import IT3Engine
from networks import MnistCNN, ResNet20, mlp
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn


@dataclass
class Row:
    """One comparison."""

    name: str
    make_model: Callable[[], nn.Module]
    layer: str
    shape: tuple[int, ...]
    steps: int
    calls: int  # a block


ROWS = (
    Row("MLP 13-64-64-64-1, batch 1, layer 0", mlp, "0", (1, 13), 1, 100),
    Row("MLP 13-64-64-64-1, batch 1, layer 0", mlp, "0", (1, 13), 3, 50),
    Row("MLP 13-64-64-64-1, batch 256, layer 0", mlp, "0", (256, 13), 3, 10),
    Row("MNIST CNN, batch 1, fc2", MnistCNN, "fc2", (1, 1, 28, 28), 1, 4),
    Row("MNIST CNN, batch 256, fc2", MnistCNN, "fc2", (256, 1, 28, 28), 3, 1),
    Row("MNIST CNN, batch 256, conv1", MnistCNN, "conv1", (256, 1, 28, 28), 3, 1),
    Row("ResNet-20, batch 1, layer2", ResNet20, "layer2", (1, 3, 32, 32), 1, 4),
    Row("ResNet-20, batch 64, layer2", ResNet20, "layer2", (64, 3, 32, 32), 3, 1),
)


def seconds(call: Callable[[Tensor], object], inputs: Tensor, calls: int) -> float:
    """Time a block of calls; give the mean of one."""
    if inputs.is_cuda:
        torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(calls):
        call(inputs)
    if inputs.is_cuda:
        torch.cuda.synchronize()
    return (time.perf_counter() - start) / calls


@contextmanager
def cpp_timer(
    program: Path, engine: IT3Engine, inputs: Tensor, row: Row, threads: int
) -> Iterator[Callable[[], float]]:
    """Run the engine in a C++ program; give a function that times a block of its calls."""
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / "engine.pt", Path(folder) / "inputs.pt"]
        engine.save(files[0], inputs)
        torch.save(inputs, files[1])
        command = [str(part) for part in (program, *files, row.steps, row.calls, threads)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            questions, answers = cast("IO[str]", process.stdin), cast("IO[str]", process.stdout)

            def time_block() -> float:
                print(file=questions, flush=True)
                return float(answers.readline())

            yield time_block
            questions.close()


def measure(row: Row, device: str, program: Path | None, threads: int) -> dict[str, list[float]]:
    """Give the seconds of each engine's calls, by blocks, the engines in turn."""
    torch.manual_seed(0)
    inputs = torch.randn(row.shape, device=device)
    engines = make_engines(row.make_model().to(device).eval(), row.layer, inputs, num_steps=row.steps, lr=1e-3)
    runs: dict[str, Callable[[], float]] = {
        name: partial(seconds, engine, inputs, row.calls) for name, engine in engines.items()
    }
    with ExitStack() as stack:
        if program is not None:
            script = cast("IT3Engine", engines["it3, TorchScript"])
            runs["it3, C++"] = stack.enter_context(cpp_timer(program, script, inputs, row, threads))
        times: dict[str, list[float]] = {name: [] for name in runs}
        for block in range(2 + (25 if row.calls > 1 else 5)):
            for name, run in runs.items():
                time_of_block = run()
                if block > 1:  # the first two warm up
                    times[name].append(time_of_block)
    return times


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rows", default="", help="only rows with this in their names")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    where = platform.processor() or platform.machine() if arguments.device == "cpu" else torch.cuda.get_device_name()
    table = Table(title=f"torch {torch.__version__}, {where}, threads: {arguments.threads}", title_justify="left")
    table.add_column("", no_wrap=True)
    for column in ("", "ms", "torch-ttt, ms", "ratio", "quartiles"):
        table.add_column(column, justify="right")
    with tempfile.TemporaryDirectory() as build:
        program = None
        if arguments.device == "cpu":
            program = build_against(it3.cmake_prefix_path, "benchmarks/cpp", Path(build)) / "time_engine"
        for row in ROWS:
            if arguments.rows not in row.name:
                continue
            times = measure(row, arguments.device, program, arguments.threads)
            theirs = times.pop("torch-ttt")
            for name, ours in times.items():
                ratios = [b / a for a, b in zip(ours, theirs, strict=True)]
                low, middle, high = statistics.quantiles(ratios, n=4)
                milliseconds = (f"{1e3 * statistics.median(values):.3g}" for values in (ours, theirs))
                title = f"{row.name}, {row.steps} step{'s' if row.steps > 1 else ''}"
                table.add_row(title, name, *milliseconds, f"{middle:.2f}", f"{low:.2f} to {high:.2f}")
    Console(width=130).print(table)


if __name__ == "__main__":
    main()
