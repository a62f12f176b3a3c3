"""Noisy digits as streams: in what order they come, how many at a time, and whether adapted weights are kept.

Networks and settings are those of mnist_noise.py. Every digit of the stream comes once under each severity.
"""

import argparse
from pathlib import Path
from typing import Any

import it3
import mnist_noise
import torch
from rich.console import Console
from study import train
from study_report import table
from study_search import Choice

SEEDS = 3
DIGITS = 200  # under each severity
STREAMS: list[tuple[it3.evaluation.streams.Order, int]] = [
    *(("continual", 64), ("gradual", 64)),
    *(("mixed", size) for size in (1, 16, 64, 256)),
    *(("correlated", size) for size in (1, 16, 64, 256)),
]
EPISODIC, KEPT = "adapted, each batch from the start", "adapted, weights kept"
SHOWN = ["0 steps", "0 steps, batch statistics", "entropy minimization, " + KEPT, EPISODIC, KEPT]


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=SEEDS, help="networks to train")
    parser.add_argument("--output", type=Path, default=Path("output"), help="folder for the report")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    console = Console()
    study = mnist_noise.build()
    choice = Choice.of(study)
    with console.status("training"):
        engines = [train(study, choice.training, 100 + seed) for seed in range(arguments.seeds)]
    shifts = {}
    for sd, batches in zip(mnist_noise.SIGMAS, study.shifts.values(), strict=True):
        inputs, targets = (torch.cat(parts)[:DIGITS] for parts in zip(*batches, strict=True))
        shifts["noise", sd] = (inputs, targets)
    variants: dict[str, dict[str, Any]] = {
        EPISODIC: choice.adaptation,
        KEPT: {**choice.adaptation, "copy_model": False},
    }
    rows = []
    for order, size in STREAMS:
        with console.status(f"{order}, {size} at a time"):
            stream = it3.stream(shifts, order, size)
            evaluation = it3.evaluate(engines, stream.batches, "accuracy", variants, reference=study.targets)
        score = {row["name"]: row["score"] for row in evaluation.rows}
        best = f"{score[evaluation.best_control]:.3f}, {evaluation.best_control}"
        rows.append([order, str(size), *(f"{score[name]:.3f}" for name in SHOWN), best])
        print(order, size, evaluation, sep="\n", end="\n\n")
    report = table(["order", "batch", *SHOWN, "best control"], rows)
    (arguments.output / "streams.md").write_text("\n".join([*report, ""]))


if __name__ == "__main__":
    main()
