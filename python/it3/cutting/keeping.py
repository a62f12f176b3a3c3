"""What a model's forward() may change in Python, kept and put back."""

import collections
import functools
import random
from typing import Any

import torch
from torch import Tensor
from torch.autograd.grad_mode import _unsafe_preserve_version_counter

from it3.cutting.reads import Reads, contents_of
from it3.cutting.recording import global_random_states, set_random_states
from it3.support.kept import counts_writes


class Keeper:
    """Keeps what forward() may change of what it reads, and puts it back: its runs here are none of the user's."""

    def __init__(self, reads: Reads) -> None:
        self._kept = [kept for fact in reads.facts if (kept := _keep(*fact)) is not None]
        self._generators = [(g, s) for g in reads.generators if (s := _state_of(g)) is not None]
        self._random_states = global_random_states()

    def put_back(self) -> None:
        """Put back what has changed since."""
        for put_back in self._kept:
            put_back()
        for generator, state in self._generators:
            _set_state(generator, state)
        set_random_states(self._random_states)


def _keep(kind: str, holder: Any, key: Any) -> Any:  # noqa: PLR0911
    """Return a function that puts one fact back; None if there is nothing to put back."""
    if kind == "item":
        return functools.partial(_put_item, holder, key, key in holder, holder.get(key))
    if kind == "class":
        return functools.partial(_put_attribute, holder, key, vars(holder)[key])
    if kind == "cell":
        contents = contents_of(holder)
        return functools.partial(_put_cell, holder, contents[0]) if contents else None
    if kind == "slot" and hasattr(holder, key.__name__):
        return functools.partial(_put_slot, holder, key, key.__get__(holder))
    if kind == "contents" and isinstance(holder, dict | list | set | collections.deque):
        return functools.partial(_put_contents, holder, dict(holder) if isinstance(holder, dict) else list(holder))
    if kind == "tensor" and not counts_writes(holder):
        return functools.partial(_put_inference_tensor, holder, holder.detach().clone())
    if kind == "tensor":
        version = _unsafe_preserve_version_counter(holder)
        return functools.partial(_put_tensor, holder, holder.detach().clone(), version)
    if kind == "bytes" and hasattr(holder, "flags") and holder.flags.writeable:
        return functools.partial(_put_array, holder, holder.copy())
    return None


def _put_item(holder: dict[Any, Any], key: Any, was_there: bool, value: Any) -> None:
    if was_there:
        if key not in holder or holder[key] is not value:
            holder[key] = value
    else:
        holder.pop(key, None)


def _put_attribute(holder: type, name: str, value: Any) -> None:
    if vars(holder).get(name) is not value:
        setattr(holder, name, value)


def _put_cell(cell: Any, value: Any) -> None:
    if not any(now is value for now in contents_of(cell)):
        cell.cell_contents = value


def _put_slot(holder: Any, member: Any, value: Any) -> None:
    if getattr(holder, member.__name__, None) is not value:
        member.__set__(holder, value)


def _put_contents(holder: Any, before: Any) -> None:
    if _identities(holder) == _identities(before):
        return
    holder.clear()
    holder.extend(before) if isinstance(holder, list | collections.deque) else holder.update(before)


def _identities(container: Any) -> list[Any]:
    if isinstance(container, dict):
        return [(id(key), id(value)) for key, value in container.items()]
    return [id(item) for item in container]


def _put_tensor(tensor: Tensor, before: Tensor, version: Any) -> None:
    if version.prev_versions != (tensor._version,):
        with torch.no_grad(), version:  # bit for bit as it was, also for graphs of the user's that hold it
            tensor.detach().copy_(before)


def _put_inference_tensor(tensor: Tensor, before: Tensor) -> None:
    """Put a tensor back that has no version to tell by, and can be written to in inference mode only."""
    with torch.inference_mode():
        if not torch.equal(tensor, before):
            tensor.copy_(before)


def _put_array(array: Any, before: Any) -> None:
    array[...] = before


def _state_of(generator: Any) -> Any:
    if isinstance(generator, random.Random):
        return generator.getstate()
    if isinstance(generator, torch.Generator):
        return generator.get_state()
    if hasattr(generator, "bit_generator"):
        return generator.bit_generator.state
    return generator.get_state() if hasattr(generator, "get_state") else None


def _set_state(generator: Any, state: Any) -> None:
    if isinstance(generator, random.Random):
        generator.setstate(state)
    elif hasattr(generator, "bit_generator"):
        generator.bit_generator.state = state
    else:
        generator.set_state(state)
