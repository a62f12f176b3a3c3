"""An engine whose attributes change between calls adapts as a new one of these attributes does."""

import copy
import gc
import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from it3 import Embedder, IT3Engine
from small_networks import X, network, shaped_embedder
from torch import Tensor, nn
from torch.nn.utils import prune


class Sums(nn.Module):
    """Counts its calls in a buffer, which is to stay as it was."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, prediction: Tensor) -> Tensor:
        self.calls += 1
        return prediction.sum(1, keepdim=True).expand(-1, 8)


CHANGES: dict[str, dict[str, Callable[[], Any]]] = {
    "model": {"model": lambda: network(1)},
    "layer": {"features_layer_name": lambda: "1"},
    "embedder": {"embedder": lambda: shaped_embedder(1)},
    "embedder of the user's own": {"embedder": Sums},
    "combine_fn": {"combine_fn": lambda: lambda f, e: f - 2 * e},
    "module as combine_fn": {"combine_fn": lambda: nn.Bilinear(8, 8, 8).double()},
    "named distance": {"distance_fn": lambda: "l1"},
    "distance": {"distance_fn": nn.HuberLoss},
    "distance between classes": {"distance_fn": lambda: "kl"},
    "neutral": {"neutral": lambda: 3.0},
    "feedback": {"feedback": lambda: "probabilities"},
    "two": {"distance_fn": lambda: "js", "features_layer_name": lambda: "1"},
}


@pytest.mark.parametrize("is_script", [False, True])
@pytest.mark.parametrize("change", CHANGES)
def test_an_attribute_is_replaced(change: str, is_script: bool) -> None:
    torch.manual_seed(0)
    new = {name: make() for name, make in CHANGES[change].items()}
    given: dict[str, Any] = {"model": network(), "features_layer_name": "0", "embedder": shaped_embedder()}
    if is_script:
        given["model"] = torch.jit.script(given["model"])
        new |= {"model": torch.jit.script(new["model"])} if "model" in new else {}
    engine = IT3Engine(**given).eval()
    before = engine.adapt(X, lr=0.1).prediction
    for name, value in new.items():
        if name in ("combine_fn", "distance_fn") and isinstance(value, nn.Module):
            delattr(engine, name)  # torch.nn.Module wants that before a child takes the name
        setattr(engine, name, value)
    actual = engine.adapt(X, lr=0.1).prediction
    expected = IT3Engine(**given | new).eval().adapt(X, lr=0.1).prediction
    assert torch.equal(actual, expected)
    assert not torch.equal(actual, before)
    if isinstance(new.get("embedder"), Sums):
        assert new["embedder"].calls == 0


def test_a_wrong_attribute_is_an_error_at_the_call_and_can_be_mended() -> None:
    engine = IT3Engine(network(), "0", shaped_embedder()).eval()
    expected = engine.adapt(X).prediction
    for name, wrong, right in (
        ("distance_fn", "lpips", "mse"),
        ("neutral", float("nan"), None),
        ("feedback", "all", "auto"),
        ("features_layer_name", "layer4", "0"),
        ("output", 1.5, None),
    ):
        setattr(engine, name, wrong)
        with pytest.raises((ValueError, TypeError)):
            engine.adapt(X)
        setattr(engine, name, right)
        assert torch.equal(engine.adapt(X).prediction, expected)


def test_a_replaced_model_keeps_nothing_of_the_old_ones_layouts() -> None:
    class Permuted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 6)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x.movedim(1, -1)).mean((1, 2))

    images = torch.randn(2, 3, 5, 7)
    engine = IT3Engine(nn.Sequential(nn.Conv2d(3, 6, 1), nn.Flatten(), nn.Linear(6 * 35, 2)), "0").eval()
    engine.adapt(images)
    assert engine.features_layout.channel_dim == 1
    engine.model, engine.features_layer_name, engine.embedder = Permuted(), "layer", Embedder()
    engine.adapt(images)
    assert engine.features_layout.channel_dim == -1


class Add(NamedTuple):
    scale: float

    def __call__(self, features: Tensor, embedding: Tensor) -> Tensor:
        return features + self.scale * embedding


class Subtract(NamedTuple):
    scale: float

    def __call__(self, features: Tensor, embedding: Tensor) -> Tensor:
        return features - self.scale * embedding


def test_functions_that_are_equal_but_not_the_same() -> None:
    engine = IT3Engine(network(), "0", shaped_embedder(), Add(2.0)).eval()
    before = engine.adapt(X, lr=0.1).prediction
    engine.combine_fn = Subtract(2.0)
    expected = IT3Engine(engine.model, "0", engine.embedder, Subtract(2.0)).eval().adapt(X, lr=0.1).prediction
    assert Add(2.0) == Subtract(2.0)
    assert torch.equal(engine.adapt(X, lr=0.1).prediction, expected)
    assert not torch.equal(before, expected)


class Doubled(Embedder):
    def forward(self, prediction: Tensor, features: Tensor) -> Tensor:
        return 2 * super().forward(prediction, features)


def test_an_embedder_gets_another_class_or_other_parameters() -> None:
    engine = IT3Engine(network(), "0", shaped_embedder()).eval()
    engine.adapt(X)
    engine.embedder.weight2 = nn.Parameter(2 * engine.embedder.weight2)
    expected = IT3Engine(engine.model, "0", copy.deepcopy(engine.embedder)).eval().adapt(X, lr=0.1).prediction
    assert torch.equal(engine.adapt(X, lr=0.1).prediction, expected)
    engine.embedder.__class__ = Doubled
    other = Doubled().double()
    other.load_state_dict(engine.embedder.state_dict())
    expected = IT3Engine(engine.model, "0", other).eval().adapt(X, lr=0.1).prediction
    assert torch.equal(engine.adapt(X, lr=0.1).prediction, expected)


def test_a_half_changed_engine_still_tells_and_is_copied() -> None:
    engine = IT3Engine(network(), "0", shaped_embedder()).eval()
    engine.adapt(X)
    engine.features_layer_name = "layer4"
    assert engine.is_trained
    assert engine.drift().distance == 0
    assert engine.state_dict()
    other = copy.deepcopy(engine)
    other.features_layer_name = engine.features_layer_name = "1"
    assert torch.equal(other.adapt(X).prediction, engine.adapt(X).prediction)


@pytest.mark.parametrize("name", ["combine_fn", "distance_fn", "embedder"])
def test_an_engine_that_a_function_of_its_own_closes_over_is_freed(name: str) -> None:
    functions: dict[str, Callable[[list[Any]], Callable[..., Tensor]]] = {
        "combine_fn": lambda engines: lambda f, e: f + len(engines) * e,
        "distance_fn": lambda engines: lambda y1, y0: len(engines) * (y1 - y0).square().mean(),
        "embedder": lambda engines: lambda y: len(engines) * y.sum(1, keepdim=True).expand(-1, 8),
    }
    engines: list[Any] = []
    engine = IT3Engine(network(), "0", **{name: functions[name](engines)}).eval()
    engines.append(engine)
    engine.adapt(X)
    known = weakref.ref(engine)
    del engine, engines
    gc.collect()
    assert known() is None


def test_options_may_be_a_property_of_a_class_of_the_users_own() -> None:
    class Careful(IT3Engine):
        @property
        def optimization_parameters(self) -> dict[str, Any]:
            return {"lr": 0.05, "num_steps": 1}

        @optimization_parameters.setter
        def optimization_parameters(self, _: Any) -> None: ...

    given = {"model": network(), "features_layer_name": "0", "embedder": shaped_embedder()}
    expected = IT3Engine(**given, optimization_parameters={"lr": 0.05, "num_steps": 1}).eval().adapt(X).prediction
    assert torch.equal(Careful(**given).eval()(X)[0], expected)


@pytest.mark.parametrize("names", [("bias2",), ("weight1", "bias1", "weight2", "bias2")])
def test_an_embedder_is_pruned(names: tuple[str, ...]) -> None:
    engine = IT3Engine(network(), "0", shaped_embedder()).eval()
    engine.adapt(X)
    twin = copy.deepcopy(engine.embedder)
    with torch.no_grad():
        for name in names:
            prune.l1_unstructured(engine.embedder, name, amount=0.5)
            getattr(twin, name).copy_(getattr(engine.embedder, name))
    expected = IT3Engine(engine.model, "0", twin).eval().adapt(X, lr=0.1).prediction
    assert torch.equal(engine.adapt(X, lr=0.1).prediction, expected)


def test_an_embedder_without_a_weight_is_an_error() -> None:
    engine = IT3Engine(network(), "0", shaped_embedder()).eval()
    engine.embedder.bias2 = None
    with pytest.raises((TypeError, AttributeError)):
        engine.adapt(X)


def test_what_a_first_call_found_out_is_not_looked_for_again() -> None:
    """Other distances, signals and feedback, and what training teaches, need no more passes of the model."""
    passes = []
    model = network()
    model.register_forward_hook(lambda *_: passes.append(1))
    engine = IT3Engine(model, "0", shaped_embedder())

    def count(call: Callable[[], Any]) -> int:
        passes.clear()
        call()
        return len(passes)

    assert count(lambda: engine(X, target=torch.tensor([0, 1, 2, 0, 1]))) > 2
    for _ in range(2):
        assert count(lambda: engine(X, target=torch.tensor([0, 1, 2, 0, 1]))) == 2
    engine.eval()
    usual = count(lambda: engine.adapt(X))
    for name, value in (("distance_fn", "l1"), ("feedback", "prediction"), ("distance_fn", "kl"), ("in_dims", 0)):
        setattr(engine, name, value)
        assert count(lambda: engine.adapt(X)) == usual


def test_attributes_may_be_properties_of_a_class_of_the_users_own() -> None:
    class Doubles(IT3Engine):
        @property
        def combine_fn(self) -> Any:
            return self._combine

        @combine_fn.setter
        def combine_fn(self, _: Any) -> None:
            self._combine = lambda f, e: f + 2 * e

    expected = IT3Engine(network(), "0", shaped_embedder(), lambda f, e: f + 2 * e).eval()
    actual = Doubles(network(), "0", shaped_embedder()).eval()
    assert torch.equal(actual.adapt(X, lr=0.1).prediction, expected.adapt(X, lr=0.1).prediction)


def test_parts_in_an_ordered_dict() -> None:
    """As torch makes one where a part is deleted; it has an order of its own."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 8), nn.Identity()).eval()
    del model[-1]
    engine = IT3Engine(model, "0").eval()
    engine.is_trained = True
    x = torch.randn(4, 6)
    first = engine(x)[0]
    assert engine.explain(x).is_cut
    torch.testing.assert_close(engine.adapt(x, num_steps=0).prediction, model(x))
    model._modules.move_to_end("1")
    torch.testing.assert_close(engine.adapt(x, num_steps=0).prediction, model(x))
    assert not torch.equal(engine(x)[0], first)
