"""The images in a folder, as samples."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from it3.command_line.sample_files import Array
from it3.command_line.wrong_usage import WrongUsageError

if TYPE_CHECKING:
    from PIL.Image import Image

_ENDINGS = (".png", ".jpg", ".jpeg")
_CHANNELS = {"RGB": 3, "L": 1}
_OF_8_BITS = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")
"""Modes of Pillow that it converts without cutting values off."""
_NAMED = 5  # files in a message


@dataclass(frozen=True)
class ImageNumbers:
    """How an image becomes numbers.

    Attributes
    ----------
    mode
        "RGB", three channels, or "L", one, of gray. None: what the engine takes, and "RGB" where that is not known.
    mean, std
        What is subtracted from the channels, which are from 0 to 1, and what they are divided by then: one number for
        all channels, or one for each.
    """

    mode: str | None = None
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        """Raise WrongUsageError for what are no such numbers."""
        if self.mode not in (None, *_CHANNELS):
            raise WrongUsageError(f"--image-mode must be RGB or L, not {self.mode!r}")
        channels = 3 if self.mode is None else _CHANNELS[self.mode]
        for name, values in (("--image-mean", self.mean), ("--image-std", self.std)):
            if len(values) not in (1, channels):
                said = "one number" if channels == 1 else f"one number, or {channels} with commas, one a channel"
                raise WrongUsageError(f"{name} must be {said}, not {len(values)}")
            if not all(map(math.isfinite, values)):
                raise WrongUsageError(f"{name} must be finite")
        if not all(0 <= value <= 1 for value in self.mean):
            raise WrongUsageError(
                f"--image-mean must be from 0 to 1, as the channels are, not {max(self.mean, key=abs):g}; divide a "
                "mean of numbers from 0 to 255 by 255, and the standard deviation too"
            )
        if min(self.std) <= 0:
            raise WrongUsageError(f"--image-std must be above 0, not {min(self.std):g}")

    def mode_for(self, channels: int | None) -> str:
        """Return the mode that was given, or else that for so many channels."""
        is_gray = channels == 1 and len(self.mean) == len(self.std) == 1
        return self.mode or ("L" if is_gray else "RGB")


class ImageFolder:
    """The .png and .jpg files of a folder, sorted by name, as an array (N, C, H, W) of float32 that is read in parts.

    What is in folders of the folder is left out. Colors become gray and gray becomes colors as Pillow has it, without
    transparency; a rotation that a file notes is not applied. torchvision's ImageFolder reads images like this.

    Parameters
    ----------
    path
        The folder.
    numbers
        How an image becomes numbers.
    channels
        As many as the engine takes, if that is known.

    Raises
    ------
    WrongUsageError
        If there are no such files.
    ValueError
        For what is damaged, has more than 8 bits a channel, or is of another size than most.
    ModuleNotFoundError
        Without Pillow.
    """

    ndim = 4
    dtype = np.dtype(np.float32)

    def __init__(self, path: Path, numbers: ImageNumbers, channels: int | None) -> None:
        files = (file for file in path.iterdir() if file.suffix.lower() in _ENDINGS and not file.name.startswith("."))
        self._files = sorted((file for file in files if file.is_file()), key=lambda file: file.name)
        self._numbers = numbers
        self._mode = numbers.mode_for(channels)
        if not self._files:
            raise WrongUsageError(f"there are no .png, .jpg or .jpeg files in the folder {path}")
        height, width = self._common_size(path)
        self.shape = (len(self._files), _CHANNELS[self._mode], height, width)

    def __len__(self) -> int:
        """Return how many images there are."""
        return len(self._files)

    def __getitem__(self, part: slice) -> Array:
        """Read some of the images."""
        mean, std = (np.reshape(values, (-1, 1, 1)) for values in (self._numbers.mean, self._numbers.std))
        images = np.empty((len(self._files[part]), *self.shape[1:]), self.dtype)
        for place, file in enumerate(self._files[part]):
            pixels = np.asarray(_opened(file).convert(self._mode), np.float64) / 255
            images[place] = (pixels.reshape(*pixels.shape[:2], -1).transpose(2, 0, 1) - mean) / std
        return images

    def _common_size(self, path: Path) -> tuple[int, int]:
        """Return the height and width of all images."""
        by_size: dict[tuple[int, int], list[str]] = {}
        for file in self._files:
            image = _opened(file, only_header=True)
            if image.mode not in _OF_8_BITS or _has_16_bits(file):
                raise ValueError(
                    f"{file} has more than 8 bits a channel, which would be cut off; give such images as a .npy file"
                )
            by_size.setdefault(image.size, []).append(file.name)
        (width, height), *others = sorted(by_size, key=lambda size: len(by_size[size]), reverse=True)
        if others:
            odd = [f"{name} {w}x{h}" for w, h in others for name in by_size[w, h]]
            more = f" and {len(odd) - _NAMED} more" if len(odd) > _NAMED else ""
            raise ValueError(
                f"the images in {path} must be of one size: {len(by_size[width, height])} are {width}x{height}, but "
                f"{', '.join(odd[:_NAMED])}{more}; resize or crop these as the network's training did"
            )
        return height, width


def _has_16_bits(file: Path) -> bool:
    """Whether a file is a PNG with 16 bits a channel, of which Pillow reads colors without their lower 8."""
    with file.open("rb") as stream:
        header = stream.read(25)
    return header.startswith(b"\x89PNG") and header[24:] == b"\x10"


def _opened(file: Path, *, only_header: bool = False) -> "Image":
    try:
        from PIL import Image  # noqa: PLC0415  (only those who have images need it)
    except ImportError as error:
        raise ModuleNotFoundError("folders of images need Pillow: pip install 'it3[images]'") from error
    try:
        with Image.open(file) as image:
            if not only_header:
                image.load()
            return image
    except Exception as error:  # of whatever kind damage makes
        raise ValueError(f"{file} is not an image, or is damaged: {error}") from error


def image_numbers_from(mode: str | None, mean: str | None, std: str | None) -> ImageNumbers | None:
    """Return what options say of images; None where all of them are left out. Raises WrongUsageError for no numbers."""
    given: dict[str, Any] = {} if mode is None else {"mode": mode}
    for name, text in (("mean", mean), ("std", std)):
        if text is not None:
            try:
                given[name] = tuple(float(number) for number in text.split(","))
            except ValueError:
                raise WrongUsageError(
                    f"--image-{name} must be numbers with commas, such as 0.5,0.5,0.5, not {text!r}"
                ) from None
    return ImageNumbers(**given) if given else None
