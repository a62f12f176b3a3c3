"""A layer to begin with, by rules that say their reasons."""

from dataclasses import dataclass, field
from typing import Any

from torch import nn

from it3 import _C
from it3.layer_choice.table import Layer, Layers, layers, tried

_GREATEST_SHARE = 0.5


@dataclass(frozen=True)
class Suggestion:
    """A layer to begin with.

    Attributes
    ----------
    layer
        What :func:`it3.layers` tells of it.
    reason
        Why this one, in words.
    explanation
        How calls of an engine with this layer run.

    Examples
    --------
    >>> it3.suggest_layer(model, x).name
    '0'
    """

    layer: Layer
    reason: str
    explanation: _C.Explanation = field(repr=False)

    @property
    def name(self) -> str:
        """The layer's name, which ``features_layer_name`` takes."""
        return self.layer.name

    def __str__(self) -> str:
        """Say which layer, why, and how it would run."""
        return f"{self.name!r}: {self.reason}\n{self.explanation}"


def suggest_layer(model: nn.Module, example_inputs: Any, **arguments: Any) -> Suggestion:
    """Suggest a layer at which to feed y0 back.

    Of the layers that are called once, return a floating-point tensor of two or more dimensions, have weights behind
    them, and with which an engine can take a step, it takes those with the fewest layers of batch normalization behind
    them, whose running statistics do not fit y1 (see :class:`it3.IT3Engine`), and of these the first that has at most
    half of a run's compute behind it, else the last: what is behind runs twice a step. Compute is counted by shapes,
    so that the same layer is suggested each time. That is about being right and fast. Which layer predicts best is a
    question to :func:`it3.search`, as no rule is known.

    Parameters
    ----------
    model, example_inputs
        See :func:`it3.layers`.
    **arguments
        Further arguments of :class:`it3.IT3Engine`.

    Raises
    ------
    ValueError, TypeError
        What :func:`it3.layers` raises; and if an engine can adapt with none of the layers, with its first reason.

    Examples
    --------
    >>> print(it3.suggest_layer(model, x))
    '0': ...
    runs:        cut at the layer, exported by torch.export
    ...
    """
    return suggestion_from(layers(model, example_inputs, **arguments), model, example_inputs, arguments)


def suggestion_from(table: Layers, model: nn.Module, example_inputs: Any, arguments: dict[str, Any]) -> Suggestion:
    """Suggest one of the layers in a table of a model's; see :func:`suggest_layer`."""
    candidates = [layer for layer in table if _is_usable(layer)]
    if not candidates:
        raise ValueError(
            "the model has no layer that is called once, returns a floating-point tensor of two or more dimensions, "
            "and has weights behind it; features_layer_name='input' feeds y0 back at its input"
        )
    refusal = ""
    for layer in _by_preference(candidates):
        found = tried(model, layer.name, example_inputs, arguments)
        if not isinstance(found, str):
            return Suggestion(layer, _reason(layer), found)
        refusal = refusal or f"{layer.name!r}: {found}"
    raise ValueError(f"no layer that is called once and has weights behind it can be adapted; {refusal}")


def _is_usable(layer: Layer) -> bool:
    return layer.times_called == 1 and len(layer.output_shape) > 1 and layer.is_floating and layer.weights_behind > 0


def _by_preference(candidates: list[Layer]) -> list[Layer]:
    """Order layers, which are in the order in which they run, without those that end as one around them does."""
    outer = [layer for layer in candidates if not any(_is_end_of(layer, other) for other in candidates)]
    early = [layer for layer in outer if layer.share_behind > _GREATEST_SHARE]
    late = [layer for layer in outer if layer.share_behind <= _GREATEST_SHARE]
    return sorted([*late, *reversed(early)], key=lambda layer: layer.batch_norms_behind)


def _is_end_of(layer: Layer, outer: Layer) -> bool:
    is_inside = layer.name.startswith(f"{outer.name}.")
    return is_inside and (layer.weights_behind, layer.output_shape) == (outer.weights_behind, outer.output_shape)


def _reason(layer: Layer) -> str:
    norms = layer.batch_norms_behind
    said = "it is called once, " + (
        "no batch normalization is behind it"
        if norms == 0
        else f"no layer has fewer than its {norms} of batch normalization behind it, whose running statistics do not "
        "fit y1, so train with neutral and it3.TrainingRecipe(first_pass='drawn', second_pass='none')"
    )
    return f"{said}, and {layer.share_behind:.0%} of a run's compute is behind it, which runs twice a step"
