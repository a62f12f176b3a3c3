"""Batches on the device of the model that takes them."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree


def device_of(model: nn.Module) -> torch.device | None:
    """Return the device of a model's first parameter, or of its first buffer; None for a model without both."""
    first = next(model.parameters(), next(model.buffers(), None))
    return None if first is None else first.device


def on_device(batch: Any, device: torch.device | None) -> Any:
    """Return a batch with its tensors on a device, such that autograd can keep them."""

    def move(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        # A copy to a CPU has to be waited for, as what reads it there does not wait.
        moved = leaf if device is None else leaf.to(device, non_blocking=device.type != "cpu")
        return moved.clone() if moved.is_inference() else moved

    if isinstance(batch, Mapping) and type(batch) is not dict:  # which torch's pytree may not know
        batch = dict(batch)
    return pytree.tree_map(move, batch)
