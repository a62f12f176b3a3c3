"""Engines around timm's models: whether images are prepared as a model was trained on them."""

import warnings
from collections.abc import Sequence

import timm.data
import timm.data.constants as known
import torch
from torch import Tensor, nn

from it3.engine import IT3Engine
from it3.frameworks.users_model import users_model

_OVERSHOOT = 0.1
"""How far outside of 0 to 1 pixels may lie: bicubic interpolation of a tensor goes beyond its values."""
_REACHED = 0.01
"""How near to 0 and to 1 the darkest and brightest pixels are, where a range is used in full."""
_ROUNDING = 0.02
"""By how much 255 times a pixel may differ from a whole number, in single precision."""
_WIDE = 0.4
"""From which standard deviation on, as of 0.5, bright images are within 0 to 1 also when they are normalized."""

_Normalization = tuple[Sequence[float], Sequence[float]]
_SCALED: _Normalization = ((0.0,) * 3, (1.0,) * 3)
_BYTES: _Normalization = ((0.0,) * 3, (1 / 255,) * 3)
_OTHERS: dict[str, _Normalization] = {
    "have values from 0 to 255, and are neither scaled nor normalized": _BYTES,
    "have values from 0 to 1, and are not normalized": _SCALED,
    **{
        f"are normalized by mean {mean}, standard deviation {std}": (mean, std)
        for mean, std in (
            (known.IMAGENET_DEFAULT_MEAN, known.IMAGENET_DEFAULT_STD),
            (known.IMAGENET_INCEPTION_MEAN, known.IMAGENET_INCEPTION_STD),
            (known.OPENAI_CLIP_MEAN, known.OPENAI_CLIP_STD),
        )
    },
}


def check_inputs(model: IT3Engine | nn.Module, images: Tensor) -> None:
    """Warn, in one sentence, if images are not normalized as a model of timm was trained on them.

    A wrong mean or standard deviation is a shift of the inputs too: without a word the model would be adapted to it,
    and evaluated by it. It is told by values that images of 0 to 1 do not have after the model's own normalization; by
    values that are, after another usual one, just those of images of 8 bits; and by values that use the full range of
    another one. What images themselves have, such as darkness or noise, is no reason to warn. Images that are few or
    dull, and a mean that is wrong by a little, may stay unnoticed.

    Parameters
    ----------
    model
        A model of timm, or an engine around it. ``timm.data.resolve_model_data_config(model)`` has its mean and
        standard deviation.
    images
        (B, 3, H, W), as the model would be called with them, of whole numbers or floats. A batch of a dozen images or
        more tells better than one.

    Raises
    ------
    ValueError
        For a model that is none of timm, and for images of another shape or that are not finite.
    """
    network = users_model(model)
    if not hasattr(network, "pretrained_cfg"):
        raise ValueError(
            f"a {type(network).__name__} does not say how its images are normalized, as models of timm do; give one "
            "that timm.create_model() made"
        )
    config = timm.data.resolve_model_data_config(network)
    mean, std = tuple(config["mean"]), tuple(config["std"])
    if not isinstance(images, Tensor) or images.dim() != 4 or images.shape[1] != len(mean) or not images.numel():
        shape = tuple(images.shape) if isinstance(images, Tensor) else type(images).__name__
        raise ValueError(
            f"images must be a tensor of shape (B, {len(mean)}, H, W), as the mean by which timm normalizes them has "
            f"{len(mean)} channels, not {shape}"
        )
    if not bool(images.isfinite().all()):
        raise ValueError("images are not finite: there are infinite values in them, or nan")
    others = {text: other for text, other in _OTHERS.items() if other != (mean, std) and len(other[0]) == len(mean)}
    found = _what_is_wrong(images.detach(), (mean, std), others)
    if found is not None:
        right = "not normalized" if (mean, std) == _SCALED else f"normalized by mean {mean}, standard deviation {std}"
        warnings.warn(
            f"these images {found}, but this {type(network).__name__} was trained on images of 0 to 1, {right}, so "
            "that adapting would take the difference for a shift; prepare them by "
            "timm.data.create_transform(**timm.data.resolve_model_data_config(model))",
            stacklevel=2,
        )


def _what_is_wrong(images: Tensor, own: _Normalization, others: dict[str, _Normalization]) -> str | None:
    """Say how images look that are not normalized by a model's own mean and standard deviation; else None."""
    low, high = _extremes(images, own)
    if not bool((high > low).any()) or _are_bytes(images, own):  # of one color, or as they should be
        return None
    fitting = {text: other for text, other in others.items() if _is_within(*_extremes(images, other), _OVERSHOOT)}
    own_is_full = bool(((low < _REACHED) & (high > 1 - _REACHED)).any())
    found = [text for text, other in fitting.items() if _are_bytes(images, other)]
    found += [text for text, other in fitting.items() if not own_is_full and _is_full(*_extremes(images, other))]
    if images.min() >= 0 and images.max() <= 1 and (max(own[1]) < _WIDE or images.min() < _REACHED):
        found += [text for text, other in fitting.items() if other == _SCALED]
    if not found and not _is_within(low, high, _OVERSHOOT):
        found = [f"have values from {float(images.min()):.4g} to {float(images.max()):.4g}"]
    return found[0] if found else None


def _pixels(images: Tensor, normalization: _Normalization) -> Tensor:
    """Return images of 0 to 1, if they were normalized so, in double precision."""
    mean, std = (torch.tensor(each, dtype=torch.float64, device=images.device)[:, None, None] for each in normalization)
    return images.double() * std + mean


def _extremes(images: Tensor, normalization: _Normalization) -> tuple[Tensor, Tensor]:
    """Return the darkest and the brightest pixel of each channel, as of images of 0 to 1."""
    low, high = _pixels(images, normalization).aminmax(dim=0)
    return low.amin((1, 2)), high.amax((1, 2))


def _is_within(low: Tensor, high: Tensor, margin: float) -> bool:
    """Whether pixels are 0 to 1, but for a margin."""
    return bool(low.min() >= -margin) and bool(high.max() <= 1 + margin)


def _is_full(low: Tensor, high: Tensor) -> bool:
    """Whether pixels go from 0 to 1, and not beyond, in each channel."""
    return bool(((low < _REACHED) & (high > 1 - _REACHED)).all()) and _is_within(low, high, _REACHED)


def _are_bytes(images: Tensor, normalization: _Normalization) -> bool:
    """Whether pixels are those of images of 8 bits, which is no chance where they are many."""
    if images.is_floating_point() and torch.finfo(images.dtype).eps > 1e-6:
        return False
    pixels = _pixels(images, normalization)
    levels = (255 * pixels).round()
    is_whole = bool((255 * pixels - levels).abs().max() < _ROUNDING) and len(levels.unique()) >= 16
    return is_whole and _is_within(pixels.min(), pixels.max(), _REACHED)
