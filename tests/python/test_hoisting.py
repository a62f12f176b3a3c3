"""What no step changes is computed once a call by compiled engines."""

import copy
from pathlib import Path
from typing import Any

import it3
import pytest
import torch
from compiled_engines import Images, batch, check_alike, close, engines, is_compiled, make_engine, record
from it3 import IT3Engine
from it3.compiling.capture import Captured
from torch import Tensor, nn

X = batch(6, 2, 6, 6)
LATE = {"parameters": ["last"], "num_steps": 3}


class Layouts(nn.Module):
    """What comes before the layers that adapt lies in memory otherwise than contiguous, or in parts of one tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.both = nn.Linear(16, 32), nn.Linear(16, 64)
        self.layer, self.last = nn.Conv1d(32, 8, 3), nn.Linear(64, 3)
        self.norm1, self.norm2 = nn.LayerNorm(32), nn.LayerNorm(32)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.relu(self.wide(x).transpose(1, 2))
        one, two = self.both(x).chunk(2, -1)
        rows = hidden.transpose(1, 2).reshape(-1, 32).view(-1, 10, 32)
        gates = (self.norm1(one) * self.norm2(two) * rows).mean((1, 2))
        return self.last(self.layer(hidden).flatten(1)) * gates[:, None]


def convolutions(captured: Captured) -> dict[str, int]:
    target = torch.ops.aten.convolution.default
    return {
        name: sum(node.target is target for node in function.graph.graph.nodes)
        for name, function in captured.functions.items()
    }


def test_a_head_that_does_not_adapt_runs_once(tmp_path: Path, made: list[Captured]) -> None:
    engine, plain = engines(tmp_path, X, Images, threshold=0.0, **LATE)
    # The layer is a convolution: what is injected into does not come before it.
    assert convolutions(made[0]) == {"prepare": 1, "gradients": 0, "gradients_of_rows": 0, "first": 0, "both": 0}
    for each in (engine, plain):
        each.optimization_parameters["threshold"] = None
    check_alike(engine, plain, X, batch(9, 2, 6, 6, seed=1), X)
    check_alike(engine, plain, X, num_steps=0)
    check_alike(engine, plain, X, restore_probability=0.5)
    threshold = float(plain.uncertainty(X).sort().values[1:3].mean())
    check_alike(engine, plain, X, threshold=threshold)
    for seed in range(3):
        close(*(each.adapt(batch(6, 2, 6, 6, seed=seed), online=True).prediction for each in (engine, plain)))
    with torch.no_grad():
        for each in (engine, plain):
            each.model.layer.weight.mul_(1.5)
            each.model.norm.running_mean.add_(1)
    check_alike(engine, plain, X)
    engine.save(tmp_path / "engine.pt2", X, format="aoti", backend="compiled", cache=tmp_path)
    assert len(made) == 1  # the file has the same programs
    loaded = it3.load(tmp_path / "engine.pt2")
    close(loaded.adapt(X).prediction, plain.adapt(X).prediction)
    assert is_compiled(loaded, X)


def test_another_network_as_anchor(tmp_path: Path, made: list[Captured]) -> None:
    engine, plain = engines(tmp_path, X, Images, anchor="frozen")
    counts = convolutions(made[0])
    # All weights adapt, so that the network's head runs in each step, and the anchor's does not.
    assert (counts["prepare"], counts["first"]) == (1, 1)
    for anchor in ("frozen", "ema"):
        for each in (engine, plain):
            each.optimization_parameters["anchor"] = anchor
        check_alike(engine, plain, X, batch(3, 2, 6, 6, seed=1), num_steps=4)
        for seed in range(3):
            close(*(each.adapt(batch(6, 2, 6, 6, seed=seed), online=True).prediction for each in (engine, plain)))
        for each in (engine, plain):
            each.reset()


def test_each_sample_by_itself() -> None:
    counts = convolutions(record(make_engine(Images, per_sample=True, **LATE), X))  # test_compilation.py runs such ones
    assert counts == {"prepare": 1, "gradients": 0, "first": 0, "both": 0}


def test_results_that_are_not_contiguous(tmp_path: Path, made: list[Captured]) -> None:
    torch.manual_seed(0)
    options = {"parameters": ["layer", "last", "norm1", "norm2"], "num_steps": 3, "lr": 1e-2}
    engine = IT3Engine(Layouts().double(), "layer", optimization_parameters=options).eval()
    engine.is_trained = True
    x = batch(6, 10, 16)
    engine.uncertainty(x)
    plain = copy.deepcopy(engine)
    it3.compile(engine, x, backend="compiled", cache=tmp_path, progress=False)
    assert "prepare" in made[0].functions
    assert all(value.is_contiguous() for value in made[0].values)
    check_alike(engine, plain, x, batch(3, 10, 16, seed=1))


def test_one_row_with_a_threshold() -> None:
    assert "prepare" in record(make_engine(Images, threshold=0.0, **LATE), X[:1]).functions


@pytest.mark.parametrize("options", [{}, {"norm_statistics": "batch"}])
def test_nothing_is_moved_where_all_adapts(options: dict[str, Any]) -> None:
    assert list(record(make_engine(Images, **options), X).functions) == ["gradients", "first", "both"]
