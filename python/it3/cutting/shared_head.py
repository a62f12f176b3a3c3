"""What comes before the layer of an eager model, computed once for both passes of a training step.

forward() runs in both passes, Python and all. What torch's functions return before the layer in the first is kept, and
returned in the second, where they are to be called in the same order with the same arguments. If they are not, the
second pass is ended, and run anew without this.
"""

import operator
from collections import defaultdict
from collections.abc import Iterator
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode, _get_current_function_mode

from it3.cutting.known_functions import (
    KNOWN,
    NORMS,
    is_plain,
    is_plain_or_constant,
    may_draw_unseen,
    running_statistics,
)

# Of heads that compute fewer numbers, keeping them takes longer than computing them again.
_WORTH_IT = 1 << 15


class OtherHeadError(BaseException):
    """Ends a pass whose head is not that of the pass before; forward() is not to catch it."""


class _UntilLayer(TorchFunctionMode):
    """A mode that can be left in the middle of forward(), whatever modes of its own that is in."""

    is_on = False
    _is_entered = False

    def __enter__(self) -> Any:
        self.is_on = self._is_entered = True
        return super().__enter__()  # type: ignore[no-untyped-call]

    def __exit__(self, *error: Any) -> None:
        self.is_on = False
        if self._is_entered:
            self._is_entered = False
            super().__exit__(*error)  # type: ignore[no-untyped-call]

    def leave(self) -> None:
        """Let everything pass from now on."""
        self.is_on = False
        if _get_current_function_mode() is self:  # else __exit__ is still to come
            self.__exit__(None, None, None)


def _flat(value: Any) -> Iterator[Any]:
    """Go through what is in containers, and yield what is none."""
    if type(value) in (tuple, list):
        for item in value:
            yield from _flat(item)
    elif type(value) is dict:
        yield from _flat([*value, *value.values()])
    elif type(value) is slice:
        yield from _flat((value.start, value.stop, value.step))
    else:
        yield value


def _tensors_in(result: Any) -> list[Tensor]:
    """Return the tensors of what a function has returned, which may be a named tuple of torch's."""
    items = result if isinstance(result, (tuple, list)) else (result,)
    return [item for item in items if isinstance(item, Tensor)]


def _copied(value: Any) -> Any:
    """Return lists and dicts that nobody else has."""
    if type(value) in (tuple, list):
        return type(value)(_copied(item) for item in value)
    return {name: _copied(item) for name, item in value.items()} if type(value) is dict else value


def _random_states() -> tuple[bytes, list[tuple[int, int]]]:
    """Return what changes when a number is drawn from one of torch's own generators."""
    of_cuda = torch.cuda.default_generators if torch.cuda.is_initialized() else ()
    return torch.get_rng_state().numpy().tobytes(), [(each.initial_seed(), each.get_offset()) for each in of_cuda]


class _ObjectionError(Exception):
    """Says why calls cannot stand for those of another pass."""


class _Recording(_UntilLayer):
    """Keeps the calls of a pass.

    Parameters
    ----------
    buffers
        The model's, to which normalization may write.
    counters
        Those of them that count batches.
    with_copies
        Whether to see each write to what is read before the layer, also those that torch does not count.

    Attributes
    ----------
    calls
        Function, arguments and result of each.
    objection
        Why they cannot stand for those of another pass.
    """

    def __init__(self, buffers: list[Tensor], counters: list[Tensor], with_copies: bool) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, Any]] = []
        self.objection = ""
        self._buffers = {id(tensor) for tensor in buffers}
        self._counters = {id(tensor) for tensor in counters}
        self._with_copies = with_copies
        self._has_gradients = torch.is_grad_enabled()
        self._random_states = _random_states()
        self._computed: dict[int, Tensor] = {}
        self._read: dict[int, Tensor] = {}  # what comes from elsewhere
        self._statistics: dict[int, Tensor] = {}  # what normalization writes to
        self._versions: dict[int, int] = {}  # of all of these
        self._in_memory: dict[int, set[int]] = defaultdict(set)  # which of them lie in one storage
        self._at_end: list[tuple[Tensor, int, int, Tensor | None]] | None = None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call a function of torch's."""
        kwargs = kwargs or {}
        if torch.compiler.is_compiling() or not self.is_on or self.objection:
            return func(*args, **kwargs)
        try:
            tensors = self._seen(func, args, kwargs)
        except _ObjectionError as error:
            self._object_to(str(error))
            return func(*args, **kwargs)
        kept = _copied(args), _copied(kwargs)
        versions = [tensor._version for tensor in tensors]
        result = func(*args, **kwargs)
        written = {id(t): t for t, version in zip(tensors, versions, strict=True) if t._version != version}
        written.update((id(tensor), tensor) for tensor in running_statistics(func, *kept))
        try:
            self._keep(func, {id(tensor): tensor for tensor in tensors}, written, _tensors_in(result))
        except _ObjectionError as error:
            self._object_to(str(error))
        else:
            self.calls.append((func, *kept, _copied(result)))
        return result

    def _object_to(self, objection: str) -> None:
        self.objection = objection
        for kept in (self.calls, self._computed, self._read):
            kept.clear()

    def _seen(self, func: Any, args: Any, kwargs: Any) -> list[Tensor]:
        """Return the tensors that a known function is given."""
        if func not in KNOWN or "out" in kwargs:
            name = getattr(func, "__name__", repr(func))
            what = f"{func.__self__.__name__}, an attribute," if name in ("__get__", "__set__") else f"{name}()"
            raise _ObjectionError(f"{what} is used, which is not known to depend on its arguments alone")
        if torch.is_grad_enabled() != self._has_gradients:
            raise _ObjectionError("gradients are switched off, as by torch.no_grad() or in a torch.autograd.Function")
        if torch._C._autograd._top_saved_tensors_default_hooks(False) is not None:
            raise _ObjectionError("activations are saved in another way, as by checkpointing")
        given = list(_flat((args, kwargs)))
        if may_draw_unseen(func, given):
            raise _ObjectionError(f"{func.__name__}() may draw random numbers from a state of cuDNN's own")
        strange = next((item for item in given if not is_plain_or_constant(item)), None)
        if strange is not None:
            raise _ObjectionError(
                f"{func.__name__}() is given an object of {type(strange)}, or a tensor of another kind"
            )
        return [item for item in given if isinstance(item, Tensor)]

    def _keep(self, func: Any, given: dict[int, Tensor], written: dict[int, Tensor], results: list[Tensor]) -> None:
        if not all(map(is_plain, results)):
            raise _ObjectionError(f"{func.__name__}() returns a tensor of another kind")
        for key, tensor in given.items():
            if key not in written and self._versions.get(key, tensor._version) != tensor._version:
                raise _ObjectionError("a tensor is written to in a way that cannot be seen")
            if key not in self._computed and key not in written and key not in self._statistics:
                self._read[key] = tensor
        self._look_at_writes(func, written)
        if any(key in self._statistics and key not in written for key in given):
            raise _ObjectionError("running statistics are read that were updated before")
        for tensor in results:
            if id(tensor) not in self._read and id(tensor) not in self._statistics:
                self._computed[id(tensor)] = tensor
        for tensor in (*given.values(), *results):
            self._versions[id(tensor)] = tensor._version
            self._in_memory[tensor.untyped_storage()._cdata].add(id(tensor))

    def _look_at_writes(self, func: Any, written: dict[int, Tensor]) -> None:
        for key, tensor in written.items():
            if key in self._computed:
                in_its_memory = self._in_memory[tensor.untyped_storage()._cdata]  # views, for example
                if not in_its_memory.isdisjoint(self._read):
                    raise _ObjectionError("it writes to tensors that it has not computed")
                self._versions.update(dict.fromkeys(in_its_memory, tensor._version))
            elif key in self._read or key not in self._buffers or not (func in NORMS or key in self._counters):
                raise _ObjectionError("it writes to tensors that it has not computed")
            else:
                self._statistics[key] = tensor

    def end(self) -> None:
        """Note what must not change any more. At the layer."""
        if self.objection:
            return
        known = {**self._computed, **self._read}
        if _random_states() != self._random_states:
            self._object_to("random numbers are drawn")
        elif any(tensor._version != self._versions[key] for key, tensor in known.items()):
            self._object_to("a tensor is written to in a way that cannot be seen")
        else:
            self._at_end = [
                (t, t._version, t.data_ptr(), t.detach().clone() if self._with_copies and key in self._read else None)
                for key, t in known.items()
            ]

    def size(self) -> int:
        """Return how many numbers were computed, roughly."""
        return sum(tensor.numel() for tensor in self._computed.values())

    def why_not(self) -> str:
        """Return why another pass has to compute it anew; empty if it need not."""
        if self.objection:
            return "before the layer " + self.objection
        if self._at_end is None:
            return "the layer was not called"
        for tensor, version, address, copy in self._at_end:
            is_same = tensor._version == version and tensor.data_ptr() == address
            if not is_same or (copy is not None and not torch.equal(tensor, copy)):
                return "what is computed or read before the layer is written to behind it"
        return ""


class _Replay(_UntilLayer):
    """Returns what calls have returned.

    Parameters
    ----------
    recording
        What was called.
    inputs, recorded
        This pass's inputs and buffers, and those of the pass that was recorded.

    Attributes
    ----------
    is_other
        Whether another call was made than is known.
    """

    def __init__(self, recording: _Recording, inputs: list[Tensor], recorded: list[Tensor]) -> None:
        super().__init__()
        self.is_other = False
        self.recording = recording
        self._calls = iter(recording.calls)
        self._inputs = inputs  # so that no other tensors come to their addresses
        self._recorded = {id(now): then for now, then in zip(inputs, recorded, strict=True)}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Return what a function has returned."""
        if torch.compiler.is_compiling() or not self.is_on:
            return func(*args, **(kwargs or {}))
        known, args_then, kwargs_then, result = next(self._calls, (None, (), {}, None))
        if known != func or not self._is_same(args_then, args) or not self._is_same(kwargs_then, kwargs or {}):
            self._refuse()
        return _copied(result)

    def _is_same(self, then: Any, now: Any) -> bool:
        if isinstance(now, Tensor):
            return isinstance(then, Tensor) and (then is now or self._recorded.get(id(now)) is then)
        if type(then) is not type(now):
            return False
        if type(now) in (tuple, list):
            return len(then) == len(now) and all(map(self._is_same, then, now))
        if type(now) is dict:
            return list(then) == list(now) and all(map(self._is_same, then.values(), now.values()))
        if type(now) is slice:
            return self._is_same((then.start, then.stop, then.step), (now.start, now.stop, now.step))
        return is_plain_or_constant(now) and bool(then == now)

    def end(self) -> None:
        """At the layer."""
        if next(self._calls, None) is not None:
            self._refuse()

    def _refuse(self) -> NoReturn:
        self.is_other = True
        raise OtherHeadError


class SharedHead:
    """What is known of the head of a model.

    Attributes
    ----------
    objection
        Why it cannot be shared; empty, as long as it may be.
    """

    def __init__(self) -> None:
        self.objection = ""
        self._too_small = 0  # inputs of at most as many numbers
        self.is_tried = False

    def step(self) -> "SharedHeadStep":
        """Return what shares it between the passes of one training step."""
        return SharedHeadStep(self)

    def is_worth_it(self, inputs: list[Tensor]) -> bool:
        """Return whether more is saved on these inputs than this costs, for all that is known."""
        return sum(tensor.numel() for tensor in inputs) > self._too_small

    def learn(self, inputs: list[Tensor], size: int) -> None:
        """Learn of a head how many numbers it computes."""
        if size < _WORTH_IT:
            self._too_small = max(self._too_small, sum(tensor.numel() for tensor in inputs))


class SharedHeadStep:
    """Both passes of a training step.

    Attributes
    ----------
    is_other
        Whether the second pass computes something else than the first, and has to be run anew.
    """

    def __init__(self, head: SharedHead) -> None:
        self.is_other = False
        self._head = head
        self._mode: _Recording | _Replay | None = None
        self._recording: _Recording | None = None

    def is_worth_it(self, inputs: list[Tensor]) -> bool:
        """Return whether to begin at all, for what is known by now."""
        return not self._head.objection and self._head.is_worth_it(inputs)

    def first(self, inputs: list[Tensor], buffers: list[Tensor], counters: list[Tensor]) -> bool:
        """Begin the first pass. Whether the second may share what it computes."""
        if torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing():
            return False  # the state of random generators cannot be read
        self._inputs, self._buffers = inputs, buffers
        self._mode = self._recording = _Recording(buffers, counters, with_copies=not self._head.is_tried)
        self._mode.__enter__()
        return True

    def may_share(self, buffers: list[Tensor]) -> bool:
        """Return whether the second pass may share what the first has computed, which has left these buffers."""
        recording = self._recording
        if recording is None:
            return False
        self._head.objection = recording.why_not()
        if len(buffers) != len(self._buffers) or any(map(operator.is_not, buffers, self._buffers)):
            self._head.objection = "forward() assigns buffers"
        if not self._head.objection:
            self._head.is_tried = True
            self._head.learn(self._inputs, recording.size())
        return not self._head.objection and self._head.is_worth_it(self._inputs)

    def second(self, inputs: list[Tensor], buffers: list[Tensor]) -> None:
        """Begin the second pass, on tensors that may be copies of the first one's."""
        recording, self._recording = self._recording, None
        assert recording is not None
        self._mode = _Replay(recording, [*inputs, *buffers], [*self._inputs, *self._buffers])
        self._mode.__enter__()

    def at_layer(self) -> None:
        """End what is shared. Raises OtherHeadError if the second pass has called less than the first."""
        if self._mode is not None and self._mode.is_on:
            self._mode.leave()
            self._mode.end()

    def look_at_writes(self) -> None:
        """Raise RuntimeError if the second pass has written to what belongs to the first too."""
        if isinstance(self._mode, _Replay) and (objection := self._mode.recording.why_not()):
            self._head.objection = objection
            raise RuntimeError(
                "in its second pass only, forward() has written to what both passes of a training step share, which is "
                "computed once before the layer; repeat this step: from now on each pass computes its own"
            )

    def end(self) -> None:
        """End a pass, in whichever way it ended."""
        if self._mode is not None:
            self._mode.__exit__(None, None, None)
        if isinstance(self._mode, _Replay) and self._mode.is_other:
            self.is_other = True
            self._head.objection = "the passes compute different things before the layer"
        self._mode = None
