"""Time compiled engines against the same engines as they are, in uses beyond the plain one.

Adapted weights that are kept, a neutral signal, a threshold, and functions of the user's own. Prints a table of medians
of the ratios of neighboring blocks of calls. Run it from this folder with one thread:
OMP_NUM_THREADS=1 python compiled_uses.py
"""

import argparse
import copy
import itertools
import tempfile
from typing import Any

import it3
import torch
from compiled import quartiles
from engines import Call
from rich.console import Console
from rich.table import Table
from rows import CPU, CUDA, Row
from speed import seconds
from torch import Tensor


def add(features: Tensor, embedding: Tensor) -> Tensor:
    """Combine as the default does where shapes are alike."""
    return features + embedding


def distance(second: Tensor, first: Tensor) -> Tensor:
    """Compute the mean absolute difference."""
    return (second - first).abs().mean()


USES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "plain": ({}, {}),
    "weights kept": ({}, {"copy_model": False}),
    "neutral": ({"neutral": 0.0}, {}),
    "threshold": ({}, {"threshold": 0.0}),
    "own functions": ({"combine_fn": add, "distance_fn": distance}, {}),
}
"""What an engine is made with, and its options."""


def on_many(engine: it3.IT3Engine, example: Tensor) -> Call:
    """Call an engine with ever other inputs: weights that are kept would fit the same ones, to gradients near 0."""
    batches = itertools.cycle([torch.randn_like(example) for _ in range(32)])
    return lambda _: engine(next(batches))


def time_use(row: Row, steps: int, device: str, use: str, cache: str, blocks: int) -> str:
    """Compile one engine, and time it."""
    parts, options = USES[use]
    torch.manual_seed(0)
    inputs = torch.randn(row.shape, device=device)
    options = {"num_steps": steps, "lr": 1e-4, **options}
    plain = it3.IT3Engine(row.make_model().to(device).eval(), row.layer, optimization_parameters=options, **parts)
    plain.adapt(inputs, copy_model=True)
    engine = copy.deepcopy(plain.eval())
    it3.compile(engine, inputs, backend="compiled", cache=cache, progress=False)
    for each in (plain, engine):
        for _ in range(3):
            each(inputs)
    assert engine.explain(inputs).is_compiled
    calls = max(1, int(0.1 / seconds(plain, inputs, 2)))
    timed = [on_many(each, inputs) for each in (plain, engine)]
    times = []
    for _ in range(blocks):
        plain.reset()  # after a thousand steps, Adam's moments of units that are never active are denormal, and slow
        engine.reset()
        times.append(tuple(seconds(each, inputs, calls) for each in timed))
    return quartiles([a / b for a, b in times])


def main() -> None:
    """Time all uses of some rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--rows", type=int, nargs="*", default=[0, 1, 3], help="numbers of rows of rows.py")
    parser.add_argument("--steps", type=int, nargs="*", default=[1, 3])
    parser.add_argument("--blocks", type=int, default=15)
    given = parser.parse_args()
    rows = CPU if given.device == "cpu" else CUDA
    table = Table("network, batch, layer", "steps", *USES)
    with tempfile.TemporaryDirectory() as cache:
        for number in given.rows:
            for steps in given.steps:
                values = [time_use(rows[number], steps, given.device, use, cache, given.blocks) for use in USES]
                table.add_row(rows[number].title, str(steps), *values)
                print("|", " | ".join([rows[number].title, str(steps), *values]), "|", flush=True)
    Console(width=220).print(table)


if __name__ == "__main__":
    main()
