"""A case's objects: it3's engine, and the same by the naive reference."""

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import it3
import torch
import torch.nn.functional as F
from it3 import IT3Engine
from it3 import Layout as ProductLayout
from torch import Tensor, nn

from differential.case import Case, arguments_of, as_given, model_of, set_temperature
from differential.naive import (
    Embed,
    Layout,
    Method,
    Refusal,
    at_path,
    call,
    copied,
    distance_by_name,
    first_path,
    tensors_of,
    to_double,
)


class Difference(AssertionError):  # noqa: N818  (what is compared, not how it failed)
    """What it3 does is not what is right."""

    def __init__(self, text: str, off: float | None = None) -> None:
        super().__init__(text)
        self.off = off  # by how much, where numbers differ


def attempt(function: Callable[[], Any]) -> Any:
    """What a function gives, or the error by which it refuses."""
    try:
        return function()
    except (Refusal, ValueError) as error:
        return error


class Doubled(it3.Embedder):
    """A subclass of the user's."""

    def forward(self, prediction: Tensor, features: Tensor) -> Tensor:
        return 2 * super().forward(prediction, features)


def cut(features: Tensor, embedding: Tensor) -> Tensor:
    """Return another shape than the features have."""
    combined = features + embedding.sum()
    return combined[:1] if len(combined) > 1 else torch.stack([combined, combined])


class Rig:
    """A case's objects: the engine, and the same by the naive reference."""

    def __init__(self, case: Case, nudge: float = 0.0) -> None:
        """`nudge` is by what part the reference's weights are not the engine's."""
        self.case = case
        with torch.inference_mode(case.born == "inference"):
            model = model_of(case)
        self.naive = model_of(replace(case, dtype="float64")).eval()
        if case.is_called:
            inputs = as_given(replace(case, form="plain"), arguments_of(case, 0))
            with torch.no_grad():
                call(self.naive, to_double(inputs))
                call(model.eval(), inputs)
        for own, other in zip(tensors_of(model), tensors_of(self.naive), strict=True):
            other.data.copy_(own)  # what float32 rounds
            if nudge and other.is_floating_point():
                other.data.mul_(1 + nudge * torch.arange(other.numel(), dtype=torch.float64).cos().reshape(other.shape))
        if case.network == "hooked":
            model.register_forward_hook(lambda *_: None)
        self.model: nn.Module = model.eval()
        if case.network == "script":
            self.model = torch.jit.script(model)
        features, prediction = Layout(*case.features), Layout(*case.prediction)
        feeds = case.feedback
        is_auto = feeds == "auto" and case.distance in ("kl", "js", "cross_entropy")
        output = case.output
        self.method = Method(
            layer=case.layer,
            embed=lambda signal, features: features,
            combine=torch.add,
            distance=distance_of(case, prediction),
            prediction=prediction,
            output=output,
            layer_output=case.layer_output if case.layer_output else None,
            neutral=case.neutral,
            feeds_probabilities=feeds == "probabilities" or is_auto,
            in_dims=self.in_dims() if case.not_finite is not None else None,
        )
        self.set_temperature(0)
        y0, out = self._shapes()
        # Functions of the user's are given where they need no more than (B, C).
        is_flat = y0.dim() == 2 and out.dim() == 2
        f, c = features.outwards(out).shape[1], prediction.outwards(y0).shape[1]
        self.shapes_to_come = [(f, c), (f,), (f, f), (f,)]
        self.has_one_class = c == 1
        self.leaves_layouts_open = not case.gives_layouts and (y0.dim() > 2 or out.dim() > 2)
        self.embedder: Any = self._embedder(is_flat and case.embedder == "own", prediction, features)
        combine = None
        if case.combine == "scale" and is_flat:
            combine = self.method.combine = lambda features, embedding: features * (1 + embedding)
        elif case.combine == "in_place" and is_flat:
            combine = self.method.combine = lambda features, embedding: features.add_(embedding)
        elif case.combine == "cut":
            combine = cut
        self.options = {k: list(v) if isinstance(v, tuple) else v for k, v in case.options}
        distance = F.smooth_l1_loss if case.distance == "smooth" else case.distance
        self.engine = IT3Engine(
            self.model, case.layer, self.embedder, combine, distance, self.options, **self.arguments()
        ).eval()
        self.tolerance = (1e-6, 1e-8) if case.dtype == "float64" else (2e-3, 2e-4)
        if case.threshold is not None:
            self.options["threshold"] = self._threshold(case.threshold)
            self.engine.optimization_parameters["threshold"] = self.options["threshold"]

    def _layouts(self) -> list[ProductLayout]:
        both = (self.case.prediction, self.case.features)
        return [ProductLayout(channel_dim=channel, batch_dim=batch) for channel, batch in both]

    def _embedder(self, is_own: bool, prediction: Layout, features: Layout) -> Any:
        """Make the engine's, and the reference's with the same weights."""
        dtype, shapes = out_dtype(self.case), self.shapes_to_come
        if self.case.embedder == "subclass":
            return self._subclass(prediction, features)
        if is_own:
            own = nn.Sequential(nn.Linear(shapes[0][1], shapes[0][0]), nn.Tanh()).to(dtype)
            reference = copy.deepcopy(own).double()
            self.method.embed = lambda signal, _: reference(signal)
            return own
        generator = torch.Generator().manual_seed(9)
        weights = [torch.randn(s, generator=generator, dtype=torch.float64).to(dtype) for s in shapes]
        embedder = it3.Embedder(*(self._layouts() if self.case.gives_layouts else [None, None])).to(dtype)
        if self.case.embedder == "given":
            embedder.load_state_dict(dict(zip(("weight1", "bias1", "weight2", "bias2"), weights, strict=True)))
        self.method.embed = Embed([w.double() for w in weights], prediction, features)
        return embedder

    def _subclass(self, prediction: Layout, features: Layout) -> Any:
        """An embedder that inherits, and does something else."""
        embedder = Doubled(*self._layouts()).to(out_dtype(self.case))
        generator = torch.Generator().manual_seed(9)
        weights = [torch.randn(s, generator=generator, dtype=torch.float64) for s in self.shapes_to_come]
        embedder.load_state_dict(dict(zip(("weight1", "bias1", "weight2", "bias2"), weights, strict=True)))
        reference = Embed([w.detach().double() for w in embedder.parameters()], prediction, features)
        self.method.embed = lambda signal, out: 2 * reference(signal, out)
        return embedder

    def arguments(self) -> dict[str, Any]:
        case = self.case
        arguments: dict[str, Any] = {"neutral": case.neutral, "feedback": case.feedback}
        if case.output and case.gives_output:
            arguments["output"] = case.output if len(case.output) > 1 else case.output[0]
        if case.layer_output and case.gives_layer_output:
            arguments["layer_output"] = case.layer_output if len(case.layer_output) > 1 else case.layer_output[0]
        needs_in_dims = case.use == "per_sample" or case.not_finite is not None
        if needs_in_dims and case.gives_in_dims:
            arguments["in_dims"] = self.in_dims()
        if case.gives_layouts:
            prediction, features = self._layouts()
            arguments |= {"prediction_layout": prediction, "features_layout": features}
        return arguments

    def _shapes(self) -> tuple[Tensor, Tensor]:
        seen: list[Tensor] = []

        def look(_: nn.Module, __: Any, out: Any) -> None:
            path = self.method.layer_output
            path = first_path(out) if path is None else path
            seen.append(at_path(out, path or ()))

        model = copied(self.naive)  # as it may write to itself
        model.get_submodule(self.case.layer).register_forward_hook(look)
        with torch.no_grad():
            return self.method.run(model, self.inputs(0)), seen[-1]

    def _threshold(self, share: float) -> float:
        distances = attempt(lambda: self.method.uncertainty(self.naive, self.inputs(0)))
        if isinstance(distances, Exception):
            return 0.0
        ordered = distances[distances.isfinite()].sort().values.tolist()
        k = round(share * len(ordered))
        around = [0.0, *ordered, 2 * ordered[-1] + 1] if ordered else [0.0, 1.0]
        return (around[k] + around[k + 1]) / 2

    def set_temperature(self, index: int) -> None:
        for model in (self.model, self.naive):
            if not isinstance(model, torch.jit.ScriptModule):
                set_temperature(self.case, model, self.case.batches[index][2])

    def inputs(self, index: int) -> Any:
        return as_given(self.case, arguments_of(self.case, index))

    def in_dims(self) -> Any:
        dims = {name: shape.index("B") if "B" in shape else None for name, _, shape in self.case.inputs}
        if self.case.call == "dict":
            return dims
        if self.case.call == "tensor" and len(dims) == 1:
            return next(iter(dims.values()))
        return list(dims.values()) if self.case.call == "list" else tuple(dims.values())

    def set_mode(self) -> None:
        self.engine.eval()
        if self.case.mode == "train":
            self.model.train()
        elif self.case.mode == "mixed":
            next(self.model.children(), self.model).train()

    def may_draw(self, name: str) -> bool:
        """Whether this is torch's random state, and adapting draws which weights to restore."""
        return name == "torch.random" and self.options.get("restore_probability", 0) > 0


def out_dtype(case: Case) -> torch.dtype:
    dtype: torch.dtype = getattr(torch, case.dtype)
    return dtype


def distance_of(case: Case, prediction: Layout, is_target: bool = False) -> Any:
    if case.distance == "smooth":
        return F.smooth_l1_loss
    return distance_by_name(case.distance, prediction.classes, is_target)
