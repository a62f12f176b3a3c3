"""Texts and hashes that are the same in every process, by which values are told apart."""

import hashlib
import inspect
import re
import sys
from collections.abc import Mapping
from types import CellType, CodeType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from it3 import _C
from it3.support.devices import device_of

if TYPE_CHECKING:
    from it3.engine import IT3Engine

_PLAIN = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device, torch.Size)
"""Values whose repr() tells all of them."""
_DIGITS = 12
"""Of the hash of a function's code, in a text that people read."""


def text_of(value: Any) -> str:
    """Write a value so that it reads alike in every process: without addresses, and of functions with their code."""
    if isinstance(value, list):
        return f"[{', '.join(map(text_of, value))}]"
    name = getattr(value, "__qualname__", None)
    if not name:
        return re.sub(r" at 0x[0-9a-f]+", "", repr(value))
    module = getattr(value, "__module__", None) or ""
    function = inspect.unwrap(value)  # of a decorated one what was written by hand
    # Of torch's functions the names tell enough.
    is_told_by_code = isinstance(getattr(function, "__code__", None), CodeType) and not module.startswith("torch.")
    return f"{module}.{name}" + (f" (code {_digest_of_code(function)})" if is_told_by_code else "")


def digest_of(tree: Any) -> str:
    """Return a hash of tensors and arrays, of whatever else there is among them, and of how they are put together."""
    digest = hashlib.sha256()
    leaves, structure = pytree.tree_flatten(_with_dicts(tree))
    digest.update(str(structure).encode())
    for leaf in leaves:
        if isinstance(leaf, _C.DrawnLabels):
            digest.update(f"DrawnLabels {digest_of(leaf.labels)}".encode())
        elif isinstance(leaf, Tensor):
            digest.update(f"{leaf.dtype} {tuple(leaf.shape)}".encode())
            values = leaf.detach().cpu().to_dense().resolve_conj().resolve_neg().contiguous()
            digest.update(values.flatten().view(torch.uint8).numpy().tobytes())
        elif _is_array(leaf):
            digest.update(f"{leaf.dtype} {leaf.shape}".encode())
            digest.update(leaf.tobytes())
        else:
            digest.update(text_of(leaf).encode())
    return digest.hexdigest()


def check_has_digest(tree: Any, name: str) -> None:
    """Raise ValueError for values of which :func:`digest_of` may not see all."""
    for leaf in pytree.tree_leaves(_with_dicts(tree)):
        if not isinstance(leaf, (Tensor, *_PLAIN)) and not _is_array(leaf):
            raise ValueError(
                f"{name} holds a {type(leaf).__qualname__}, whose content cannot be compared when the predictions go "
                "on after a kill; give tensors, arrays, numbers and texts, in tuples, lists and mappings, or leave out "
                "path"
            )


def identity_of(engine: "IT3Engine") -> dict[str, str]:
    """Write what an engine computes with, as far as it can be told, beside its network and embedder."""
    parts = ("features_layer_name", "output", "layer_output", "feedback", "in_dims", "distance_fn", "combine_fn")
    return {
        "the device": str(device_of(engine.model)),
        "neutral, by a hash,": digest_of([engine.neutral]),
        **{part: text_of(getattr(engine, part)) for part in parts},
    }


def _with_dicts(tree: Any) -> Any:
    """Turn the mappings that torch's pytree does not know into dictionaries."""

    def turn(leaf: Any) -> Any:
        return pytree.tree_map(turn, dict(leaf)) if isinstance(leaf, Mapping) else leaf

    return pytree.tree_map(turn, tree)


def _is_array(leaf: Any) -> bool:
    """Return whether a leaf is an array or a number of NumPy's whose bytes are its values, not addresses."""
    numpy = sys.modules.get("numpy")  # without which there is no array
    return numpy is not None and isinstance(leaf, numpy.ndarray | numpy.generic) and not leaf.dtype.hasobject


def _digest_of_code(function: Any) -> str:
    """Return a hash of what a function does, with the plain values that it was made with."""
    # What recursive functions refer to may not be there yet.
    cells = [cell.cell_contents for cell in function.__closure__ or () if cell != CellType()]
    plain = [value for value in cells if isinstance(value, _PLAIN)]
    made_with = [function.__defaults__, function.__kwdefaults__, plain]
    said = f"{_text_of_code(function.__code__)} {text_of(made_with)}"
    return hashlib.sha256(said.encode()).hexdigest()[:_DIGITS]


def _text_of_code(code: CodeType) -> str:
    constants = [_text_of_constant(constant) for constant in code.co_consts]
    return f"{code.co_code.hex()} {code.co_names} {constants}"


def _text_of_constant(constant: Any) -> str:
    if isinstance(constant, CodeType):
        return _text_of_code(constant)
    if isinstance(constant, frozenset):  # whose order changes from process to process
        return str(sorted(map(repr, constant)))
    return repr(constant)
