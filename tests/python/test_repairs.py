"""Repairs do what NumPy and SciPy do, feature by feature."""

import math

import it3
import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

NAN = math.nan


@pytest.mark.parametrize(("shape", "feature"), [((9, 4), 1), ((5, 3, 4), 2), ((5, 4, 6, 7), 1), ((3, 4, 2, 3, 2), 1)])
def test_clip_against_numpy(shape: tuple[int, ...], feature: int) -> None:
    torch.manual_seed(0)
    training, inputs = torch.randn(shape), 3 * torch.randn(2, *shape[1:])
    before = inputs.clone()
    axes = tuple(axis for axis in range(len(shape)) if axis != feature)
    low, high = training.numpy().min(axes, keepdims=True), training.numpy().max(axes, keepdims=True)
    np.testing.assert_array_equal(it3.clip_to(training)(inputs).numpy(), np.clip(inputs.numpy(), low, high))
    assert torch.equal(inputs, before)
    assert torch.equal(it3.clip_to(training)(training), training)


def test_clip_leaves_out_what_is_not_finite_in_training() -> None:
    training = torch.tensor([[0.0, NAN], [1.0, 2.0], [math.inf, 3.0]])
    clipped = it3.clip_to(training)(torch.tensor([[7.0, -7.0], [-math.inf, NAN]]))
    torch.testing.assert_close(clipped, torch.tensor([[1.0, 2.0], [0.0, NAN]]), equal_nan=True)


@pytest.mark.parametrize("by", ["mean", "median"])
@pytest.mark.parametrize(("shape", "feature"), [((9, 4), 1), ((5, 3, 4), 2), ((5, 4, 6, 7), 1)])
@pytest.mark.parametrize("marker", [None, -1.0])
def test_impute_against_numpy(by: str, shape: tuple[int, ...], feature: int, marker: float | None) -> None:
    torch.manual_seed(0)
    training, inputs = torch.randn(shape), torch.randn(2, *shape[1:])
    for values in (training, inputs):
        values[torch.rand(values.shape) < 0.2] = NAN
        values[torch.rand(values.shape) < 0.2] = -1.0
    known = np.where(training.numpy() == marker, np.nan, training.numpy())
    axes = tuple(axis for axis in range(len(shape)) if axis != feature)
    fill = {"mean": np.nanmean, "median": np.nanmedian}[by](known, axes, keepdims=True)
    x = inputs.numpy()
    expected = np.where(np.isnan(x) | (x == marker), fill, x)
    np.testing.assert_allclose(it3.impute(training, marker, by)(inputs).numpy(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("size", [3, 5])
def test_median_filter_against_scipy(size: int) -> None:
    torch.manual_seed(0)
    images = torch.randn(2, 3, 9, 6)
    expected = ndimage.median_filter(images.numpy(), size=(1, 1, size, size), mode="nearest")
    np.testing.assert_array_equal(it3.median_filter(size)(images).numpy(), expected)
    assert it3.median_filter(size)(images[:, :, :1, :1]).shape == (2, 3, 1, 1)


def test_a_column_of_many_values() -> None:
    """Of more values than torch.quantile takes."""
    training = torch.arange(17_000_000.0).remainder(1001)[:, None]
    filled = it3.impute(training, by="median")(torch.tensor([[NAN]]))
    assert filled.item() == np.median(training.numpy())


def test_inputs_of_several_tensors() -> None:
    x, image, words = torch.randn(4, 3), torch.rand(4, 1, 5, 5), torch.randint(9, (4, 7))
    given: dict[str, Tensor] = {"words": words, "x": 9 * x, "image": 9 * image}
    clipped = it3.clip_to({"x": x, "image": image, "words": words})(given)
    assert torch.equal(clipped["x"], it3.clip_to(x)(9 * x))
    assert torch.equal(clipped["image"], it3.clip_to(image)(9 * image))
    assert clipped["words"] is words
    assert list(given) == ["words", "x", "image"]
    pair = it3.median_filter(3)((image, x))
    assert torch.equal(pair[0], it3.median_filter(3)(image))
    assert pair[1] is x
    assert torch.equal(it3.clip_to((x, image))([9 * x, image])[0], clipped["x"])


def test_dtypes_follow_the_inputs() -> None:
    training = torch.tensor([[0.0, 5.0], [1.0, 7.0]])
    for dtype in (torch.double, torch.half):
        assert it3.clip_to(training)(torch.tensor([[9.0, NAN]], dtype=dtype)).dtype == dtype
        assert it3.impute(training)(torch.tensor([[9.0, NAN]], dtype=dtype)).dtype == dtype


def test_errors() -> None:
    with pytest.raises(ValueError, match=r"clip_to: training inputs must be .* but have the shape \(0, 3\)"):
        it3.clip_to(torch.zeros(0, 3))
    with pytest.raises(ValueError, match=r"impute: training inputs must be .* but have the shape \(3,\)"):
        it3.impute(torch.zeros(3))
    with pytest.raises(TypeError, match="clip_to: the training inputs hold no tensor of floats"):
        it3.clip_to(torch.zeros(3, 2).long())
    with pytest.raises(ValueError, match="impute: the training inputs hold no value of feature 1"):
        it3.impute(torch.tensor([[0.0, NAN], [1.0, NAN]]))
    with pytest.raises(ValueError, match="impute: the training inputs hold no value of feature 0"):
        it3.impute(torch.zeros(4, 2), marker=0)
    with pytest.raises(ValueError, match="by must be 'mean' or 'median', not 'mode'"):
        it3.impute(torch.zeros(3, 2), by="mode")
    with pytest.raises(ValueError, match="clip_to: inputs must be built like the training inputs"):
        it3.clip_to({"x": torch.zeros(3, 2)})({"y": torch.zeros(3, 2)})
    for size in (2, 1, 3.0, True):
        with pytest.raises(ValueError, match="size must be an odd whole number from 3"):
            it3.median_filter(size)
    with pytest.raises(ValueError, match="median_filter: the inputs hold no image"):
        it3.median_filter(3)(torch.zeros(3, 2))
