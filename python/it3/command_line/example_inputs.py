"""Inputs for a model of which only shapes matter."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from it3.command_line.sample_files import read_samples, tensor_of
from it3.command_line.wrong_usage import WrongUsageError


def example_from(file: Path | None, shapes: list[str], dtypes: list[str], like: Tensor) -> Any:
    """Return inputs from a file or of given shapes; a tuple where there are several shapes.

    Parameters
    ----------
    file
        See :func:`it3.command_line.sample_files.read_samples`.
    shapes
        Such as "2,3,32,32". Floating-point numbers are drawn from a normal distribution with the seed 0, whole numbers
        are 0.
    dtypes
        Names of torch's, one for each shape, or one for all.
    like
        Of the device that inputs go to; floating-point numbers of a file become of its dtype.

    Raises
    ------
    WrongUsageError
        Unless there is a file or shapes, and for what is none.
    """
    if (file is None) == (not shapes):
        raise WrongUsageError("give the model's inputs as a file, --input x.npy, or as a shape, --shape 2,3,32,32")
    if file is not None:
        samples = tensor_of(read_samples(file))
        return samples.to(like.device, like.dtype if samples.is_floating_point() else samples.dtype)
    if len(dtypes) not in (1, len(shapes)):
        raise WrongUsageError(f"there are {len(dtypes)} --dtype for {len(shapes)} --shape; give one for each, or one")
    kinds = dtypes * len(shapes) if len(dtypes) == 1 else dtypes
    generator = torch.Generator().manual_seed(0)
    tensors = [_tensor(shape, kind, generator).to(like.device) for shape, kind in zip(shapes, kinds, strict=True)]
    return tensors[0] if len(tensors) == 1 else tuple(tensors)


def _tensor(text: str, kind: str, generator: torch.Generator) -> Tensor:
    try:
        shape = [int(size) for size in text.split(",")]
    except ValueError:
        shape = []
    if not shape or min(shape) < 1:
        raise WrongUsageError(f"--shape must be whole numbers from 1 with commas, such as 2,3,32,32, not {text!r}")
    dtype = getattr(torch, kind, None)
    if not isinstance(dtype, torch.dtype) or dtype.is_complex:
        raise WrongUsageError(f"--dtype must be a dtype of torch, such as float32 or int64, not {kind!r}")
    if not dtype.is_floating_point:
        return torch.zeros(shape, dtype=dtype)
    return torch.randn(shape, generator=generator).to(dtype)
