"""Eager models as TorchScript modules that share their tensors, so that the core can cut them.

What comes out is a proposal, as tracing fixes what it saw of Python: the core compares it with the model before use.
"""

import itertools
import sys
import threading
import warnings
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.fx.proxy import ParameterProxy
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils.weak import WeakIdKeyDictionary

from it3 import _C
from it3.keeping import Keeper
from it3.reads import Reads
from it3.recording import Recorder, is_users

if TYPE_CHECKING:
    from collections.abc import Callable

FEATURES = "it3_features"
"""The name, in a traced module, of a layer that gives what the named layer's output is."""


class _Tracer(fx.Tracer):
    """Records a module's forward(), with a marker behind one layer.

    Parameters and buffers become nodes of the graph wherever they are read, so that nothing that depends on their
    values is fixed; only the shapes of parameters are.
    """

    def __init__(self, model: nn.Module, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        super().__init__()
        self.layer = layer
        self.inputs = (args, kwargs)
        self.thread = threading.get_ident()  # while it traces, torch.fx hands it the calls of all threads
        self.at_layer: Callable[[fx.Tracer, Any], Any]
        self.at_end: Callable[[Any], Any]
        self.names = {id(tensor): name for name, tensor in (*model.named_buffers(), *model.named_parameters())}

    def create_args_for_root(self, root_fn: Any, is_module: bool, concrete_args: Any = None) -> tuple[Any, list[Any]]:
        """Make an input of every tensor that the model is called with; all else stays as it is."""
        count = itertools.count()

        def to_input(leaf: Any) -> Any:
            is_tensor = isinstance(leaf, Tensor)
            return self.create_proxy("placeholder", f"input{next(count)}", (), {}) if is_tensor else leaf

        args, kwargs = pytree.tree_map(to_input, self.inputs)

        def call(*own_args: Any) -> Any:
            return self.at_end(root_fn(*own_args, **kwargs))

        return call, [self.root, *args]

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Record calls of torch.nn's modules as such, unless the layer is inside."""
        has_layer = m is not self.layer and any(inner is self.layer for inner in m.modules())
        return not has_layer and super().is_leaf_module(m, module_qualified_name)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        """Record the reading of a parameter or buffer, once."""
        name = self.names.get(id(attr_val))
        if name is None or threading.get_ident() != self.thread:
            return attr_val
        if name not in parameter_proxy_cache:
            is_parameter = isinstance(attr_val, nn.Parameter)
            factory = partial(ParameterProxy, self, name=name, param=attr_val) if is_parameter else None
            parameter_proxy_cache[name] = self.create_proxy("get_attr", name, (), {}, proxy_factory_fn=factory)
        return parameter_proxy_cache[name]

    def call_module(self, m: nn.Module, forward: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Record one call of a module, and the marker."""
        if threading.get_ident() != self.thread:
            return forward(*args, **kwargs)
        output = super().call_module(m, forward, args, kwargs)
        return self.at_layer(self, output) if m is self.layer else output


class _ValueReads(TorchFunctionMode):
    """Notes where code of the user's makes a number of what came from inputs or weights, as `if x.max() > 3:` does.

    A trace that meets such code fails, unless it is behind a test whether x is a tensor, which what torch.fx hands
    around is not.
    """

    names = frozenset(
        {
            *("__bool__", "__int__", "__float__", "__complex__", "__index__", "__contains__", "__array__"),
            *("item", "tolist", "numpy", "equal", "allclose", "is_nonzero"),
        }
    )

    def __init__(self, recorder: Recorder, sources: Any) -> None:
        super().__init__()
        self.recorder = recorder
        self.variables = WeakIdKeyDictionary()  # the sources, and what is computed from them
        self._add(sources)

    def _add(self, tensors: Any) -> None:
        self.variables.update((leaf, True) for leaf in pytree.tree_leaves(tensors) if isinstance(leaf, Tensor))

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = pytree.tree_leaves((args, kwargs))
        if not any(isinstance(leaf, Tensor) and leaf in self.variables for leaf in given):
            return func(*args, **kwargs)
        name = getattr(func, "__name__", "")
        if name in self.names:
            frame = sys._getframe(1)
            while frame.f_back is not None and frame.f_code.co_filename == torch.overrides.__file__:
                frame = frame.f_back
            if is_users(frame.f_code):
                self.recorder.object_to("forward() depends on the values of tensors")
        result = func(*args, **kwargs)
        self._add(args[0] if name == "__setitem__" else result)
        return result


class Plan:
    """How one kind of call is traced: what the model does and reads is recorded first, then it is traced by torch.fx.

    Parameters
    ----------
    model, layer
        The model, and the layer in it that the marker :data:`FEATURES` is put behind.
    output, layer_output
        Which of the model's outputs is the prediction, and which of the layer's is injected into.

    Attributes
    ----------
    keeper
        Puts back what forward() changes beside the model itself.
    """

    def __init__(self, model: nn.Module, layer: nn.Module, output: Any = None, layer_output: Any = None) -> None:
        self.model = model
        self.layer = layer
        self.output = output
        self.layer_output = layer_output
        static = Reads(model)
        self.keeper = Keeper(static)
        self._recorder = Recorder()
        self._obstacle = static.obstacle if static.iterators else ""
        self._structures: dict[str, Any] = {}

    def why_not(self) -> str:
        """Return why the model has to run whole; empty if nothing is known."""
        return self._obstacle or self._recorder.objection

    def value_reads(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> TorchFunctionMode:
        """Return the mode to be on while the model is run once on these inputs."""
        return _ValueReads(self._recorder, [args, kwargs, *self.model.parameters(), *self.model.buffers()])

    def record(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Run the model once, on inputs that may be written to."""

        def see_layer(_: nn.Module, __: Any, output: Any) -> None:
            self._structures["layer"] = _structure_of(output)

        handle = self.layer.register_forward_hook(see_layer)
        try:
            output = self._recorder.run(lambda: self.model(*args, **kwargs))
            self._structures["model"] = _structure_of(output)
        finally:
            handle.remove()
            self.keeper.put_back()

    def watch(self) -> _C.Watch:
        """Return what tells whether anything that was read has changed; :meth:`why_not` may then know more."""
        reads = Reads(self.model, self._recorder.codes)
        self._obstacle = self._obstacle or reads.obstacle
        return _C.Watch([] if reads.obstacle else reads.facts)

    def trace(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.jit.ScriptModule:
        """Trace the model, for calls that differ from this one in their tensors only.

        Returns
        -------
        torch.jit.ScriptModule
            It takes the call's tensors, in the order of pytree, gives the prediction, and holds the model's own
            parameters and buffers. The model itself is as it was.

        Raises
        ------
        Exception
            Whatever tracing and compilation raise for models that they do not support.
        """
        model = self.model
        tracer = _Tracer(model, self.layer, args, kwargs)
        tracer.at_layer, tracer.at_end = self._mark, self._choose
        module_methods = nn.Module.__call__, nn.Module.__getattr__
        try:
            with _Restored(model) as changed:
                graph: fx.Graph = self._recorder.run(lambda: tracer.trace(model))
                parts = {n.target: _part(model, n) for n in graph.nodes if n.op in ("call_module", "get_attr")}
                for name in [name for name in vars(model) if name.startswith("_tensor_constant")]:
                    delattr(model, name)  # torch.fx leaves them there
        except BaseException:
            # torch.fx has replaced them, and does not put them back where a Ctrl-C ends that.
            nn.Module.__call__, nn.Module.__getattr__ = module_methods  # type: ignore[method-assign]
            raise
        finally:
            self.keeper.put_back()
        if changed:
            raise RuntimeError("forward() assigns attributes")
        if any(_limits_norms(node, parts.get(node.target)) for node in graph.nodes):
            raise RuntimeError("an embedding has a max_norm, which TorchScript ignores")
        with warnings.catch_warnings(), _Restored(model):  # compilation leaves marks on the modules
            warnings.simplefilter("ignore")  # that this format is used is our choice, not the user's
            script: torch.jit.ScriptModule = torch.jit.script(fx.GraphModule(parts, graph))
        return script

    def _mark(self, tracer: fx.Tracer, output: Any) -> Any:
        """Put the marker behind the tensor that is injected into."""

        def marked(proxy: Any) -> Any:
            return tracer.create_proxy("call_module", FEATURES, (proxy,), {})

        unpacked = _unpacked(output, self._structures.get("layer"))
        return _C.replace_at(unpacked, self.layer_output, marked, fx.Proxy, "")

    def _choose(self, output: Any) -> Any:
        return _C.chosen_output(_unpacked(output, self._structures.get("model")), self.output, fx.Proxy)


def _structure_of(output: Any) -> Any:
    """Return the tuples, lists and dicts of an output, with None for all else."""
    if type(output) in (tuple, list):
        return type(output)(_structure_of(item) for item in output)
    return {key: _structure_of(value) for key, value in output.items()} if type(output) is dict else None


def _unpacked(value: Any, structure: Any) -> Any:
    """Take a proxy apart that stands for several values, as those of modules that are recorded as one do."""
    if structure is None:
        return value
    if not isinstance(value, fx.Proxy) and (type(value) is not type(structure) or len(value) != len(structure)):
        return value
    if isinstance(structure, dict):
        return {key: _unpacked(value[key], inner) for key, inner in structure.items()}
    return type(structure)(_unpacked(value[i], inner) for i, inner in enumerate(structure))


def _limits_norms(node: fx.Node, part: Any) -> bool:
    """Return whether a node writes to the weights of an embedding, so that their norms stay below a limit."""
    if node.op == "call_module":
        return getattr(part, "max_norm", None) is not None
    place = 3  # among the positional arguments
    given = node.kwargs.get("max_norm", node.args[place] if len(node.args) > place else None)
    return node.target in (F.embedding, F.embedding_bag) and given is not None


def _part(model: nn.Module, node: fx.Node) -> Any:
    if node.target == FEATURES:
        return nn.Identity()
    part: Any = model
    for name in str(node.target).split("."):
        part = getattr(part, name)
    return part


class _Restored:
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
        return self.changed

    def __exit__(self, *_: object) -> None:
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
