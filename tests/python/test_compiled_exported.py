"""Engines around programs of torch.export, compiled: as those around the models that these were made from."""

from pathlib import Path
from typing import Any

import it3
import pytest
import torch
from compiled_engines import batch, close, is_compiled
from it3 import IT3Engine
from test_exported_models import engines, program_of
from torch import Tensor, nn
from torch.export import Dim

pytestmark = pytest.mark.filterwarnings("ignore:`isinstance.treespec")  # of torch.export, about itself


class Scaled(nn.Module):
    """Takes more than tensors, reads its layer's output twice, and holds tensors that are neither weights nor saved."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.Linear(6, 6), nn.Linear(6, 3)
        self.register_buffer("shift", torch.ones(6), persistent=False)

    def forward(self, x: Tensor, scale: float, mask: Tensor | None = None) -> Tensor:
        h = self.layer(x)
        steps = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], dtype=x.dtype)
        return self.head(torch.tanh(h - self.shift) + h * steps * scale)


class Nested(nn.Module):
    """Its layer's output is read in the module around the layer, and outside of it."""

    def __init__(self) -> None:
        super().__init__()
        self.block = Block()
        self.last = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.tanh(self.block(x)))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.after = nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        h = self.layer(x)
        return h + self.after(torch.relu(h))


def around(model: nn.Module, program: torch.export.ExportedProgram, layer: str, x: Any) -> tuple[IT3Engine, IT3Engine]:
    """Return engines around a model and its program, with the same embedder."""
    options = {"num_steps": 3, "lr": 1e-2}
    plain = IT3Engine(model, layer, optimization_parameters=options).eval()
    plain.uncertainty(x)
    exported = IT3Engine(program, layer, plain.embedder, optimization_parameters=options).eval()
    for engine in (plain, exported):
        engine.is_trained = True
    return plain, exported


def compare(compiled: IT3Engine, plain: IT3Engine, *inputs: Any) -> None:
    for given in inputs:
        for _ in range(2):  # the first call is tried in both ways
            actual, expected = compiled.adapt(given), plain.adapt(given)
            assert is_compiled(compiled, given)
            close(actual.prediction, expected.prediction)
            close(actual.losses, expected.losses)
            close(actual._weights, expected._weights)


@pytest.mark.parametrize(
    "options", [{}, {"norm_statistics": "batch", "anchor": "ema", "parameters": "encoder"}], ids=["defaults", "others"]
)
def test_as_the_model(cache: Path, options: dict[str, Any]) -> None:
    plain, exported, x = engines(num_steps=3, lr=1e-2, **options)
    it3.compile(exported, x, backend="compiled", cache=cache, progress=False)
    compare(exported, plain, x, torch.randn(7, 2, 8, dtype=torch.float64))
    with pytest.raises(ValueError, match="was not exported for"):
        exported.adapt(x[:2])  # the model does something else there


def test_other_inputs_than_tensors(cache: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, x = Scaled().double().eval(), {"x": batch(8), "scale": 0.5, "mask": None}
    dims = {"x": {0: Dim.AUTO}, "scale": None, "mask": None}
    plain, exported = around(model, torch.export.export(model, (), x, dynamic_shapes=dims, strict=False), "layer", x)
    it3.compile(exported, x, backend="compiled", cache=cache, progress=False)
    compare(exported, plain, x, {**x, "x": batch(3)})
    for each in (exported.model, plain.model):
        each.shift.mul_(0.5)  # values are no part of what is compiled
    compare(exported, plain, x)
    exported.adapt(x).save(tmp_path / "adapted.pt2", x, method="export")
    adapted = torch.export.load(tmp_path / "adapted.pt2").module()
    close(adapted(**x), plain.adapt(x).model()(**x))


def test_a_layer_in_a_module(cache: Path) -> None:
    torch.manual_seed(0)
    model, x = Nested().double().eval(), batch(8)
    plain, exported = around(model, program_of(model, x).run_decompositions(), "block.layer", x)
    it3.compile(exported, x, backend="compiled", cache=cache, progress=False)
    compare(exported, plain, x)
    with torch.no_grad():
        for model in (exported.model, plain.model):
            model.block.after.weight.mul_(1.5)
    compare(exported, plain, x, batch(5))


def test_saved_and_saved_again(cache: Path, tmp_path: Path) -> None:
    plain, engine, x = engines(num_steps=3, lr=1e-2)
    for name in ("of a program", "of a file"):
        engine.save(tmp_path / name, x, format="aoti", backend="compiled", cache=cache)
        engine = it3.load(tmp_path / name)
        compare(engine, plain, x, torch.randn(7, 2, 8, dtype=torch.float64))
