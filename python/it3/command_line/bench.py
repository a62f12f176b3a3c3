"""``it3 bench``: how long a saved engine's calls take."""

import statistics
import time
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

import it3
from it3 import _C
from it3.command_line.adapt import BatchSize, Device, EngineFile, Setting, loaded
from it3.command_line.adapting import Batches
from it3.command_line.printing import AsJson, print_json, print_table, work_is_quiet
from it3.support.tables import table_of

_QUARTILES = ("lower quartile", "median", "upper quartile")
_UNTIMED = 3
"""Calls that come first: in these, ways of running are made and compared."""


def bench(
    engine: EngineFile,
    samples: Annotated[Path, typer.Option("--input", help="Samples, of which the first batch is used.")],
    settings: Setting = None,
    batch_size: BatchSize = None,
    device: Device = None,
    repeats: Annotated[int, typer.Option(min=2, help="Timed calls of each kind.")] = 30,
    as_json: AsJson = False,
) -> None:
    """Time calls with 0 steps and with the engine's steps, in turn, on one batch."""
    with work_is_quiet():
        one = loaded(engine, settings, device)
        batch = next(iter(Batches(samples, one, batch_size)))
        count = len(one.uncertainty(batch))
        steps = _C.options_of(one.optimization_parameters)["num_steps"]
        rows = _timed(one, batch, sorted({0, steps}), repeats)
    if as_json:
        print_json({"samples": count, "repeats": repeats, "milliseconds": rows})
        return
    columns = {"steps": [str(row["steps"]) for row in rows]}
    columns |= {title: [f"{row[title]:.3f}" for row in rows] for title in _QUARTILES}
    typer.echo(f"ms a call of {count} samples, {repeats} calls each")
    print_table(columns, table_of(columns.items()))


def _timed(engine: it3.IT3Engine, batch: Any, steps: list[int], repeats: int) -> list[dict[str, Any]]:
    """Return the quartiles of the milliseconds of a call, for each number of steps."""
    times: dict[int, list[float]] = {number: [] for number in steps}
    for repeat in range(_UNTIMED + repeats):
        for number in steps:
            start = time.perf_counter()
            prediction = engine.adapt(batch, num_steps=number).prediction
            if prediction.is_cuda:
                torch.cuda.synchronize(prediction.device)
            if repeat >= _UNTIMED:
                times[number].append((time.perf_counter() - start) * 1e3)
    found = []
    for number, of_calls in times.items():
        quartiles = statistics.quantiles(of_calls, n=4, method="inclusive")
        found.append({"steps": number, **dict(zip(_QUARTILES, quartiles, strict=True))})
    return found
