"""What a user does to a model between two calls: the same to the engine's and to the reference's."""

import re
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from differential.naive import Embed, tensors_of
from differential.rig import Rig


def _parameters(model: nn.Module) -> list[nn.Parameter]:
    return [p for p in model.parameters() if p.is_floating_point()]


def _written(model: nn.Module, _: Rig) -> None:
    for p in _parameters(model):
        p.mul_(0.9).add_(0.05)


def _given_data(model: nn.Module, _: Rig) -> None:
    for p in _parameters(model):
        p.data = p.data * 0.9


def _loaded(model: nn.Module, _: Rig) -> None:
    model.load_state_dict({k: v * 0.9 if v.is_floating_point() else v for k, v in model.state_dict().items()})


def _frozen(model: nn.Module, _: Rig) -> None:
    for p in _parameters(model)[:2]:
        p.requires_grad_(not p.requires_grad)


def _head(rig: Rig) -> str:
    """The name of the layer that gives the prediction."""
    found = re.search(r"y = self\.(\w+)\(x\)", rig.case.source)
    assert found is not None
    return found[1]


def _hooked(model: nn.Module, rig: Rig) -> None:
    model.get_submodule(_head(rig)).register_forward_hook(lambda _, __, out: 2 * out)


def _replaced(model: nn.Module, rig: Rig) -> None:
    name = _head(rig)
    setattr(model, name, nn.Sequential(model.get_submodule(name), nn.Tanh()))


EAGER: dict[str, Callable[[nn.Module, Rig], None]] = {"hooked": _hooked, "replaced": _replaced}
ANY: dict[str, Callable[[nn.Module, Rig], None]] = {
    "written": _written,
    "data": _given_data,
    "loaded": _loaded,
    "frozen": _frozen,
}


def change(rig: Rig) -> None:
    """Do what the case says."""
    name: str = rig.case.change
    if not name:
        return
    with torch.no_grad():
        if name == "embedder":
            if not rig.engine.embedder.is_built:
                return
            for w in rig.engine.embedder.parameters():
                w.mul_(0.9)
            if isinstance(rig.method.embed, Embed):
                rig.method.embed.weights = [w.detach().double() for w in rig.engine.embedder.parameters()]
            return
        for model in (rig.model, rig.naive):
            {**ANY, **EAGER}[name](model, rig)
        for own, other in zip(tensors_of(rig.model), tensors_of(rig.naive), strict=True):
            other.data.copy_(own)  # what float32 rounds


def drawable(network: str, embedder: str) -> list[Any]:
    """The names of changes that can be done to such a network."""
    names: list[Any] = [*ANY, *(EAGER if network in ("eager", "hooked", "compiled") else ())]
    return [*names, "embedder"] if network != "saved" and embedder in ("given", "made") else names
