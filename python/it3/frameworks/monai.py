"""Adapting by MONAI's sliding windows: to each window, to those of a batch, or to the whole volume."""

from typing import Any, Literal

import torch
from monai.inferers import Inferer, SlidingWindowInferer
from torch import Tensor

from it3.engine import IT3Engine
from it3.options import Options

__all__ = ["AdaptingInferer"]

_SCOPES = ("window", "batch", "volume")


class AdaptingInferer(Inferer):
    """An inferer of MONAI that adapts an :class:`it3.IT3Engine` to what it predicts.

    It is called as others are, ``inferer(volumes, engine)``, and returns the stitched predictions. The engine's weights
    are afterwards as before.

    Parameters
    ----------
    windows
        MONAI's inferer that cuts volumes into windows, calls a network with ``sw_batch_size`` of these at a time, and
        puts the predictions together.
    adapt_to
        What shares adapted weights. "window": nothing, each window adapts alone (``per_sample``). "batch": the windows
        that the network is called with at a time. "volume": all windows of a volume. For "volume" the windows are gone
        through twice: first the network adapts to one batch of them after another, ``num_steps`` steps each, with
        weights and the optimizer's state kept (``online``); then it predicts all of them without a step. Several
        volumes of a call adapt one after another, each from the engine's weights.
    **overrides
        Optimization parameters for these calls, as of :meth:`it3.IT3Engine.adapt`.

    Raises
    ------
    ValueError, TypeError
        For another `adapt_to`, for `windows` and networks that are none, for options that are not accepted; and for
        "volume" with an engine that has kept adapted weights already, to which it could not go back.
    """

    def __init__(
        self,
        windows: SlidingWindowInferer,
        adapt_to: Literal["window", "batch", "volume"] = "window",
        **overrides: Any,
    ) -> None:
        super().__init__()
        if not isinstance(windows, Inferer):
            raise TypeError(
                f"windows must be an inferer of MONAI, such as SlidingWindowInferer(roi_size=(96, 96, 96)), not a "
                f"{type(windows).__name__}"
            )
        if adapt_to not in _SCOPES:
            raise ValueError(f"adapt_to must be one of {', '.join(map(repr, _SCOPES))}, not {adapt_to!r}")
        told = {"per_sample", "copy_model", "online"} & overrides.keys()
        if told:
            raise ValueError(f"{', '.join(sorted(told))} cannot be given, as adapt_to={adapt_to!r} decides it")
        self.windows, self.adapt_to, self.overrides = windows, adapt_to, Options(**overrides)

    def __call__(self, inputs: Tensor, network: IT3Engine) -> Tensor:
        """Adapt, and return the predictions for volumes, (B, channels, ...)."""
        if not isinstance(network, IT3Engine):
            raise TypeError(f"network must be an it3.IT3Engine, which adapts, not a {type(network).__name__}")
        if self.adapt_to != "volume":
            return self._run(inputs, network, per_sample=self.adapt_to == "window", copy_model=True)
        if network.drift().distance > 0:
            raise ValueError(
                "the engine has kept adapted weights, which adapting to a volume would have to go back to and cannot; "
                "call engine.reset() before, or adapt to each 'window' or 'batch'"
            )
        predictions = [self._adapted_to_volume(volume, network) for volume in inputs.split(1)]
        return predictions[0] if len(predictions) == 1 else torch.cat(predictions)

    def _adapted_to_volume(self, volume: Tensor, engine: IT3Engine) -> Tensor:
        try:
            self._run(volume, engine, per_sample=False, copy_model=False)
            return self._run(volume, engine, per_sample=False, copy_model=True, num_steps=0)
        finally:
            engine.reset()

    def _run(self, volumes: Tensor, engine: IT3Engine, **options: Any) -> Tensor:
        options = {**self.overrides, **options}
        predictions: Tensor = self.windows(volumes, lambda windows: engine.adapt(windows, **options).prediction)
        return predictions
