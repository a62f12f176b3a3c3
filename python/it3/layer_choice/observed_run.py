"""A run of a model that tells what hangs on the output of each of its layers."""

import copy
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakIdKeyDictionary

from it3 import _C
from it3.cutting.undisturbed import undisturbed
from it3.layer_choice.operation_count import operations_in
from it3.support.input_errors import InputErrors
from it3.support.kept import own_copy


@dataclass
class Calls:
    """A module's calls in a run.

    Attributes
    ----------
    order
        The place of the end of the first, among the ends of all calls; -1 without calls.
    shape, is_floating
        Of the tensor in what the first returned into which y0 would be injected; () if it returned none.
    hangs_on
        For each call, the layers that its output hangs on, as bits.
    """

    order: int = -1
    shape: tuple[int, ...] = ()
    is_floating: bool = False
    hangs_on: list[int] = field(default_factory=list)


class ObservedRun:
    """What a run of an eager model in eval mode tells. It leaves the model as it was.

    What hangs on a layer's output is found by the operations of torch: one that is given a tensor that hangs on it
    gives such tensors, or writes to such. That is what runs again for the second pass where the model is cut.

    Parameters
    ----------
    model
        An eager model.
    inputs
        What it is called with.
    layer_output
        Which tensor in what a layer returns y0 is injected into, see :class:`it3.IT3Engine`.

    Attributes
    ----------
    output
        What the model returned.
    calls
        Of each module, by its name.
    """

    def __init__(self, model: nn.Module, inputs: Any, layer_output: Any = None) -> None:
        self._model, self._inputs, self._layer_output = model, inputs, layer_output
        self._modules = dict(model.named_modules())
        self._weights = list(model.parameters())
        self._bits = {name: 1 << place for place, name in enumerate(self._modules)}
        self.calls = {name: Calls() for name in self._modules}
        with undisturbed(model), torch.enable_grad(), _as_it_is_written():
            self._operations = self._run()

    def hangs_on(self, name: str, layer: str) -> list[bool]:
        """Return for each call of a module whether its output hangs on that of a layer before it."""
        return [bool(bits & self._bits[layer]) for bits in self.calls[name].hangs_on]

    def weights_around(self, layer: str) -> tuple[int, int]:
        """Return how many of the weights that are used nothing of a layer's output meets, and how many it meets."""
        before = behind = 0
        for place, uses in self._operations.uses.items():
            if uses & self._bits[layer]:
                behind += self._weights[place].numel()
            else:
                before += self._weights[place].numel()
        return before, behind

    def norms_behind(self, layer: str) -> int:
        """Return how many running means normalize what hangs on a layer's output."""
        return sum(bool(bits & self._bits[layer]) for bits in self._operations.norms.values())

    def share_behind(self, layer: str) -> float:
        """Return the share of a run's compute that goes into the operations that hang on a layer's output."""
        counts = self._operations.counts
        behind = sum(count for bits, count in counts.items() if bits & self._bits[layer])
        return behind / (sum(counts.values()) or 1)

    def _run(self) -> "_Operations":
        operations = _Operations(self._weights)

        def note(name: str, output: Any) -> None:
            found = self._injected_in(output) if name else []
            calls = self.calls[name]
            if not calls.hangs_on:
                calls.order = sum(len(each.hangs_on) for each in self.calls.values())
                calls.shape = tuple(found[0].shape) if found else ()
                calls.is_floating = bool(found) and found[0].is_floating_point()
            calls.hangs_on.append(operations.bits_of(_leaves(output)))
            for tensor in found:
                operations.mark(tensor, self._bits[name])

        args, kwargs = _C.arguments_of(_copied(self._inputs))
        with InputErrors(self._inputs), operations, self._told(note):
            self.output = self._model(*args, **kwargs)
        return operations

    def _injected_in(self, output: Any) -> list[Tensor]:
        """Return the tensor in what a layer returned that y0 would be injected into, if there is one."""
        found: list[Tensor] = []

        def find(tensor: Tensor) -> Tensor:
            found.append(tensor)
            return tensor

        with suppress(ValueError, TypeError, IndexError, KeyError):  # other layers may return other things
            _C.replace_at(output, self._layer_output, find, Tensor, "")
        return found

    @contextmanager
    def _told(self, note: Callable[[str, Any], None]) -> Iterator[None]:
        """Have a function told of the end of each call of a module."""

        def hook_of(name: str) -> Callable[..., None]:
            def hook(_: nn.Module, __: Any, output: Any) -> None:
                note(name, output)

            return hook

        handles = []
        try:
            for name, module in self._modules.items():
                if not isinstance(module, torch.jit.ScriptModule):  # which takes no hooks
                    handles.append(module.register_forward_hook(hook_of(name)))
            yield
        finally:
            for handle in handles:
                handle.remove()


class _Operations(TorchDispatchMode):
    """Follows through a run which tensors hang on those that are marked.

    Attributes
    ----------
    uses
        By a weight's place, the marks that its uses met, as bits.
    norms
        The same by the running mean of a batch normalization.
    counts
        How much was computed that met these marks, see :func:`operations_in`.
    """

    def __init__(self, weights: list[nn.Parameter]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.uses: defaultdict[int, int] = defaultdict(int)
        self.norms: defaultdict[int, int] = defaultdict(int)
        self.counts: defaultdict[int, int] = defaultdict(int)
        self._within: defaultdict[int, list[tuple[range, int]]] = defaultdict(list)  # weights, by their storages
        for place, weight in enumerate(weights):
            start = weight.storage_offset()
            self._within[_storage(weight)].append((range(start, start + weight.numel()), place))
        self._places = {id(weight): place for place, weight in enumerate(weights)}
        self._bits = WeakIdKeyDictionary()
        self._written: dict[int, tuple[Any, int]] = {}  # storages, alive so that none takes the place of another

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else torch imports all of its compiler, which takes longer than the runs

    def mark(self, tensor: Tensor, bits: int) -> None:
        """Have a tensor, and what will be made of it, hang on something."""
        self._bits[tensor] = self._bits.get(tensor, 0) | bits

    def bits_of(self, leaves: list[Any]) -> int:
        """Return what tensors hang on."""
        bits = 0
        for leaf in leaves:
            if isinstance(leaf, Tensor):
                bits |= self._bits.get(leaf, 0) | self._written.get(_storage(leaf), (None, 0))[1]
        return bits

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = pytree.tree_leaves((args, kwargs))
        bits = self.bits_of(given)
        result = func(*args, **kwargs)
        self.counts[bits] += operations_in(func, args, kwargs, result)
        for place in [place for leaf in given if isinstance(leaf, Tensor) for place in self._places_of(leaf)]:
            self.uses[place] |= bits
        if "batch_norm" in func._schema.name:
            for mean in _arguments(func, args, kwargs, lambda argument: argument.name == "running_mean"):
                self.norms[_storage(mean)] |= bits
        if bits:
            for leaf in pytree.tree_leaves(result):
                if isinstance(leaf, Tensor):
                    self.mark(leaf, bits)
            for leaf in _arguments(func, args, kwargs, _is_written):
                self._written[_storage(leaf)] = leaf.untyped_storage(), self.bits_of([leaf]) | bits
        return result

    def _places_of(self, tensor: Tensor) -> list[int]:
        """Return the places of the weights that a tensor is, or is a part of."""
        if id(tensor) in self._places:
            return [self._places[id(tensor)]]
        within = self._within.get(_storage(tensor), [])
        return [place for where, place in within if len(within) == 1 or tensor.storage_offset() in where]


def _is_written(argument: Any) -> bool:
    return argument.alias_info is not None and bool(argument.alias_info.is_write)


def _arguments(func: Any, args: Any, kwargs: Any, which: Callable[[Any], bool]) -> list[Tensor]:
    """Return the tensors among some of an operation's arguments."""
    given = [
        args[place] if place < len(args) else kwargs.get(argument.name)
        for place, argument in enumerate(func._schema.arguments)
        if which(argument)
    ]
    return [leaf for leaf in pytree.tree_leaves(given) if isinstance(leaf, Tensor) and _storage(leaf)]


def _storage(tensor: Tensor) -> int:
    """Return what tells storages apart; 0 for a tensor that has none, such as a sparse one."""
    return tensor.untyped_storage()._cdata if tensor.layout is torch.strided else 0


def _leaves(output: Any) -> list[Any]:
    """Return what is in what a module returned, also in mappings that torch's pytree does not know."""
    if not isinstance(output, Tensor) and hasattr(output, "items"):
        output = dict(output.items())
    return pytree.tree_leaves(output)


def _copied(inputs: Any) -> Any:
    """Copy the tensors in inputs, and objects that a model may write to, as far as they can be copied."""

    def copied(leaf: Any) -> Any:
        if isinstance(leaf, Tensor):
            return leaf
        try:
            return copy.deepcopy(leaf)
        except Exception:  # whatever the user's object raises
            return leaf

    return pytree.tree_map(copied, own_copy(inputs))


@contextmanager
def _as_it_is_written() -> Iterator[None]:
    """Have the model's own operations run, and none that torch has in their place."""
    is_fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    compiles = "torch._dynamo" in sys.modules  # else nothing in the model is compiled
    try:
        with torch.compiler.set_stance("force_eager") if compiles else nullcontext():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(is_fast)
