"""Which layers a tensor of an eager model comes from: their kinds tell where its channels and samples are."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from it3 import _C
from it3.cutting.exported_model import class_of


def origins_of(
    model: nn.Module, layer_name: str, inputs: Any, is_training: bool
) -> tuple[_C.Origin | None, _C.Origin | None]:
    """Return the layers that a model's prediction, and the output of its layer, come from.

    Of a TorchScript module, whose graph tells, None.

    Parameters
    ----------
    model, layer_name
        The engine's model, and its layer.
    inputs
        What the model is called with.
    is_training
        Whether the call trains, and a lazy model may take its shapes from it.
    """
    if isinstance(model, torch.jit.ScriptModule):
        return None, None
    if is_training and any(nn.parameter.is_lazy(parameter) for parameter in model.parameters()):
        arguments, keywords = _C.arguments_of(inputs)
        with torch.no_grad():
            model(*arguments, **keywords)  # gives the parameters their shapes, as the first call would
    return origin_of(model, model), origin_of(_C.submodule_of(model, layer_name), model)


def origin_of(layer: nn.Module, model: nn.Module) -> _C.Origin:
    """Return the layers that the output of a layer of a model comes from.

    Those in the layer. For one that works on each value by itself, such as an activation, those before it, in its
    Sequential or, where it has none, in the order in which they are registered.
    """
    chain = _chain_of(layer, model)
    first = chain[0] if chain else layer
    before = [kind for kind in map(_own_kind, _modules_before(first, model)) if _tells(kind)]
    inside = _kinds_in(chain)
    if not inside:
        inside, before = before, []
    return _C.Origin(inside, before, _is_direct(chain))


def _chain_of(layer: nn.Module, model: nn.Module) -> list[nn.Module]:
    """Return the layer, behind those before it in its Sequential if it is one that works on each value by itself."""
    if not _is_elementwise(layer):
        return [layer]
    for parent in model.modules():
        children = list(parent._modules.values())
        if _is_sequential(parent) and any(child is layer for child in children):
            index = next(i for i, child in enumerate(children) if child is layer)
            return [child for child in children[: index + 1] if child is not None]
    return []


def _modules_before(layer: nn.Module, model: nn.Module) -> list[nn.Module]:
    """Return the modules that are registered before a layer and do not contain it."""
    before = []
    for module in model.modules():
        if module is layer:
            break
        if not any(inner is layer for inner in module.modules()):
            before.append(module)
    return before


def _kinds_in(chain: Iterable[nn.Module]) -> list[_C.LayerKind]:
    """Return the kinds of modules in their order, those in a module before its own."""
    kinds: list[_C.LayerKind] = []
    seen: set[int] = set()

    def visit(module: nn.Module) -> None:
        if id(module) in seen:
            return
        seen.add(id(module))
        for child in module.children():
            visit(child)
        kind = _own_kind(module)
        if _tells(kind):
            kinds.append(kind)

    for module in chain:
        visit(module)
    return kinds


def _is_direct(chain: Sequence[nn.Module]) -> bool:
    """Return whether a chain returns what its last layer of a known kind does."""
    last = next((module for module in reversed(chain) if not _is_elementwise(module)), None)
    if last is None:
        return False
    if _is_sequential(last):
        return _is_direct([child for child in last._modules.values() if child is not None])
    return _own_kind(last).channel_dim is not None


def _own_kind(module: nn.Module) -> _C.LayerKind:
    batch_first = getattr(module, "batch_first", None)
    if not isinstance(batch_first, bool):
        batch_first = None
    if isinstance(module, torch.jit.ScriptModule):
        names = [module.original_name]
        torch_class = None
    else:
        names = [base.__name__ for base in class_of(module).__mro__]
        torch_class = next((base for base in class_of(module).__mro__ if _is_of_torch(base)), None)
    name = next((name for name in names if _C.channel_dim_of_kind(name) is not None), "")
    kind = _C.kind_of_layer(name, lambda tensor: _tensor_of(module, tensor), batch_first)
    if torch_class is None or not _has_forward_of(module, torch_class):
        kind.channel_dim = None  # a class of the user's own may have its channels elsewhere
    return kind


def _tells(kind: _C.LayerKind) -> bool:
    return kind.channel_dim is not None or kind.channels is not None


def _tensor_of(module: nn.Module, name: str) -> Tensor | None:
    if isinstance(module, torch.jit.ScriptModule):
        tensor = getattr(module, name, None)
    else:  # not by getattr, which would compute a parametrized weight
        tensor = module._parameters.get(name, module._buffers.get(name))
    return tensor if isinstance(tensor, Tensor) and not nn.parameter.is_lazy(tensor) else None


def _is_of_torch(base: type) -> bool:
    return base.__module__.startswith("torch.nn.") and base is not nn.Module


def _has_forward_of(module: nn.Module, base: type) -> bool:
    """Return whether a call of the module runs the forward() of this class."""
    own = getattr(class_of(module), "forward", None)
    return "forward" not in module.__dict__ and own is getattr(base, "forward", None)


def _is_sequential(module: nn.Module) -> bool:
    return issubclass(class_of(module), nn.Sequential) and _has_forward_of(module, nn.Sequential)


def _is_elementwise(module: nn.Module) -> bool:
    return _is_of_torch(class_of(module)) and _C.is_elementwise(class_of(module).__name__)
