"""The layer that is injected into, by its name or as the module itself."""

from typing import Any

from torch import nn


def layer_name_of(model: nn.Module, layer: Any) -> str:
    """Return the dotted name of a layer.

    Parameters
    ----------
    model
        The model that the layer is in.
    layer
        A name, which is returned as it is, or a submodule that is in the model under one name.

    Raises
    ------
    TypeError
        For anything else.
    ValueError
        For a module that is not in the model, or is there under several names.
    """
    if isinstance(layer, str):
        return layer
    if not isinstance(layer, nn.Module):
        hint = f"did you mean {str(layer)!r}? " if isinstance(layer, int) and not isinstance(layer, bool) else ""
        raise TypeError(
            "features_layer_name must be the dotted name of a layer, such as 'encoder.0', or the layer itself, not "
            f"{layer!r}; {hint}model.named_modules() lists all names"
        )
    names = [name for name, module in model.named_modules(remove_duplicate=False) if module is layer]
    if not names:
        raise ValueError(
            f"features_layer_name is a {type(layer).__name__} that is not in the model; give one of its submodules, or "
            "a name from model.named_modules()"
        )
    if len(names) > 1:
        raise ValueError(
            f"features_layer_name is a {type(layer).__name__} that the model has under several names, "
            f"{', '.join(map(repr, names))}; give one of these"
        )
    return str(names[0])
