"""Class scores as probabilities: how sure they are, and whether rightly so."""

from collections.abc import Callable

import torch
from torch import Tensor

from it3 import _C
from it3.metrics import class_dim

_BINS = 15
_ROUNDING = 1e-2  # of half precision, as the core allows it


def are_probabilities(prediction: Tensor, layout: _C.Layout) -> bool:
    """Return whether a prediction is class probabilities by itself: none is below 0, and they sum to 1."""
    if prediction.dim() < 2 or not prediction.numel() or not prediction.is_floating_point():
        return False
    values = prediction.detach().double()
    dim = layout.channel_of(values.dim())
    if values.shape[dim] < 2:
        return False
    sums = values.sum(dim)
    return bool((values >= 0).all() and ((sums - 1).abs() <= _ROUNDING).all())


def entropy_of_first(are_probabilities: bool, layout: _C.Layout) -> Callable[[Tensor, Tensor], Tensor]:
    """Make a ``distance_fn`` that is the entropy of y0, whatever y1 is: what TENT minimizes.

    It is Shannon's entropy -Σ p log p over the classes, the mean over samples and positions (Wang et al.: Tent, ICLR
    2021, arXiv 2006.10726, section 3.1).

    Parameters
    ----------
    are_probabilities
        Whether predictions are probabilities, else logits.
    layout
        Where their classes are.
    """

    def entropy(_second: Tensor, first: Tensor) -> Tensor:
        dim = layout.channel_of(first.dim())
        if are_probabilities:  # of which some may be 0, where the logarithm's slope has no limit
            p, log_p = first, first.clamp_min(torch.finfo(first.dtype).tiny).log()
        else:
            log_p = first.log_softmax(dim)
            p = log_p.exp()
        return -(p * log_p).sum(dim).mean()

    return entropy


class CalibrationError:
    """The expected calibration error (ECE) of class scores, which it is given batch by batch.

    Predictions are sorted by their confidence, the probability of the likeliest class, into 15 bins of one width, each
    with its upper end. The error is the mean over predictions of how far the confidence and the accuracy in their bin
    are apart (Naeini et al., AAAI 2015; Guo et al., ICML 2017, arXiv 1706.04599, Eq. 3). Each position of a sample
    counts as a prediction.
    """

    def __init__(self) -> None:
        self._gaps = torch.zeros(_BINS, dtype=torch.double)  # sums of confidence minus rightness
        self._count = 0

    def add(self, prediction: Tensor, right: Tensor, layout: _C.Layout) -> None:
        """Count a batch.

        Parameters
        ----------
        prediction
            Logits or probabilities, which are told apart.
        right
            Which of the likeliest classes are right, booleans of the prediction's shape with 1 class.
        layout
            Where the classes are.
        """
        dim = class_dim(prediction, layout)
        scores = prediction.detach().double()
        p = scores if are_probabilities(prediction, layout) else scores.softmax(dim)
        confidence = p.amax(dim, keepdim=True).flatten().cpu()
        bins = ((confidence * _BINS).ceil().long() - 1).clamp(0, _BINS - 1)
        self._gaps.index_add_(0, bins, confidence - right.flatten().cpu().double())
        self._count += len(confidence)

    @property
    def value(self) -> float:
        """The error so far."""
        return float(self._gaps.abs().sum() / self._count)
