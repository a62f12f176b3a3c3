"""Engines around programs of torch.export, compiled: as those around the models that these were made from."""

from pathlib import Path
from typing import Any

import it3
import pytest
import torch
from compiled_engines import batch, check_alike
from test_exported_models import around, engines, program_of
from torch import Tensor, nn
from torch.export import Dim

OPTIONS = {"num_steps": 3, "lr": 1e-2}

pytestmark = pytest.mark.filterwarnings(
    "ignore:`isinstance.treespec",  # of torch.export, about itself
    "ignore:The given buffer is not writable",  # torch.export.load of torch 2.11
)


class Summed(nn.Module):
    """Takes more than tensors, by names that torch.fx avoids, and holds tensors that are neither weights nor saved."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.layer, self.head = nn.Linear(6, 6), WeightedSum(), nn.Linear(6, 3)
        self.register_buffer("shift", torch.ones(6), persistent=False)

    def forward(self, input: Tensor, sum: float, mask: Tensor | None = None) -> Tensor:  # noqa: A002  (see above)
        h = self.before(input).unsqueeze(1) * torch.tensor([[1.0], [2.0]], dtype=input.dtype)
        total = h.sum(1)
        return self.head(torch.tanh(self.layer(h) - self.shift) + total * sum)


class WeightedSum(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(6))

    def forward(self, h: Tensor) -> Tensor:
        return (h * self.weight).sum(1)


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
        self.after.weight = self.layer.weight

    def forward(self, x: Tensor) -> Tensor:
        h = self.layer(x)
        return h + self.after(torch.relu(h))


@pytest.mark.parametrize(
    "options", [{}, {"norm_statistics": "batch", "anchor": "ema", "parameters": "encoder"}], ids=["defaults", "others"]
)
def test_as_the_model(cache: Path, options: dict[str, Any]) -> None:
    plain, exported, x = engines(**OPTIONS, **options)
    it3.compile(exported, x, backend="compiled", cache=cache, progress=False)
    more = torch.randn(7, 2, 8, dtype=torch.float64)
    check_alike(exported, plain, x, x, more, more)  # the first of each sizes is tried in both ways
    with pytest.raises(ValueError, match="was not exported for"):
        exported.adapt(x[:2])  # the model does something else there


def test_other_inputs_than_tensors(cache: Path) -> None:
    torch.manual_seed(0)
    model, x = Summed().double().eval(), {"input": batch(8), "sum": 0.5, "mask": None}
    dims = {"input": {0: Dim.AUTO}, "sum": None, "mask": None}
    program = torch.export.export(model, (), x, dynamic_shapes=dims, strict=False)
    plain, exported = around(model, program, "layer", x, **OPTIONS)
    it3.compile(exported, x, backend="compiled", cache=cache, progress=False)
    more = {**x, "input": batch(3)}
    check_alike(exported, plain, x, x, more, more)
    for each in (exported.model, plain.model):
        each.shift.mul_(0.5)  # values are no part of what is compiled
    check_alike(exported, plain, x, x)


def test_a_layer_in_a_module(cache: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, x = Nested().double().eval(), batch(8)
    torch.export.save(program_of(model, x).run_decompositions(), tmp_path / "program.pt2")
    plain, exported = around(model, torch.export.load(tmp_path / "program.pt2"), "block.layer", x, **OPTIONS)
    it3.compile(exported, x, backend="compiled", cache=cache, progress=False)
    check_alike(exported, plain, x, x)
    with torch.no_grad():
        for model in (exported.model, plain.model):
            model.block.after.weight.mul_(1.5)
    check_alike(exported, plain, x, x, batch(5), batch(5))


def test_saved_and_saved_again(cache: Path, tmp_path: Path) -> None:
    plain, engine, x = engines(**OPTIONS)
    for name in ("of a program", "of a file"):
        engine.save(tmp_path / name, x, format="aoti", backend="compiled", cache=cache)
        engine = it3.load(tmp_path / name)
        more = torch.randn(7, 2, 8, dtype=torch.float64)
        check_alike(engine, plain, x, x, more, more)
