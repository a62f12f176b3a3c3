"""The mean error of those samples that a network is surest of."""

import torch
from torch import Tensor


def selective_risk(uncertainty: Tensor, errors: Tensor) -> Tensor:
    """Return the mean error of the surest sample, the two surest, and so on to all: (B,), in double precision.

    Samples whose uncertainty is the same come in no order: each counts with their mean error, which is what is expected
    of any order. The mean of what is returned is the area under risk and coverage (Geifman, El-Yaniv: Selective
    Classification for Deep Neural Networks, NeurIPS 2017; AURC: Geifman, Uziel, El-Yaniv, ICLR 2019).

    Parameters
    ----------
    uncertainty
        Of each sample, (B,).
    errors
        Of each sample, (B,): 0 or 1 for classes, such as a squared error for numbers.
    """
    errors = errors.double()
    _, group, sizes = uncertainty.unique(return_inverse=True, return_counts=True)  # sorted
    means = torch.zeros(len(sizes), dtype=torch.double, device=errors.device).index_add_(0, group, errors) / sizes
    totals: Tensor = means.repeat_interleave(sizes).cumsum(0)
    return totals / torch.arange(1, len(errors) + 1, device=errors.device)
