"""Measure how adapting goes faster with more workers: processes that torchrun starts, and actors of Ray.

A fixed set of batches is adapted to by 1, 2 and 4 workers with one thread each. Prints a table, with the speed-up by
the wall clock, and, as a machine with fewer cores than workers can tell nothing by that, the efficiency by CPU time:
the CPU seconds that one worker spends on all batches over those that all workers spend on them together. It is what the
work itself loses by being divided; it sees no waiting for disks or networks. Run it from this folder:
OMP_NUM_THREADS=1 python clusters.py
"""

import argparse
import json
import logging
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import it3
import torch
from it3 import IT3Engine
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

WORKERS = (1, 2, 4)
SIZE = 64
"""Samples of a batch."""
WIDTH = 256


def make_engine() -> IT3Engine:
    """Make the engine that all workers have."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(WIDTH, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10))
    engine = IT3Engine(model, "0", optimization_parameters={"num_steps": 3, "lr": 1e-3})
    x = torch.randn(SIZE, WIDTH)
    engine.fit([(x, torch.randn(SIZE, 10))], nn.functional.mse_loss)
    return engine.eval()


def batch_of(number: int) -> Tensor:
    """Make a batch by its number, so that no worker reads what another needs."""
    return torch.randn(SIZE, WIDTH, generator=torch.Generator().manual_seed(number))


def cpu_seconds() -> float:
    """Return what this process has spent, all its threads together."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def work_in_rank(folder: Path, batches: int) -> None:
    """Adapt to this process's batches, and note what it took: the start of the process apart from the work."""
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")
    engine = it3.load(folder / "engine.it3")
    engine.adapt(batch_of(0))  # cuts
    torch.distributed.barrier()
    start, cpu = time.perf_counter(), cpu_seconds()
    predictions = engine.predict([batch_of(number) for number in range(rank, batches, world)])
    spent = cpu_seconds() - cpu
    torch.distributed.barrier()
    wall = time.perf_counter() - start
    told = {"start": cpu, "cpu": spent, "wall": wall, "sum": float(predictions.double().sum())}
    (folder / f"rank-{rank}.json").write_text(json.dumps(told))
    torch.distributed.destroy_process_group()


def with_torchrun(folder: Path, batches: int, workers: int) -> dict[str, float]:
    """Measure processes that torchrun starts."""
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(workers)]
    command = [*start, __file__, "--batches", str(batches), "--in-rank", str(folder)]
    subprocess.run(command, check=True, capture_output=True)
    told = [json.loads((folder / f"rank-{rank}.json").read_text()) for rank in range(workers)]
    return {
        "start": max(each["start"] for each in told),
        "cpu": sum(each["cpu"] for each in told),
        "wall": max(each["wall"] for each in told),
        "sum": sum(each["sum"] for each in told),
    }


def with_ray(folder: Path, batches: int, workers: int) -> dict[str, float]:
    """Measure actors of Ray, which is started already."""
    import numpy as np  # noqa: PLC0415
    import ray  # noqa: PLC0415  (so that torchrun's processes do without)
    from it3.frameworks.ray import Adapter  # noqa: PLC0415

    class Timed(Adapter):
        """Notes what its process has spent until the end of each batch, Ray's part in it too."""

        def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
            adapted = super().__call__({"x": batch_of(int(batch["id"][0])).numpy()})
            told = {"sum": adapted["prediction"].astype(float).sum(), "worker": os.getpid(), "at": time.time()}
            return {name: np.array([value]) for name, value in {**told, "cpu": cpu_seconds()}.items()}

    given = {"file": str(folder / "engine.it3"), "inputs": "x"}
    data = ray.data.range(batches, override_num_blocks=batches)
    pool = ray.data.ActorPoolStrategy(size=workers)
    rows = data.map_batches(Timed, fn_constructor_kwargs=given, batch_size=1, compute=pool).take_all()
    by_worker: dict[int, list[float]] = {}
    for row in rows:
        by_worker.setdefault(row["worker"], []).append(row["cpu"])
    spent = sum(max(each) - min(each) for each in by_worker.values())  # without each one's first, which cuts
    times = [row["at"] for row in rows]
    return {
        "start": sum(min(each) for each in by_worker.values()) / len(by_worker),
        "cpu": spent / (len(rows) - len(by_worker)) * batches,
        "wall": max(times) - min(times),
        "sum": sum(row["sum"] for row in rows),
    }


def main() -> None:
    """Measure both, and print them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batches", type=int, default=400)
    parser.add_argument("--repeats", type=int, default=3, help="of each, of which the one of least CPU time counts")
    parser.add_argument("--in-rank", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--only", choices=["torchrun", "ray"])
    given = parser.parse_args()
    if given.in_rank:
        work_in_rank(given.in_rank, given.batches)
        return
    table = Table(
        "workers", "wall, s", "speed-up", "CPU, s", "efficiency by CPU time", "start, CPU s each", "sum of predictions"
    )
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_engine().save(folder / "engine.it3", batch_of(0))
        if given.only != "torchrun":
            import ray  # noqa: PLC0415

            ray.init(
                num_cpus=max(WORKERS) + 1, include_dashboard=False, logging_level=logging.ERROR, log_to_driver=False
            )
            context = ray.data.DataContext.get_current()
            context.enable_progress_bars = False
            logging.getLogger("ray.data").setLevel(logging.ERROR)
        for measure in (with_torchrun, with_ray):
            title = measure.__name__.removeprefix("with_")
            if given.only not in (None, title):
                continue
            first: dict[str, float] = {}
            for workers in WORKERS:
                runs = [measure(folder, given.batches, workers) for _ in range(given.repeats)]
                found = min(runs, key=lambda run: run["cpu"])  # others on the machine only ever add to it
                first = first or found
                cells = [f"{title}, {workers}", f"{found['wall']:.2f}", f"{first['wall'] / found['wall']:.2f}"]
                cells += [f"{found['cpu']:.2f}", f"{first['cpu'] / found['cpu']:.0%}"]
                cells += [f"{found['start']:.1f}", f"{found['sum']:.4f}"]
                print("|", " | ".join(cells), "|", flush=True)
                table.add_row(*cells)
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
