"""Feeding y0 back at the input of a model, by concatenation or addition, against the formula."""

import copy
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import it3
import pytest
import torch
import torch.nn.functional as F
from it3 import IT3Engine, TrainingRecipe, WithInputLayer
from kinds_of_network import hooked
from torch import Tensor, nn

close = partial(torch.testing.assert_close, rtol=1e-10, atol=1e-10)
STEPS, LR = 3, 1e-2
WAYS = {
    "cut": "cut at the layer, exported by torch.export",
    "whole": "run whole, with a hook on the layer",
    "script": "cut at the layer, a TorchScript module",
    "trace": "cut at the layer, a TorchScript module",
    "program": "cut at the layer, exported by torch.export",
}


class Pixels(nn.Module):
    """Images of 2 + 3 channels to 3 scores a pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(5, 6, 3, padding=1)
        self.last = nn.Conv2d(6, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x).tanh())


class Graph(nn.Module):
    """Nodes of 4 + 2 features, whose neighbours are averaged, to 2 numbers a node."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 8)
        self.last = nn.Linear(8, 2)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        h = self.first(x).tanh()
        h = h + torch.zeros_like(h).index_add(0, edges[1], h[edges[0]]) / 3
        return self.last(h)


class Tokens(nn.Module):
    """Sequences of vectors of 4 + 2 numbers to 2 numbers each."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 8)
        self.last = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x).tanh()
        return self.last(h - h.mean(1, keepdim=True))


@dataclass
class Case:
    model: nn.Module
    inputs: Any  # the first tensor is fed
    target: Tensor
    channels: int
    dim: int = 1

    def feed(self, x: Tensor, y: Tensor) -> Tensor:
        """What the model sees of its input and a signal."""
        y = y.reshape(*y.shape, *[1] * (x.dim() - y.dim())).expand(
            *[
                n if d == self.dim % x.dim() else x.shape[d]
                for d, n in enumerate([*y.shape, *[1] * (x.dim() - y.dim())])
            ]
        )
        return torch.cat([x, y], self.dim)

    def call(self, model: nn.Module, y: Tensor) -> Tensor:
        if isinstance(self.inputs, tuple):
            return model(self.feed(self.inputs[0], y), *self.inputs[1:])
        return model(self.feed(self.inputs, y))


def table() -> Case:
    model = nn.Sequential(nn.Linear(7, 8), nn.Tanh(), nn.Linear(8, 2))
    return Case(model, torch.randn(5, 5), torch.randn(5, 2), 2)


def images() -> Case:
    model = nn.Sequential(nn.Conv2d(5, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))
    model.train()(torch.randn(64, 5, 6, 6))  # statistics of its own
    return Case(model, torch.randn(4, 2, 6, 6), torch.randn(4, 3), 3)


def pixels() -> Case:
    return Case(Pixels(), torch.randn(3, 2, 5, 4), torch.randn(3, 3, 5, 4), 3)


def graph() -> Case:
    return Case(Graph(), (torch.randn(6, 4), torch.randint(6, (2, 9))), torch.randn(6, 2), 2)


def tokens() -> Case:
    return Case(Tokens(), torch.randn(3, 4, 4), torch.randn(3, 4, 2), 2, dim=-1)


CASES = [table, images, pixels, graph, tokens]


@pytest.fixture(autouse=True)
def _doubles() -> Any:
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(torch.float32)


def engine_of(case: Case, way: str, **arguments: Any) -> IT3Engine:
    """Make an engine around a copy of a case's model, to be run in one way."""
    model: Any = copy.deepcopy(case.model).eval()
    inputs = case.inputs if isinstance(case.inputs, tuple) else (case.inputs,)
    wide = (case.feed(inputs[0], case.target), *inputs[1:])
    if way == "whole":
        model = hooked(model)
    elif way == "script":
        model = torch.jit.script(model)
    elif way == "trace":
        model = torch.jit.trace(model, wide)
    elif way == "program":
        model = torch.export.export(model, wide)
    options = {"num_steps": STEPS, "lr": LR}
    layout = None if case.dim == 1 else it3.Layout(channel_dim=case.dim)
    return IT3Engine(
        model,
        "input",
        extra_channels=case.channels,
        features_layout=layout,
        optimization_parameters=options,
        **arguments,
    ).eval()


def expected(case: Case, neutral: float | None = None, anchor: str = "self") -> tuple[Tensor, Tensor, list[float]]:
    """Adapt as the formula says, and return y0, y1 and the losses."""
    model = copy.deepcopy(case.model).eval()
    start = copy.deepcopy(model)
    nothing = torch.full_like(case.target, 0.0 if neutral is None else neutral)
    optimizer = torch.optim.Adam(model.parameters(), lr=LR)
    losses = []
    for _ in range(STEPS):
        y0 = case.call(model, nothing)
        y1 = case.call(model if anchor == "self" else start, y0)
        loss = F.mse_loss(y1, y0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    with torch.no_grad():
        y0 = case.call(model, nothing)
        return y0, case.call(model, y0), losses


@pytest.fixture(autouse=True)
def _quiet() -> Any:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "the embedder was never trained")
        warnings.filterwarnings("ignore", ".*never trained.*")
        yield


@pytest.mark.parametrize("neutral", [None, -3.0])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("make", CASES)
def test_concatenating_agrees_with_the_formula(make: Callable[[], Case], way: str, neutral: float | None) -> None:
    case = make()
    engine = engine_of(case, way, neutral=neutral)
    before = {name: value.clone() for name, value in engine.model.state_dict().items()}
    y0, y1, losses = expected(case, neutral)
    adaptation = engine.adapt(case.inputs)
    assert engine.explain(case.inputs).startswith(WAYS[way])
    close(adaptation.prediction, y0)
    close(adaptation.second, y1)
    close(adaptation.losses.tolist(), losses)
    close(dict(engine.model.state_dict()), before, rtol=0, atol=0)


@pytest.mark.parametrize("anchor", ["self", "frozen"])
def test_anchors(anchor: str) -> None:
    case = table()
    engine = engine_of(case, "cut")
    y0, _, losses = expected(case, anchor=anchor)
    adaptation = engine.adapt(case.inputs, anchor=anchor)
    close(adaptation.prediction, y0)
    close(adaptation.losses.tolist(), losses)


@pytest.mark.parametrize("way", ["cut", "whole", "script"])
@pytest.mark.parametrize("make", [table, images, graph])
def test_training_terms(make: Callable[[], Case], way: str) -> None:
    case = make()
    engine = engine_of(case, way, neutral=-9.0).train()
    model = copy.deepcopy(case.model).train()
    y0, loss = engine(case.inputs, target=case.target)
    right_y0 = case.call(model, torch.full_like(case.target, -9.0))
    close(y0, right_y0)
    close(loss, F.mse_loss(case.call(model, case.target), case.target))
    actual = torch.autograd.grad(loss + y0.square().sum(), list(engine.parameters()))
    right = torch.autograd.grad(
        F.mse_loss(case.call(model, case.target), case.target) + right_y0.square().sum(), list(model.parameters())
    )
    close(actual, right)
    recipe = TrainingRecipe(second_pass="detached_prediction")
    engine.training_recipe = recipe
    y0, loss = engine(case.inputs, target=case.target)
    close(loss, F.mse_loss(case.call(model, y0.detach()), case.target))


@pytest.mark.parametrize("way", ["cut", "script"])
def test_each_sample_by_itself(way: str) -> None:
    case = images()
    engine = engine_of(case, way)
    together = engine.adapt(case.inputs, per_sample=True).prediction
    for sample, (x, y) in enumerate(zip(case.inputs, case.target, strict=True)):
        one = Case(case.model, x[None], y[None], case.channels)
        close(together[sample : sample + 1], expected(one)[0])


@pytest.mark.parametrize("make", [table, images, graph])
def test_files(make: Callable[[], Case], tmp_path: Path) -> None:
    case = make()
    engine = engine_of(case, "cut", neutral=-3.0)
    right = expected(case, -3.0)[0]
    for way in ("script", "trace"):
        path = tmp_path / f"{way}.pt"
        engine.save(path, case.inputs, way)
        read = it3.load(path)
        close(read.adapt(case.inputs).prediction, right)
        assert read.embedder.extra_channels == case.channels
    inputs = case.inputs if isinstance(case.inputs, tuple) else (case.inputs,)
    zeros = torch.zeros_like(case.target)
    close(torch.jit.load(path)(*inputs), case.call(case.model.eval(), zeros))  # the plain network


def test_compiled(tmp_path: Path) -> None:
    case = table()
    engine = engine_of(case, "cut", neutral=-3.0)
    it3.compile(engine, case.inputs, cache=tmp_path, backend="compiled")
    assert "compiled" in engine.explain(case.inputs)
    close(engine.adapt(case.inputs).prediction, expected(case, -3.0)[0])


@pytest.mark.parametrize("way", WAYS)
def test_adding_agrees_with_the_formula(way: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 2))
    case = Case(model, torch.randn(6, 5), torch.randn(6, 2), 0)
    case.feed = lambda x, y: x  # type: ignore[method-assign]  (of an example for exporting)
    engine = engine_of(case, way)
    engine.uncertainty(case.inputs)  # shapes the embedder
    w1, b1, w2, b2 = (p.detach() for p in engine.embedder.parameters())
    leaky = F.leaky_relu
    case.feed = lambda x, y: x + leaky(F.linear(leaky(F.linear(y, w1, b1)), w2, b2))  # type: ignore[method-assign]
    start = copy.deepcopy(model)
    optimizer = torch.optim.Adam(start.parameters(), lr=LR)
    for _ in range(STEPS):
        y0 = start(case.inputs)
        optimizer.zero_grad()
        F.mse_loss(case.call(start, y0), y0).backward()
        optimizer.step()
    close(engine.adapt(case.inputs).prediction, start(case.inputs))


def test_keywords() -> None:
    case = graph()
    engine = engine_of(case, "cut")
    x, edges = case.inputs
    close(engine.adapt({"edges": edges, "x": x}).prediction, expected(case)[0])


def test_a_layer_that_is_called_input_is_meant() -> None:
    model = nn.Sequential()
    model.add_module("input", nn.Linear(3, 4))
    model.add_module("output", nn.Linear(4, 2))
    engine = IT3Engine(model, "input")
    assert engine.model is model
    assert engine.embedder.extra_channels == 0
    with pytest.raises(ValueError, match="extra_channels=2 is for features_layer_name='input'"):
        IT3Engine(model, "output", extra_channels=2)


@pytest.mark.parametrize("channels", [1, 3, 7])
def test_another_number_of_extra_channels_than_the_prediction_has(channels: int) -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.Linear(8, channels))
    engine = IT3Engine(model, "input", extra_channels=2).eval()
    with pytest.raises(ValueError, match=rf"into 2 extra channels of the features, but the prediction has {channels};"):
        engine.adapt(torch.randn(3, 4))


def test_integers_are_no_input_to_feed_back_at() -> None:
    model = nn.Sequential(nn.Embedding(5, 4), nn.Flatten(), nn.Linear(20, 2))
    engine = IT3Engine(model, "input", extra_channels=2).eval()
    with pytest.raises(ValueError, match="which would round it"):
        engine.adapt(torch.randint(5, (3, 3)))


def test_an_argument_that_is_no_tensor() -> None:
    class OfAList(nn.Module):
        def forward(self, parts: list[Tensor]) -> Tensor:
            return parts[0] + parts[1]

    engine = IT3Engine(OfAList(), "input").eval()
    with pytest.raises(TypeError, match="argument 0 of the model, which must be a tensor, not a list"):
        engine.adapt({"parts": [torch.randn(3, 2), torch.randn(3, 2)]})


def test_a_file_with_compiled_programs(tmp_path: Path) -> None:
    case = table()
    engine = engine_of(case, "cut", neutral=-3.0)
    engine.save(tmp_path / "engine.pt2", case.inputs, format="aoti", cache=tmp_path)
    close(it3.load(tmp_path / "engine.pt2").adapt(case.inputs).prediction, expected(case, -3.0)[0])


@pytest.mark.parametrize("wrong", [-1, 1.5, True, "2"])
def test_wrong_numbers(wrong: Any) -> None:
    with pytest.raises(ValueError, match="extra_channels must be a whole number from 0"):
        WithInputLayer(nn.Linear(3, 2), wrong)


def test_an_argument_that_is_not_there() -> None:
    with pytest.raises(ValueError, match="has no argument 1; it takes input"):
        WithInputLayer(nn.Linear(3, 2), argument=1)
    script = torch.jit.script(nn.Linear(3, 2))
    with pytest.raises(ValueError, match="has no argument 1; it takes input"):
        WithInputLayer(script, argument=1)
