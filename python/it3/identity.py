"""Texts and hashes that are the same in every process, by which values are told apart."""

import hashlib
import re
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree


def text_of(value: Any) -> str:
    """Write a value so that it reads alike in every process: without addresses."""
    if isinstance(value, list):
        return f"[{', '.join(map(text_of, value))}]"
    name = getattr(value, "__qualname__", None)
    return f"{value.__module__}.{name}" if name else re.sub(r" at 0x[0-9a-f]+", "", repr(value))


def digest_of(tree: Any) -> str:
    """Return a hash of tensors, and of whatever else there is among them."""
    digest = hashlib.sha256()
    for leaf in pytree.tree_leaves(tree):
        if isinstance(leaf, Tensor):
            digest.update(f"{leaf.dtype} {tuple(leaf.shape)}".encode())
            values = leaf.detach().cpu().to_dense().resolve_conj().resolve_neg().contiguous()
            digest.update(values.flatten().view(torch.uint8).numpy().tobytes())
        else:
            digest.update(text_of(leaf).encode())
    return digest.hexdigest()
