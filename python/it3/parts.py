"""What an engine gives the core."""

from collections.abc import Callable
from typing import Any

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
    embeder: Any
    features_layer_name: str
    optimization_parameters: dict[str, Any]
    combine_fn: TensorFunction | None
    distance_fn: TensorFunction | str
    neutral: Tensor | float | None
    feedback: str
    in_dims: Any
    output: Any
    layer_output: Any
    _learned_probabilities: bool
    _network: Any
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
            network = self._cut_network()
            parts = _C.EngineParts(
                model=eager(self.model),
                script=network if isinstance(network, _C.ScriptNetwork) else None,
                cut=network if isinstance(network, _C.EagerCut) else None,
                layer_name=self._layer_name(),
                embeder=self.embeder,
                embeds_to_features=isinstance(self.embeder, Embedder),
                combine_fn=self.combine_fn,
                distance_fn=self.distance_fn,
                prediction_layout=self.prediction_layout,
                features_layout=self.features_layout,
                neutral=None if self.neutral is None else torch.as_tensor(self.neutral),
                output=self.output,
                layer_output=self.layer_output,
                in_dims=self.in_dims,
                feeds_probabilities=self._feeds_probabilities(),
            )
            self.__dict__["_known_parts"] = parts
        return parts

    def _feeds_probabilities(self) -> bool:
        if self.feedback != "auto":
            return self.feedback == "probabilities"
        is_between = isinstance(self.distance_fn, str) and _C.is_between_distributions(self.distance_fn)
        return is_between or self._learned_probabilities

    def _take_layouts(self) -> None:
        """Take the layouts that are given, with the engine or its embedder; the next call settles the others."""
        embedder = self._modules.get("embeder")
        given = self.__dict__.get("_given_layouts", (None, None))
        own = (embedder.prediction_layout, embedder.features_layout) if isinstance(embedder, Embedder) else (None, None)
        self._prediction_layout, self._features_layout = (
            of_engine or of_embedder or _C.Layout() for of_engine, of_embedder in zip(given, own, strict=True)
        )
        self._has_looked = False

    def _parts_for(self, inputs: Any) -> _C.EngineParts:
        """Return the core what it needs for a call, of which the first is preceded by a look."""
        if not self._has_looked:
            with _C.ModelHold(self.embeder, is_alone=True):  # other threads wait for what it finds
                if not self._has_looked:
                    self._look_at_first(inputs)
        return self._parts()

    def _look_at_first(self, inputs: Any) -> None:
        """Settle where channels and samples are, and check that what is injected reaches the prediction."""
        model = eager(self.model)
        keeper = None if isinstance(model, torch.jit.ScriptModule) else Keeper(Reads(model))
        try:
            is_default = isinstance(self.embeder, Embedder)
            has_classes = self._feeds_probabilities() or self.distance_fn == "cosine"
            needed = (is_default or has_classes, is_default)
            self._prediction_layout, self._features_layout = settle_layouts(
                self._parts(), inputs, self.training, needed=needed
            )
            if is_default:
                self.embeder.settle_layouts(self._prediction_layout, self._features_layout)
            self._has_looked = _C.check_injection(self._parts(), inputs)
        finally:
            if keeper is not None:
                keeper.put_back()

    def __setattr__(self, name: str, value: Any) -> None:
        """Assign, and forget what was made of the old attribute; modes and options are no part of that."""
        if name == "embedder":  # or torch.nn.Module would make a child of that name
            name = "embeder"
        super().__setattr__(name, value)
        if name in ("model", "features_layer_name", "embeder"):
            self._take_layouts()
        if name not in ("training", "optimization_parameters", "target_probability", "is_trained", "_has_warned"):
            self.__dict__["_known_parts"] = None

    def _cut_network(self) -> _C.ScriptNetwork | _C.EagerCut:
        """Return the network as it is cut at the layer, which is kept."""
        known = self._network
        current = (self.model, self.features_layer_name, self.output, self.layer_output)
        if known is not None and all(a is b or a == b for a, b in zip(known, current, strict=False)):
            kept: _C.ScriptNetwork | _C.EagerCut = known[-1]
            return kept
        network: _C.ScriptNetwork | _C.EagerCut
        if isinstance(self.model, torch.jit.ScriptModule):
            network = _C.ScriptNetwork(self.model, self.features_layer_name, self.output, self.layer_output)
        else:
            network = _C.EagerCut(eager(self.model), self._layer_name(), self.output, self.layer_output)
        self._network = (*current, network)
        return network

    def _layer_name(self) -> str:
        return self.features_layer_name.removeprefix("_orig_mod.")

    def _replicate_for_data_parallel(self) -> Any:
        raise RuntimeError(
            "an engine cannot be replicated by torch.nn.DataParallel, as replicas have no weights to adapt; use one "
            "process a device, with torch.nn.parallel.DistributedDataParallel around the engine for training"
        )

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what is made from the rest."""
        return {**self.__dict__, "_network": None, "_known_parts": None}
