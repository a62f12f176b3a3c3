"""Scores of predictions."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Metric:
    """Scores of the samples, (B,), or of the whole batch, a scalar, for a prediction and targets."""

    name: str
    of: Callable[[Tensor, Tensor], Tensor]
    higher_is_better: bool

    def sum(self, prediction: Tensor, targets: Tensor) -> float:
        """Give the sum of the samples' scores."""
        scores = self.of(prediction, targets.to(prediction.device)).double()
        return float(scores * len(targets)) if scores.dim() == 0 else float(scores.sum())


def _mean_of_samples(values: Tensor) -> Tensor:
    return values.double().reshape(len(values), -1).mean(1)


def accuracy(prediction: Tensor, targets: Tensor) -> Tensor:
    """Give the share of right classes, (B,), over all places, for scores (B, C, ...) and classes (B, ...) or scores."""
    if targets.shape == prediction.shape:
        targets = targets.argmax(1)
    return _mean_of_samples(prediction.argmax(1) == targets)


def mse(prediction: Tensor, targets: Tensor) -> Tensor:
    """Give the mean squared error of each sample, (B,)."""
    return _mean_of_samples((prediction - targets.reshape(prediction.shape)).square())


def mae(prediction: Tensor, targets: Tensor) -> Tensor:
    """Give the mean absolute error of each sample, (B,)."""
    return _mean_of_samples((prediction - targets.reshape(prediction.shape)).abs())


_METRICS = {
    "accuracy": Metric("accuracy", accuracy, higher_is_better=True),
    "mse": Metric("mse", mse, higher_is_better=False),
    "mae": Metric("mae", mae, higher_is_better=False),
}


def metric_of(metric: str | Callable[[Tensor, Tensor], Tensor], higher_is_better: bool | None = None) -> Metric:
    """Give a metric by its name, or make one of a function.

    Raises
    ------
    ValueError
        For an unknown name.
    """
    if isinstance(metric, str):
        if metric not in _METRICS:
            raise ValueError(f"metric must be one of {', '.join(_METRICS)}, or a function, not {metric!r}")
        return _METRICS[metric]
    name = getattr(metric, "__name__", "metric")
    return Metric(name if name.isidentifier() else "metric", metric, higher_is_better is not False)
