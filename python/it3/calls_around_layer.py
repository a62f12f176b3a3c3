"""Which of a model's modules run before the layer at which y0 is fed back, and which behind it."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from it3 import _C
from it3.checks import eager
from it3.engine import IT3Engine
from it3.export import copy_of
from it3.exported_model import ExportedModel
from it3.kept import KeptRandomState, own_copy


@dataclass
class Part:
    """One of a model's modules.

    Attributes
    ----------
    name, kind
        Its dotted name, and its class.
    place
        "before" if it depends on nothing that is injected, "layer" for the layer itself, "behind" if it does depend on
        it, "both" for a module without submodules that is called in both places.
    parameters
        How many numbers its parameters have, without those of the parts before it.
    """

    name: str
    kind: str
    place: str
    parameters: int


@dataclass
class _Calls:
    """The calls of a module, and of those in it: when the first began, and where they lie."""

    first: int
    places: set[str] = field(default_factory=set)


def parts_of(engine: IT3Engine, inputs: Any) -> list[Part]:
    """Return the modules of an engine's model in the order in which they are called.

    A module whose calls are all on one side of the layer is one part; else those in it are. What lies behind is found
    by autograd, on a copy of the model: what has a gradient with respect to the layer's output.

    Raises
    ------
    ValueError
        For a model that cannot be copied, and where the calls of its modules cannot be seen, as in TorchScript.
    """
    model = eager(engine.model)
    unseen = (
        f"the calls of layers in a {type(model).__name__} cannot be seen, as this needs an eager model whose layers "
        "are called as modules; engine.explain(inputs) tells how it would run"
    )
    if isinstance(model, torch.jit.ScriptModule | ExportedModel):
        raise ValueError(unseen)
    with _C.ModelHold(model), torch.inference_mode(False):  # of copies made in it there are no gradients
        twin = copy_of(model)
    layer = twin.get_submodule(engine._layer_name())
    names = {module: name for name, module in twin.named_modules()}
    calls = _calls_of(twin, layer, engine.layer_output, inputs)
    if layer not in calls:
        raise ValueError(unseen)
    counted: set[int] = set()
    return [
        Part(names[module], type(module).__name__, place, _numbers_in(module, counted))
        for module, place in _units(twin, layer, calls)
    ]


def _calls_of(model: nn.Module, layer: nn.Module, choice: Any, inputs: Any) -> dict[nn.Module, _Calls]:
    """Run a model, and note which modules were called."""
    calls: dict[nn.Module, _Calls] = {}

    def begin(module: nn.Module, _args: Any) -> None:
        calls.setdefault(module, _Calls(len(calls)))

    def end(module: nn.Module, _args: Any, outputs: Any) -> Any:
        depends = any(isinstance(leaf, Tensor) and leaf.requires_grad for leaf in pytree.tree_leaves(outputs))
        calls[module].places.add("behind" if depends else "before")
        if module is layer:
            chosen = _chosen(outputs, choice)
            return pytree.tree_map(lambda leaf: _injected(leaf) if leaf is chosen else leaf, outputs)
        return None

    for module in model.modules():
        module.register_forward_pre_hook(begin)
        module.register_forward_hook(end)
    model.eval().requires_grad_(False)
    with KeptRandomState(), torch.inference_mode(False), torch.enable_grad():
        args, kwargs = _C.arguments_of(own_copy(inputs))
        model(*args, **kwargs)
    return calls


def _chosen(outputs: Any, choice: Any) -> Any:
    """Return the tensor that is injected into: the first, or what an index, a key or a path of these says."""
    if choice is None:
        return next((leaf for leaf in pytree.tree_leaves(outputs) if isinstance(leaf, Tensor)), None)
    for key in choice if isinstance(choice, tuple | list) else [choice]:
        outputs = outputs[key]
    return outputs


def _injected(output: Tensor) -> Tensor:
    """Return a tensor that has a gradient, and may be written to in place."""
    return output.detach().requires_grad_().clone()


def _units(module: nn.Module, layer: nn.Module, calls: dict[nn.Module, _Calls]) -> Iterator[tuple[nn.Module, str]]:
    """Return the largest modules that lie on one side, with their places."""
    for child in sorted(_called(module, calls), key=lambda child: calls[child].first):
        if child is layer:
            yield child, "layer"
            continue
        inside = set().union(*(calls[each].places for each in child.modules() if each in calls))
        if len(inside) == 1 and not any(each is layer for each in child.modules()):
            yield child, inside.pop()
        elif next(_called(child, calls), None) is not None:
            yield from _units(child, layer, calls)
        else:
            yield child, "both"


def _called(module: nn.Module, calls: dict[nn.Module, _Calls]) -> Iterator[nn.Module]:
    """Return the modules in a module that were called; of a container that was not, such as a list, those in it."""
    for child in module.children():
        if child in calls:
            yield child
        else:
            yield from _called(child, calls)


def _numbers_in(module: nn.Module, counted: set[int]) -> int:
    """Count the numbers in a module's parameters, but for those that were counted before."""
    new = {id(parameter): parameter for parameter in module.parameters() if id(parameter) not in counted}
    counted.update(new)
    return sum(parameter.numel() for parameter in new.values())
