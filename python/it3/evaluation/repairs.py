"""Cheap repairs of a network's inputs, as controls of :func:`it3.evaluate`: adapting has to gain more than they do."""

import math
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils import _pytree as pytree

from it3 import _C
from it3.evaluation.controls import median

Repair = Callable[[Any], Any]
_FEATURES = _C.Layout()  # last in up to three dimensions, else in dimension 1


def clip_to(training_inputs: Any) -> Repair:
    """Make a repair that clips inputs to the range of each feature in training.

    Features are those of a table, (B, F), or a sequence, (B, T, F), and the channels of images, (B, C, H, W). NaN
    stays.

    Parameters
    ----------
    training_inputs
        A tensor of floats, or several in a tuple, list or mapping, as the network is called with. In these, what holds
        no floats stays as it is.

    Returns
    -------
    Callable
        A function of inputs of the same structure, which returns new ones.

    Raises
    ------
    ValueError
        For training inputs that are empty, or a feature that is never finite in them.

    Examples
    --------
    >>> it3.clip_to(torch.tensor([[0.0, 5.0], [1.0, 7.0]]))(torch.tensor([[9.0, 6.0]]))
    tensor([[1., 6.]])
    """

    def fit(training: Tensor) -> Callable[[Tensor], Tensor]:
        known = training.isfinite()
        dims = _dims_of_each_feature("clip_to", known)
        low = training.masked_fill(~known, math.inf).amin(dims, keepdim=True)
        high = training.masked_fill(~known, -math.inf).amax(dims, keepdim=True)
        return lambda x: x.clamp(low.to(x), high.to(x))

    return _fitted("clip_to", training_inputs, fit)


def impute(training_inputs: Any, marker: float | None = None, by: Literal["mean", "median"] = "mean") -> Repair:
    """Make a repair that fills in missing values by the mean or the median of their feature in training.

    Features are those of a table, (B, F), or a sequence, (B, T, F), and the channels of images, (B, C, H, W).

    Parameters
    ----------
    training_inputs
        See :func:`clip_to`. What is missing in them does not count.
    marker
        The value that stands for a missing one, such as 0 or -1. NaN always does.
    by
        "mean" or "median"; of an even number of values the mean of the two in the middle.

    Returns
    -------
    Callable
        A function of inputs of the same structure, which returns new ones.

    Raises
    ------
    ValueError
        For training inputs that are empty, or a feature of which all values are missing, and for another `by`.

    Examples
    --------
    >>> it3.impute(torch.tensor([[0.0, 5.0], [1.0, 7.0]]))(torch.tensor([[torch.nan, 6.0]]))
    tensor([[0.5000, 6.0000]])
    """
    if by not in ("mean", "median"):
        raise ValueError(f"by must be 'mean' or 'median', not {by!r}")

    def missing(x: Tensor) -> Tensor:
        return x.isnan() if marker is None else x.isnan() | (x == marker)

    def fit(training: Tensor) -> Callable[[Tensor], Tensor]:
        is_missing = missing(training)
        dims = _dims_of_each_feature("impute", ~is_missing)
        known = training.masked_fill(is_missing, math.nan)
        if by == "mean":
            value = known.nanmean(dims, keepdim=True)
        else:
            features = known.movedim(_FEATURES.channel_of(known.dim()), 0)
            medians = [median(values[~values.isnan()]) for values in features.flatten(1)]
            value = torch.stack(medians).reshape(known.nanmean(dims, keepdim=True).shape)
        return lambda x: torch.where(missing(x), value.to(x), x)

    return _fitted("impute", training_inputs, fit)


def median_filter(size: int) -> Repair:
    """Make a repair that takes noise from images, (B, C, H, W), by the median in a square window around each pixel.

    At the edges the outermost pixels are repeated. In a tuple, list or mapping of inputs, what is no image of floats
    stays as it is.

    Parameters
    ----------
    size
        Of the window's side, an odd number of pixels from 3.

    Raises
    ------
    ValueError
        For another size; when called, if there is no image in the inputs.

    Examples
    --------
    >>> it3.median_filter(3)(torch.eye(4).view(1, 1, 4, 4)).sum()
    tensor(2.)
    """
    if isinstance(size, bool) or not isinstance(size, int) or size < 3 or size % 2 == 0:
        raise ValueError(f"size must be an odd whole number from 3, not {size!r}")
    margin = size // 2

    def filtered(x: Tensor) -> Tensor:
        padded = F.pad(x, (margin,) * 4, mode="replicate")
        return padded.unfold(2, size, 1).unfold(3, size, 1).flatten(-2).median(-1).values

    def repair(inputs: Any) -> Any:
        leaves, structure = pytree.tree_flatten(_plain(inputs))
        images = [isinstance(leaf, Tensor) and leaf.is_floating_point() and leaf.dim() == 4 for leaf in leaves]
        if not any(images):
            raise ValueError("median_filter: the inputs hold no image of floats, (B, C, H, W)")
        return structure.unflatten(
            [filtered(leaf) if image else leaf for leaf, image in zip(leaves, images, strict=True)]
        )

    return repair


def _fitted(name: str, training_inputs: Any, fit: Callable[[Tensor], Callable[[Tensor], Tensor]]) -> Repair:
    """Make a repair of one for each tensor of floats in the training inputs."""
    training, structure = pytree.tree_flatten(_plain(training_inputs))
    repairs = [
        fit(leaf.detach()) if isinstance(leaf, Tensor) and leaf.is_floating_point() else None for leaf in training
    ]
    if not any(repairs):
        raise TypeError(f"{name}: the training inputs hold no tensor of floats")

    def repair(inputs: Any) -> Any:
        leaves, of_inputs = pytree.tree_flatten(_plain(inputs))
        if of_inputs != structure:
            raise ValueError(f"{name}: inputs must be built like the training inputs, {structure}, not {of_inputs}")
        return structure.unflatten(
            [leaf if mend is None else mend(leaf) for leaf, mend in zip(leaves, repairs, strict=True)]
        )

    return repair


def _plain(inputs: Any) -> Any:
    """Return a mapping as a dictionary in one order, and a tuple as a list."""
    if isinstance(inputs, Mapping):
        return {key: inputs[key] for key in sorted(inputs)}
    return list(inputs) if isinstance(inputs, tuple) else inputs


def _dims_of_each_feature(name: str, known: Tensor) -> list[int]:
    """Return the dimensions over which a feature's values lie. Raises ValueError if there are none for a feature."""
    if known.dim() < 2 or not known.numel():
        raise ValueError(
            f"{name}: training inputs must be such as (B, F) or (B, C, H, W), and not empty, but have the shape "
            f"{tuple(known.shape)}"
        )
    feature = _FEATURES.channel_of(known.dim())
    dims = [dim for dim in range(known.dim()) if dim != feature]
    unknown = (~known.movedim(feature, 0).flatten(1).any(1)).nonzero().flatten().tolist()
    if unknown:
        raise ValueError(
            f"{name}: the training inputs hold no value of feature {unknown[0]}, so nothing is known of it"
        )
    return dims
