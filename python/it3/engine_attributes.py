"""What an engine is made of: its attributes, checked when they are given."""

from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from it3 import _C
from it3.cutting.exported_model import model_of
from it3.cutting.layer_names import layer_name_of
from it3.embedder import Embedder
from it3.engine_copies import CopiedAndPickled
from it3.input_layer import for_the_input
from it3.support.checks import callable_or_none, check_model, eager, like_of

TensorFunction = Callable[[Tensor, Tensor], Tensor]
Neutral = Tensor | float | _C.RandomOneHot | _C.DrawnLabels | Callable[[Tensor], Tensor]


class EngineAttributes(CopiedAndPickled):
    """The base of :class:`it3.IT3Engine`, whose docstring tells of them; each may be assigned between calls."""

    def __init__(
        self,
        model: nn.Module,
        features_layer_name: str | nn.Module,
        embedder: nn.Module | Callable[..., Tensor] | None = None,
        combine_fn: TensorFunction | None = None,
        distance_fn: TensorFunction | str | None = None,
        optimization_parameters: Mapping[str, Any] | None = None,
        *,
        neutral: Neutral | None = None,
        training_recipe: _C.TrainingRecipe | None = None,
        extra_channels: int = 0,
        output: Any = None,
        layer_output: Any = None,
        feedback: Literal["auto", "probabilities", "prediction"] = "auto",
        in_dims: Any = None,
        prediction_layout: _C.Layout | None = None,
        features_layout: _C.Layout | None = None,
        embeder: nn.Module | Callable[..., Tensor] | None = None,
    ) -> None:
        super().__init__()
        if embeder is not None and embedder is not None:
            raise TypeError("embeder is torch-ttt's spelling of embedder; give one of the two")
        embedder = embeder if embedder is None else embedder
        model = model_of(model)
        check_model(model)
        if isinstance(model, EngineAttributes):
            raise TypeError("model is an IT3Engine, which adapts by itself; give the model in it, engine.model")
        features_layer_name = layer_name_of(model, features_layer_name)
        if features_layer_name == "input":
            model, features_layout, embedder = for_the_input(model, extra_channels, features_layout, embedder)
        elif extra_channels != 0:
            raise ValueError(
                f"extra_channels={extra_channels} is for features_layer_name='input', where the engine puts a layer "
                f"before the model, not for the layer {features_layer_name!r}; leave it out"
            )
        _C.check_output_choice(output, layer_output)
        self.model = model
        self.features_layer_name = features_layer_name
        self.output = output
        self.layer_output = layer_output
        self.optimization_parameters = dict(optimization_parameters or {})
        _C.options_of(self.optimization_parameters)
        self.combine_fn = callable_or_none("combine_fn", combine_fn)
        if isinstance(distance_fn, str):
            _C.check_distance(distance_fn)
            self.distance_fn: TensorFunction | str = distance_fn
        else:
            self.distance_fn = callable_or_none("distance_fn", distance_fn) or "mse"

        plain = eager(model)
        self._given_layouts = (prediction_layout, features_layout)
        _C.submodule_of(plain, self._layer_name())  # raises if there is none
        with torch.inference_mode(False):  # weights made in it could not be trained
            self.embedder = Embedder() if embedder is None else callable_or_none("embedder", embedder)
        own = self.embedder if isinstance(self.embedder, Embedder) else None
        if own is not None and not own.is_built:
            own.to(like_of(plain))  # so that loading a state dict keeps the model's device and dtype
        _C.check_feedback(feedback)
        self.feedback = feedback
        _C.check_in_dims(in_dims)
        self.in_dims = in_dims
        self.neutral = neutral
        self.training_recipe = training_recipe
        self.notes: dict[str, Any] = {}
        """What the file that the engine was loaded from says of the network's class, inputs and outputs."""
        self._core = _C.Engine(is_trained=own is not None and own.is_built and not own.extra_channels)

    @property
    def embeder(self) -> Any:
        """The embedder, as torch-ttt spells it."""
        return self.embedder

    def __setattr__(self, name: str, value: Any) -> None:
        """Assign; torch-ttt's spelling of the embedder would make a child of its own.

        Of functions, torch would let only modules take the place of modules.
        """
        name = "embedder" if name == "embeder" else name
        if name == "neutral":  # past torch.nn, as its weights are not trained here
            self.__dict__[name] = value
            return
        if name in ("embedder", "combine_fn", "distance_fn") and not isinstance(value, nn.Module):
            self._modules.pop(name, None)
        super().__setattr__(name, value)

    @property
    def optimization_parameters(self) -> dict[str, Any]:
        """The options, to be changed between calls."""
        return self._options

    @optimization_parameters.setter
    def optimization_parameters(self, options: Mapping[str, Any]) -> None:
        self._options = options if isinstance(options, dict) else dict(options)

    @property
    def training_recipe(self) -> _C.TrainingRecipe:
        """How the second term of the training loss is made."""
        return self._training_recipe

    @training_recipe.setter
    def training_recipe(self, recipe: _C.TrainingRecipe | None) -> None:
        recipe = _C.TrainingRecipe() if recipe is None else recipe
        if not isinstance(recipe, _C.TrainingRecipe):
            raise TypeError(f"training_recipe must be an it3.TrainingRecipe, not a {type(recipe).__name__}")
        self._training_recipe = recipe

    @property
    def prediction_layout(self) -> _C.Layout:
        """Where predictions have their samples and channels: as given, else as the first call settled it."""
        return self._core.setup_of(self).prediction_layout

    @property
    def features_layout(self) -> _C.Layout:
        """Where the layer's output has its samples and channels: as given, else as the first call settled it."""
        return self._core.setup_of(self).features_layout

    def _layer_name(self) -> str:
        return self.features_layer_name.removeprefix("_orig_mod.")
