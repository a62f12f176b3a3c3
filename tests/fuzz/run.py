"""Draws damaged inputs until the time is over: `python -m fuzz.run --seconds 600 --seed 1 --jobs 2`."""

import argparse
import multiprocessing
import os
import random
import sys
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from fuzz.targets import TARGETS, Rig


def work(index: int, arguments: argparse.Namespace, answers: Any) -> None:
    """One process: the seed of a case is told with its fault, and makes it again."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    deadline = time.monotonic() + arguments.seconds
    done: Counter[str] = Counter()
    faults: dict[tuple[str, str], tuple[int, bytes]] = {}
    names, weights = [*TARGETS], [weight for _, weight in TARGETS.values()]
    with tempfile.TemporaryDirectory() as folder:
        rig = Rig.make(Path(folder))
        for number in range(index, arguments.cases, arguments.jobs):
            if time.monotonic() > deadline:
                break
            draw = random.Random(f"{arguments.seed} {number}")
            name = draw.choices(names, weights)[0]
            fault = TARGETS[name][0](rig, draw)
            done[name] += 1
            if fault:
                faults.setdefault((name, fault[0][:100]), (number, fault[1]))
    answers.put((done, faults))


def main(argv: list[str]) -> int:
    """Return 1 if anything was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--cases", type=int, default=10**9)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--out", type=Path, default=Path("output/fuzz"), help="where inputs that fail are kept")
    arguments = parser.parse_args(argv)
    arguments.out.mkdir(parents=True, exist_ok=True)
    answers: Any = multiprocessing.Queue()
    start = time.monotonic()
    workers = [multiprocessing.Process(target=work, args=(i, arguments, answers)) for i in range(arguments.jobs)]
    for worker in workers:
        worker.start()
    results = [answers.get() for _ in workers]
    for worker in workers:
        worker.join()
    total = sum((done for done, _ in results), Counter())
    print(f"seed {arguments.seed}: {total.total()} inputs in {time.monotonic() - start:.0f} s: {dict(total)}")
    faults = {key: value for _, found in results for key, value in found.items()}
    for (name, fault), (number, content) in sorted(faults.items()):
        file = arguments.out / f"{arguments.seed}-{number}"
        file.write_bytes(content)
        print(f"{name}: {fault} ({file})")
    print("no fault" if not faults else f"{len(faults)} faults")
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
