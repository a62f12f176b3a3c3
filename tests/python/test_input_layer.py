"""Feeding y0 back at the input of a model, by concatenation or addition, against the formula."""

import copy
from collections.abc import Callable
from pathlib import Path

import it3
import pytest
import torch
import torch.nn.functional as F
from input_cases import CASES, LR, STEPS, WAYS, Case, close, engine_of, expected, graph, images, table
from it3 import TrainingRecipe
from it3.compiling.capture import Captured
from torch import nn

pytestmark = [
    pytest.mark.usefixtures("in_double_precision"),
    pytest.mark.filterwarnings("ignore:this engine was never trained"),
]


@pytest.mark.parametrize("neutral", [None, -3.0])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("make", CASES)
def test_concatenating_agrees_with_the_formula(make: Callable[[], Case], way: str, neutral: float | None) -> None:
    case = make()
    engine = engine_of(case, way, neutral=neutral)
    before = {name: value.clone() for name, value in engine.model.state_dict().items()}
    y0, y1, losses = expected(case, neutral)
    adaptation = engine.adapt(case.inputs)
    assert engine.explain(case.inputs).runs.startswith(WAYS[way])
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


def test_compiled(tmp_path: Path, made: list[Captured]) -> None:
    case = table()
    engine = engine_of(case, "cut", neutral=-3.0)
    engine.save(tmp_path / "engine.pt2", case.inputs, format="aoti", cache=tmp_path, backend="compiled")
    engine.optimization_parameters["threshold"] = 0.0  # as programs in files, which may be used with any
    it3.compile(engine, case.inputs, cache=tmp_path, backend="compiled")
    engine.optimization_parameters["threshold"] = None
    assert len(made) == 1  # the file has the same programs
    for each in (engine, it3.load(tmp_path / "engine.pt2")):
        close(each.adapt(case.inputs).prediction, expected(case, -3.0)[0])
        assert each.explain(case.inputs).is_compiled


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
