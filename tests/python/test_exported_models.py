"""Engines around programs of torch.export adapt as those around the models that these were made from."""

import copy
import pickle
from pathlib import Path
from typing import Any

import it3
import pytest
import torch
from branching import Branching
from it3 import IT3Engine
from models import KINDS, make_case
from torch import Tensor, nn
from torch.export import Dim
from torch.export.passes import move_to_device_pass

pytestmark = pytest.mark.filterwarnings(
    "ignore:`isinstance.treespec",  # of torch.export, about itself
    "ignore:The given buffer is not writable",  # torch.export.load of torch 2.11
)


def program_of(model: nn.Module, *args: Any, **kwargs: Any) -> torch.export.ExportedProgram:
    dims = {name: {0: Dim.AUTO} for name in ("x", "input") if name in model.forward.__code__.co_varnames}
    return torch.export.export(model.eval(), args, kwargs, dynamic_shapes=dims or None, strict=False)


class Twin(nn.Module):
    """Returns its prediction among others."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv1d(2, 4, 3), nn.BatchNorm1d(4), nn.ReLU())
        self.head = nn.Linear(4 * 6, 3)

    def forward(self, x: Tensor) -> dict[str, Any]:
        h = self.encoder(x)
        return {"features": [h], "y": self.head(h.flatten(1)) * (2 if x.shape[0] > 2 else 3)}


def around(
    model: nn.Module, program: torch.export.ExportedProgram, layer: str, x: Any, output: Any = None, **options: Any
) -> tuple[IT3Engine, IT3Engine]:
    """One around a model, and one around its program, with the same embedder."""
    plain = IT3Engine(model, layer, output=output, optimization_parameters=options).eval()
    plain(x)
    exported = IT3Engine(program, layer, plain.embedder, output=output, optimization_parameters=options).eval()
    for engine in (plain, exported):
        engine.is_trained = True
    return plain, exported


def engines(program: torch.export.ExportedProgram | None = None, **options: Any) -> tuple[IT3Engine, IT3Engine, Tensor]:
    torch.manual_seed(0)
    model, x = Twin().double().eval(), torch.randn(4, 2, 8, dtype=torch.float64)
    program = program_of(model, x) if program is None else program
    return *around(model, program, "encoder", x, output="y", **options), x


OPTIONS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "sgd": {"optimizer_name": "sgd", "momentum": 0.9, "num_steps": 2, "lr": 0.1},
    "frozen": {"anchor": "frozen", "lr": 1e-2},
    "ema": {"anchor": "ema", "lr": 1e-2},
    "batch statistics": {"norm_statistics": "batch"},
    "some parameters": {"parameters": "encoder"},
    "threshold": {"threshold": 0.1},
    "second": {"prediction": "mean"},
}


@pytest.mark.parametrize("options", OPTIONS)
def test_adapts_as_the_model_does(options: str) -> None:
    plain, exported, x = engines(**OPTIONS[options])
    assert exported.explain(x).runs.startswith("cut at the layer")
    expected, actual = plain.adapt(x), exported.adapt(x)
    assert expected.steps > 0
    for name in ("prediction", "second", "losses"):
        torch.testing.assert_close(getattr(actual, name), getattr(expected, name), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(exported.uncertainty(x), plain.uncertainty(x), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_of_models(kind: str) -> None:
    case = make_case(kind, torch.float64)
    plain = IT3Engine(case.model.eval(), case.layer).eval()
    expected = plain.adapt(case.inputs)
    args = case.inputs if isinstance(case.inputs, tuple) else (case.inputs,)
    program = torch.export.export(case.model, args, strict=False)
    exported = IT3Engine(program, case.layer, plain.embedder).eval()
    torch.testing.assert_close(exported.adapt(case.inputs).prediction, expected.prediction, rtol=1e-9, atol=1e-12)


def test_the_program_stays_as_it_is() -> None:
    _, exported, x = engines()
    program = exported.model.program
    before = {name: tensor.clone() for name, tensor in program.state_dict.items()}
    exported.adapt(x, online=True)
    assert exported.drift().distance > 0
    for name, tensor in program.state_dict.items():
        assert torch.equal(tensor, before[name])


def test_sizes_that_it_was_not_exported_for_are_an_error() -> None:
    plain, exported, x = engines()
    torch.testing.assert_close(exported.adapt(x[:3]).prediction, plain.adapt(x[:3]).prediction)
    for wrong in (x[:2], x[:, :, :6]):  # the program multiplies by 2, as for more than two samples
        with pytest.raises((RuntimeError, AssertionError, ValueError), match=r"size|shape|Guard"):
            exported.adapt(wrong)
    torch.testing.assert_close(exported.adapt(x).prediction, plain.adapt(x).prediction)


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        (torch.zeros(4, 8), r"such as a tensor of shape \(.*\), but it was called with a tensor of shape \(4, 8\)"),
        ((torch.zeros(4, 8), 3), r"but it was called with a tensor of shape \(4, 8\), a int"),
        (([torch.zeros(4, 8)],), r"but it was called with list\[a tensor of shape \(4, 8\)\]"),
    ],
)
def test_inputs_of_another_kind_are_named(inputs: Any, words: str) -> None:
    _, exported, _ = engines()
    with pytest.raises(ValueError, match=words):
        exported.model(*(inputs if isinstance(inputs, tuple) else (inputs,)))


def test_training_reaches_its_weights() -> None:
    _, exported, x = engines()
    before = exported.model.head.weight.detach().clone()
    optimizer = torch.optim.SGD(exported.parameters(), lr=0.1)
    exported.train()
    prediction, loss = exported(x, torch.zeros(4, 3, dtype=torch.float64))
    (prediction.square().mean() + loss).backward()
    optimizer.step()
    exported.eval()
    assert not torch.equal(exported.model.head.weight, before)
    assert torch.isfinite(exported.adapt(x).prediction).all()


@pytest.mark.parametrize("how", [copy.deepcopy, lambda engine: pickle.loads(pickle.dumps(engine))])
def test_copies(how: Any) -> None:
    _, exported, x = engines(lr=1e-2)
    exported.adapt(x, online=True)
    copied = how(exported)
    torch.testing.assert_close(copied.adapt(x).prediction, exported.adapt(x).prediction, rtol=0, atol=0)
    copied.adapt(x, online=True, lr=1.0)
    assert not torch.equal(copied.model.head.weight, exported.model.head.weight)


def test_an_adapted_program_is_saved_as_one(tmp_path: Path) -> None:
    model, x = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2)), torch.randn(5, 4)
    engine = IT3Engine(program_of(model, x), "0").eval()
    engine.is_trained = True
    adaptation = engine.adapt(x, lr=1e-2)
    adaptation.save(tmp_path / "adapted.pt2", x, method="export")
    loaded = torch.export.load(tmp_path / "adapted.pt2")
    torch.testing.assert_close(loaded.module()(x), adaptation.prediction)
    again = it3.IT3Engine(loaded, "0").eval()
    assert again.adapt(x, num_steps=0).prediction.shape == (5, 2)
    for method in ("script", "trace"):
        with pytest.raises(ValueError, match=r"a program of torch\.export, which TorchScript does not take"):
            adaptation.save(tmp_path / "adapted.pt", x, method=method)
    with pytest.raises(ValueError, match=r"a program of torch\.export, which TorchScript does not take"):
        engine.save(tmp_path / "engine.pt", x)
    assert [path.name for path in tmp_path.iterdir()] == ["adapted.pt2"]


def test_layers_that_the_program_does_not_have() -> None:
    _, exported, _ = engines()
    with pytest.raises(ValueError, match=r"has no layer .nope.; did you mean .encoder."):
        IT3Engine(exported.model.program, "nope")


class Renamed(nn.Module):
    """Calls one layer by two names; another one has its weight only."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(6, 6), nn.Linear(6, 6)
        self.second = self.first
        self.head.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.second(torch.tanh(self.first(x)))))


class Part(nn.Module):
    """Computes in one of two ways."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(6, 6)

    def forward(self, x: Tensor, squash: bool = False) -> Tensor:
        x = self.inner(x)
        return torch.tanh(x) if squash else x


class Squash(nn.Module):
    """Computes in one of two ways, without parameters."""

    def forward(self, x: Tensor, squash: bool = False) -> Tensor:
        return torch.tanh(x) if squash else 2 * x


class InTwoWays(nn.Module):
    """Calls each layer in two ways."""

    def __init__(self) -> None:
        super().__init__()
        self.part, self.squash, self.head = Part(), Squash(), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.part(self.part(x), squash=True)
        return self.head(self.squash(self.squash(x), squash=True))


@pytest.mark.parametrize(
    ("model", "layers"), [(Renamed(), ("first", "second")), (InTwoWays(), ("part", "squash", "part@1"))]
)
def test_a_layer_that_is_two_modules_in_the_program(model: nn.Module, layers: tuple[str, ...]) -> None:
    x = torch.randn(2, 6)
    program = torch.export.export(model, (x,))
    for layer in layers:
        with pytest.raises(ValueError, match=r"of the exported program may be one layer of the model, called twice"):
            IT3Engine(program, layer).eval()(x)


def test_a_layer_that_is_one_module_in_the_program() -> None:
    x = torch.randn(2, 6)
    for model, layer in [(Renamed(), "head"), (InTwoWays(), "head"), (InTwoWays(), "part.inner")]:
        torch.manual_seed(0)
        expected = IT3Engine(model.eval(), layer).eval()(x)
        torch.manual_seed(0)
        actual = IT3Engine(torch.export.export(model, (x,)), layer).eval()(x)
        torch.testing.assert_close(actual, expected)


class Holding(nn.Module):
    """Holds tensors that are neither weights nor saved."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.Linear(6, 6), nn.Linear(6, 3)
        self.register_buffer("shift", torch.ones(6), persistent=False)
        self.scale = torch.full((6,), 2.0)

    def forward(self, x: Tensor) -> Tensor:
        steps = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
        return self.head(torch.tanh(self.layer(x) - self.shift) * steps * self.scale)


def test_an_adapted_program_is_saved_with_all_that_it_holds(tmp_path: Path) -> None:
    torch.manual_seed(0)
    x = torch.randn(4, 6)
    engine = IT3Engine(program_of(Holding(), x), "layer", optimization_parameters={"lr": 1e-2}).eval()
    engine.is_trained = True
    engine.uncertainty(x)
    with torch.no_grad():
        engine.model.shift.mul_(0.5)
        engine.model.scale.mul_(3)
    torch.testing.assert_close(engine.adapt(x, num_steps=0).prediction, engine.model(x))
    adaptation = engine.adapt(x)
    adaptation.save(tmp_path / "adapted.pt2", x, method="export")
    loaded = torch.export.load(tmp_path / "adapted.pt2").module()
    torch.testing.assert_close(loaded(x), adaptation.prediction)


class Ramp(nn.Module):
    """Makes tensors on the device of its inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.Linear(4, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x).tanh() * torch.linspace(0.5, 1, 8, dtype=x.dtype, device=x.device))


def test_a_program_that_was_moved_to_a_device() -> None:
    model, x = Ramp().double().eval(), torch.randn(5, 4, dtype=torch.float64)
    plain, exported = around(model, move_to_device_pass(program_of(model, x), "cpu"), "layer", x)
    torch.testing.assert_close(exported.adapt(x).prediction, plain.adapt(x).prediction)
    assert exported.explain(x).runs.startswith("cut at the layer")


def branching(*kept: str, times: int = 1) -> tuple[nn.Module, Tensor, torch.export.ExportedProgram]:
    torch.manual_seed(0)
    model, x = Branching(times).double().eval(), torch.randn(5, 4, dtype=torch.float64)
    dims = {"x": {0: Dim.AUTO}}
    program = torch.export.export(
        model, (x,), dynamic_shapes=dims, strict=False, preserve_module_call_signature=tuple(kept)
    )
    return model, x, program


@pytest.mark.parametrize("path", [("pair", 0), ("pair", 1), ("pair", -1)])
def test_one_of_the_layers_outputs(path: Any) -> None:
    model, x, program = branching("branches")
    plain = IT3Engine(model, "branches", layer_output=path).eval()
    plain(x)
    exported = IT3Engine(program, "branches", plain.embedder, layer_output=path).eval()
    for engine in (plain, exported):
        engine.is_trained = True
        assert engine.explain(x).runs.startswith("cut at the layer")
    for batch in (x, x[:2]):
        expected, actual = plain.adapt(batch), exported.adapt(batch)
        for name in ("prediction", "second", "losses"):
            torch.testing.assert_close(getattr(actual, name), getattr(expected, name), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("path", "kept", "times", "why"),
    [
        (
            0,
            "first",
            1,
            "layer_output is given, but the exported program does not tell what the layer 'branches' returns",
        ),
        ("given", "branches", 1, "does not compute its output given"),
        (("pair", 0), "branches", 2, "the layer 'branches' is called several times"),
    ],
)
def test_outputs_that_a_program_cannot_be_cut_at(path: Any, kept: str, times: int, why: str) -> None:
    _, x, program = branching(kept, times=times)
    engine = IT3Engine(program, "branches", layer_output=path).eval()
    assert engine.explain(x).runs.startswith("run whole")
    assert why in engine.explain(x).why_whole
