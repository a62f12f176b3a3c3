"""Draw how many times as fast as torch-ttt it3 is: one small picture a network, batch and layer."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import NullFormatter, NullLocator
from PIL import Image
from titles import layer_in_words

STYLE = Path(__file__).parent.parent / "docs" / "pictures" / "style.mplstyle"
COLUMNS = 4
# Shapes and lines differ, not colors alone.
LOOKS: dict[str, dict[str, Any]] = {
    "it3": {"color": "C0", "marker": "o", "linestyle": "-"},
    "it3, TorchScript": {"color": "C4", "marker": "s", "linestyle": "--"},
    "it3, C++": {"color": "C2", "marker": "^", "linestyle": ":"},
    "it3, no graph": {"color": "C1", "marker": "v", "linestyle": "-."},
    "it3, bf16": {"color": "C3", "marker": "D", "linestyle": (0, (5, 2, 1, 2, 1, 2))},
}
TICKS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000)


def draw(results: list[dict[str, Any]], path: Path) -> None:
    """Draw results, see report.Result; of several numbers of threads the smallest."""
    mpl.use("Agg")
    fewest = min(result["threads"] for result in results)
    shown = [result for result in results if result["threads"] == fewest]
    names = [name for name in LOOKS if any(name in result["times_as_fast"] for result in shown)]
    panels = list(_panels(shown))
    together = [panel for panel in panels if not panel[0]["each_by_itself"]]
    rows = -(-len(panels) // COLUMNS)
    with plt.style.context(STYLE):
        width, _ = mpl.rcParams["figure.figsize"]
        figure, grid = plt.subplots(rows, COLUMNS, figsize=(width, 1.75 * rows + 0.7), squeeze=False)
        for axes, panel in itertools.zip_longest(grid.flat, panels):
            if panel is None:
                axes.set_axis_off()
                continue
            _draw_panel(axes, panel, names)
            _set_ticks(axes, [panel] if panel[0]["each_by_itself"] else together)
        for axes in grid[:, 0]:
            axes.set_ylabel("times as fast")
        figure.suptitle("How many times as fast as torch-ttt (line at 1) a call is, median and quartiles")
        handles = [Line2D([], [], label=name, **LOOKS[name]) for name in names]
        figure.legend(handles=handles, loc="outside lower center", ncols=len(names))
        figure.savefig(path)
        plt.close(figure)
    Image.open(path).convert("RGB").quantize(128).save(path, optimize=True)  # a third of the size


def _panels(results: list[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """Yield the results that differ in their steps alone."""
    keys = ("network", "batch", "each_by_itself", "layer")
    for _, of_panel in itertools.groupby(results, lambda result: [result[key] for key in keys]):
        yield list(of_panel)


def _draw_panel(axes: Axes, panel: list[dict[str, Any]], names: list[str]) -> None:
    first = panel[0]
    for number, name in enumerate(names):
        timed = [(place, r["times_as_fast"][name]) for place, r in enumerate(panel) if name in r["times_as_fast"]]
        if not timed:
            continue
        places = [place + 0.14 * (number - (len(names) - 1) / 2) for place, _ in timed]
        middle, low, high = zip(*(ratios for _, ratios in timed), strict=True)
        below = [m - each for m, each in zip(middle, low, strict=True)]
        above = [each - m for m, each in zip(middle, high, strict=True)]
        axes.errorbar(places, middle, (below, above), markersize=4.5, linewidth=1, **LOOKS[name])
    axes.axhline(1, color="0.4", linewidth=0.8)
    layer = layer_in_words(first["layer"]).replace("`", "")
    batch = f"{first['batch']:,} each by itself" if first["each_by_itself"] else f"batch {first['batch']}"
    axes.set_title(f"{first['network']}\n{batch}\n{layer}", loc="left")
    axes.set_xticks(range(len(panel)), [f"{r['steps']} step{'s' * (r['steps'] > 1)}" for r in panel])
    axes.set_xlim(-0.5, len(panel) - 0.5)
    axes.grid(axis="y")


def _set_ticks(axes: Axes, panels: list[list[dict[str, Any]]]) -> None:
    """Give panels that are compared the same axis."""
    ends = [value for panel in panels for r in panel for of in r["times_as_fast"].values() for value in of]
    low, high = min(1, *ends) / 1.1, 1.4 * max(ends)
    axes.set_yscale("log")
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_minor_formatter(NullFormatter())
    ticks = [tick for tick in TICKS if low <= tick <= high]
    if len(ticks) > 6:
        ticks = [tick for tick in ticks if str(tick).startswith("1")]
    axes.set_yticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.set_ylim(low, high)
