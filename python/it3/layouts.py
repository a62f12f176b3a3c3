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
