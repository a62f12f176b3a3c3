"""An engine's copies, by copy, pickle and for trials, are engines of their own that know what it does."""

import copy
import pickle
import warnings
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pytest
import torch
from it3 import Embedder, IT3Engine, Layout, tune
from it3.engine_siblings import with_settings
from small_networks import X, network, shaped_embedder
from torch import Tensor, nn


class Last(nn.Module):
    """Features with their channels last."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.Linear(6, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.layer(x)).mean((1, 2)))


def copied(engine: IT3Engine) -> IT3Engine:
    return copy.deepcopy(engine)


def pickled(engine: IT3Engine) -> IT3Engine:
    engine = pickle.loads(pickle.dumps(engine))
    return engine


def sibling(engine: IT3Engine) -> IT3Engine:
    return with_settings(engine, {})


def failed(engine: IT3Engine) -> IT3Engine:
    engine.distance_fn = "lpips"
    with pytest.raises(ValueError, match="lpips"):
        engine.adapt(torch.zeros(2, 6, 6, 6))
    engine.distance_fn = "mse"
    return engine


@pytest.mark.parametrize("is_first", [True, False])
@pytest.mark.parametrize("make", [copied, pickled, sibling, copy.copy, failed])
def test_a_model_is_replaced_where_the_engine_is_copied(make: Callable[[IT3Engine], IT3Engine], is_first: bool) -> None:
    """Layouts and adapted weights are those of the model that is there, whenever it came."""
    torch.manual_seed(0)
    embedder = Embedder()
    embedder(torch.randn(2, 2), torch.randn(2, 6))
    first = nn.Sequential(nn.Conv2d(6, 6, 1), nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 2))
    first = nn.Sequential(OrderedDict(layer=first[0], head=first[1:])).eval()
    last, x = Last().eval(), torch.randn(2, 6, 6, 6)
    expected = IT3Engine(copy.deepcopy(last), "layer", copy.deepcopy(embedder)).eval().adapt(x, lr=0.1).prediction
    weight = last.layer.weight.clone()
    engine = IT3Engine(first, "layer", embedder, optimization_parameters={"copy_model": False}).eval()
    engine.adapt(x)
    if is_first:
        engine = make(engine)
        engine.model = last
    else:
        engine.model = last
        engine = make(engine)
    assert engine.drift().distance == 0
    engine.reset()
    assert torch.equal(engine.model.layer.weight, weight)
    assert torch.equal(engine.adapt(x, lr=0.1).prediction, expected)
    engine.reset()
    assert torch.equal(engine.model.layer.weight, weight)


def test_a_shallow_copy_is_an_engine_of_its_own() -> None:
    engine = IT3Engine(network(), "0", shaped_embedder()).eval()
    engine.adapt(X)
    other = copy.copy(engine)
    other.distance_fn, other.is_trained = "l1", False
    assert engine.distance_fn == "mse"
    assert engine.is_trained
    for each in (engine, other):
        fresh = IT3Engine(engine.model, "0", engine.embedder, distance_fn=each.distance_fn).eval()
        assert torch.equal(each.adapt(X, lr=0.1).prediction, fresh.adapt(X, lr=0.1).prediction)


@pytest.mark.filterwarnings("default")
def test_people_are_warned_once_in_all_copies() -> None:
    engine = IT3Engine(network(), "0").eval()
    with pytest.warns(UserWarning, match="never trained"):
        engine.adapt(X)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        copy.deepcopy(engine).adapt(X)
        copy.copy(engine).adapt(X)


@pytest.mark.parametrize("make", [copy.deepcopy, pickled, copy.copy])
def test_copies_know_where_the_classes_are(make: Callable[[IT3Engine], IT3Engine]) -> None:
    """Sizes are equal, so that a wrong class dimension would show in numbers alone."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 4)).eval()
    x, y = torch.randn(6, 4, 4, 5), torch.randint(0, 4, (6, 4, 4))
    accuracy = (model(x).argmax(-1) == y).float().mean().item()
    engine = IT3Engine(model, "0").eval()
    search = {"num_steps": [0, 1]}
    assert tune(engine, [(x, y)], "accuracy", 1, search=search).unadapted == pytest.approx(accuracy)
    engine.adapt(x)
    other = make(engine)
    assert other.prediction_layout == engine.prediction_layout == Layout(-1)
    assert tune(other, [(x, y)], "accuracy", 1, search=search).unadapted == pytest.approx(accuracy)


class Logged(IT3Engine):
    """Does not pickle its log."""

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        del state["log"]
        return state


def test_a_subclass_may_leave_things_out_of_its_copies() -> None:
    engine = Logged(network(), "0").eval()
    engine.log = ["first"]
    assert not hasattr(copy.deepcopy(engine), "log")
    assert not hasattr(pickle.loads(pickle.dumps(engine)), "log")
    assert engine.log == ["first"]


def test_what_training_taught_goes_with_copies() -> None:
    engine = IT3Engine(network(), "0", shaped_embedder())
    engine.train()(X, target=torch.tensor([0, 1, 2, 0, 1]))
    engine.eval()
    fed = IT3Engine(engine.model, "0", engine.embedder, feedback="probabilities").eval()
    expected = fed.adapt(X, lr=0.1).prediction
    for other in (engine, copy.deepcopy(engine)):
        assert other.is_trained
        assert torch.equal(other.adapt(X, lr=0.1).prediction, expected)


@pytest.mark.parametrize("is_built", [False, True])
def test_an_engine_that_never_ran_is_copied(is_built: bool) -> None:
    engine = IT3Engine(network(), "0", shaped_embedder() if is_built else None).eval()
    other = copy.deepcopy(engine)
    twice = copy.deepcopy(other)
    torch.manual_seed(1)
    expected = engine.adapt(X).prediction
    for each in (other, twice):
        torch.manual_seed(1)
        assert torch.equal(each.adapt(X).prediction, expected)
        assert each.is_trained is is_built


def test_engines_made_for_a_trial_go_on_from_the_models_weights() -> None:
    engine = IT3Engine(network(), "0", shaped_embedder(), optimization_parameters={"copy_model": False}).eval()
    engine.adapt(X, lr=0.1)
    twin = copy.deepcopy(engine)
    assert twin.drift().distance == engine.drift().distance > 0
    twin.reset()
    assert twin.drift().distance == 0
    assert engine.drift().distance > 0
