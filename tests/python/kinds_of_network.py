"""One model as each kind of network that Python can give the core, which IT3Engine.explain() tells apart."""

from collections.abc import Callable

import reference
import torch
from it3 import IT3Engine
from models import Case
from torch import Tensor, nn


def hooked(module: nn.Module) -> nn.Module:
    """A hook of the user's keeps the model from being cut."""
    module.register_forward_hook(lambda *_: None)
    return module


NETWORKS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "hooks": hooked,
    "traced": lambda module: module,
    "script": torch.jit.script,
}


def build(case: Case, network: str, **arguments) -> tuple[IT3Engine, reference.TensorFunction]:
    """An engine in eval mode, around a network that shares the case's tensors, and its embedder by the formula."""
    case.model.eval()
    engine = IT3Engine(NETWORKS[network](case.model), case.layer, **arguments).eval()
    engine.uncertainty(case.inputs)
    weights = [w.detach() for w in engine.embedder.parameters()]

    def embed(prediction: Tensor, features: Tensor) -> Tensor:
        return reference.embed(prediction, features, *weights)

    return engine, embed


def state_of(module: nn.Module) -> dict[str, Tensor]:
    """Copies of all its tensors."""
    return {name: value.detach().clone() for name, value in module.state_dict().items()}
