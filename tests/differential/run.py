"""Draws cases until the time is over: `python -m differential.run --seconds 600 --seed 1 --jobs 2`."""

import argparse
import multiprocessing
import os
import random
import re
import sys
import time
import traceback
import warnings
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from hypothesis import HealthCheck, Phase, given, seed, settings

from differential.case import Case
from differential.cases import cases
from differential.rig import Difference
from differential.script import script_of, text_of
from differential.uses import check

ROUND = 400  # cases for which Hypothesis keeps what it knows


class Enough(BaseException):
    """Ends a round, whatever Hypothesis would still like to try."""


@dataclass
class Fault:
    """The smallest case of a kind."""

    why: str
    case: Case
    count: int = 0
    is_shrunk: bool = False


@dataclass
class Search:
    """What one process has done so far."""

    deadline: float
    cases: int
    shrink_seconds: float = 20.0
    done: int = 0
    tally: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    faults: dict[str, Fault] = field(default_factory=dict)
    current: Path | None = None
    is_compiled: bool = False

    def run(self, number: int) -> None:
        """One round of drawing."""
        failing: str = ""
        since = 0.0

        @seed(number)
        @settings(
            max_examples=ROUND,
            database=None,
            deadline=None,
            phases=[Phase.generate, Phase.shrink],
            suppress_health_check=list(HealthCheck),
        )
        @given(cases(is_compiled=self.is_compiled))
        def try_one(case: Case) -> None:
            nonlocal failing, since
            if failing and time.monotonic() > since + self.shrink_seconds:
                raise Enough
            if not failing and (time.monotonic() > self.deadline or self.done >= self.cases):
                raise Enough
            why = self.why_not(case)
            if not failing:
                self.done += 1
            if why is None:
                return
            kind = kind_of(why)
            known = self.faults.setdefault(kind, Fault(why, case))
            known.count += kind != failing
            if not failing and not known.is_shrunk:
                known.is_shrunk = True
                failing, since = kind, time.monotonic()
            if size_of(case) < size_of(known.case):
                known.case, known.why = case, why
            if failing == kind:
                raise Difference(why)  # at one place, by which Hypothesis knows the failure again

        try:
            try_one()
        except (Enough, Difference):
            pass
        except Exception as error:  # Hypothesis says that a failure did not come again
            if not failing:
                raise
            self.faults[failing].why += f"\n(not every time: {type(error).__name__})"

    def why_not(self, case: Case) -> str | None:
        """Nothing where it3 is right."""
        if self.current is not None:
            self.current.write_text(text_of(case))
        try:
            agreed = check(case)
        except Difference as error:
            return str(error)
        except Exception as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            return f"{type(error).__name__}: {error} (at {Path(place.filename).name}:{place.lineno})"
        self.tally[case.use, case.network, agreed] += 1
        return None


def kind_of(why: str) -> str:
    """The text without numbers and names."""
    text = re.sub(r"'[^']*'", "'...'", why.splitlines()[0])
    return re.sub(r"[-+\d.einfa]*\d[-+\d.einfa]*|l\d+[\w.]*", "#", text)[:90]


def size_of(case: Case) -> int:
    return len(text_of(case))


def work(index: int, arguments: argparse.Namespace, answers: Any) -> None:
    """One process."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    share = -(-arguments.cases // arguments.jobs)
    search = Search(arguments.start + arguments.seconds, share, arguments.shrink_seconds)
    search.is_compiled = arguments.compiled
    search.current = arguments.out / f"current-{index}.py"
    number = 0
    while time.monotonic() < search.deadline and search.done < search.cases:
        search.run(arguments.seed * 1_000_003 + index * 10_007 + number)
        number += 1
    search.current.unlink(missing_ok=True)
    answers.put((search.done, search.tally, search.faults))


def collect(arguments: argparse.Namespace) -> tuple[int, Counter[Any], dict[str, Fault], list[str]]:
    """Run the processes, and add up what they found."""
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    processes = [context.Process(target=work, args=(i, arguments, answers)) for i in range(arguments.jobs)]
    for p in processes:
        p.start()
    done, tally, faults, crashes = 0, Counter[Any](), dict[str, Fault](), list[str]()
    waiting = set(range(len(processes)))
    while waiting:
        while not answers.empty():
            count, counts, found = answers.get()
            done += count
            tally += counts
            for kind, fault in found.items():
                known = faults.setdefault(kind, fault)
                if known is not fault:
                    known.count += fault.count
                    if size_of(fault.case) < size_of(known.case):
                        known.case, known.why = fault.case, fault.why
        for i in list(waiting):
            if not processes[i].is_alive() and answers.empty():
                waiting.discard(i)
                if processes[i].exitcode != 0:
                    crashes.append(f"process {i} ended with {processes[i].exitcode} on {arguments.out}/current-{i}.py")
        time.sleep(0.05)
    return done, tally, faults, crashes


def main(argv: list[str] | None = None) -> int:
    """Print what was found; return 1 if it3 differs from the reference."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--cases", type=int, default=10**9)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--shrink-seconds", type=float, default=20.0)
    parser.add_argument("--compiled", action="store_true", help="engines compiled ahead alone, some two a minute")
    parser.add_argument("--out", type=Path, default=Path("output/differential"))
    arguments = parser.parse_args(argv)
    arguments.out.mkdir(parents=True, exist_ok=True)
    arguments.start = began = time.monotonic()
    print(f"seed {arguments.seed}, {arguments.jobs} processes", flush=True)
    done, tally, faults, crashes = collect(arguments)
    seconds = time.monotonic() - began
    for (use, network, agreed), count in sorted(tally.items()):
        print(f"{count:7} {use:10} {network:7} {agreed}")
    for number, fault in enumerate(sorted(faults.values(), key=lambda f: -f.count)):
        path = arguments.out / f"difference-{number}.py"
        path.write_text(script_of(fault.case, fault.why))
        print(f"\n==== {fault.count} times: {fault.why}\n{text_of(fault.case)}\nby itself: {path}")
    for crash in crashes:
        print(f"\n==== {crash}")
    print(f"\nseed {arguments.seed}: {done} cases in {seconds:.0f} s, {done / seconds:.0f} a second: ", end="")
    print(f"{len(faults)} kinds of difference, {len(crashes)} crashes" if faults or crashes else "no difference")
    return 1 if faults or crashes else 0


if __name__ == "__main__":
    sys.exit(main())
