"""What an engine gives the core."""

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from it3 import _C
from it3.checks import eager
from it3.embedder import Embedder
from it3.keeping import Keeper
from it3.layouts import settle_layouts
from it3.reads import Reads

TensorFunction = Callable[[Tensor, Tensor], Tensor]


class EngineWithParts(nn.Module):
    """The parts of an engine as the core takes them, kept until an attribute of the engine changes."""

    model: nn.Module
    embedder: Any
    features_layer_name: str
    optimization_parameters: dict[str, Any]
    combine_fn: TensorFunction | None
    distance_fn: TensorFunction | str
    neutral: Tensor | float | None
    feedback: Literal["auto", "probabilities", "prediction"]
    in_dims: Any
    output: Any
    layer_output: Any
    _learned_probabilities: bool
    _known_runners: Any
    _given_layouts: tuple[_C.Layout | None, _C.Layout | None]

    @property
    def prediction_layout(self) -> _C.Layout:
        """Where predictions have their samples and channels: as given, else as the first call settled it."""
        return self._prediction_layout

    @property
    def features_layout(self) -> _C.Layout:
        """Where the layer's output has its samples and channels: as given, else as the first call settled it."""
        return self._features_layout

    def _parts(self) -> _C.EngineParts:
        """Return the core what it needs; kept until an attribute is assigned, as small models need few microseconds."""
        parts: _C.EngineParts | None = self.__dict__["_known_parts"]
        if parts is None:
            parts = _C.EngineParts(
                runners=self._runners(),
                embedder=self.embedder,
                embeds_to_features=isinstance(self.embedder, Embedder),
                combine_fn=self.combine_fn,
                distance_fn=self.distance_fn,
                prediction_layout=self.prediction_layout,
                features_layout=self.features_layout,
                neutral=None if self.neutral is None else torch.as_tensor(self.neutral),
                in_dims=self.in_dims,
                feeds_probabilities=self._feeds_probabilities(),
            )
            self.__dict__["_known_parts"] = parts
        return parts

    def _feeds_probabilities(self) -> bool:
        if self.feedback != "auto":
            return self.feedback == "probabilities"
        return self._is_between_distributions() or self._learned_probabilities

    def _is_between_distributions(self) -> bool:
        return isinstance(self.distance_fn, str) and _C.is_between_distributions(self.distance_fn)

    def _take_layouts(self) -> None:
        """Take the layouts that are given, with the engine or its embedder; the next call settles the others."""
        embedder = self._modules.get("embedder")
        given = self.__dict__.get("_given_layouts", (None, None))
        own = (embedder.prediction_layout, embedder.features_layout) if isinstance(embedder, Embedder) else (None, None)
        self._prediction_layout, self._features_layout = (
            of_engine or of_embedder or _C.Layout() for of_engine, of_embedder in zip(given, own, strict=True)
        )
        self._has_looked = False

    def _parts_for(self, inputs: Any) -> _C.EngineParts:
        """Return the core what it needs for a call, of which the first is preceded by a look."""
        if not self._has_looked:
            with _C.ModelHold(self.embedder, is_alone=True):  # other threads wait for what it finds
                if not self._has_looked:
                    self._look_at_first(inputs)
        return self._parts()

    def _look_at_first(self, inputs: Any) -> None:
        """Settle where channels and samples are, and check that what is injected reaches the prediction."""
        model = eager(self.model)
        keeper = None if isinstance(model, torch.jit.ScriptModule) else Keeper(Reads(model))
        try:
            is_default = isinstance(self.embedder, Embedder)
            compares_classes = self._is_between_distributions() or self.distance_fn == "cosine"
            has_classes = compares_classes or self._feeds_probabilities()
            needed = (is_default or has_classes, is_default)
            self._prediction_layout, self._features_layout = settle_layouts(
                self._parts(), model, self._layer_name(), inputs, self.training, needed=needed
            )
            if is_default:
                self.embedder.settle_layouts(self._prediction_layout, self._features_layout)
            self._has_looked = _C.check_injection(self._parts(), inputs)
        finally:
            if keeper is not None:
                keeper.put_back()

    def __setattr__(self, name: str, value: Any) -> None:
        """Assign, and forget what was made of the old attribute; modes and options are no part of that."""
        if name == "embeder":  # or torch.nn.Module would make a child of that name
            name = "embedder"
        if name == "optimization_parameters" and not isinstance(value, dict):
            value = dict(value)  # of an it3.Options, which cannot be changed
        model = self._modules.get("model")
        is_other_model = name == "model" and (model is None or eager(model) is not eager(value))
        super().__setattr__(name, value)
        if is_other_model:
            self.__dict__["_online"] = _C.Online()  # a copied engine's has a start that no model has yet
        if name in ("model", "features_layer_name", "embedder"):
            self._take_layouts()
        needs_classes = name in ("distance_fn", "feedback", "_learned_probabilities")
        if needs_classes and self.__dict__.get("_has_looked") and self._prediction_layout.channel_dim is None:
            self._has_looked = False  # where they are may have stayed open, as nothing needed it
        if name not in ("training", "optimization_parameters", "target_probability", "is_trained", "_has_warned"):
            self.__dict__["_known_parts"] = None

    def _runners(self) -> _C.Runners:
        """Return the ways of running the model, which keep their cuts."""
        known = self._known_runners
        current = (self.model, self.features_layer_name, self.output, self.layer_output)
        if known is not None and all(a is b or a == b for a, b in zip(known, current, strict=False)):
            kept: _C.Runners = known[-1]
            return kept
        runners = _C.Runners(eager(self.model), self._layer_name(), self.output, self.layer_output)
        self._known_runners = (*current, runners)
        return runners

    def _layer_name(self) -> str:
        return self.features_layer_name.removeprefix("_orig_mod.")

    def _replicate_for_data_parallel(self) -> Any:
        raise RuntimeError(
            "an engine cannot be replicated by torch.nn.DataParallel, as replicas have no weights to adapt; use one "
            "process a device, with torch.nn.parallel.DistributedDataParallel around the engine for training"
        )

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what is made from the rest."""
        return {**self.__dict__, "_known_runners": None, "_known_parts": None}
