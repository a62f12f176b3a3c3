"""What an engine's file notes of the inputs that it was saved with."""

import re
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

_NOTE = re.compile(r"(?:(?P<name>\w+): )?(?P<dtype>\w+) \[(?P<shape>[\d, ]*)\]")
_DTYPES = {
    "Bool": torch.bool,
    "Byte": torch.uint8,
    "Char": torch.int8,
    "Short": torch.int16,
    "Int": torch.int32,
    "Long": torch.int64,
    "Half": torch.float16,
    "BFloat16": torch.bfloat16,
    "Float": torch.float32,
    "Double": torch.float64,
}
"""By the names that torch's C++ has for them."""


@dataclass(frozen=True)
class NotedInput:
    """One tensor that the engine was called with.

    Attributes
    ----------
    name
        Of a keyword; None for a positional argument.
    dtype, shape
        Of the tensor.
    """

    name: str | None
    dtype: torch.dtype
    shape: tuple[int, ...]


def noted_inputs(notes: dict[str, Any]) -> list[NotedInput] | None:
    """Return the inputs that an engine's notes tell of; None where one of them is no tensor, or nothing is noted."""
    found = []
    for note in notes.get("inputs", ()):
        match = _NOTE.fullmatch(note)
        if match is None or match["dtype"] not in _DTYPES:
            return None
        shape = tuple(int(size) for size in match["shape"].split(",") if size.strip())
        found.append(NotedInput(match["name"], _DTYPES[match["dtype"]], shape))
    return found or None


def zeros_like_noted(noted: list[NotedInput], device: torch.device) -> Any:
    """Return inputs of zeros, as an engine takes them."""
    tensors: list[Tensor] = [torch.zeros(each.shape, dtype=each.dtype, device=device) for each in noted]
    if all(each.name is None for each in noted):
        return tensors[0] if len(tensors) == 1 else tuple(tensors)
    return {each.name: tensor for each, tensor in zip(noted, tensors, strict=True)}
