"""Calls engines many times, in every way, and finds what grows: `python -m endurance.run --calls 10000`."""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from endurance import program
from endurance.baselines import BASELINES, OF
from endurance.child import in_child, measured
from endurance.controls import CONTROLS
from endurance.measures import growing, growth, growths
from endurance.ways import WAYS

# Without malloc()'s caches, what it has given out is what is in use, to the byte.
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "GLIBC_TUNABLES": "glibc.malloc.tcache_count=0"}

SLOW = {*OF, "save and load, script", "save adapted, torchscript", "load", "adapt, whole", "per sample, whole"}


def names() -> list[str]:
    """Return all ways; those of the binary if IT3_ADAPT names it."""
    return [*WAYS, *([*program.PROGRAMS, program.RUNS] if program.BINARY else [])]


def used(name: str, calls: int, seconds: float) -> dict[str, Any]:
    """Use an engine in one way, in a process of its own, and return what that held."""
    if name in program.PROGRAMS:
        return in_child(partial(program.one_process, program.PROGRAMS[name], calls), seconds)
    if name == program.RUNS:
        return in_child(partial(program.many_processes, max(8, calls // 50)), seconds)
    way = (WAYS | CONTROLS | BASELINES)[name]
    return in_child(partial(measured, way, max(40, round(calls * way.share))), seconds)


def faults(result: dict[str, Any], baseline: dict[str, Any] | None = None) -> list[str]:
    """Return what is wrong with what was held: nothing, if all is well."""
    if "fault" in result:
        return [result["fault"]]
    beside = growths(baseline["calls"], baseline["values"]) if baseline else {}
    grown = growing(result["calls"], result["values"], beside)
    found = [f"{name} grow by {each:.3g} a call" for name, each in grown.items()]
    return found if result["is_same"] else [*found, "the result is another one than at first"]


HEADER = f"{'way':<28}{'calls':>7}{'seconds':>9}{'MB':>15}{'resident':>10}{'heap':>8}{'fds':>9}{'threads':>9}  verdict"


def row(name: str, result: dict[str, Any], found: list[str]) -> str:
    """Tell a way in one line: numbers at the begin and the end, and bytes a call after the warm-up."""
    verdict = "; ".join(found) or (f"no more than {OF[name]}" if name in OF else "flat")
    if "fault" in result:
        return f"{name:<28}  {verdict}"
    calls, values = result["calls"], result["values"]

    def ends(column: str, unit: int = 1, form: str = "d") -> str:
        if column not in values:
            return "-"
        return " - ".join(format(values[column][i] / unit if unit > 1 else values[column][i], form) for i in (0, -1))

    def each(column: str) -> str:
        return f"{growth(calls, values[column]):.1f}" if column in values else "-"

    return (
        f"{name:<28}{calls[-1]:>7}{result['seconds']:>9.1f}{ends('resident', 10**6, '.1f'):>15}{each('resident'):>10}"
        f"{each('heap'):>8}{ends('descriptors'):>9}{ends('threads'):>9}  {verdict}"
    )


def main(argv: Sequence[str]) -> int:
    """Return 1 if anything grows, or gives another result than at first."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=10000)
    parser.add_argument("--only", action="append", help="a part of the names of ways; may be given several times")
    parser.add_argument("--quick", action="store_true", help="leave out what takes long with few calls too")
    parser.add_argument("--controls", action="store_true", help="use those that leak, which have to be found")
    parser.add_argument("--seconds", type=float, default=3600, help="after which a way hangs")
    parser.add_argument("--json", type=Path, help="a file for all that was measured")
    arguments = parser.parse_args(argv)
    chosen = [*CONTROLS] if arguments.controls else names()
    if arguments.quick:
        chosen = [name for name in chosen if name not in SLOW]
    if arguments.only:
        chosen = [name for name in chosen if any(part in name for part in arguments.only)]
    if not chosen:
        parser.error("no way has such a name")
    print(HEADER, flush=True)
    results: dict[str, dict[str, Any]] = {}

    def use(name: str) -> dict[str, Any]:
        if name not in results:
            results[name] = used(name, arguments.calls, arguments.seconds)
        return results[name]

    bad = []
    for name in chosen:
        if name in OF and OF[name] not in results:
            print(row(OF[name], use(OF[name]), ["compared with"]), flush=True)
        found = faults(use(name), results[OF[name]] if name in OF else None)
        if found:
            bad.append(name)
        print(row(name, results[name], found), flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(results))
    print(f"{len(bad)} of {len(chosen)} grow: {', '.join(bad)}" if bad else "nothing grows")
    return bool(bad)


if __name__ == "__main__":
    if not ENVIRONMENT.items() <= os.environ.items():
        os.execve(sys.executable, [sys.executable, "-m", "endurance.run", *sys.argv[1:]], os.environ | ENVIRONMENT)
    sys.exit(main(sys.argv[1:]))
