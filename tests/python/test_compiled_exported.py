"""Engines around programs of torch.export, compiled: as those around the models that these were made from."""

from pathlib import Path
from typing import Any

import it3
import pytest
import torch
from compiled_engines import batch, check_alike
from test_exported_models import around, engines
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
        self.before, self.block, self.head = nn.Linear(6, 6), Block(), nn.Linear(6, 3)
        self.block.after.weight = self.before.weight
        self.register_buffer("shift", torch.ones(6), persistent=False)

    def forward(self, input: Tensor, sum: float, mask: Tensor | None = None) -> Tensor:  # noqa: A002  (see above)
        h = self.before(input).unsqueeze(1) * torch.tensor([[1.0], [2.0]], dtype=input.dtype)
        total = h.sum(1)
        return self.head(torch.tanh(self.block(h) - self.shift) + total * sum)


class Block(nn.Module):
    """Reads its layer's output, which is read outside of it too."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.after = WeightedSum(), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        h = self.layer(x)
        return h + self.after(torch.relu(h))


class WeightedSum(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(6))

    def forward(self, h: Tensor) -> Tensor:
        return (h * self.weight).sum(1)


@pytest.mark.parametrize(
    "options",
    # With a threshold, the programs are those that files have.
    [{"threshold": 0.0}, {"norm_statistics": "batch", "anchor": "ema", "parameters": "encoder"}],
    ids=["defaults", "others"],
)
def test_as_the_model(cache: Path, options: dict[str, Any]) -> None:
    plain, exported, x = engines(**OPTIONS, **options)
    it3.compile(exported, x, backend="compiled", cache=cache, progress=False)
    for each in (plain, exported):
        each.optimization_parameters["threshold"] = None
    more = torch.randn(7, 2, 8, dtype=torch.float64)
    check_alike(exported, plain, x, x, more, more)  # the first of each sizes is tried in both ways
    with pytest.raises(ValueError, match="was not exported for"):
        exported.adapt(x[:2])  # the model does something else there


def test_other_inputs_than_tensors_and_a_layer_in_a_module(cache: Path) -> None:
    torch.manual_seed(0)
    model, x = Summed().double().eval(), {"input": batch(8), "sum": 0.5, "mask": None}
    dims = {"input": {0: Dim.AUTO}, "sum": None, "mask": None}
    program = torch.export.export(model, (), x, dynamic_shapes=dims, strict=False).run_decompositions()
    plain, exported = around(model, program, "block.layer", x, **OPTIONS)
    it3.compile(exported, x, backend="compiled", cache=cache, progress=False)
    more = {**x, "input": batch(3)}
    check_alike(exported, plain, x, x, more, more)
    with torch.no_grad():
        for each in (exported.model, plain.model):  # values are no part of what is compiled
            each.shift.mul_(0.5)
            each.block.after.weight.mul_(1.5)
    check_alike(exported, plain, x, x)


def test_saved_and_saved_again(cache: Path, tmp_path: Path) -> None:
    plain, engine, x = engines(**OPTIONS)
    for name in ("of a program", "of a file"):
        engine.save(tmp_path / name, x, format="aoti", backend="compiled", cache=cache)
        engine = it3.load(tmp_path / name)
        more = torch.randn(7, 2, 8, dtype=torch.float64)
        check_alike(engine, plain, x, x, more, more)
