"""The model in an engine as its framework made it."""

from torch import nn

from it3.engine import IT3Engine
from it3.input_layer import WithInputLayer
from it3.support.checks import eager


def users_model(model: IT3Engine | nn.Module) -> nn.Module:
    """Return the model without what an engine, "input" as its layer, and torch.compile put around it."""
    found = eager(model.model if isinstance(model, IT3Engine) else model)
    return eager(found.model) if isinstance(found, WithInputLayer) else found
