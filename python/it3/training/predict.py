"""The loop that adapts to batch after batch, and puts the predictions together."""

import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor

from it3 import _C
from it3.support.batches import check_is_no_dataset
from it3.support.checks import eager
from it3.support.devices import device_of, on_device
from it3.support.inputs_in_batches import inputs_in_batches
from it3.support.kept import KeptModes
from it3.support.notes import noted
from it3.support.progress import Progress, length_of
from it3.training.callbacks import Callback, Callbacks
from it3.training.predictions_file import PredictionsFile, check_fits, no_batches, samples_dim

if TYPE_CHECKING:
    import numpy as np

    from it3.engine import IT3Engine


def predict(
    engine: "IT3Engine",
    loader: Iterable[Any],
    *,
    has_targets: bool | None,
    path: str | os.PathLike[str] | None,
    callbacks: Iterable[Callback],
    progress: bool,
    overrides: Mapping[str, Any],
) -> "Tensor | np.memmap[Any, Any]":
    """Predict; see :meth:`it3.IT3Engine.predict`."""
    options = _C.options_of(_C.overridden(engine.optimization_parameters, dict(overrides)))
    check_is_no_dataset(loader, "loader")
    told, bar = Callbacks(callbacks), Progress(progress)
    engine._warn_if_untrained(options, stacklevel=4)  # here, so that it names the user's line
    kept = Together() if path is None else PredictionsFile(path, engine, options)
    batches = inputs_in_batches(loader, eager(engine.model), has_targets, "predict")
    bar.begin("predicting", length_of(loader))
    number = -1
    with KeptModes(engine), told, bar, kept:
        engine.eval()
        device = device_of(engine.model)
        for number, inputs in enumerate(batches):
            if not kept.has(inputs):
                with noted(f"in batch {number}, counted from 0"):
                    prediction = _adapted(engine, on_device(inputs, device), number, told, overrides)
                kept.add(prediction, engine.prediction_layout, number)
            bar.count()
        predicted = kept.result()
        bar.end(f"{number + 1} batches")
        return predicted


class Together:
    """Predictions in memory, of all batches together."""

    def __init__(self) -> None:
        self._predictions: list[Tensor] = []
        self._dim = 0

    def __enter__(self) -> Self:
        """Begin."""
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is left to end."""

    def has(self, _inputs: Any) -> bool:
        """Whether the next batch was predicted earlier."""
        return False

    def add(self, prediction: Tensor, layout: _C.Layout, number: int) -> None:
        """Take the prediction of a batch. Raises ValueError unless it fits those before."""
        dim = samples_dim(prediction, layout)
        check_fits(self._predictions[0] if self._predictions else prediction, prediction, dim, number)
        self._dim = dim
        self._predictions.append(prediction)

    def result(self) -> Tensor:
        """Return all. Raises ValueError if there are none."""
        if not self._predictions:
            raise no_batches()
        return torch.cat(self._predictions, self._dim)


def _adapted(engine: "IT3Engine", inputs: Any, number: int, told: Callbacks, overrides: Mapping[str, Any]) -> Tensor:
    """Return the prediction for a batch, on the CPU, and keep nothing of it on the device."""
    adaptation = engine.adapt(inputs, **overrides)
    for callback in told.all:
        callback.on_prediction(number, adaptation)
    prediction = adaptation.prediction.cpu()
    is_part = prediction.untyped_storage().nbytes() > prediction.numel() * prediction.element_size()
    return prediction.clone() if is_part else prediction  # which would keep the whole
