"""Eager models as programs that share their tensors, so that the core can cut them.

What comes out is a proposal, as tracing fixes what it saw of Python: the core compares it with the model before use.
"""

import sys
import threading
import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException
from torch.fx.experimental import proxy_tensor
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils.weak import WeakIdKeyDictionary

from it3 import _C
from it3.cutting.exported_graph import Graph, with_open_sizes
from it3.cutting.exported_model import ExportedModel
from it3.cutting.keeping import Keeper
from it3.cutting.reads import Reads
from it3.cutting.recording import Recorder, is_users
from it3.cutting.undisturbed import RestoredAttributes


class ValueReads(TorchFunctionMode):
    """Notes where code of the user's makes a number of what came from inputs or weights, as `if x.max() > 3:` does.

    torch.export fails where it meets such code, but forward() may catch that, and go on with something else.

    Parameters
    ----------
    recorder
        Is told.
    sources
        The inputs and weights. None: all tensors count.
    """

    names = frozenset(
        {
            *("__bool__", "__int__", "__float__", "__complex__", "__index__", "__contains__", "__array__"),
            *("item", "tolist", "numpy", "equal", "allclose", "is_nonzero"),
        }
    )

    def __init__(self, recorder: Recorder, sources: Any = None) -> None:
        super().__init__()
        self.recorder = recorder
        self.counts_all = sources is None
        self.variables = WeakIdKeyDictionary()  # the sources, and what is computed from them
        self._add(sources)

    def _add(self, tensors: Any) -> None:
        self.variables.update((leaf, True) for leaf in pytree.tree_leaves(tensors) if isinstance(leaf, Tensor))

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call a function of torch's."""
        kwargs = kwargs or {}
        given = pytree.tree_leaves((args, kwargs))
        if not self.counts_all and not any(isinstance(leaf, Tensor) and leaf in self.variables for leaf in given):
            return func(*args, **kwargs)
        name = getattr(func, "__name__", "")
        if name in self.names:
            frame = sys._getframe(1)
            while frame.f_back is not None and frame.f_code.co_filename == torch.overrides.__file__:
                frame = frame.f_back
            if is_users(frame.f_code):
                self.recorder.object_to("depends on the values of tensors")
        result = func(*args, **kwargs)
        self._add(args[0] if name == "__setitem__" else result)
        return result


class OthersStream:
    """A stream that takes what other threads write only."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._thread = threading.get_ident()

    def write(self, text: str) -> Any:
        """Write a text, or drop it."""
        return len(text) if threading.get_ident() == self._thread else self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        """Be the stream in all else."""
        return getattr(self._stream, name)


class _Prediction(nn.Module):
    """A model that takes the tensors of one kind of call, and returns its prediction only."""

    def __init__(self, model: nn.Module, output: Any, call: Any) -> None:
        super().__init__()
        self.training = False  # as all modules in it are
        self.model = model
        self.output = output
        self.leaves, self.structure = pytree.tree_flatten(call)

    def forward(self, *tensors: Tensor) -> Tensor:
        given = iter(tensors)
        leaves = [next(given) if isinstance(leaf, Tensor) else leaf for leaf in self.leaves]
        args, kwargs = pytree.tree_unflatten(leaves, self.structure)
        prediction: Tensor = _C.chosen_output(self.model(*args, **kwargs), self.output, Tensor)
        return prediction


class Plan:
    """How one kind of call is traced: what the model does and reads is recorded first, then it is exported.

    Parameters
    ----------
    model, layer
        The model, and the layer in it that is to be cut at.
    output, layer_output
        Which of the model's outputs is the prediction, and which of the layer's is injected into.

    Attributes
    ----------
    keeper
        Puts back what forward() changes beside the model itself.
    """

    others_stream = OthersStream
    """What standard error is while a model is exported."""

    def __init__(self, model: nn.Module, layer: nn.Module, output: Any = None, layer_output: Any = None) -> None:
        self.model = model
        self.layer = layer
        self.output = output
        self.layer_output = layer_output
        static = Reads(model)
        self.keeper = Keeper(static)
        self._recorder = Recorder()
        self._obstacle = static.obstacle if static.iterators else ""
        if callable(output):
            self._obstacle = self._obstacle or "output is a function, which may read what cannot be seen"

    def why_not(self) -> str:
        """Return why the model has to run whole; empty if nothing is known."""
        return self._obstacle or self._recorder.objection

    def value_reads(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> TorchFunctionMode:
        """Return the mode to be on while the model is run once on these inputs."""
        return ValueReads(self._recorder, [args, kwargs, *self.model.parameters(), *self.model.buffers()])

    def record(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Run the model once, on inputs that may be written to."""
        try:
            with RestoredAttributes(self.model) as changed:
                self._recorder.run(lambda: self.model(*args, **kwargs))
        finally:
            self.keeper.put_back()
        if changed:
            self._recorder.object_to("assigns attributes")

    def watch(self) -> _C.Watch:
        """Return what tells whether anything that was read has changed; :meth:`why_not` may then know more."""
        reads = Reads(self.model, self._recorder.codes)
        self._obstacle = self._obstacle or reads.obstacle
        return _C.Watch([] if reads.obstacle else reads.facts)

    def trace(self, args: tuple[Any, ...], kwargs: dict[str, Any], any_sizes: bool) -> Graph:
        """Export the model, for calls that differ from this one in their tensors only.

        Parameters
        ----------
        args, kwargs
            The call.
        any_sizes
            Whether tensors may have other sizes in all dimensions, which takes longer, or in the first only.

        Returns
        -------
        Graph
            It takes the call's tensors, in the order of pytree, gives the prediction, and holds the model's own
            parameters and buffers. The model itself is as it was.

        Raises
        ------
        Exception
            Whatever torch.export raises for models that it does not support.
        """
        prediction = _Prediction(self.model, self.output, (args, kwargs))
        tensors = tuple(leaf for leaf in prediction.leaves if isinstance(leaf, Tensor))
        dims = (range(t.dim() if any_sizes else min(t.dim(), 1)) for t in tensors)
        sizes = {"tensors": tuple(dict.fromkeys(each, torch.export.Dim.AUTO) for each in dims)}
        handle = self.layer.register_forward_hook(self._mark)
        tracer = proxy_tensor._ModuleStackTracer
        try:
            # torch.export leaves copies of attributes.
            with RestoredAttributes(self.model), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                proxy_tensor._ModuleStackTracer = _tracer_of_one_thread()  # type: ignore[misc]
                program = with_open_sizes(
                    lambda: torch.export.export(prediction, tensors, dynamic_shapes=sizes, strict=False), tensors
                )
        except Exception as error:
            if isinstance(error, DataDependentOutputException) or type(error).__name__ == "GuardOnDataDependentSymNode":
                raise RuntimeError("forward() depends on the values of tensors") from error
            raise
        finally:
            proxy_tensor._ModuleStackTracer = tracer  # type: ignore[misc]
            handle.remove()
            self.keeper.put_back()
        return Graph(program)

    def _mark(self, _: nn.Module, __: Any, output: Any) -> Any:
        """Put the marker behind the tensor that is injected into."""
        return _C.replace_at(output, self.layer_output, torch.ops.it3.features, Tensor, "")


class ProgramPlan:
    """How a model is traced that is an exported program: it is as it is. Attributes and methods as of :class:`Plan`."""

    others_stream = OthersStream

    def __init__(self, model: ExportedModel, layer: nn.Module, output: Any = None, layer_output: Any = None) -> None:
        self.model = model
        self.layer = next(name for name, module in model.named_modules() if module is layer)
        self.output = output
        self.layer_output = layer_output
        self.keeper = Keeper(Reads(model))

    def why_not(self) -> str:
        """Return why the model has to run whole; empty if nothing is known."""
        return "output is a function" if callable(self.output) else ""

    def value_reads(self, *_: Any) -> TorchFunctionMode:
        """Return a mode that does nothing."""
        return TorchFunctionMode()

    def record(self, *_: Any) -> None:
        """Do nothing, as a program reads nothing of Python."""

    def watch(self) -> _C.Watch:
        """Return what never changes."""
        return _C.Watch([])

    def trace(self, *_: Any) -> Graph:
        """Describe the program, which is for the sizes that it was exported for."""
        parameters = self.model.named_parameters(remove_duplicate=False)
        tensors = {**dict(parameters), **dict(self.model.named_buffers(remove_duplicate=False))}
        return Graph(self.model.program, tensors, self.layer, self.output, self.layer_output)


def plan_of(model: nn.Module, layer: nn.Module, output: Any, layer_output: Any) -> Plan | ProgramPlan:
    """Make the plan for a model; see :class:`Plan`."""
    if isinstance(model, ExportedModel):
        return ProgramPlan(model, layer, output, layer_output)
    return Plan(model, layer, output, layer_output)


def _tracer_of_one_thread() -> type[proxy_tensor._ModuleStackTracer]:
    """Make a tracer that leaves modules to other threads: while it traces, torch hands it the calls of all threads."""
    thread = threading.get_ident()

    class Tracer(proxy_tensor._ModuleStackTracer):
        def getattr(self, attr: str, attr_val: Any, cache: dict[str, Any]) -> Any:
            return super().getattr(attr, attr_val, cache) if threading.get_ident() == thread else attr_val

        def call_module(self, m: nn.Module, forward: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            own = threading.get_ident() == thread
            return super().call_module(m, forward, args, kwargs) if own else forward(*args, **kwargs)

    return Tracer
