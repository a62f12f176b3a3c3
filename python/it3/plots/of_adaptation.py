"""Pictures of adaptations: the loss over steps, and predictions before and after."""

from collections.abc import Sequence

import torch
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from it3.adaptation import Adaptation
from it3.evaluation.class_scores import are_probabilities
from it3.evaluation.metrics import class_dim, classes_of, have_like_shapes
from it3.plots.parts import BLUE, CYCLE, GRAY, axes_for, legend_above, without_frame

_MOST_LINES = 2 * len(CYCLE)  # solid and dashed, beyond which lines cannot be told apart


def losses(adaptations: Adaptation | Sequence[Adaptation], ax: Axes | None = None) -> Axes:
    """Draw the distance between y1 and y0 over the steps of one adaptation, or of several.

    Each adaptation is a line; with ``per_sample`` each sample is. More than 12 are drawn as their median, with bands
    from the 25th to the 75th and from the 5th to the 95th percentile; there, what ended early keeps its last loss.
    Samples that did not adapt, for their uncertainty was not above ``threshold``, are left out.

    Parameters
    ----------
    adaptations
        What :meth:`it3.IT3Engine.adapt` returned, once or several times.
    ax
        The matplotlib Axes to draw on. None: new ones, in a figure of their own, which is ``ax.figure`` and which
        ``plt.show()`` shows; see :mod:`it3.plots`.

    Returns
    -------
    matplotlib.axes.Axes
        With the steps taken on the x-axis, from 0, and the loss before the next step on the y-axis.

    Raises
    ------
    TypeError
        For what are no adaptations.
    ValueError
        If no steps were taken.

    Examples
    --------
    >>> ax = it3.plots.losses(engine.adapt(x, num_steps=5, threshold=None))
    >>> ax.lines[0].get_ydata().shape
    (5,)
    >>> ax.figure.savefig("losses.png")
    """
    given = [adaptations] if isinstance(adaptations, Adaptation) else list(adaptations)
    curves: dict[str, Tensor] = {}
    for place, adaptation in enumerate(given):
        _check_adaptation("adaptations", adaptation)
        name = f"adaptation {place}" if len(given) > 1 else ""
        curves.update({f"{name} {of_sample}".strip(): curve for of_sample, curve in _curves_of(adaptation).items()})
    if not curves:
        raise ValueError("no steps were taken, so there are no losses to draw; adapt with num_steps of 1 or more")
    ax = axes_for(ax)
    if len(curves) <= _MOST_LINES:
        for place, (label, curve) in enumerate(curves.items()):
            again, color = divmod(place, len(CYCLE))
            ax.plot(range(len(curve)), curve.numpy(), ("o-", "o--")[again], ms=4, color=CYCLE[color], label=label)
    else:
        _draw_percentiles(ax, list(curves.values()))
    if len(curves) > 1:
        legend_above(ax, 3)
    ax.set_xlabel("steps taken")
    ax.set_ylabel("loss: distance between y1 and y0")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    without_frame(ax)
    return ax


def before_and_after(unadapted: Adaptation, adapted: Adaptation, targets: Tensor, ax: Axes | None = None) -> Axes:
    """Draw what adapting changed of the predictions, beside what is right.

    For classes, the probability of the right class after adapting over that before: what lies above the diagonal has
    gained. Of predictions that are not probabilities the softmax is drawn. For numbers, predictions over targets, with
    a line from each prediction before to the one after: on the diagonal are those that are right. Each position or
    component of a sample is a point.

    Parameters
    ----------
    unadapted
        ``engine.adapt(x, num_steps=0, threshold=None)``.
    adapted
        ``engine.adapt(x)``, with the same inputs.
    targets
        Class indices, without the predictions' dimension of the classes or with 1 there; or numbers of the predictions'
        shape, apart from dimensions of size 1. Where the engine feeds class probabilities back, numbers are scores of
        the classes, such as one-hot ones.
    ax
        The matplotlib Axes to draw on. None: new ones, which ``plt.show()`` shows; see :mod:`it3.plots`.

    Returns
    -------
    matplotlib.axes.Axes
        With the drawing.

    Raises
    ------
    TypeError, ValueError
        For what are no adaptations of the same inputs, of which the first took no steps; for targets that do not fit;
        and for predictions or targets that are not finite and real.

    Examples
    --------
    >>> ax = it3.plots.before_and_after(engine.adapt(x, num_steps=0), engine.adapt(x), y)
    >>> ax.get_xlabel()
    'target'
    """
    _check_adaptation("unadapted", unadapted)
    _check_adaptation("adapted", adapted)
    if unadapted.steps:
        raise ValueError(f"unadapted took {unadapted.steps} steps; give engine.adapt(inputs, num_steps=0)")
    before, after = unadapted.prediction, adapted.prediction
    if before.shape != after.shape:
        raise ValueError(
            f"the predictions before and after must be of the same inputs, but have the shapes {tuple(before.shape)} "
            f"and {tuple(after.shape)}"
        )
    if not isinstance(targets, Tensor):
        raise TypeError(f"targets must be a tensor, not a {type(targets).__name__}")
    targets = targets.detach().to(before.device)
    for name, values in (("unadapted.prediction", before), ("adapted.prediction", after), ("targets", targets)):
        if values.is_complex() or not bool(values.isfinite().all()):
            raise ValueError(f"{name} is not finite and real everywhere, so it cannot be drawn")
    if not adapted._feeds_probabilities and have_like_shapes(before, targets, adapted._prediction_layout):
        numbers = [values.flatten().double().cpu() for values in (before, after, targets)]
        return _draw_numbers(axes_for(ax, 5, 5), *numbers)
    if targets.is_floating_point() and targets.shape != before.shape:
        raise ValueError(
            f"targets of shape {tuple(targets.shape)} do not fit predictions of shape {tuple(before.shape)}: give "
            "numbers of the same shape, apart from dimensions of size 1, or classes as integers"
        )
    right = [_of_right_class(adaptation, targets) for adaptation in (unadapted, adapted)]
    return _draw_classes(axes_for(ax, 5, 5), *right)


def _check_adaptation(name: str, value: object) -> None:
    if not isinstance(value, Adaptation):
        raise TypeError(f"{name} must be what engine.adapt() returns, not a {type(value).__name__}")


def _curves_of(adaptation: Adaptation) -> dict[str, Tensor]:
    """Return the losses of an adaptation, or of each of its samples that adapted; none where no steps were taken."""
    if not adaptation.steps:
        return {}
    values = adaptation.losses.double().cpu()
    if values.dim() == 1:
        return {"": values}
    adapted = adaptation.adapted_samples
    return {f"sample {place}": curve for place, curve in enumerate(values.T) if adapted is None or bool(adapted[place])}


def _draw_percentiles(ax: Axes, curves: Sequence[Tensor]) -> None:
    steps = max(map(len, curves))
    values = torch.stack([torch.cat([curve, curve[-1:].expand(steps - len(curve))]) for curve in curves])
    shares = torch.tensor([0.05, 0.25, 0.5, 0.75, 0.95], dtype=torch.double, device="cpu")
    lowest, low, median, high, highest = values.quantile(shares, dim=0).numpy()
    places = range(steps)
    ax.fill_between(places, lowest, highest, color=BLUE, alpha=0.15, linewidth=0, label="5th to 95th percentile")
    ax.fill_between(places, low, high, color=BLUE, alpha=0.3, linewidth=0, label="25th to 75th")
    ax.plot(places, median, "o-", ms=4, color=BLUE, label=f"median of {len(curves)}")


def _of_right_class(adaptation: Adaptation, targets: Tensor) -> Tensor:
    """Return the probability of the right class of each sample and position."""
    scores, layout = adaptation.prediction.double(), adaptation._prediction_layout
    dim = class_dim(scores, layout)
    p = scores if are_probabilities(scores, layout) else scores.softmax(dim)
    return p.gather(dim, classes_of(scores, targets, layout)).flatten().cpu()


def _draw_classes(ax: Axes, before: Tensor, after: Tensor) -> Axes:
    ax.plot([0, 1], [0, 1], color=GRAY, linewidth=1, zorder=1)
    ax.scatter(before.numpy(), after.numpy(), s=12, color=BLUE, alpha=_opacity(len(before)), linewidths=0, zorder=2)
    more, less = int((after > before).sum()), int((after < before).sum())
    ax.set_title(f"higher for {more:,}, lower for {less:,} of {len(before):,}", fontsize="medium")
    ax.set_xlabel("probability of the right class before adapting")
    ax.set_ylabel("probability of the right class after")
    ax.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
    without_frame(ax)
    return ax


def _draw_numbers(ax: Axes, before: Tensor, after: Tensor, targets: Tensor) -> Axes:
    x, opacity = targets.numpy(), _opacity(len(targets))
    ends = (float(targets.min()), float(targets.max()))
    ax.plot(ends, ends, color=GRAY, linewidth=1, zorder=1, label="right")
    ax.vlines(x, before.numpy(), after.numpy(), color=BLUE, alpha=0.5 * opacity, linewidth=1, zorder=2)
    ax.scatter(
        x, before.numpy(), s=18, facecolors="none", edgecolors=GRAY, alpha=opacity, zorder=3, label="before adapting"
    )
    ax.scatter(x, after.numpy(), s=14, color=BLUE, alpha=opacity, linewidths=0, zorder=4, label="after")
    ax.set_xlabel("target")
    ax.set_ylabel("prediction")
    legend_above(ax, 3)
    without_frame(ax)
    return ax


def _opacity(points: int) -> float:
    """Return how opaque points are, so that many show where they are dense."""
    return float(min(1.0, max(0.1, 200 / points)))
