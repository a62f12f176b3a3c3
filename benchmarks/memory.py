"""Measure the peak extra memory of adapting calls on a 64 MB model, against torch-ttt, each in its own process."""

import argparse
import multiprocessing
import os
from pathlib import Path

import torch
from engines import make_engines
from rich.console import Console
from rich.table import Table
from torch import nn

WIDTH, DEPTH = 512, 64


def status(field: str) -> int:
    """Read a size, in bytes, from the kernel's account of this process."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def model_of(width: int, depth: int) -> nn.Module:
    """Build a deep network of square layers."""
    return nn.Sequential(*(nn.Linear(width, width) for _ in range(depth)))


def peak_extra(name: str, device: str, steps: int) -> tuple[int, int]:
    """Give the peak memory of two calls, beyond that of model and engine before, and the parameters' bytes."""
    torch.manual_seed(0)
    # Libraries take their own memory once, at a first call; a small model's call takes it before the measurement.
    make_engines(model_of(8, DEPTH).to(device), "32", torch.randn(1, 8, device=device))[name](
        torch.randn(1, 8, device=device)
    )
    model = model_of(WIDTH, DEPTH).to(device)
    inputs = torch.randn(1, WIDTH, device=device)
    engine = make_engines(model, "32", inputs, num_steps=steps, lr=1e-4)[name]
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    if device == "cpu":
        Path("/proc/self/clear_refs").write_text("5")  # sets the peak back to what is resident now
    else:
        torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated() if device != "cpu" else status("VmRSS")
    for _ in range(2):  # from the second call on, torch-ttt copies its last optimiser too
        engine(inputs)
    peak = torch.cuda.max_memory_allocated() if device != "cpu" else status("VmHWM")
    return peak - before, size


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    # glibc keeps freed memory resident, the more the luckier; below this size it would not give it back.
    os.environ["MALLOC_MMAP_THRESHOLD_"] = "65536"
    table = Table(title=f"torch {torch.__version__}, {arguments.device}, Adam", title_justify="left")
    for column in ("", "steps", "peak extra, MB", "times the parameters"):
        table.add_column(column, justify="right")
    for steps in (1, 3):
        for name in ("it3", "torch-ttt"):
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                peak, size = pool.apply(peak_extra, (name, arguments.device, steps))
            table.add_row(name, str(steps), f"{peak / 2**20:.1f}", f"{peak / size:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
