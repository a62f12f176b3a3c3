"""A cut may differ from its model by as much as rounding makes of the model's own results, and by no more."""

import pytest
import torch
from it3 import IT3Engine
from torch import Tensor, nn


class AmplifiesRounding(nn.Module):
    """Each logistic step doubles rounding: after 11, gradients in float32 are off by 5e-3, as in deep networks."""

    def __init__(self, gradient: float = 1.0) -> None:
        super().__init__()
        self.first, self.layer = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 32, 3, padding=1, stride=2)
        self.after, self.last = nn.Conv2d(32, 32, 3, padding=1), nn.Linear(32, 3)
        self.gradient = gradient

    def forward(self, x: Tensor) -> Tensor:
        x = self.after(self.layer(self.first(x).relu()).relu()).sigmoid()
        for _ in range(11):
            x = 4 * x * (1 - x)
        x = x.mean((2, 3))
        if self.gradient != 1:
            x = ScaledGradient.apply(x, self.gradient)
        return self.last(x)


class ScaledGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, scale):
        ctx.scale = scale
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * ctx.scale, None


@pytest.mark.parametrize(("gradient", "why"), [(1.0, ""), (1.05, "traced, it has other gradients")])
def test_networks_that_amplify_rounding_are_cut(gradient: float, why: str) -> None:
    torch.manual_seed(0)
    x = torch.randn(8, 3, 32, 32)
    engine = IT3Engine(AmplifiesRounding(gradient).eval(), "layer").eval()
    assert engine._runners().why_not(x) == why
