"""An engine adapts to the samples in a file, batch by batch."""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

import it3
from it3 import _C
from it3.command_line.image_folder import ImageFolder, ImageNumbers
from it3.command_line.noted_inputs import noted_inputs
from it3.command_line.sample_files import Array, check_holds, read_samples, tensor_of
from it3.support.checks import eager, like_of
from it3.training.callbacks import Callback


@dataclass(frozen=True)
class Adapted:
    """What adapting to all samples gave.

    Attributes
    ----------
    predictions, uncertainty
        Of the samples, in their order.
    report
        Counts, means over samples, and seconds, by name.
    """

    predictions: Array
    uncertainty: Array
    report: dict[str, Any]


class Batches:
    """The samples in a file, in batches on the device of an engine's model.

    Floating-point numbers become the model's; other numbers, too, where the file of the engine notes an input of these.

    Parameters
    ----------
    path
        Of the samples; see :func:`it3.command_line.sample_files.read_samples`. A folder: of images.
    engine
        Whose notes tell the kind of numbers.
    size
        Samples of a batch; None: all.
    images
        How the images of a folder become numbers; None: by the defaults.

    Raises
    ------
    ValueError
        For samples of another shape than those that the engine was saved with, if that is noted; and for a table and
        for batches where the engine's samples are not in the first dimension.
    """

    def __init__(self, path: Path, engine: it3.IT3Engine, size: int | None, images: ImageNumbers | None = None) -> None:
        like = like_of(eager(engine.model))
        noted = noted_inputs(engine.notes)
        is_whole = noted is not None and not noted[0].dtype.is_floating_point
        self._path = path
        self._samples: Array | ImageFolder
        if path.is_dir():
            if noted is not None and is_whole:
                raise ValueError(
                    f"the engine takes {noted[0].dtype} inputs, and the images in {path} become numbers from 0 to 1; "
                    "give a .npy file"
                )
            channels = noted[0].shape[1] if noted is not None and len(noted[0].shape) > 1 else None
            self._samples = ImageFolder(path, images or ImageNumbers(), channels)
        else:
            self._samples = read_samples(path, keeps_integers=is_whole)
        if noted is not None and len(noted) > 1:
            raise ValueError(
                f"the engine takes {len(noted)} inputs, and {path} holds one; it3-adapt reads several from a .pt file"
            )
        self._device, self._dtype = like.device, like.dtype
        if noted is not None and is_whole:
            self._dtype = noted[0].dtype
        if noted is not None and self._samples.ndim != len(noted[0].shape):
            raise ValueError(
                f"{path} holds an array of the shape {self._samples.shape}, but the engine was saved with an input of "
                f"{noted[0].shape}; the first dimension is the samples"
            )
        if noted is not None and path.is_dir() and self._samples.shape[1] != noted[0].shape[1]:
            raise ValueError(
                f"the images in {path} are read as {self._samples.shape}, but the engine was saved with an input of "
                f"{noted[0].shape}; give --image-mode RGB for 3 channels or L for 1, or a .npy file"
            )
        dim = _samples_dim(engine, self._samples.ndim)
        if dim and path.suffix != ".npy":
            raise ValueError(
                f"the rows of {path} are its samples, but this engine takes them in dimension {dim} of its input; "
                "write a .npy file of the shape that it takes"
            )
        if dim and size is not None:
            raise ValueError(
                "batches are parts of the first dimension, which does not hold this engine's samples; leave out "
                "--batch-size, or use it3-adapt"
            )
        self._is_cast = self._samples.dtype.kind == "f" or noted is not None
        self._name = noted[0].name if noted is not None else None
        self._size = len(self._samples) if size is None else min(size, len(self._samples))

    def __len__(self) -> int:
        """Return how many batches there are."""
        return math.ceil(len(self._samples) / self._size)

    def __iter__(self) -> Iterator[Tensor | dict[str, Tensor]]:
        """Go through them."""
        for start in range(0, len(self._samples), self._size):
            part = tensor_of(self._samples[start : start + self._size])
            part = self._cast(part) if self._is_cast else part
            part = part.to(self._device)
            yield part if self._name is None else {self._name: part}

    def _cast(self, part: Tensor) -> Tensor:
        """Return samples of the network's kind of numbers. Raises ValueError for those that an integer cannot hold."""
        cast = part.to(self._dtype)
        if not self._dtype.is_floating_point:
            changed = part[cast.to(part.dtype) != part]
            if len(changed):
                raise ValueError(
                    f"the engine takes {self._dtype} inputs, and {self._path} holds {changed[0].item():g}; give whole "
                    "numbers in the range of these"
                )
        return cast


def _samples_dim(engine: it3.IT3Engine, dims: int) -> int:
    """Return the dimension of the samples in an input of so many dimensions: as told, or where predictions have it."""
    (told,) = pytree.tree_leaves(engine.in_dims)[:1] or (None,)
    dim: int = engine.prediction_layout.batch_dim if told is None else told
    return dim % dims


class _Collected(Callback):
    """What adapting to batch after batch came to.

    Parameters
    ----------
    engine
        That adapts.
    output
        Where the predictions will go, so that what cannot be written there is told after the first batch.
    """

    def __init__(self, engine: it3.IT3Engine, output: Path) -> None:
        self._engine, self._output = engine, output
        self._uncertainty: list[Array] = []
        self._losses: list[list[float]] = []
        self._of_losses: list[int] = []  # samples
        self._steps = self._adapted = self._recoveries = 0
        self._start = time.perf_counter()

    def on_prediction(self, batch: int, adaptation: it3.Adaptation) -> None:
        """Take the results of a batch."""
        if not batch:
            check_holds(self._output, adaptation.prediction.dim())
        self._uncertainty.append(_array(adaptation.uncertainty))
        self._steps = max(self._steps, adaptation.steps)
        adapted = adaptation.adapted_samples
        if adaptation.steps:
            losses = adaptation._mean_losses()
            self._losses.append([float(losses[0]), float(losses[-1])])
            self._of_losses.append(len(self._uncertainty[-1]) if adapted is None else int(adapted.sum()))
        self._adapted += 0 if adapted is None else int(adapted.sum())
        self._recoveries += int(adaptation.recovered)

    @property
    def uncertainty(self) -> Array:
        """Of all samples."""
        return np.concatenate(self._uncertainty)

    def report(self) -> dict[str, Any]:
        """Return counts, means over samples, of losses over those that adapted, and seconds, by name.

        "steps" are those of the batch with the most: an option such as tolerance may end others earlier.
        """
        seconds = time.perf_counter() - self._start
        options = _C.options_of(self._engine.optimization_parameters)
        losses = np.average(self._losses, axis=0, weights=self._of_losses).tolist() if self._losses else (None, None)
        report = {
            "samples": len(self.uncertainty),
            "batches": len(self._uncertainty),
            "steps": self._steps,
            "loss_before_first_step": losses[0],
            "loss_before_last_step": losses[1],
            "mean_uncertainty": float(self.uncertainty.mean(dtype=np.float64)),
            "seconds": seconds,
            "output": str(self._output),
        }
        if options.get("threshold") is not None:
            report |= {"threshold": options["threshold"], "adapted_samples": self._adapted}
        if not options["copy_model"]:
            report |= {"drift": self._engine.drift().relative, "recoveries": self._recoveries}
        return report


def adapt_to(engine: it3.IT3Engine, batches: Batches, output: Path, *, progress: bool = False) -> Adapted:
    """Adapt to each batch by the engine's options.

    Parameters
    ----------
    engine, batches
        Of which the engine keeps what it adapted if its option ``copy_model`` is False.
    output
        Where the predictions will go, so that what cannot be written there is told after the first batch.
    progress
        Whether to tell how far it is, on the standard error.

    Raises
    ------
    ValueError
        Where batches cannot adapt, or their predictions do not fit together.
    """
    collected = _Collected(engine, output)
    predictions = engine.predict(batches, has_targets=False, callbacks=[collected], progress=progress)
    return Adapted(_array(predictions), collected.uncertainty, collected.report())


def _array(tensor: Tensor) -> Array:
    tensor = tensor.detach().cpu()
    array: Array = (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()  # which NumPy does not have
    return array
