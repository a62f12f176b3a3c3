"""Pictures of how well an uncertainty tells errors."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from torch import Tensor

from it3.evaluation.selective_risk import selective_risk
from it3.plots.parts import BLUE, GRAY, GREEN, VERMILION, axes_for, legend_above, one_per_sample, without_frame

_PARTS = 10  # of the samples, whose mean errors are drawn


def uncertainty_against_error(
    uncertainty: Tensor | Sequence[float], errors: Tensor | Sequence[float], ax: Axes | None = None
) -> Axes:
    """Draw the samples' errors over their uncertainty, and the mean error of each tenth of them.

    Samples are sorted by their uncertainty for the tenths, which are as large as one another but for one sample; with
    fewer than 20 samples there are fewer parts, of two at least. An uncertainty that tells errors has means that rise.
    Of errors that are 0 or 1, the means alone are drawn.

    Parameters
    ----------
    uncertainty
        Of each sample, (B,), such as :meth:`it3.IT3Engine.uncertainty`.
    errors
        Of each sample, (B,), such as its squared error; or 0 where its class is right and 1 where it is wrong.
    ax
        The matplotlib Axes to draw on. None: new ones, which ``plt.show()`` shows; see :mod:`it3.plots`.

    Returns
    -------
    matplotlib.axes.Axes
        With the drawing.

    Raises
    ------
    TypeError, ValueError
        For what are no numbers, one a sample, or not finite; and for different lengths.

    Examples
    --------
    >>> errors = (engine.adapt(x, num_steps=0).prediction - y).square().mean(1)
    >>> ax = it3.plots.uncertainty_against_error(engine.uncertainty(x), errors)
    >>> ax.get_ylabel()
    'error'
    """
    sureness, wrong = _checked(uncertainty, errors)
    ax = axes_for(ax)
    is_of_classes = bool(((wrong == 0) | (wrong == 1)).all())
    if not is_of_classes:
        ax.scatter(sureness.numpy(), wrong.numpy(), s=12, color=GRAY, alpha=0.7, linewidths=0, label="samples")
    order = sureness.argsort(stable=True)
    parts = max(1, min(_PARTS, len(order) // 2))
    means = [(sureness[of].mean().item(), wrong[of].mean().item()) for of in order.tensor_split(parts)]
    label = f"mean of each of {parts} parts" if parts > 1 else "mean"
    ax.plot(*zip(*means, strict=True), "o-", color=BLUE, label=label)
    ax.set_xlabel("uncertainty")
    ax.set_ylabel("share of errors" if is_of_classes else "error")
    legend_above(ax, 2)
    without_frame(ax)
    return ax


def risk_coverage(
    uncertainty: Tensor | Sequence[float], errors: Tensor | Sequence[float], ax: Axes | None = None
) -> Axes:
    """Draw the mean error of the samples that a network is surest of, over how many these are.

    Beside it are the mean error of all, which is what an uncertainty that tells nothing has, and the curve of the best
    order, that of the errors. The area under the curve, the mean error over all coverages, is in the legend: less is
    better.

    Parameters
    ----------
    uncertainty, errors
        See :func:`it3.plots.uncertainty_against_error`.
    ax
        The matplotlib Axes to draw on. None: new ones, which ``plt.show()`` shows; see :mod:`it3.plots`.

    Returns
    -------
    matplotlib.axes.Axes
        With the drawing, whose first line is the curve.

    Raises
    ------
    TypeError, ValueError
        See :func:`it3.plots.uncertainty_against_error`.

    Examples
    --------
    >>> ax = it3.plots.risk_coverage([0.1, 0.4, 0.2, 0.3], [0, 1, 0, 1])
    >>> [f"{risk:.2f}" for risk in ax.lines[0].get_ydata()]
    ['0.00', '0.00', '0.33', '0.50']
    """
    sureness, wrong = _checked(uncertainty, errors)
    ax = axes_for(ax)
    coverage = [100 * (count + 1) / len(wrong) for count in range(len(wrong))]
    risk, best, mean = selective_risk(sureness, wrong), selective_risk(wrong, wrong), wrong.mean()
    style = "o-" if len(wrong) == 1 else "-"
    ax.plot(coverage, risk.numpy(), style, color=BLUE, label=f"by uncertainty, area {risk.mean():.4g}")
    ax.axhline(float(mean), color=VERMILION, linestyle="--", label=f"all samples, {mean:.4g}")
    ax.plot(coverage, best.numpy(), ":", color=GREEN, label=f"best order, area {best.mean():.4g}")
    ax.set(xlim=(0, 100), xlabel="coverage: the surest samples, %", ylabel="risk: their mean error")
    legend_above(ax)
    without_frame(ax)
    return ax


def _checked(uncertainty: object, errors: object) -> tuple[Tensor, Tensor]:
    sureness, wrong = one_per_sample("uncertainty", uncertainty), one_per_sample("errors", errors)
    if len(sureness) != len(wrong):
        raise ValueError(f"uncertainty has {len(sureness)} samples, and errors {len(wrong)}; give one of each a sample")
    return sureness, wrong
