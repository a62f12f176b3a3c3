"""Predictors that have learned nothing but the training targets, which a network has to beat."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from it3 import _C
from it3.evaluation.metrics import Metric, class_dim, class_indices

_NAMES = {"accuracy": "majority class", "mse": "training mean", "mae": "training median"}


@dataclass
class Reference:
    """A predictor without a network, for one metric.

    Attributes
    ----------
    name
        What it predicts: "majority class", "training mean", "training median", or "reference".
    given
        The training targets; for a metric of the user's own the prediction of a sample; or a function of the inputs.
    """

    name: str
    given: Tensor | Callable[[Any], Tensor]

    @classmethod
    def of(cls, given: object, metric: Metric) -> "Reference":
        """Make the predictor that is best, or usual, for a metric.

        Raises
        ------
        ValueError, TypeError
            For what is neither a tensor nor a function, and for a tensor that is empty or not finite.
        """
        if isinstance(given, Tensor):
            fault = "is empty" if not given.numel() else "" if given.isfinite().all() else "holds NaN or infinity"
            if given.dim() == 0 and metric.name in _NAMES:
                fault = "is a single number"
            if fault:
                raise ValueError(
                    f"reference {fault}, of shape {tuple(given.shape)}; give the training targets, finite, one a sample"
                )
            return cls(_NAMES.get(metric.name, "reference"), given.detach())
        if not callable(given):
            raise TypeError(
                "reference must be the training targets, a tensor; or a function of the inputs that gives a "
                f"prediction, not a {type(given).__name__}"
            )
        return cls("reference", given)

    def predict(self, inputs: Any, like: Tensor, layout: _C.Layout) -> Tensor:
        """Predict for a batch, in the shape of a network's prediction.

        Raises
        ------
        ValueError, TypeError
            If what it predicts has another shape, or is no tensor.
        """
        if not isinstance(self.given, Tensor):
            prediction = self.given(inputs)
            if not isinstance(prediction, Tensor):
                raise TypeError(f"reference() must return a tensor, but returned a {type(prediction).__name__}")
            return self._expand(prediction.detach().to(like.device), like)
        given = self.given.to(like.device)
        if self.name == "majority class":
            return _most_frequent(given, like, layout)
        if self.name == "reference":
            return self._expand(given, like)
        given = given if given.is_complex() else given.double()
        value = given.mean(0) if self.name == "training mean" else median(given)
        if [n for n in value.shape if n != 1] == [n for n in like.shape[1:] if n != 1]:
            value = value.reshape(like.shape[1:])
        return self._expand(value, like)

    def _expand(self, value: Tensor, like: Tensor) -> Tensor:
        try:
            return value.expand(like.shape)
        except RuntimeError as error:
            raise ValueError(
                f"{self.name}: a prediction of shape {tuple(value.shape)} cannot be broadcast to the network's, of "
                f"shape {tuple(like.shape)}"
                + ("" if self.name != "reference" else "; give the prediction for one sample")
            ) from error


def median(values: Tensor) -> Tensor:
    """Return the median over the samples, the mean of the two in the middle of an even number."""
    ordered = values.sort(0).values
    return (ordered[(len(values) - 1) // 2] + ordered[len(values) // 2]) / 2


def _most_frequent(targets: Tensor, like: Tensor, layout: _C.Layout) -> Tensor:
    """Return one-hot scores of the class that most targets have, over all samples and positions."""
    dim = class_dim(like, layout)
    classes = like.shape[dim]
    if targets.dim() == like.dim() and targets.shape[layout.channel_of(targets.dim())] == classes:
        targets = targets.argmax(dim)  # scores, such as one-hot ones
    elif targets.dim() != like.dim() - 1:
        raise ValueError(
            f"reference: training targets of shape {tuple(targets.shape)} do not fit predictions of shape "
            f"{tuple(like.shape)} with classes in dimension {dim}: they must be class indices, or scores like those"
        )
    most = int(torch.bincount(class_indices(targets, classes).flatten(), minlength=classes).argmax())
    scores = torch.zeros_like(like)
    scores.select(dim, most).fill_(1)
    return scores
