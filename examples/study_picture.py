"""Draw a study's record: the gain of each row, the metric under each shift and over steps, and the uncertainty."""

from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from PIL import Image
from study_record import CHOSEN, Record

STYLE = Path(__file__).parent.parent / "docs" / "pictures" / "style.mplstyle"
BASE = "0 steps"
METRICS = {"mae": "mean absolute error", "mse": "mean squared error", "dice": "Dice"}
# Shapes differ, not colors alone.
OTHER = {"color": "C6", "marker": "o"}
OF_BASE = {"color": "C5", "marker": "o"}
OF_BEST = {"color": "C1", "marker": "s"}
OF_CHOICE = {"color": "C0", "marker": "^"}


def draw(record: Record, path: Path) -> None:
    """Draw a record, and write the picture."""
    mpl.use("Agg")
    rows = [row for row in record["rows"] if row["name"] != BASE]
    shown = _shown_by_shift(record)
    shifts = list(shown[0][1]) if shown else []
    upper, lower = 0.22 * len(rows) + 0.75, max(2.1, 0.24 * len(shifts) + 0.9)
    with plt.style.context(STYLE):
        width, _ = mpl.rcParams["figure.figsize"]
        figure = plt.figure(figsize=(width, upper + lower + 0.75))
        gains, below = figure.subfigures(2, 1, height_ratios=(upper + 0.45, lower + 0.3))
        gains.suptitle(f"{record['title']}\n{_verdict(record)}")
        _draw_gains(gains.subplots(), rows, record)
        has_uncertainty = "uncertainty" in record
        axes = below.subplots(1, 2 + has_uncertainty, width_ratios=(1.5, 1, 1)[: 2 + has_uncertainty])
        _draw_shifts(axes[0], shown, record)
        _draw_steps(axes[1], record)
        if has_uncertainty:
            _draw_uncertainty(axes[2], record["uncertainty"])
        handles, labels = axes[0].get_legend_handles_labels()
        below.legend(handles, labels, loc="outside lower center", ncols=3)
        figure.savefig(path)
        plt.close(figure)
    Image.open(path).convert("RGB").quantize(128).save(path, optimize=True)  # a third of the size


def _verdict(record: Record) -> str:
    gain, low, high = record["beyond"]
    return f"adapting gains {gain:+.3f} ({low:+.3f} to {high:+.3f}) beyond the best control, “{record['best_control']}”"


def _looks(name: str, record: Record) -> dict[str, str]:
    return {record["best_control"]: OF_BEST, CHOSEN: OF_CHOICE, BASE: OF_BASE}.get(name, OTHER)


def _draw_gains(axes: Axes, rows: list[dict[str, Any]], record: Record) -> None:
    """Draw each row's gain against 0 steps with its interval; what lies far outside becomes an arrow with its value."""
    rows = [_with_interval(row) for row in rows if row["gain"] is not None]  # which a control that failed has not
    extents = sorted(max(abs(row["low"]), abs(row["high"])) for row in rows)
    of_interest = [row for row in rows if row["name"] in (record["best_control"], CHOSEN)]
    widest = max(max(abs(row["low"]), abs(row["high"])) for row in of_interest)
    limit = 1.05 * min(max(2 * widest, extents[len(extents) // 2]), extents[-1])
    within = [row for row in rows if abs(row["gain"]) <= limit]
    left = max(-limit, 1.05 * min(0, *(row["low"] for row in within)))
    right = min(limit, 1.05 * max(0, *(row["high"] for row in within)))
    margin = 0.02 * (right - left)
    for place, row in enumerate(rows):
        looks = _looks(row["name"], record)
        if left <= row["gain"] <= right:
            axes.plot([max(row["low"], left), min(row["high"], right)], [place, place], color=looks["color"])
            axes.plot(row["gain"], place, looks["marker"], color=looks["color"], markersize=6)
            continue
        edge, inwards = (left, margin) if row["gain"] < left else (right, -margin)
        axes.plot(edge, place, "<" if row["gain"] < left else ">", color=looks["color"])
        axes.text(edge + inwards, place, f"{row['gain']:+.3g}", va="center", ha="left" if inwards > 0 else "right")
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set(xlim=(left - margin, right + margin), ylim=(len(rows) - 0.5, -0.5))
    axes.set_yticks(range(len(rows)), [row["name"] for row in rows])
    axes.set_xlabel(f"gain in {_metric(record)} against {BASE}, above 0 is better, with its 95 % interval")
    axes.grid(axis="x")


def _with_interval(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row with an interval that is its gain alone where it has none."""
    return {**row, **{end: row["gain"] if row[end] is None else row[end] for end in ("low", "high")}}


def _shown_by_shift(record: Record) -> list[tuple[str, dict[str, float]]]:
    """Return the rows that are shown under each shift: 0 steps, the best control, the choice."""
    names = dict.fromkeys((BASE, record["best_control"], CHOSEN))
    by_name = {row["name"]: row.get("groups") for row in record["rows"]}
    return [(name, by_name[name]) for name in names if by_name[name]]


def _metric(record: Record) -> str:
    name: str = record["metric"]
    return METRICS.get(name, name)


def _better(record: Record) -> str:
    return f"{_metric(record)}, {'higher' if record['higher_is_better'] else 'lower'} is better"


def _draw_shifts(axes: Axes, shown: list[tuple[str, dict[str, float]]], record: Record) -> None:
    for number, (name, groups) in enumerate(shown):
        looks = _looks(name, record)
        label = f"best control: {name}" if name == record["best_control"] else name
        places = [place + 0.22 * (number - (len(shown) - 1) / 2) for place in range(len(groups))]
        axes.plot(list(groups.values()), places, looks["marker"], color=looks["color"], label=label, markersize=5.5)
    shifts = [shift.replace("_", " ") for shift in shown[0][1]]
    room = 0.5 if len(shifts) > 1 else 1
    axes.set(xlabel=_better(record), ylim=(len(shifts) - 1 + room, -room), title="Under each shift")
    axes.set_yticks(range(len(shifts)), shifts)
    axes.grid(axis="x")
    axes.margins(x=0.08)


def _draw_steps(axes: Axes, record: Record) -> None:
    steps = [int(number) for number in record["over_steps"]]
    axes.plot(steps, list(record["over_steps"].values()), marker="^", color=OF_CHOICE["color"])
    axes.set(xlabel="steps, all else as chosen", ylabel=_metric(record), xticks=[0, 2, 4, 6, 8, 10])
    axes.set_title("Over steps, one network")
    axes.grid()
    low, high = axes.get_ylim()
    if high - low < 1e-3 * abs(high):  # the same at all steps: do not magnify rounding
        axes.set_ylim(0.9 * low, 1.1 * high)


def _draw_uncertainty(axes: Axes, histograms: dict[str, list[float]]) -> None:
    edges = histograms["edges"]
    axes.stairs(histograms["clean"], edges, color="C2", linewidth=1.5, label="clean")
    axes.stairs(histograms["shifted"], edges, color="C3", fill=True, alpha=0.6, label="shifted")
    axes.set(xlabel="log10 of ‖y1 - y0‖", ylabel="density", title="Uncertainty, one network")
    axes.set_ylim(0, 1.35 * max(*histograms["clean"], *histograms["shifted"]))
    axes.legend(loc="upper left")
