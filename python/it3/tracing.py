"""Eager models as TorchScript modules that share their tensors, so that the core can cut them.

What comes out is a proposal, as tracing fixes what it saw of Python: the core compares it with the model before use.
"""

import itertools
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.proxy import ParameterProxy
from torch.utils import _pytree as pytree

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
        self.names = {id(tensor): name for name, tensor in (*model.named_buffers(), *model.named_parameters())}

    def create_args_for_root(self, root_fn: Any, is_module: bool, concrete_args: Any = None) -> tuple[Any, list[Any]]:
        """Make an input of every tensor that the model is called with; all else stays as it is."""
        count = itertools.count()

        def to_input(leaf: Any) -> Any:
            is_tensor = isinstance(leaf, Tensor)
            return self.create_proxy("placeholder", f"input{next(count)}", (), {}) if is_tensor else leaf

        args, kwargs = pytree.tree_map(to_input, self.inputs)

        def call(*own_args: Any) -> Any:
            return root_fn(*own_args, **kwargs)

        return call, [self.root, *args]

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Record calls of torch.nn's modules as such, unless the layer is inside."""
        has_layer = m is not self.layer and any(inner is self.layer for inner in m.modules())
        return not has_layer and super().is_leaf_module(m, module_qualified_name)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        """Record the reading of a parameter or buffer, once."""
        name = self.names.get(id(attr_val))
        if name is None:
            return attr_val
        if name not in parameter_proxy_cache:
            is_parameter = isinstance(attr_val, nn.Parameter)
            factory = partial(ParameterProxy, self, name=name, param=attr_val) if is_parameter else None
            parameter_proxy_cache[name] = self.create_proxy("get_attr", name, (), {}, proxy_factory_fn=factory)
        return parameter_proxy_cache[name]

    def call_module(self, m: nn.Module, forward: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Record one call of a module, and the marker."""
        output = super().call_module(m, forward, args, kwargs)
        return self.create_proxy("call_module", FEATURES, (output,), {}) if m is self.layer else output


def trace(model: nn.Module, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.jit.ScriptModule:
    """Trace a model by torch.fx, for calls that differ from this one in their tensors only.

    Parameters
    ----------
    model, layer
        The model, and the layer in it that the marker :data:`FEATURES` is put behind.
    args, kwargs
        What it is called with.

    Returns
    -------
    torch.jit.ScriptModule
        It takes the call's tensors, in the order of pytree, gives the prediction, which is the first tensor in the
        model's output, and holds the model's own parameters and buffers. The model itself is as it was.

    Raises
    ------
    Exception
        Whatever tracing and compilation raise for models that they do not support.
    """
    with _restored(model) as changed:
        graph = _Tracer(model, layer, args, kwargs).trace(model)
        parts = {node.target: _part(model, node) for node in graph.nodes if node.op in ("call_module", "get_attr")}
        for name in [name for name in vars(model) if name.startswith("_tensor_constant")]:
            delattr(model, name)  # torch.fx leaves them there
    if changed:
        raise RuntimeError("its forward() assigns attributes")
    output = next(node for node in graph.nodes if node.op == "output")
    output.args = (next(leaf for leaf in pytree.tree_leaves(output.args[0]) if isinstance(leaf, fx.Node)),)
    with warnings.catch_warnings(), _restored(model):  # compilation leaves marks on the modules
        warnings.simplefilter("ignore")  # that this format is used is our choice, not the user's
        script: torch.jit.ScriptModule = torch.jit.script(fx.GraphModule(parts, graph))
    return script


def _part(model: nn.Module, node: fx.Node) -> Any:
    if node.target == FEATURES:
        return nn.Identity()
    part: Any = model
    for name in str(node.target).split("."):
        part = getattr(part, name)
    return part


@contextmanager
def _restored(model: nn.Module) -> Iterator[list[Any]]:
    """Put back what is assigned to modules meanwhile, or put into containers that they hold.

    Gives a list that then has what was put back.
    """
    kept: list[tuple[Any, Any]] = []
    for module in model.modules():
        kept.append((vars(module), dict(vars(module))))
        kept += [(v, v.copy()) for v in vars(module).values() if isinstance(v, dict | list | set)]
    changed: list[Any] = []
    try:
        yield changed
    finally:
        for container, before in kept:
            if _items(container) != _items(before):
                changed.append(container)
                container.clear()
                container.extend(before) if isinstance(container, list) else container.update(before)


def _items(container: Any) -> list[Any]:
    """Give the identities of what a container holds."""
    if isinstance(container, dict):
        return [(id(key), id(value)) for key, value in container.items()]
    return [id(item) for item in container]
