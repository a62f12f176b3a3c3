"""Time training steps, forward and backward, against torch-ttt's and against steps that compute the head twice.

Medians of the ratios of neighboring blocks of steps, in turn in one process. Prints a table. Run it from this folder
with one thread: OMP_NUM_THREADS=1 python training.py
"""

import argparse
import copy
import time
from typing import Any

import torch
from compiled import quartiles
from engines import make_engines
from it3 import IT3Engine
from it3.cutting import shared_head
from rich.console import Console
from rich.table import Table
from rows import CPU, CUDA, Row
from torch import Tensor
from torch.nn import functional as F


def step(engine: Any, inputs: Tensor, target: Tensor) -> None:
    """Compute the gradients of one training step."""
    for parameter in engine.parameters():
        parameter.grad = None
    # torch-ttt's forward() takes no target.
    prediction, loss_ttt = getattr(engine, "ttt_forward", engine)(inputs, target=target)
    (F.mse_loss(prediction, target) + loss_ttt).backward()


def seconds(engine: Any, inputs: Tensor, target: Tensor, steps: int) -> float:
    """Return the seconds of a step, as the mean of some."""
    start = time.perf_counter()
    for _ in range(steps):
        step(engine, inputs, target)
    if inputs.is_cuda:
        torch.cuda.synchronize()
    return (time.perf_counter() - start) / steps


def time_row(row: Row, device: str, blocks: int) -> list[str]:
    """Time one network."""
    torch.manual_seed(0)
    inputs = torch.randn(row.shape, device=device)
    engines = make_engines(row.make_model().to(device).eval(), row.layer, inputs, 1)
    shared, theirs = engines["it3"].train(), engines["torch-ttt"].train()
    assert isinstance(shared, IT3Engine)
    twice = copy.deepcopy(shared)
    with torch.no_grad():
        target = torch.rand_like(copy.deepcopy(shared.model)(inputs))
    is_worth_it = shared_head.SharedHeadStep.is_worth_it

    def time_each(steps: int) -> tuple[float, float, float]:
        both = seconds(shared, inputs, target, steps)
        shared_head.SharedHeadStep.is_worth_it = lambda *_: False  # type: ignore[method-assign]
        try:
            computed_twice = seconds(twice, inputs, target, steps)
        finally:
            shared_head.SharedHeadStep.is_worth_it = is_worth_it  # type: ignore[method-assign]
        return both, computed_twice, seconds(theirs, inputs, target, steps)

    steps = max(1, int(0.2 / time_each(3)[0]))
    times = [time_each(steps) for _ in range(blocks)]
    return [
        row.title,
        f"{1e3 * sorted(t[0] for t in times)[blocks // 2]:.3g}",
        quartiles([t[1] / t[0] for t in times]),
        quartiles([t[2] / t[0] for t in times]),
    ]


def main() -> None:
    """Time all rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--rows", type=int, nargs="*", help="numbers of rows of rows.py; default: all")
    parser.add_argument("--blocks", type=int, default=15)
    given = parser.parse_args()
    rows = CPU if given.device == "cpu" else CUDA
    table = Table("network, batch, layer", "it3, ms", "head twice / it3", "torch-ttt / it3")
    for number in given.rows or [i for i, row in enumerate(rows) if not row.per_sample]:
        values = time_row(rows[number], given.device, given.blocks)
        print("|", " | ".join(values), "|", flush=True)
        table.add_row(*values)
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
