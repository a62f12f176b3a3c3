"""Class scores as probabilities: how sure they are, how they spread over classes, and whether rightly so."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from it3 import _C
from it3.evaluation.metrics import class_dim

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


def entropy_of_first(
    are_probabilities: bool, layout: _C.Layout, *, is_diverse: bool = False
) -> Callable[[Tensor, Tensor], Tensor]:
    """Make a ``distance_fn`` that is the entropy of y0, whatever y1 is: what TENT minimizes.

    It is Shannon's entropy -Σ p log p over the classes, the mean over samples and positions (Wang et al.: Tent, ICLR
    2021, arXiv 2006.10726, section 3.1).

    Parameters
    ----------
    are_probabilities
        Whether predictions are probabilities, else logits.
    layout
        Where their classes are.
    is_diverse
        Whether to take from it the entropy of the mean probabilities of all samples and positions, as SHOT does (Liang
        et al., ICML 2020, arXiv 2002.08546, eq. 4), so that not all of them become one class.
    """

    def entropy(_second: Tensor, first: Tensor) -> Tensor:
        dim = layout.channel_of(first.dim())
        if are_probabilities:  # of which some may be 0, where the logarithm's slope has no limit
            p, log_p = first, first.clamp_min(torch.finfo(first.dtype).tiny).log()
        else:
            log_p = first.log_softmax(dim)
            p = log_p.exp()
        if is_diverse:  # in one sum, so that for a p alone the loss and its slope are 0 without rounding
            log_p = log_p - _log_of_mean(log_p, dim)
        return -(p * log_p).sum(dim).mean()

    return entropy


def balanced(prediction: Tensor, are_probabilities: bool, layout: _C.Layout) -> Tensor:
    """Return class scores as they would be if all classes were as frequent as one another.

    The probabilities are divided by their mean over the samples and positions of the batch, which stands for the
    classes' frequencies that the network assumes, and normalized again (Saerens, Latinne and Decaestecker, Neural
    Computation 2002, eq. 2.4, with uniform new priors). It helps where the batch's classes are about equally frequent,
    and hurts where they are not: then the mean is of what is there, rather than of the network's bias. Of a single
    sample without positions nothing is left: all its classes become as likely.

    Parameters
    ----------
    prediction
        Probabilities, or logits, from which the logarithm of the mean probabilities is subtracted. Half precision
        becomes single.
    are_probabilities
        Which of the two.
    layout
        Where their classes are.

    Raises
    ------
    ValueError
        If there are no two classes.
    """
    dim = class_dim(prediction, layout)
    scores = prediction.detach().to(torch.promote_types(prediction.dtype, torch.float32))
    limits = torch.finfo(scores.dtype)
    if not are_probabilities:  # a class that is impossible for all samples stays so
        return scores - _log_of_mean(scores.log_softmax(dim), dim).clamp_min(limits.min)
    ratios = scores / scores.mean(_others(scores, dim), keepdim=True).clamp_min(limits.tiny)
    return ratios / ratios.sum(dim, keepdim=True)


def _log_of_mean(log_p: Tensor, dim: int) -> Tensor:
    """Return the logarithm of the mean probabilities of classes, over all samples and positions."""
    return log_p.logsumexp(_others(log_p, dim), keepdim=True) - math.log(log_p.numel() // log_p.shape[dim])


def _others(values: Tensor, dim: int) -> list[int]:
    return [other for other in range(values.dim()) if other != dim]


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
