"""What comes before the layer runs once a call where nothing in it adapts or changes by itself."""

from functools import partial

import pytest
import reference
import torch
import torch.nn.functional as F
from it3 import IT3Engine
from kinds_of_network import build
from models import make_case
from torch import Tensor, nn

close = partial(torch.testing.assert_close, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("anchor", ["self", "frozen", "ema"])
@pytest.mark.parametrize(
    ("kind", "patterns"), [("mlp", ["4"]), ("cnn", ["conv2", "fc"]), ("residual", ["fc3", "norm"])]
)
def test_heads_that_nothing_adapts_in(kind: str, patterns: list[str], anchor: str, device: str) -> None:
    """They run once a call, with the same result."""
    case = make_case(kind, device=device)
    options = {"parameters": patterns, "anchor": anchor}
    scripted, embed = build(case, "script", optimization_parameters=options)
    expected, losses, model = reference.adapt(
        case.model,
        case.layer,
        embed,
        case.inputs,
        anchor=anchor,
        parameters=lambda name: name.split(".")[0] in patterns,
    )
    adaptation = scripted.adapt(case.inputs)
    close(adaptation.prediction, expected)
    close(adaptation.losses.tolist(), losses)
    close(adaptation.state_dict(), dict(model.state_dict()))


class Draws(nn.Module):
    """Draws in eval mode too."""

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x, 0.5, True)


def test_heads_that_draw_run_at_each_step() -> None:
    model = nn.Sequential(Draws(), nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
    engine = IT3Engine(torch.jit.script(model), "1", optimization_parameters={"parameters": "3", "lr": 0.0}).eval()
    assert len(set(engine.adapt(torch.randn(4, 6), num_steps=5).losses.tolist())) == 5


def test_heads_that_update_statistics_run_at_each_step() -> None:
    model = nn.Sequential(nn.BatchNorm1d(6), nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    x = torch.randn(4, 6, dtype=torch.float64)
    eager = IT3Engine(model.eval(), "1", optimization_parameters={"parameters": "3"}).eval()
    eager.uncertainty(x)
    scripted = IT3Engine(
        torch.jit.script(model), "1", eager.embedder, optimization_parameters={"parameters": "3"}
    ).eval()
    for engine in (eager, scripted):
        engine.model.train()
    close(scripted.adapt(x).prediction, eager.adapt(x).prediction)
