"""What all pictures share: axes to draw on, colors, and the numbers and names that are given."""

import sys
from collections.abc import Sequence
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

# Those of Okabe and Ito (Color Universal Design, jfly.uni-koeln.de/color), which the color-blind tell apart; and a gray
# that is seen on white and on black.
BLUE, ORANGE, GREEN, VERMILION, SKY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9"
PURPLE = "#CC79A7"
GRAY = "#808080"
CYCLE = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY)

_LONGEST = 44  # characters of a name


def axes_for(ax: Axes | None, width: float = 6.4, height: float = 4.0) -> Axes:
    """Return the axes to draw on: those that are given, or new ones, of a figure of so many inches.

    A new figure is pyplot's where somebody may ask pyplot to show it. Elsewhere it is not, as pyplot holds its figures
    until they are closed, which a program that only writes pictures would not think of.

    Raises
    ------
    TypeError
        For what are no axes.
    """
    if ax is None:
        return _pyplots_axes(width, height) if _is_for_pyplot() else separate_axes(width, height)
    if not isinstance(ax, Axes):
        raise TypeError(f"ax must be one matplotlib Axes, or None for new ones, not a {type(ax).__name__}")
    return ax


def separate_axes(width: float, height: float) -> Axes:
    """Return new axes in a figure of so many inches, which pyplot does not know."""
    return Figure(figsize=(width, height), layout="constrained").subplots()


def without_frame(ax: Axes) -> None:
    """Leave out the lines that say nothing."""
    ax.spines[["top", "right"]].set_visible(False)


def legend_above(ax: Axes, columns: int = 1) -> None:
    """Explain colors above the axes, where no points lie: among many, a free place would take long to find."""
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=columns, frameon=False, borderpad=0.2)


def one_per_sample(name: str, values: Tensor | Sequence[float] | Any) -> Tensor:
    """Return numbers, one a sample, in double precision on the CPU.

    Raises
    ------
    TypeError, ValueError
        For what is no list of finite numbers.
    """
    try:
        given = torch.as_tensor(values).detach()
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"{name} must be a tensor, an array or a list of numbers, not {values!r:.80}") from error
    if given.is_complex():
        raise TypeError(f"{name} must be real numbers, not of {given.dtype}")
    numbers = given.to("cpu", torch.double)
    if numbers.dim() != 1 or not len(numbers):
        raise ValueError(f"{name} must have one number for each sample, (B,), not the shape {tuple(numbers.shape)}")
    bad = int((~numbers.isfinite()).sum())
    if bad:
        raise ValueError(f"{name} has {bad} of {len(numbers)} values that are not finite; leave these samples out")
    return numbers


def shown_name(name: object) -> str:
    """Return a name as one line of text, whose middle is left out if it is long."""
    text = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in " ".join(str(name).split()))
    if len(text) <= _LONGEST:
        return text
    return f"{text[: _LONGEST - 16].rstrip()} … {text[-13:].lstrip()}"


def _is_for_pyplot() -> bool:
    """Return whether the user has imported pyplot, or is in a notebook, which shows the figures of pyplot alone."""
    return "matplotlib.pyplot" in sys.modules or "ipykernel" in sys.modules


def _pyplots_axes(width: float, height: float) -> Axes:
    from matplotlib import pyplot as plt  # noqa: PLC0415  (chooses a backend, which who writes pictures does not need)

    return plt.figure(figsize=(width, height), layout="constrained").subplots()
