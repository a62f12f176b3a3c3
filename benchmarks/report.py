"""Write the tables of docs/performance.md and draw its pictures, from the results in docs/measurements.

speed.py writes such a file of results to OUTPUT/performance-DEVICE.json; copied to docs/measurements, it replaces what
the page shows. Tables and pictures thus are of the same run.
"""

import json
import re
from pathlib import Path
from typing import Any

from speed_picture import draw
from titles import title_of

Result = dict[str, Any]
"""One comparison.

The keys: ``network``, ``batch``, ``each_by_itself``, ``layer``, ``steps``, ``threads``; ``milliseconds``, a call's
median time by engine; ``times_as_fast``, as torch-ttt, by engine, [median, lower quartile, upper quartile];
``by_hand``, an engine's time over that of the same passes by hand; and ``peak_mib`` by engine.
"""

DOCS = Path(__file__).parent.parent / "docs"
FIRST = (
    ("cpu", "MLP", 1, False, 1),
    ("cpu", "MLP", 256, True, 3),
    ("cpu", "MNIST CNN", 1, False, 3),
    ("cpu", "ResNet-20", 64, False, 3),
    ("cpu", "U-Net 64²", 4, False, 3),
    ("cpu", "Transformer, 32 tokens", 16, False, 3),
    ("cuda", "ResNet-18 224²", 1, False, 1),
    ("cuda", "ResNet-50 224²", 64, False, 1),
)
"""The comparisons that the page begins with: device, network, batch, each by itself, steps."""
FIRST_LAYERS = {"MNIST CNN": "fc2", "ResNet-20": "layer2"}
"""Their layers, where a network has several in the results."""


def number(value: float) -> str:
    """Write three significant digits, without an exponent."""
    return f"{value:.3g}" if abs(value) < 999.5 else f"{float(f'{value:.3g}'):,.0f}"


def spread(values: list[float]) -> str:
    """Write a median with its quartiles."""
    middle, low, high = map(number, values)
    return f"{middle} ({low} to {high})"


def title(result: Result) -> str:
    """Name a comparison."""
    return title_of(result["network"], result["batch"], result["layer"], each_by_itself=result["each_by_itself"])


def engines_in(results: list[Result]) -> list[str]:
    """Return the names of it3's engines."""
    return list(dict.fromkeys(name for result in results for name in result["times_as_fast"]))


def markdown(titles: list[str], rows: list[list[str]]) -> str:
    """Lay out a table, the first column to the left."""
    lines = [titles, ["---", *["---:"] * (len(titles) - 1)], *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def table_of(results: list[Result]) -> str:
    """Lay out all of some results."""
    names = engines_in(results)
    columns = ["network, batch, layer", "steps", "threads", "torch-ttt, ms", *names]
    rows = [
        [
            title(result),
            str(result["steps"]),
            str(result["threads"]),
            number(result["milliseconds"]["torch-ttt"]),
            *(spread(result["times_as_fast"][name]) if name in result["times_as_fast"] else "" for name in names),
            ", in C++ ".join(f"{ratio:.2f}" for ratio in result["by_hand"].values()),
            *(number(result["peak_mib"][name]) for name in ("it3", "torch-ttt")),
        ]
        for result in results
    ]
    return markdown([*columns, "it3 / by hand", "it3, peak MiB", "torch-ttt, peak MiB"], rows)


def first_rows(results: dict[str, list[Result]], machines: dict[str, str]) -> str:
    """Lay out the rows that the page begins with: each engine's time beside how much faster it is."""
    rows = []
    for device, network, batch, each, steps in FIRST:
        wanted = (network, batch, each, steps, 1)
        (result,) = (
            result
            for result in results[device]
            if tuple(result[key] for key in ("network", "batch", "each_by_itself", "steps", "threads")) == wanted
            and FIRST_LAYERS.get(network, result["layer"]) == result["layer"]
        )
        engines = ("it3", "it3, TorchScript", "it3, C++")
        cells = [time_and_ratio(result, name) if name in result["times_as_fast"] else "" for name in engines]
        theirs = f"{number(result['milliseconds']['torch-ttt'])} ms"
        where = f"{machines[device]}, one thread" if device == "cpu" else machines[device]
        rows.append([title(result), where, str(steps), theirs, *cells])
    return markdown(["model, batch, layer", "device", "steps", "torch-ttt", *engines], rows)


def time_and_ratio(result: Result, engine: str) -> str:
    """Write an engine's time, and how many times as fast as torch-ttt it is."""
    ratio, theirs = result["times_as_fast"][engine], result["milliseconds"]["torch-ttt"]
    time = result["milliseconds"].get(engine)
    about = number(float(f"{theirs / ratio[0]:.2g}"))  # for runs that kept torch-ttt's times alone
    shown = f"≈ {about}" if time is None else number(time)
    return f"{shown} ms; {number(ratio[0])} times ({number(ratio[1])} to {number(ratio[2])})"


def with_table(page: str, name: str, table: str) -> str:
    """Put a table between the marks of its name in a page."""
    marks = f"<!-- table: {name} -->", f"<!-- end of table: {name} -->"
    pattern = re.compile(f"(?<={re.escape(marks[0])}\n).*?(?={re.escape(marks[1])})", re.DOTALL)
    if not pattern.search(page):
        raise ValueError(f"the page has no lines {marks[0]!r} and {marks[1]!r}, between which the table is put")
    return pattern.sub(lambda _: f"\n{table}\n\n", page)


def main() -> None:
    """Write the page's tables and pictures."""
    kept = {
        device: json.loads((DOCS / "measurements" / f"performance-{device}.json").read_text(encoding="utf-8"))
        for device in ("cpu", "cuda")
    }
    results = {device: of["results"] for device, of in kept.items()}
    path = DOCS / "performance.md"
    page = path.read_text(encoding="utf-8")
    page = with_table(page, "first rows", first_rows(results, {device: of["machine"] for device, of in kept.items()}))
    for threads in sorted({result["threads"] for result in results["cpu"]}):
        of_threads = [result for result in results["cpu"] if result["threads"] == threads]
        page = with_table(page, f"cpu, threads {threads}", table_of(of_threads))
    path.write_text(with_table(page, "cuda", table_of(results["cuda"])), encoding="utf-8")
    for device, of_device in results.items():
        draw(of_device, DOCS / "pictures" / f"performance-{device}.png")


if __name__ == "__main__":
    main()
