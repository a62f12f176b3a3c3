"""What the first call of a process costs: time and memory, beside later calls.

Usage: python benchmarks/first_call.py
"""

import resource
import statistics
import time

import it3
import torch
from rows import CPU, Row

ROWS = [row for row in CPU if row.shape[0] == 1 and row.layer in ("0", "conv1", "layer2")]
LATER = 50


def peak() -> float:
    """Return the most memory that the process has had, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def seconds_of(engine: it3.IT3Engine, x: torch.Tensor) -> float:
    """Time one call."""
    begin = time.perf_counter()
    engine.adapt(x)
    return time.perf_counter() - begin


def measure(row: Row) -> None:
    """Print what a new engine's first call takes, and the median of later ones."""
    engine = it3.IT3Engine(row.make_model(), row.layer).eval()
    engine.is_trained = True
    x = torch.randn(row.shape)
    first = seconds_of(engine, x)
    later = statistics.median(seconds_of(engine, x) for _ in range(LATER))
    print(f"{row.title}: first call {first:.2f} s, later {later * 1e3:.2f} ms; peak {peak():.0f} MB")


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}; imported: {peak():.0f} MB")
    for each in [*ROWS, *ROWS]:
        measure(each)
