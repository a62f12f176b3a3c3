"""Time adaptation against torch-ttt in one process: medians of the ratios of neighbouring blocks of calls."""

import argparse
import itertools
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from engines import make_engines
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn


def mlp() -> nn.Module:
    """Build the regression network 13-64-64-64-1."""
    sizes = (13, 64, 64, 64, 1)
    layers = [layer for pair in itertools.pairwise(sizes) for layer in (nn.Linear(*pair), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


def mnist_cnn() -> nn.Module:
    """Build a network for 28 x 28 digits."""
    return nn.Sequential(
        nn.Conv2d(1, 32, 3),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(64 * 12 * 12, 128),
        nn.ReLU(),
        nn.Linear(128, 10),
    )


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
    Row("MLP 13-64-64-64-1, batch 1, layer 0", mlp, "0", (1, 13), 1, 20),
    Row("MLP 13-64-64-64-1, batch 1, layer 0", mlp, "0", (1, 13), 3, 10),
    Row("MLP 13-64-64-64-1, batch 256, layer 0", mlp, "0", (256, 13), 3, 10),
    Row("MNIST CNN, batch 1, last layer", mnist_cnn, "8", (1, 1, 28, 28), 1, 4),
    Row("MNIST CNN, batch 256, last layer", mnist_cnn, "8", (256, 1, 28, 28), 3, 1),
    Row("MNIST CNN, batch 256, first layer", mnist_cnn, "0", (256, 1, 28, 28), 3, 1),
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


def measure(row: Row, device: str) -> tuple[list[float], list[float]]:
    """Give the seconds of it3's calls and of torch-ttt's, by blocks, the two in turn."""
    torch.manual_seed(0)
    inputs = torch.randn(row.shape, device=device)
    engines = make_engines(row.make_model().to(device), row.layer, inputs, num_steps=row.steps, lr=1e-3)
    ours, theirs = engines["it3"], engines["torch-ttt"]
    blocks = 25 if row.calls > 1 else 5
    pairs = [(seconds(ours, inputs, row.calls), seconds(theirs, inputs, row.calls)) for _ in range(blocks + 1)]
    mine, other = zip(*pairs[1:], strict=True)  # the first warms up
    return list(mine), list(other)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    where = platform.processor() or platform.machine() if arguments.device == "cpu" else torch.cuda.get_device_name()
    table = Table(title=f"torch {torch.__version__}, {where}, threads: {arguments.threads}", title_justify="left")
    table.add_column("", no_wrap=True)
    for column in ("steps", "it3, ms", "torch-ttt, ms", "ratio", "quartiles"):
        table.add_column(column, justify="right")
    for row in ROWS:
        ours, theirs = measure(row, arguments.device)
        ratios = [b / a for a, b in zip(ours, theirs, strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        milliseconds = (f"{1e3 * statistics.median(values):.3g}" for values in (ours, theirs))
        table.add_row(row.name, str(row.steps), *milliseconds, f"{middle:.2f}", f"{low:.2f} to {high:.2f}")
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
