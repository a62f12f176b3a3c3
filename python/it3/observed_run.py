"""Runs of a model that tell what comes before and behind each of its layers."""

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from it3 import _C
from it3.kept import own_copy
from it3.undisturbed import undisturbed

_TIMED_RUNS = 5


@dataclass
class Calls:
    """A module's calls in a run.

    Attributes
    ----------
    times
        How many.
    output
        What the first returned; None without calls.
    end, last_end
        How many operations of torch the run had done when the first ended, and the last.
    shares_behind
        Of timed runs, which share of their time came after the end of the first.
    """

    times: int = 0
    output: Any = None
    end: int = 0
    last_end: int = 0
    shares_behind: list[float] = field(default_factory=list)


class ObservedRun:
    """What runs of an eager model in eval mode, without gradients, tell. They leave the model as it was.

    Parameters
    ----------
    model
        An eager model.
    inputs
        What it is called with.

    Attributes
    ----------
    output
        What it returned.
    calls
        Of each module, by its name.
    """

    def __init__(self, model: nn.Module, inputs: Any) -> None:
        self._model = model
        self.calls = {name: Calls() for name, _ in model.named_modules()}
        with undisturbed(model), torch.no_grad():
            with _Operations() as operations, self._told(lambda calls, output: _note(calls, output, operations.count)):
                self.output = self._run(inputs)
            self._last_uses = operations.last_uses
            for _ in range(_TIMED_RUNS):
                self._time(inputs)

    def weights_around(self, name: str) -> tuple[int, int]:
        """Return how many weights are used up to the end of a layer's first call only, and how many behind it."""
        before = behind = 0
        for parameter in self._model.parameters():
            last = self._last_uses.get(parameter.untyped_storage()._cdata, 0)
            before += parameter.numel() if 0 < last <= self.calls[name].end else 0
            behind += parameter.numel() if last > self.calls[name].end else 0
        return before, behind

    def norms_behind(self, name: str) -> int:
        """Return how many layers of batch normalization are called behind the end of a layer's first call."""
        return sum(
            isinstance(module, nn.modules.batchnorm._BatchNorm) and self.calls[other].last_end > self.calls[name].end
            for other, module in self._model.named_modules()
        )

    def share_behind(self, name: str) -> float:
        """Return the share of a run's time that comes behind the end of a layer's first call, a median."""
        return statistics.median(self.calls[name].shares_behind)

    def _run(self, inputs: Any) -> Any:
        args, kwargs = _C.arguments_of(own_copy(inputs))
        return self._model(*args, **kwargs)

    def _time(self, inputs: Any) -> None:
        ends: dict[int, float] = {}
        with self._told(lambda calls, _: ends.setdefault(id(calls), _now())):
            start = _now()
            self._run(inputs)
            end = _now()
        for calls in self.calls.values():
            if id(calls) in ends:
                calls.shares_behind.append((end - ends[id(calls)]) / (end - start))

    @contextmanager
    def _told(self, note: Callable[[Calls, Any], object]) -> Iterator[None]:
        """Have a function told of the end of each call of a module."""

        def hook_of(calls: Calls) -> Callable[..., None]:
            def hook(_: nn.Module, __: Any, output: Any) -> None:
                note(calls, output)

            return hook

        modules = self._model.named_modules()
        handles = [module.register_forward_hook(hook_of(self.calls[name])) for name, module in modules]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


class _Operations(TorchDispatchMode):
    """Counts operations, and notes the last that each storage was given to."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = 0
        self.last_uses: dict[int, int] = {}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else torch imports all of its compiler, which takes longer than the runs

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        for leaf in pytree.tree_leaves((args, kwargs)):
            if isinstance(leaf, Tensor) and leaf.layout is torch.strided:
                self.last_uses[leaf.untyped_storage()._cdata] = self.count
        return func(*args, **(kwargs or {}))


def _note(calls: Calls, output: Any, count: int) -> None:
    if calls.times == 0:
        calls.output, calls.end = output, count
    calls.times += 1
    calls.last_end = count


def _now() -> float:
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter()
