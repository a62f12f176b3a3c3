"""The picture of an evaluation: what each row gains."""

import math

from matplotlib.axes import Axes

from it3.evaluation.evaluation import Evaluation
from it3.plots.parts import BLUE, GRAY, VERMILION, axes_for, legend_above, shown_name, without_frame


def gains(evaluation: Evaluation, ax: Axes | None = None) -> Axes:
    """Draw how much better than 0 steps each row of an evaluation is, with its 95 % interval.

    Variants are blue squares and their names bold, controls gray circles; the best control is a vermilion diamond, and
    a dashed line at its gain is what variants have to beat. A row without an interval, as of one run of one batch, is
    its mark alone, and one that failed is said to have. The x-axis is for variants and the best control: a control that
    is far beyond these, such as one that predicts without a network, is an arrow with its gain.

    Parameters
    ----------
    evaluation
        What :func:`it3.evaluate` returned.
    ax
        The matplotlib Axes to draw on. None: new ones, as high as the rows need, which
        ``plt.show()`` shows; see :mod:`it3.plots`.

    Returns
    -------
    matplotlib.axes.Axes
        With the first row at the top, at y = 0, the second at 1, and so on.

    Raises
    ------
    TypeError
        For what is no evaluation.

    Examples
    --------
    >>> ax = it3.plots.gains(evaluation)
    >>> [label.get_text() for label in ax.get_yticklabels()] == [row["name"] for row in evaluation.rows]
    True
    """
    if not isinstance(evaluation, Evaluation):
        raise TypeError(f"evaluation must be what it3.evaluate() returns, not a {type(evaluation).__name__}")
    rows = evaluation.rows
    ax = axes_for(ax, *size_of_gains(evaluation))
    shown: set[str] = set()
    for place, row in enumerate(rows):
        is_best, is_variant = row["name"] == evaluation.best_control, bool(row["verdict"])
        color, marker, kind = (
            (VERMILION, "D", "best control")
            if is_best
            else (BLUE, "s", "variant")
            if is_variant
            else (GRAY, "o", "control")
        )
        if math.isnan(row["gain"]):
            ax.text(0, place, " failed", color=color, va="center", fontstyle="italic")
            continue
        if not math.isnan(row["low"]):
            ax.plot([row["low"], row["high"]], [place, place], color=color, linewidth=2, solid_capstyle="butt")
        ax.plot([row["gain"]], [place], marker, color=color, markersize=6, label=None if kind in shown else kind)
        shown.add(kind)
        if is_best:
            ax.axvline(row["gain"], color=VERMILION, linewidth=1, linestyle="--", zorder=0)
    ax.axvline(0, color=GRAY, linewidth=1, zorder=0)
    _leave_out_what_is_far(ax, evaluation)
    # Names are the user's, who may write dollars; in TeX these begin a formula.
    ax.set_yticks(range(len(rows)), [shown_name(row["name"]) for row in rows], parse_math=False)
    for label, row in zip(ax.get_yticklabels(), rows, strict=True):
        label.set_fontweight("bold" if row["verdict"] else "normal")
    ax.set_ylim(len(rows) - 0.5, -0.5)
    ax.tick_params(axis="y", length=0)
    ax.set_xlabel(f"gain in {evaluation.metric} against 0 steps, 95 % interval\nabove 0 is better")
    legend_above(ax, 3)
    ax.spines["left"].set_visible(False)
    without_frame(ax)
    return ax


def size_of_gains(evaluation: Evaluation) -> tuple[float, float]:
    """Return the width and height in inches of the figure that :func:`gains` makes."""
    return 8, 1.4 + 0.28 * len(evaluation.rows)


def _leave_out_what_is_far(ax: Axes, evaluation: Evaluation) -> None:
    """Set the limits of the x-axis, and say what lies beyond them."""
    compared = [row for row in evaluation.rows if row["verdict"] or row["name"] == evaluation.best_control]
    ends = [0.0, *(row[end] for row in compared for end in ("gain", "low", "high") if not math.isnan(row[end]))]
    width = max(ends) - min(ends)
    if not width:
        return
    low, high = ax.get_xlim()
    low, high = max(low, min(ends) - width), min(high, max(ends) + width)
    ax.set_xlim(low, high)
    for place, row in enumerate(evaluation.rows):
        if row["gain"] < low:
            ax.text(low, place - 0.32, f"← {row['gain']:+.3g}", color=GRAY, va="center", fontsize="small")
        elif row["gain"] > high:
            ax.text(high, place - 0.32, f"{row['gain']:+.3g} →", color=GRAY, va="center", ha="right", fontsize="small")
