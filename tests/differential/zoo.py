"""A zoo of architectures with random weights, each adapted by it3 and by the naive reference."""

import copy
import re
import sys
import warnings
from collections.abc import Callable
from typing import Any

import it3
import torch
from it3 import _C
from torch import Tensor

from differential.check import same, snapshot, unchanged
from differential.naive import Embed, Layout, Method, Refusal, at_path, call, distance_by_name, first_path, to_double
from differential.naive_adapt import adapt, adapt_each
from differential.rig import Difference, attempt
from differential.zoo_packages import of_timm, of_torchvision, of_transformers
from differential.zoo_torch import Animal, of_torch

FAMILIES: dict[str, Callable[[], list[Animal]]] = {
    "torch": of_torch,
    "torchvision": of_torchvision,
    "timm": of_timm,
    "transformers": of_transformers,
}


NODE_KINDS: set[str] = set()
"""Of the autograd graphs of the models gone through."""

OPTIONS = {"num_steps": 1, "lr": 1e-3, "optimizer_name": "sgd"}


class Enclosure:
    """An animal's model, and its twin for the reference."""

    def __init__(self, animal: Animal) -> None:
        self.animal = animal
        torch.manual_seed(0)
        self.model = animal.model().double().eval()
        for name, buffer in self.model.named_buffers():
            if "running" in name:
                buffer.uniform_(0.9, 1.1)
        with torch.no_grad():
            for parameter in self.model.parameters():  # nothing would depend on the features
                if not parameter.any():
                    parameter.normal_(std=0.1)
        self.twin = copy.deepcopy(self.model)
        prediction, features, path = self._look()
        if not prediction.any():
            raise Difference("the prediction is zero, by which nothing can be told")
        p_layout = Layout(animal.prediction_channel or (1 if prediction.dim() > 3 else -1), 0)
        f_layout = Layout(animal.channel or (1 if features.dim() > 3 else -1), 0)
        f, c = f_layout.outwards(features).shape[1], p_layout.outwards(prediction).shape[1]
        generator = torch.Generator().manual_seed(3)
        shapes = [(f, c), (f,), (f, f), (f,)]
        self.weights = [torch.randn(s, generator=generator, dtype=torch.float64) / 4 for s in shapes]
        embed = Embed(self.weights, p_layout, f_layout)
        distance = distance_by_name("mse", p_layout.classes)
        self.method = Method(animal.layer, embed, torch.add, distance, p_layout, path)

    def _look(self) -> tuple[Tensor, Tensor, tuple[Any, ...]]:
        """One call: the prediction, the features, and where the prediction is."""
        seen: list[Tensor] = []
        hook = self.twin.get_submodule(self.animal.layer).register_forward_hook(
            lambda _, __, out: seen.append(at_path(out, first_path(out) or ()))
        )
        with torch.no_grad():
            out = call(self.twin, to_double(self.animal.inputs()))
        hook.remove()
        path = self.animal.output if self.animal.output is not None else (first_path(out) or ())
        return at_path(out, path), seen[0], path

    def engine(self) -> it3.IT3Engine:
        animal = self.animal
        embedder = it3.Embedder().double()
        names = ("weight1", "bias1", "weight2", "bias2")
        embedder.load_state_dict(dict(zip(names, self.weights, strict=True)))
        arguments: dict[str, Any] = {"feedback": "prediction"}
        if animal.output is not None:
            arguments["output"] = animal.output[0] if len(animal.output) == 1 else animal.output
        if animal.in_dims is not None:
            arguments["in_dims"] = animal.in_dims
        return it3.IT3Engine(self.model, animal.layer, embedder, optimization_parameters=OPTIONS, **arguments).eval()

    def expected(self, use: str) -> Any:
        animal, inputs = self.animal, self.animal.inputs()
        if use == "uncertainty":
            return self.method.uncertainty(self.twin, inputs)
        if use == "adapt":
            return adapt(self.method, self.twin, inputs, OPTIONS)
        return adapt_each(self.method, self.twin, inputs, animal.in_dims, animal.samples, OPTIONS)


def actual(engine: it3.IT3Engine, inputs: Any, use: str) -> Any:
    if use == "uncertainty":
        return engine.uncertainty(inputs)
    return engine.adapt(inputs, per_sample=use == "per_sample")


def compare(animal: Animal) -> None:
    """Adapt a step, measure uncertainty and, where it can be, adapt each sample."""
    enclosure = Enclosure(animal)
    engine = attempt(enclosure.engine)
    if isinstance(engine, ValueError):
        check_refusal(animal, engine, None)
        return
    with torch.no_grad():
        call(enclosure.model, animal.inputs())  # which leaves hooks on some
    before = snapshot(enclosure.model)
    uses = ["adapt", "uncertainty"]
    if animal.in_dims is not None:
        uses.append("per_sample")
    for use in uses:
        given = attempt(lambda use=use: actual(engine, animal.inputs(), use))
        unchanged(before, snapshot(enclosure.model))
        expected = attempt(lambda use=use: enclosure.expected(use)) if not animal.refused else None
        if isinstance(given, ValueError):
            check_refusal(animal, given, expected)
        elif animal.refused or isinstance(expected, Refusal):
            raise Difference(f"{use}: there is a result, which {animal.refused or expected} should forbid")
        else:
            agree_on(use, given, expected, enclosure.twin.state_dict())
            if use == "adapt":
                agree_with_torchs_engine(engine, animal, given)


def agree_with_torchs_engine(engine: it3.IT3Engine, animal: Animal, given: it3.Adaptation) -> None:
    """Without the core's own backward pass, all is the same to the bit."""
    _C.use_plain_backward(False)
    try:
        other = engine.adapt(animal.inputs())
    finally:
        _C.use_plain_backward(True)
    for name in ("prediction", "losses"):
        if not torch.equal(getattr(given, name).nan_to_num(), getattr(other, name).nan_to_num()):
            raise Difference(f"adapt: {name} differs by torch's own backward pass")
    for name, weight in given._weights.items():
        if not torch.equal(weight.nan_to_num(), other._weights[name].nan_to_num()):
            raise Difference(f"adapt: adapted {name} differs by torch's own backward pass")
    NODE_KINDS.update(node_kinds(call(engine.model, animal.inputs()), animal.output))


def node_kinds(out: Any, path: tuple[Any, ...] | None) -> set[str]:
    """Return the names of the nodes in the autograd graph of a model's prediction."""
    prediction = at_path(out, path if path is not None else (first_path(out) or ()))
    kinds: set[str] = set()
    seen, nodes = set(), [prediction.grad_fn]
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        kinds.add(re.sub(r"\d+$", "", node.name()))
        nodes += [following for following, _ in node.next_functions]
    return kinds


def check_refusal(animal: Animal, error: ValueError, expected: Any) -> None:
    """A refusal is right where it is what the animal, or the reference, says."""
    right = str(expected) if isinstance(expected, Refusal) else animal.refused
    if not right or not re.search(right, str(error)):
        raise Difference(f"it3 raises {error!s:.400}") from error


def agree_on(use: str, given: Any, expected: Any, before: dict[str, Any]) -> None:
    if isinstance(expected, Tensor):
        same(given, expected, use, 1e-6, 1e-8)
        return
    for name in ("prediction", "first", "second", "losses", "uncertainty"):
        same(getattr(given, name), getattr(expected, name), f"{use}: {name}", 1e-6, 1e-8)
    for name, value in given.state_dict().items() if expected.state else []:
        same(value, expected.state.get(name, before[name]), f"{use}: adapted {name}", 1e-6, 1e-8)


def main() -> int:
    """Go through families, all or those named; 1 if it3 differs from the reference."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    differing = total = 0
    for family in sys.argv[1:] or FAMILIES:
        for animal in FAMILIES[family]():
            total += 1
            try:
                compare(animal)
                print(f"{animal.name:36} {'is refused' if animal.refused else 'agrees'}", flush=True)
            except Exception as error:
                differing += 1
                print(f"{animal.name:36} DIFFERS: {type(error).__name__}: {str(error)[:400]}", flush=True)
    print(
        f"{total} models, {differing} differ; {len(NODE_KINDS)} kinds of autograd nodes: {' '.join(sorted(NODE_KINDS))}"
    )
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
