"""Which dimension of a layer's output holds the channels, told by the kinds of the layers."""

from itertools import chain

import torch
from torch import nn

from it3 import _C


def layout_of(layer: nn.Module, model: nn.Module) -> _C.Layout:
    """Tell the layout of what a layer of a model returns.

    The layer's own kind tells; else that of the last layer in it that has one; else, for a layer that works on any
    layout, such as an activation, that of the nearest layer registered before it.
    """
    modules = list(model.modules())
    inside = list(layer.modules())
    before = modules[: modules.index(layer)]
    kinds = (_channel_dim(module) for module in chain([layer], reversed(inside), reversed(before)))
    channel_dim = next((dim for dim in kinds if dim is not None), None)
    is_sequence_first = any(getattr(module, "batch_first", True) is False for module in inside)
    return _C.Layout(channel_dim=channel_dim, batch_dim=1 if is_sequence_first else 0)


def _channel_dim(module: nn.Module) -> int | None:
    if isinstance(module, torch.jit.ScriptModule):
        names = [module.original_name]
    else:
        names = [base.__name__ for base in type(module).__mro__]
    kinds = map(_C.channel_dim_of_kind, names)
    return next((dim for dim in kinds if dim is not None), None)


def channel_of(layout: _C.Layout, rank: int) -> int:
    """Give the dimension of the channels, or classes, of a tensor of `rank` dimensions, counted from 0.

    Raises
    ------
    ValueError
        If a tensor of so many dimensions has none.
    """
    dim = layout.channel_dim if layout.channel_dim is not None else (-1 if rank <= 3 else 1)
    if not -rank <= dim < rank:
        raise ValueError(f"channels are said to be in dimension {dim}, which a tensor of {rank} dimensions lacks")
    return dim % rank


def batch_of(layout: _C.Layout, rank: int) -> int:
    """Give the dimension of the samples of a tensor of `rank` dimensions."""
    return 0 if rank < 3 else layout.batch_dim


def prediction_layout_of(engine: nn.Module) -> _C.Layout:
    """Give the layout of an engine's predictions."""
    layout = getattr(engine, "prediction_layout", None)
    return layout if isinstance(layout, _C.Layout) else engine._prediction_layout  # type: ignore[return-value]
