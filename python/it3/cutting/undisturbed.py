"""Runs of a model that leave it as it was."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from it3.cutting.keeping import Keeper
from it3.cutting.reads import Reads
from it3.support.kept import KeptModes, KeptRandomState


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Have an eager model in eval mode inside, outside of inference mode, and as it was at the end.

    Its flags, attributes, buffers and parameters, what forward() writes of Python's state beside, as far as
    :mod:`it3.cutting.reads` finds it, and random generators are put back, also after an exception. Parameters and
    buffers are copied for it.
    """
    kept = [_KeptTensor(tensor) for tensor in (*model.parameters(), *model.buffers())]
    keeper = Keeper(Reads(model))
    try:
        with RestoredAttributes(model), KeptModes(model), KeptRandomState(), torch.inference_mode(False):
            model.eval()
            yield
    finally:
        keeper.put_back()
        for each in kept:
            each.put_back()


class _KeptTensor:
    """A tensor's values, memory and flags, which some models change of their own."""

    def __init__(self, tensor: Tensor) -> None:
        self._tensor, self._memory = tensor, tensor.data
        self._values = tensor.detach().clone()
        self._requires_grad, self._grad = tensor.requires_grad, tensor.grad

    def put_back(self) -> None:
        tensor, memory = self._tensor, self._memory
        is_moved = tensor.data_ptr() != memory.data_ptr() or tensor.shape != memory.shape
        if is_moved or tensor.stride() != memory.stride():
            tensor.data = memory
        if not torch.equal(memory, self._values):
            memory.copy_(self._values)
        if tensor.requires_grad != self._requires_grad:
            tensor.requires_grad_(self._requires_grad)
        tensor.grad = self._grad


class RestoredAttributes:
    """Puts back what is assigned to modules meanwhile, or put into containers that they hold.

    Gives a list that then has what was put back. Not a generator: where an exception such as Ctrl-C ends one as it is
    entered, its end comes at any time later.
    """

    def __init__(self, model: nn.Module) -> None:
        self.changed: list[Any] = []
        self._kept: list[tuple[Any, Any]] = []
        for module in model.modules():
            self._kept.append((vars(module), dict(vars(module))))
            self._kept += [(v, v.copy()) for v in vars(module).values() if isinstance(v, dict | list | set)]

    def __enter__(self) -> list[Any]:
        """Begin."""
        return self.changed

    def __exit__(self, *_: object) -> None:
        """Put it back."""
        for container, before in self._kept:
            if _items(container) != _items(before):
                self.changed.append(container)
                container.clear()
                container.extend(before) if isinstance(container, list) else container.update(before)


def _items(container: Any) -> list[Any]:
    """Return the identities of what a container holds."""
    if isinstance(container, dict):
        return [(id(key), id(value)) for key, value in container.items()]
    return [id(item) for item in container]
