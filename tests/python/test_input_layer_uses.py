"""Feeding y0 back at the input: calls, files, layouts, models of all kinds, and what is refused."""

import copy
from pathlib import Path
from typing import Any

import it3
import pytest
import torch
from input_cases import LR, STEPS, close, engine_of, expected, graph, table, tokens
from it3 import IT3Engine, WithInputLayer
from torch import Tensor, nn

pytestmark = [
    pytest.mark.usefixtures("in_double_precision"),
    pytest.mark.filterwarnings("ignore:this engine was never trained"),
]


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


@pytest.mark.parametrize("wrong", [-1, 1.5, True, "2"])
def test_wrong_numbers(wrong: Any) -> None:
    with pytest.raises(ValueError, match="extra_channels must be a whole number, 0 or more"):
        WithInputLayer(nn.Linear(3, 2), wrong)


def test_an_argument_that_is_not_there() -> None:
    with pytest.raises(ValueError, match="has no argument 1; it takes input"):
        WithInputLayer(nn.Linear(3, 2), argument=1)
    script = torch.jit.script(nn.Linear(3, 2))
    with pytest.raises(ValueError, match="has no argument 1; it takes input"):
        WithInputLayer(script, argument=1)


def modes_of(model: nn.Module) -> list[bool]:
    return [module.training for module in model.modules()]


@pytest.mark.parametrize("is_script", [False, True])
def test_modules_keep_the_modes_that_they_are_in(is_script: bool) -> None:
    model: Any = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Dropout(), nn.Linear(4, 2)).train()
    model[1].eval()
    before = modes_of(model)
    given = torch.jit.script(model) if is_script else model
    engine = IT3Engine(given, "input", extra_channels=2)
    assert modes_of(given) == before
    assert engine.model.training


def test_a_compiled_model_is_fed_back_at_the_same_place() -> None:
    case = table()
    compiled = torch.compile(copy.deepcopy(case.model).eval(), backend="eager")
    options = {"num_steps": STEPS, "lr": LR}
    engine = IT3Engine(compiled, "input", extra_channels=2, optimization_parameters=options).eval()
    assert engine.explain(case.inputs).runs.startswith("cut at the layer")
    close(engine.adapt(case.inputs).prediction, expected(case)[0])
    named = nn.Sequential()
    named.add_module("input", nn.Linear(3, 4))
    assert not isinstance(IT3Engine(torch.compile(named, backend="eager"), "input").model, WithInputLayer)


def test_an_input_layer_of_ones_own_is_the_same_engine() -> None:
    case = tokens()
    own = WithInputLayer(copy.deepcopy(case.model), case.channels, channel_dim=-1)
    options = {"num_steps": STEPS, "lr": LR}
    for arguments in ({}, {"extra_channels": case.channels}):
        engine = IT3Engine(own, "input", optimization_parameters=options, **arguments).eval()
        assert engine.model is own
        close(engine.adapt(case.inputs).prediction, expected(case)[0])
    with pytest.raises(ValueError, match=r"extra_channels=3 contradicts the it3.WithInputLayer, which has 2"):
        IT3Engine(own, "input", extra_channels=3)
    with pytest.raises(ValueError, match=r"features_layout has channel_dim=1, but the it3.WithInputLayer has -1"):
        IT3Engine(own, "input", features_layout=it3.Layout(channel_dim=1))


def test_layouts_of_the_input() -> None:
    embedder = it3.Embedder(features_layout=it3.Layout(channel_dim=-1))
    engine = IT3Engine(nn.Linear(5, 2), "input", embedder=embedder).eval()
    engine.adapt(torch.randn(4, 7, 5))
    assert embedder.weight2.shape == (5, 5)
    with pytest.raises(ValueError, match="both the samples and the channels of the input in dimension 1"):
        IT3Engine(nn.Linear(5, 2), "input", features_layout=it3.Layout(batch_dim=1))


@pytest.mark.parametrize("way", ["script", "trace"])
def test_files_of_engines_that_are_called_with_keywords(way: str, tmp_path: Path) -> None:
    case = graph()
    engine = engine_of(case, "cut", neutral=-3.0)
    x, edges = case.inputs
    engine.save(tmp_path / "engine.pt", {"x": x, "edges": edges}, way)
    read = it3.load(tmp_path / "engine.pt")
    close(read.adapt({"x": x, "edges": edges}).prediction, expected(case, -3.0)[0])


class Scaled(nn.Module):
    """With defaults that are not written as Python would."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(5, 2)

    def forward(self, x: Tensor, most: float = float("inf"), scale: float = 1e16, name: str = "it's") -> Tensor:
        return self.last(x).clamp(max=most) / scale if len(name) > 4 else self.last(x) / scale


def test_defaults_of_torchscript_come_through() -> None:
    model = Scaled()
    x = torch.randn(4, 3)
    engine = IT3Engine(torch.jit.script(model), "input", extra_channels=2).eval()
    right = model(torch.cat([x, torch.zeros(4, 2)], 1))
    close(engine.adapt(x, num_steps=0).prediction, right)


def test_complex_predictions_do_not_fit_a_real_input() -> None:
    class Complex(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return torch.complex(*self.first(x).chunk(2, 1))

    engine = IT3Engine(Complex(), "input", extra_channels=1).eval()
    with pytest.raises(ValueError, match="a complex prediction cannot be fed back as it is at a real input"):
        engine.adapt(torch.randn(3, 3))


def test_an_engine_that_was_never_trained_says_so() -> None:
    engine = IT3Engine(nn.Linear(5, 2), "input", extra_channels=2).eval()
    with pytest.warns(UserWarning, match="never trained"):
        engine.adapt(torch.randn(4, 3))
