"""Engines like a given one, by which it can be tried without changing it."""

import copy
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from it3 import _C
from it3.cutting.export import copy_of
from it3.cutting.undisturbed import undisturbed
from it3.support.checks import eager as eager_of
from it3.support.kept import own_copy

if TYPE_CHECKING:
    from it3.engine import IT3Engine


def with_settings(engine: "IT3Engine", settings: Mapping[str, Any]) -> "IT3Engine":
    """Make an engine that adapts by other settings, which leaves the given one and its model as they are.

    It is around the same model, or, where adapted weights are kept (``copy_model`` False), around a copy, and knows
    nothing of earlier calls: the weights of now are its start.

    Parameters
    ----------
    engine
        Keeps its options, functions and online state.
    settings
        Options that override the engine's; and ``distance_fn``, of which None is the engine's own.

    Raises
    ------
    ValueError, TypeError
        For options and distances that do not exist, and for a model that cannot be copied.
    """
    other = sibling(engine, settings)
    if _C.options_of(other.optimization_parameters)["copy_model"]:
        return other
    other._modules["model"] = eager_of(engine.model)  # a wrapper of torch.compile is not run anyhow
    with _C.ModelHold(other._modules["model"]):
        twin: IT3Engine = copy_of(other)
    return twin


def sibling(engine: "IT3Engine", settings: Mapping[str, Any]) -> "IT3Engine":
    """Make an engine around the same model and functions with other settings; see :func:`with_settings`."""
    options = options_with(engine, settings)
    other = copy.copy(engine)
    # With dictionaries of its own, of modules and of options among them.
    own = {name: value.copy() for name, value in vars(engine).items() if isinstance(value, dict | set)}
    other.__dict__.update(own)
    other.optimization_parameters = options
    distance = settings.get("distance_fn")
    if isinstance(distance, str):
        _C.check_distance(distance)
    elif distance is not None and not callable(distance):
        raise TypeError(f"distance_fn must be a name, a function or None, not {distance!r}")
    if distance is not None:
        other._modules.pop("distance_fn", None)  # which takes modules only
        other.distance_fn = distance
    return other


def options_with(engine: "IT3Engine", settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the engine's options with those of some settings in their place."""
    if not isinstance(settings, Mapping):
        raise TypeError(f"settings must be a mapping, such as {{'num_steps': 1}}, not a {type(settings).__name__}")
    options = {name: value for name, value in settings.items() if name != "distance_fn"}
    return _C.overridden(engine.optimization_parameters, options)


def check_separate(twin: "IT3Engine", engine: "IT3Engine", inputs: Any) -> None:
    """Check that a copy of an engine's model does not read the model's own parameters.

    Functions are not copied: a hook or a forward() that is a function over a layer calls that very layer.

    Raises
    ------
    ValueError
        If it does.
    """
    other, model = eager_of(twin.model), eager_of(engine.model)
    if other is model or isinstance(other, torch.jit.ScriptModule):
        return
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    args, kwargs = _C.arguments_of(own_copy(inputs))
    with undisturbed(other), torch.enable_grad():
        outputs = other(*args, **kwargs)
    found = next((names[id(leaf)] for leaf in _leaves_of(outputs) if id(leaf) in names), None)
    if found is not None:
        raise ValueError(
            "the model cannot be copied, as is needed to try copy_model=False without changing it: the copy uses the "
            f"original's parameter {found!r}, as by a hook that refers to the original layer; use copy_model=True"
        )


def _leaves_of(outputs: Any) -> Iterator[Tensor]:
    """Return the tensors that the graph of some tensors begins with."""
    nodes = [leaf.grad_fn for leaf in pytree.tree_leaves(outputs) if isinstance(leaf, Tensor)]
    seen = set()
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        variable = getattr(node, "variable", None)
        if isinstance(variable, Tensor):
            yield variable
        nodes += [following for following, _ in node.next_functions]
