"""Whether images are prepared as timm's models were trained on them, told of real photographs."""

import re
import warnings
from typing import Any

import it3
import numpy as np
import pytest
import timm
import timm.data
import torch
from it3.frameworks.timm import check_inputs
from PIL import Image
from sklearn.datasets import load_sample_images
from torch import Tensor, nn
from torch.nn import functional as F

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALVES = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
RAW = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


@pytest.fixture(scope="module")
def photos() -> list[Any]:
    """Crops of two photographs."""
    images = [Image.fromarray(each) for each in load_sample_images().images]
    return [each.crop((x, 100, x + 250, 350)) for each in images for x in (0, 150, 300)]


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    made: nn.Module = timm.create_model("resnet18", num_classes=5)
    return made.eval()


def with_normalization(model: nn.Module, mean: Any, std: Any) -> nn.Module:
    other = nn.Conv2d(3, 5, 3)
    other.pretrained_cfg = {**model.pretrained_cfg, "mean": mean, "std": std}  # type: ignore[assignment]
    return other


def pixels(photos: list[Any], size: int = 96) -> Tensor:
    resized = [np.asarray(each.resize((size, size), Image.Resampling.BICUBIC)) for each in photos]
    return torch.tensor(np.stack(resized)).permute(0, 3, 1, 2).float() / 255


def normalized(images: Tensor, by: Any) -> Tensor:
    mean, std = (torch.tensor(each)[:, None, None] for each in by)
    return (images - mean) / std


def says_nothing(model: Any, images: Tensor) -> bool:
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        check_inputs(model, images)
    return not told


def test_timms_own_transform_is_right(model: nn.Module, photos: list[Any]) -> None:
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
    images = torch.stack([transform(each) for each in photos])
    assert says_nothing(model, images)
    for image in images:
        assert says_nothing(model, image[None])
    assert says_nothing(model, images.to(torch.bfloat16))
    assert says_nothing(it3.IT3Engine(model, "layer1"), images)
    assert says_nothing(it3.IT3Engine(model, "input"), images)


@pytest.mark.parametrize(
    ("by", "scale", "words"),
    [
        (RAW, 255, "have values from 0 to 255, and are neither scaled nor normalized, but this ResNet was trained"),
        (RAW, 1, "have values from 0 to 1, and are not normalized, but this ResNet was trained on images of 0 to 1"),
        (HALVES, 1, "are normalized by mean (0.5, 0.5, 0.5), standard deviation (0.5, 0.5, 0.5), but"),
        (CLIP, 1, "are normalized by mean (0.48145466, 0.4578275, 0.40821073), standard deviation"),
    ],
)
@pytest.mark.parametrize("interpolated", [False, True])
def test_other_preparations_are_named(
    by: Any, scale: float, words: str, interpolated: bool, model: nn.Module, photos: list[Any]
) -> None:
    images = pixels(photos)
    if interpolated:  # no longer those of 8 bits
        images = F.interpolate(images, scale_factor=0.9, mode="bilinear")
        images = (images - images.amin()) / (images.amax() - images.amin())
        low, high = images.amin((0, 2, 3), keepdim=True), images.amax((0, 2, 3), keepdim=True)
        images = (images - low) / (high - low)
    with pytest.warns(UserWarning, match=re.escape(words)) as told:
        check_inputs(model, scale * normalized(images, by))
    assert len(told) == 1
    assert f"normalized by mean {IMAGENET[0]}, standard deviation {IMAGENET[1]}, so that" in str(told[0].message)
    assert told[0].filename == __file__


@pytest.mark.parametrize("own", [IMAGENET, HALVES, CLIP, RAW])
@pytest.mark.parametrize("given", [IMAGENET, HALVES, CLIP, RAW])
def test_each_is_told_from_each_other(own: Any, given: Any, model: nn.Module, photos: list[Any]) -> None:
    network = with_normalization(model, *own)
    assert says_nothing(network, normalized(pixels(photos), given)) == (own == given)


def test_bytes_and_what_is_normalized_twice(model: nn.Module, photos: list[Any]) -> None:
    with pytest.warns(UserWarning, match="have values from 0 to 255"):
        check_inputs(model, (255 * pixels(photos)).round().to(torch.uint8))
    twice = normalized(normalized(pixels(photos), IMAGENET), IMAGENET)
    with pytest.warns(
        UserWarning, match=rf"have values from {float(twice.min()):.4g} to {float(twice.max()):.4g}, but"
    ):
        check_inputs(model, twice)


@pytest.mark.parametrize("by", [IMAGENET, HALVES, CLIP, RAW])
def test_real_shifts_are_no_reason_to_warn(by: Any, model: nn.Module, photos: list[Any]) -> None:
    network = with_normalization(model, *by)
    torch.manual_seed(3)
    images = pixels(photos)
    noisy = (images + 0.2 * torch.randn_like(images)).clamp(0, 1)
    blurred = F.avg_pool2d(images, 9, 1, 4, count_include_pad=False)
    larger = F.interpolate(images, size=200, mode="bicubic")  # beyond 0 and 1
    shifts = {"dark": 0.2 * images, "bright": 1 - 0.2 * images, "dull": 0.4 + 0.2 * images, "fog": 0.6 + 0.4 * images}
    shifts |= {"noisy": noisy, "blurred": blurred, "larger": larger, "black": 0 * images}
    shifts["nearly black"] = 0.02 * images
    for name, shifted in shifts.items():
        assert says_nothing(network, normalized(shifted, by)), name


def test_what_is_refused(model: nn.Module) -> None:
    with pytest.raises(ValueError, match="a Linear does not say how its images are normalized"):
        check_inputs(nn.Linear(1, 1), torch.zeros(1, 3, 8, 8))
    for wrong in (torch.zeros(3, 8, 8), torch.zeros(1, 1, 8, 8), torch.zeros(0, 3, 8, 8), [torch.zeros(1, 3, 8, 8)]):
        with pytest.raises(ValueError, match=r"images must be a tensor of shape \(B, 3, H, W\), as the mean by which"):
            check_inputs(model, wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="not finite"):
        check_inputs(model, torch.full((1, 3, 8, 8), torch.nan))


def test_an_engine_adapts_a_model_of_timm(model: nn.Module, photos: list[Any]) -> None:
    engine = it3.IT3Engine(model, "layer1", distance_fn="js", optimization_parameters={"lr": 1e-3})
    images, target = normalized(pixels(photos, 64), IMAGENET), torch.arange(6) % 5
    engine.fit([(images, target)], F.cross_entropy)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    adaptation = engine.adapt(images)
    assert adaptation.prediction.shape == (6, 5)
    assert not torch.equal(adaptation.prediction, engine.adapt(images, num_steps=0).prediction)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert engine.explain(images).is_cut
