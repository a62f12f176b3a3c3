"""Time adaptation, eager and TorchScript, against torch-ttt: medians of the ratios of neighbouring blocks of calls."""

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


class Block(nn.Module):
    """A residual block of two convolutions."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Add the convolutions' output to the shortcut's."""
        y = self.norm2(self.conv2(self.norm1(self.conv1(x)).relu()))
        result: Tensor = (y + self.shortcut(x)).relu()
        return result


def resnet() -> nn.Module:
    """Build a network of residual blocks for 32 x 32 images, 16 channels wide at first."""
    stages = [(16, 16, 1), (16, 32, 2), (32, 64, 2)]
    layers = [
        nn.Sequential(Block(*stage), Block(stage[1], stage[1], 1), Block(stage[1], stage[1], 1)) for stage in stages
    ]
    stem = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
    return nn.Sequential(stem, *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


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
    Row("ResNet, width 16, batch 1, second stage", resnet, "2", (1, 3, 32, 32), 1, 4),
    Row("ResNet, width 16, batch 64, second stage", resnet, "2", (64, 3, 32, 32), 3, 1),
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


def measure(row: Row, device: str) -> dict[str, list[float]]:
    """Give the seconds of each engine's calls, by blocks, the engines in turn."""
    torch.manual_seed(0)
    inputs = torch.randn(row.shape, device=device)
    engines = make_engines(row.make_model().to(device).eval(), row.layer, inputs, num_steps=row.steps, lr=1e-3)
    times: dict[str, list[float]] = {name: [] for name in engines}
    for block in range(1 + (25 if row.calls > 1 else 5)):
        for name, engine in engines.items():
            time_of_block = seconds(engine, inputs, row.calls)
            if block > 0:  # the first warms up
                times[name].append(time_of_block)
    return times


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
    for column in ("", "ms", "torch-ttt, ms", "ratio", "quartiles"):
        table.add_column(column, justify="right")
    for row in ROWS:
        times = measure(row, arguments.device)
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
