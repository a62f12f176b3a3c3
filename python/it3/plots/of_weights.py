"""Pictures of an engine's network: where it is cut, and how far its weights have moved."""

import math
from typing import Any

from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch, Patch

from it3 import _C
from it3.engine import IT3Engine
from it3.layer_choice.calls_around_layer import Part, parts_of
from it3.plots.parts import BLUE, GRAY, ORANGE, SKY, axes_for, shown_name, without_frame
from it3.support.checks import eager

_MOST_LAYERS = 30  # whose bars and names can be read
_OPACITY = 0.35  # of what is behind text


def drift(drift: _C.Drift, ax: Axes | None = None) -> Axes:
    """Draw how far the weights of each layer have moved from their start.

    A layer's distance is the Euclidean norm of the changes of its parameters together. Of more than 30 layers, those 30
    that moved farthest are drawn, in the model's order, and the others as one bar.

    Parameters
    ----------
    drift
        What :meth:`it3.IT3Engine.drift` returned.
    ax
        The matplotlib Axes to draw on. None: new ones, as high as the layers need, which
        ``plt.show()`` shows; see :mod:`it3.plots`.

    Returns
    -------
    matplotlib.axes.Axes
        With a bar a layer, the first at the top.

    Raises
    ------
    TypeError
        For what :meth:`it3.IT3Engine.drift` did not return.
    ValueError
        If no adapted weights have been kept.

    Examples
    --------
    >>> adaptation = engine.adapt(x, online=True, threshold=None)
    >>> ax = it3.plots.drift(engine.drift())
    >>> [label.get_text() for label in ax.get_yticklabels()]
    ['0', '2']
    >>> engine.reset()
    """
    if not isinstance(drift, _C.Drift):
        raise TypeError(f"drift must be what engine.drift() returns, not a {type(drift).__name__}")
    squares: dict[str, float] = {}
    for name, distance in drift.by_parameter:
        layer = name.rpartition(".")[0] or "(the model itself)"
        squares[layer] = squares.get(layer, 0.0) + distance**2
    bars = {layer: math.sqrt(square) for layer, square in squares.items()}
    if len(bars) > _MOST_LAYERS:
        farthest = set(sorted(bars, key=lambda layer: bars[layer], reverse=True)[:_MOST_LAYERS])
        others = [square for layer, square in squares.items() if layer not in farthest]
        bars = {layer: distance for layer, distance in bars.items() if layer in farthest}
        bars[f"({len(others)} other layers)"] = math.sqrt(sum(others))
    if not bars:
        raise ValueError("no weights have been kept since the start, so there is no drift; adapt with copy_model=False")
    ax = axes_for(ax, 6.4, 1.4 + 0.22 * len(bars))
    ax.barh(range(len(bars)), list(bars.values()), color=BLUE, height=0.7)
    ax.set_yticks(range(len(bars)), [shown_name(layer) for layer in bars], parse_math=False)
    ax.set_ylim(len(bars) - 0.4, -0.6)
    ax.set_xlim(left=0)
    ax.set_xlabel("distance of the weights from their start, Euclidean norm")
    ax.set_title(f"all: {drift.distance:.3g}, {100 * drift.relative:.3g} % of the norm of the start", fontsize="medium")
    without_frame(ax)
    return ax


def cut(engine: IT3Engine, inputs: Any, ax: Axes | None = None) -> Axes:
    """Draw where an engine cuts its model: what runs once for both predictions, and what runs twice.

    Modules are boxes from the top down, in the order of their calls, with how many numbers their parameters have. One
    whose calls are all on one side of the layer is one box, with all that is in it. Functions that are no modules are
    not shown. The model runs once, and is as before afterwards.

    Parameters
    ----------
    engine
        Around an eager model.
    inputs
        What it is called with: the order of calls, and whether the model can be cut, hang on them.
    ax
        The matplotlib Axes to draw on. None: new ones, as high as the boxes need, which
        ``plt.show()`` shows; see :mod:`it3.plots`.

    Returns
    -------
    matplotlib.axes.Axes
        Without ticks, with a box a module.

    Raises
    ------
    TypeError
        For what is no engine.
    ValueError
        Where the calls of its modules cannot be seen, as in TorchScript.

    Examples
    --------
    >>> ax = it3.plots.cut(engine, x)
    >>> len(ax.patches)
    3
    """
    if not isinstance(engine, IT3Engine):
        raise TypeError(f"engine must be an IT3Engine, not a {type(engine).__name__}")
    parts = parts_of(engine, inputs)
    is_cut = engine.explain(inputs).is_cut
    ax = axes_for(ax, 6, 1.8 + 0.36 * len(parts))
    for place, part in enumerate(parts):
        color = ORANGE if part.place == "layer" else SKY if part.place == "before" and is_cut else GRAY
        box = FancyBboxPatch((0, place + 0.1), 1, 0.8, boxstyle="square,pad=0", facecolor=color, edgecolor="none")
        box.set_alpha(_OPACITY)
        ax.add_patch(box)
        called = ", called before the layer and behind it" if part.place == "both" else ""
        ax.text(0.02, place + 0.5, f"{shown_name(part.name)}: {part.kind}{called}", va="center", parse_math=False)
        ax.text(0.98, place + 0.5, f"{part.parameters:,}", va="center", ha="right")
    ax.set(xlim=(0, 1), ylim=(len(parts), 0))
    ax.set_axis_off()
    in_all = sum(parameter.numel() for parameter in eager(engine.model).parameters())
    outside = in_all - sum(part.parameters for part in parts)
    title = f"{in_all:,} parameters" + (f", of which {outside:,} are in no box" if outside else "")
    ax.set_title(title, fontsize="medium", loc="left")
    _explain_colors(ax, parts, is_cut)
    return ax


def _explain_colors(ax: Axes, parts: list[Part], is_cut: bool) -> None:
    def parameters(*places: str) -> str:
        return f"{sum(part.parameters for part in parts if part.place in places):,} parameters"

    meanings = {ORANGE: "the layer, at whose output y0 is fed back"}
    if is_cut:
        meanings[SKY] = f"runs once, as does the layer: {parameters('before', 'layer')}"
        meanings[GRAY] = f"runs twice: {parameters('behind', 'both')}"
    else:
        meanings[GRAY] = "the model is not cut: all of it runs twice"
    handles = [Patch(facecolor=color, alpha=_OPACITY, label=meaning) for color, meaning in meanings.items()]
    ax.legend(handles=handles, loc="upper left", bbox_to_anchor=(0, 0), frameon=False, borderpad=0)
