"""Which of a model's modules run before the layer at which y0 is fed back, and which behind it."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from it3 import _C
from it3.cutting.exported_model import ExportedModel
from it3.engine import IT3Engine
from it3.layer_choice.observed_run import ObservedRun
from it3.support.checks import eager


@dataclass
class Part:
    """One of a model's modules.

    Attributes
    ----------
    name, kind
        Its dotted name, and its class.
    place
        "layer" for the layer itself, "behind" if its output hangs on the layer's, "before" if not, "both" for a module
        without submodules that is called in both places.
    parameters
        How many numbers its parameters have, without those of the parts before it.
    """

    name: str
    kind: str
    place: str
    parameters: int


def parts_of(engine: IT3Engine, inputs: Any) -> list[Part]:
    """Return the modules of an engine's model in the order in which their calls end.

    A module whose calls are all on one side of the layer is one part; else those in it are.

    Raises
    ------
    ValueError
        Where the calls of its modules cannot be seen, as in TorchScript.
    """
    model = eager(engine.model)
    unseen = (
        f"the calls of layers in a {type(model).__name__} cannot be seen, as this needs an eager model whose layers "
        "are called as modules; engine.explain(inputs) tells how it would run"
    )
    if isinstance(model, torch.jit.ScriptModule | ExportedModel):
        raise ValueError(unseen)
    with _C.ModelHold(model):
        run = ObservedRun(model, inputs, engine.layer_output)
    layer = engine._layer_name()
    if not run.calls[layer].hangs_on:
        raise ValueError(unseen)
    names = {module: name for name, module in model.named_modules()}
    counted: set[int] = set()
    return [
        Part(names[module], type(module).__name__, place, _numbers_in(module, counted))
        for module, place in _units(model, layer, run, names)
    ]


def _units(
    module: nn.Module, layer: str, run: ObservedRun, names: dict[nn.Module, str]
) -> Iterator[tuple[nn.Module, str]]:
    """Return the largest modules that lie on one side, with their places."""
    for child in sorted(_called(module, run, names), key=lambda child: run.calls[names[child]].order):
        inside = [names[each] for each in child.modules()]
        places = {is_behind for name in inside for is_behind in run.hangs_on(name, layer)}
        if names[child] == layer:
            yield child, "layer"
        elif len(places) == 1 and layer not in inside:
            yield child, "behind" if places.pop() else "before"
        elif next(_called(child, run, names), None) is not None:
            yield from _units(child, layer, run, names)
        else:
            yield child, "both"


def _called(module: nn.Module, run: ObservedRun, names: dict[nn.Module, str]) -> Iterator[nn.Module]:
    """Return the modules in a module that were called; of a container that was not, such as a list, those in it."""
    for child in module.children():
        if run.calls[names[child]].hangs_on:
            yield child
        else:
            yield from _called(child, run, names)


def _numbers_in(module: nn.Module, counted: set[int]) -> int:
    """Count the numbers in a module's parameters, but for those that were counted before."""
    new = {id(parameter): parameter for parameter in module.parameters() if id(parameter) not in counted}
    counted.update(new)
    return sum(parameter.numel() for parameter in new.values())
