"""Engines in one file equal those that were saved, in Python and in a C++ program outside of it3."""

from functools import partial
from pathlib import Path

import it3
import pytest
import torch
from installed import assert_adapts_the_same
from it3 import IT3Engine
from models import KINDS, Case, make_case
from torch import Tensor, nn

exactly = partial(torch.testing.assert_close, rtol=0, atol=0)
pytestmark = pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")

OPTIONS = {"optimizer_name": "sgd", "lr": 0.1, "momentum": 0.5, "num_steps": 2, "max_grad_norm": 5.0}


def make_engine(kind: str, device: str = "cpu", **options: object) -> tuple[IT3Engine, Case]:
    case = make_case(kind, torch.float32, device)
    engine = IT3Engine(case.model, case.layer, distance_fn="l1", optimization_parameters={**OPTIONS, **options}).eval()
    engine.uncertainty(case.inputs)
    return engine, case


@pytest.mark.parametrize("method", ["script", "trace"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_loaded_engine_equals_the_saved_one(kind: str, method: str, device: str, tmp_path: Path) -> None:
    engine, case = make_engine(kind, device)
    engine.save(tmp_path / "engine.pt", case.inputs, method)
    loaded = it3.load(tmp_path / "engine.pt")
    torch.testing.assert_close(loaded(case.inputs), engine(case.inputs))
    assert loaded.features_layer_name == engine.features_layer_name
    assert loaded.distance_fn == "l1"
    assert loaded.optimization_parameters.items() >= engine.optimization_parameters.items()
    exactly(loaded.embedder.state_dict(), engine.embedder.state_dict())
    # Saved again from TorchScript, to the bit.
    loaded.save(tmp_path / "again.pt", case.inputs)
    again = it3.load(tmp_path / "again.pt")
    exactly(again(case.inputs), loaded(case.inputs))
    exactly(again.uncertainty(case.inputs), loaded.uncertainty(case.inputs))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again.pt", "engine.pt"]


def test_the_file_is_the_plain_network_too(tmp_path: Path) -> None:
    engine, case = make_engine("cnn")
    engine.save(tmp_path / "engine.pt", case.inputs)
    exactly(torch.jit.load(tmp_path / "engine.pt")(case.inputs), case.model(case.inputs))


def test_the_users_engine_stays_as_it_was(tmp_path: Path) -> None:
    engine, case = make_engine("cnn", copy_model=False)
    before = {name: value.clone() for name, value in engine.state_dict().items()}
    engine.train()
    engine.save(tmp_path / "engine.pt", case.inputs)
    exactly(dict(engine.state_dict()), before)
    assert all(module.training for module in engine.modules())


class Undecided(nn.Module):
    """Does what a tracer cannot see."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x)
        return y * torch.rand(()) if bool(torch.rand(()) > 2) else y * torch.rand(1)


class ChannelEmbedder(nn.Module):
    """An embedder of one's own."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)

    def forward(self, prediction: Tensor) -> Tensor:
        return torch.tanh(self.linear(prediction))


def own_embedder(case: Case) -> ChannelEmbedder:
    features = dict(case.model.named_modules())[case.layer](torch.zeros(1, 6)).shape[1]
    return ChannelEmbedder(case.model(case.inputs).shape[1], features)


def gated(features: Tensor, embedding: Tensor) -> Tensor:
    return features * torch.sigmoid(embedding)


def smooth_l1(second: Tensor, reference: Tensor) -> Tensor:
    difference = (second - reference).abs()
    return torch.where(difference < 1, 0.5 * difference**2, difference - 0.5).mean()


@pytest.mark.parametrize("method", ["script", "trace"])
@pytest.mark.parametrize("combine", [None, gated])
@pytest.mark.parametrize("distance", ["l1", smooth_l1, nn.SmoothL1Loss(), torch.jit.script(smooth_l1)])
def test_functions_of_ones_own_are_saved(method, combine, distance, consumer: Path, tmp_path: Path) -> None:
    case = make_case("mlp", torch.float32)
    embedder = own_embedder(case)
    engine = IT3Engine(case.model, case.layer, embedder, combine, distance, OPTIONS).eval()
    engine.save(tmp_path / "engine.pt", case.inputs, method)
    loaded = it3.load(tmp_path / "engine.pt")
    torch.testing.assert_close(loaded(case.inputs), engine(case.inputs))
    exactly(loaded.embedder.state_dict(), embedder.state_dict())
    expected = loaded(case.inputs)
    loaded.save(tmp_path / "again.pt", case.inputs)
    exactly(it3.load(tmp_path / "again.pt")(case.inputs), expected)
    assert_adapts_the_same(consumer, tmp_path / "again.pt", case.inputs)


def test_what_a_file_says_of_its_engine(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 10))
    engine = IT3Engine(model, "0").eval()
    engine.save(tmp_path / "engine.pt", torch.zeros(2, 1, 8, 8))
    assert it3.load(tmp_path / "engine.pt").notes == {
        "model": "Sequential",
        "inputs": ["Float [2, 1, 8, 8]"],
        "prediction": "Float [2, 10]",
        "features": "Float [2, 4, 6, 6]",
    }
    assert engine.notes == {}


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (
            {"embedder": lambda y: y @ torch.ones(3, 8)},
            "embedder cannot be exported by method='script'; try method='tra",
        ),
        ({"distance_fn": lambda a, b: (a - b).mean()}, "distance_fn cannot be exported by method='script'"),
        ({"combine_fn": lambda f, e: f}, "combine_fn cannot be exported by method='script'"),
        ({"model": Undecided(), "features_layer_name": "layer"}, "gives other predictions than the eager one after 0"),
    ],
)
def test_what_cannot_be_saved(parts, message: str, tmp_path: Path) -> None:
    case = make_case("mlp", torch.float32)
    engine = IT3Engine(**{"model": case.model, "features_layer_name": case.layer, **parts}).eval()
    with pytest.raises(ValueError, match=message):
        engine.save(tmp_path / "engine.pt", case.inputs)
    with pytest.raises(ValueError, match="method must be 'script' or 'trace', not 'onnx'"):
        engine.save(tmp_path / "engine.pt", case.inputs, "onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["torchscript", "aoti"])
def test_embedders_that_files_would_change(kind: str, tmp_path: Path) -> None:
    engine, case = make_engine("mlp")
    engine.embedder.register_forward_hook(lambda module, args, result: 2 * result)
    with pytest.raises(ValueError, match="the embedder has hooks"):
        engine.save(tmp_path / "engine.pt", case.inputs, format=kind)
    engine = IT3Engine(case.model, case.layer, nn.Sequential(own_embedder(case), nn.Dropout()))
    with pytest.raises(ValueError, match="the embedder is in train mode"):
        engine.save(tmp_path / "engine.pt", case.inputs, format=kind)
    engine.embedder[1] = nn.Identity()  # the mode makes no difference
    if kind == "torchscript":
        engine.save(tmp_path / "engine.pt", case.inputs)
    assert engine.embedder.training


def test_files_that_are_no_engines(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="there is no file"):
        it3.load(tmp_path / "missing.pt")
    torch.jit.script(nn.Linear(2, 2)).save(tmp_path / "plain.pt")
    with pytest.raises(
        RuntimeError, match=r"plain\.pt cannot be read as an engine: it holds no engine; engine\.save\(\)"
    ):
        it3.load(tmp_path / "plain.pt")
    torch.save({"a": torch.ones(3)}, tmp_path / "tensors.pt")
    with pytest.raises(RuntimeError, match=r"tensors\.pt cannot be read as an engine: it holds no engine"):
        it3.load(tmp_path / "tensors.pt")
