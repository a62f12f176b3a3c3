"""calibrate() tells inputs from targets, or asks."""

from functools import partial

import pytest
import torch
from it3 import IT3Engine
from kinds_of_network import build
from models import make_case
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

close = partial(torch.testing.assert_close, rtol=1e-10, atol=1e-10)


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor, scale: Tensor) -> Tensor:
        return self.head(torch.tanh(self.layer(x) * scale))


class MaybeTwo(TwoInputs):
    def forward(self, x: Tensor, scale: Tensor | None = None) -> Tensor:
        return super().forward(x, torch.ones(()) if scale is None else scale)


class Variadic(TwoInputs):
    def forward(self, *inputs: Tensor) -> Tensor:
        return super().forward(*inputs)


class Flagged(TwoInputs):
    def forward(self, x: Tensor, verbose: bool = False) -> Tensor:
        return super().forward(x, torch.ones(()))


@pytest.mark.parametrize("kind", [TwoInputs, MaybeTwo, Variadic, lambda: torch.jit.script(TwoInputs())])
def test_two_tensors_for_a_model_of_two_inputs(kind) -> None:
    torch.manual_seed(0)
    engine = IT3Engine(kind(), "layer").eval()
    x, scale = torch.randn(5, 6), torch.rand(5, 1)
    with pytest.raises(ValueError, match="can be called with two inputs; say has_targets=True if they are the input"):
        engine.calibrate([(x, scale)])
    assert engine.optimization_parameters == {}
    expected = torch.quantile(engine.uncertainty((x, scale)).double(), 0.5).item()
    close(engine.calibrate([(x, scale)], 0.5, has_targets=False), expected)
    close(engine.calibrate([(x, scale, torch.zeros(5))], 0.5, has_targets=True), expected)
    close(engine.calibrate([((x, scale), torch.zeros(5))], 0.5), expected)
    close(engine.calibrate([{"x": x, "scale": scale}], 0.5), expected) if kind is not Variadic else None
    if kind is MaybeTwo:
        alone = torch.quantile(engine.uncertainty(x).double(), 0.5).item()
        close(engine.calibrate([(x, torch.zeros(5))], 0.5, has_targets=True), alone)


def test_pairs_of_a_loader_stay_easy() -> None:
    case = make_case("mlp")
    engine, _ = build(case, "traced")
    loader = DataLoader(TensorDataset(case.inputs, case.target), batch_size=3)
    expected = torch.quantile(engine.uncertainty(case.inputs), 0.9).item()
    for has_targets in (None, True):
        close(engine.calibrate(loader, 0.9, has_targets=has_targets), expected)
    model = Flagged()
    flagged = IT3Engine(model, "layer").eval()
    x = torch.randn(5, 6)
    close(flagged.calibrate([(x, torch.zeros(5))], 0.9), torch.quantile(flagged.uncertainty(x).double(), 0.9).item())


def test_what_are_no_batches() -> None:
    case = make_case("mlp")
    engine, _ = build(case, "traced")
    with pytest.raises(
        TypeError, match="takes batches, such as a DataLoader, not a Tensor; put a single one in a list"
    ):
        engine.calibrate(case.inputs)
    with pytest.raises(TypeError, match="not a dict"):
        engine.calibrate({"input": case.inputs})
    with pytest.raises(ValueError, match="has_targets is True, but a batch is a Tensor"):
        engine.calibrate([case.inputs], has_targets=True)
    with pytest.raises(ValueError, match="has_targets is True, but a batch is a list of 1"):
        engine.calibrate([[case.inputs]], has_targets=True)
    with pytest.raises(TypeError, match="has_targets must be True, False or None, not 'no'"):
        engine.calibrate([case.inputs], has_targets="no")
    assert "threshold" not in engine.optimization_parameters
