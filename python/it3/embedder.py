"""The default embedder as a torch.nn.Module."""

from typing import Any

import torch
from torch import Tensor, nn

from it3 import _C
from it3.support.checks import check_count

_EMPTY = {"weight1": (0, 1), "bias1": (0,), "weight2": (0, 1), "bias2": (0,)}
"""The shapes of weights that are not drawn yet, with the dimensions that they will have."""


class Embedder(nn.Module):
    """A two-layer perceptron over channels, applied at each position of a prediction (pixel, token, ...).

    ``LeakyReLU(Linear(LeakyReLU(Linear(prediction))))`` with C inputs and F hidden and output channels, for predictions
    of C and features of F channels. It takes its shape, device and dtype from the first prediction and features that it
    sees. Its parameters exist from construction, empty, so that an optimizer built before the first forward trains
    them. The few optimizers that shape their state at once, such as Adagrad, need a first call before.

    Parameters
    ----------
    prediction_layout, features_layout
        Where the channels and samples are. By default the engine settles it at the first call. In an embedder that is
        used by itself, predictions and features of up to three dimensions have their channels last, others in
        dimension 1.
    extra_channels
        If above 0, it has no weights: the embedding is the prediction itself, of so many channels, in the last of the F
        channels, behind zeros. Added to features whose last channels are zeros, as the extra ones of an
        :class:`it3.WithInputLayer` are, it is concatenated to the others.

    Raises
    ------
    ValueError
        For ``extra_channels`` other than a whole number, 0 or more.

    Examples
    --------
    >>> embedder = it3.Embedder()
    >>> embedder(torch.randn(4, 3), torch.randn(4, 16)).shape
    torch.Size([4, 16])
    >>> embedder.is_built, embedder
    (True, Embedder(prediction_channels=3, features_channels=16))
    """

    weight1: nn.Parameter
    bias1: nn.Parameter
    weight2: nn.Parameter
    bias2: nn.Parameter

    def __init__(
        self,
        prediction_layout: _C.Layout | None = None,
        features_layout: _C.Layout | None = None,
        *,
        extra_channels: int = 0,
    ) -> None:
        super().__init__()
        check_count("extra_channels", extra_channels, 0)
        self.extra_channels = extra_channels
        self.prediction_layout = prediction_layout
        self.features_layout = features_layout
        self._layouts = (prediction_layout or _C.Layout(), features_layout or _C.Layout())
        for name in self._names():
            self.register_parameter(name, nn.Parameter(torch.empty(_EMPTY[name])))

    @property
    def is_built(self) -> bool:
        """Whether the parameters, if it has any, have their shapes."""
        return self.extra_channels > 0 or self.weight1.numel() != 0

    def __setattr__(self, name: str, value: Any) -> None:
        """Assign, but no part of a weight that is still empty, which fully_shard would never train.

        fully_shard assigns each weight's part through this method, as it is not torch.nn.Module's own.
        """
        if name in _EMPTY and hasattr(value, "device_mesh") and not self.is_built:
            raise RuntimeError(
                "the embedder has no shape yet, and takes it from the first call, which is too late after fully_shard; "
                f"{_WHAT_TO_CALL}, and in each process with the same weights, as after the same torch.manual_seed"
            )
        super().__setattr__(name, value)

    def settle_layouts(self, prediction_layout: _C.Layout, features_layout: _C.Layout) -> None:
        """Set where channels and samples are, for an engine that has found out.

        Examples
        --------
        >>> it3.Embedder().settle_layouts(it3.Layout(channel_dim=-1), it3.Layout(channel_dim=1))
        """
        self._layouts = (prediction_layout, features_layout)

    def clear(self) -> None:
        """Make the parameters empty again; the next forward shapes them anew. A subclass's own stay as they are.

        Examples
        --------
        >>> embedder.clear()
        >>> embedder
        Embedder(not built)
        """
        for name in self._names():
            parameter = getattr(self, name)
            parameter.data = parameter.data.new_empty(_EMPTY[name])

    def forward(self, prediction: Tensor, features: Tensor) -> Tensor:
        """Embed a prediction for features.

        Parameters
        ----------
        prediction
            (B, C), (B,), or with positions, such as (B, C, H, W).
        features
            The output of the layer that the embedding is for, such as (B, F) or (B, F, h, w).

        Returns
        -------
        Tensor
            (B, F) for a prediction without positions; else in the features' shape, resized to their positions by
            adaptive average pooling.

        Raises
        ------
        ValueError
            If the two shapes cannot be brought together; both are named.

        Examples
        --------
        >>> features = torch.randn(2, 16, 4, 4)
        >>> it3.Embedder()(torch.randn(2, 3, 8, 8), features).shape
        torch.Size([2, 16, 4, 4])
        """
        layouts = self._layouts
        if not self.is_built:
            _check_is_not_in_ddp()
            made = _C.make_embedder_weights(prediction, features, *layouts)
            for name, weight in zip(_EMPTY, made, strict=True):
                getattr(self, name).data = weight
        weights = [getattr(self, name) for name in self._names()]
        return _C.embed(prediction, features, weights, self.extra_channels, *layouts)

    def _names(self) -> tuple[str, ...]:
        """Return the names of its weights."""
        return () if self.extra_channels else tuple(_EMPTY)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # One of the two sides may be empty; the shapes are then those of the saved embedder.
        for name in self._names():
            saved = state_dict.get(prefix + name)
            own = getattr(self, name)
            if saved is not None and saved.numel() == 0:
                state_dict[prefix + name] = own.data = own.data.new_empty(_EMPTY[name])
            elif saved is not None and own.numel() == 0:
                own.data = own.data.new_empty(saved.shape)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def extra_repr(self) -> str:
        """Return the sizes, for print()."""
        if self.extra_channels:
            return f"extra_channels={self.extra_channels}"
        if not self.is_built:
            return "not built"
        features, channels = self.weight1.shape
        return f"prediction_channels={channels}, features_channels={features}"


_WHAT_TO_CALL = "call engine.adapt(inputs, num_steps=0) on one batch, which changes nothing else, before it is wrapped"


def _check_is_not_in_ddp() -> None:
    """Raise if DistributedDataParallel runs this, which has made room for gradients of the shapes that it found."""
    ddp = nn.parallel.DistributedDataParallel
    if getattr(ddp, "_active_ddp_module", None) is not None:
        raise RuntimeError(
            "the embedder has no shape yet, and takes it from the first call, which is too late inside of "
            f"DistributedDataParallel; {_WHAT_TO_CALL}"
        )
