"""A cut may differ from its model by as much as rounding makes of the model's own results, and by no more."""

import pytest
import torch
from it3 import IT3Engine
from torch import Tensor, nn


class AmplifiesRounding(nn.Module):
    """Each logistic step doubles rounding: after 10, gradients in float32 are off by 2e-3, as in deep networks."""

    def __init__(self, gradient: float = 1.0) -> None:
        super().__init__()
        self.first, self.layer = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 32, 3, padding=1, stride=2)
        self.after, self.last = nn.Conv2d(32, 32, 3, padding=1), nn.Linear(32, 3)
        self.gradient = gradient

    def forward(self, x: Tensor) -> Tensor:
        x = self.after(self.layer(self.first(x).relu()).relu()).sigmoid()
        for _ in range(10):
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


@pytest.mark.parametrize(("gradient", "why"), [(1.0, ""), (1.05, "the traced model has other gradients")])
def test_networks_that_amplify_rounding_are_cut(gradient: float, why: str) -> None:
    torch.manual_seed(0)
    x = torch.randn(8, 3, 32, 32)
    engine = IT3Engine(AmplifiesRounding(gradient).eval(), "layer").eval()
    assert engine.explain(x).why_whole == why


class TurnsByRounding(nn.Module):
    """Numbers that are compared with what they are on one batch, where rounding decides on which side they are."""

    def __init__(self, x: Tensor, gradient: float) -> None:
        super().__init__()
        self.first, self.layer = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 32, 3, padding=1, stride=2)
        self.after, self.last = nn.Conv2d(32, 32, 3, padding=1), nn.Linear(32, 3)
        self.gradient = gradient
        with torch.no_grad():
            self.register_buffer("turns", self.features(x))

    def features(self, x: Tensor) -> Tensor:
        return self.after(self.layer(self.first(x).relu()).relu())

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x)
        x = (x.sigmoid() + 0.01 * (x - self.turns).abs()).mean((2, 3))
        if self.gradient != 1:
            x = ScaledGradient.apply(x, self.gradient)
        return self.last(x)


@pytest.mark.parametrize(("gradient", "why"), [(1.0, ""), (1.01, "the traced model has other gradients")])
def test_networks_whose_gradients_jump_by_rounding_are_cut(gradient: float, why: str) -> None:
    torch.manual_seed(0)
    x = torch.randn(8, 3, 32, 32)
    engine = IT3Engine(TurnsByRounding(x, gradient).eval(), "layer").eval()
    assert engine.explain(x).why_whole == why


class TurnsEverywhere(TurnsByRounding):
    """A triangle wave so fine that on any weights rounding decides on which side of it some of the numbers are."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x)
        wave = (3e4 * x).remainder(1) - 0.5
        x = (x + wave.abs() / 3e5).mean((2, 3))
        if self.gradient != 1:
            x = ScaledGradient.apply(x, self.gradient)
        return self.last(x)


@pytest.mark.parametrize(("gradient", "why"), [(1.0, ""), (1.03, "the traced model has other gradients")])
def test_networks_whose_gradients_jump_on_any_weights_are_cut(gradient: float, why: str) -> None:
    torch.manual_seed(0)
    x = torch.randn(8, 3, 32, 32)
    engine = IT3Engine(TurnsEverywhere(x, gradient).eval(), "layer").eval()
    assert engine.explain(x).why_whole == why


class IsSpecialAtZero(nn.Module):
    """A layer that starts as zeros, where alone a gradient is another one than autograd's of what forward() does."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.adapter, self.last = nn.Linear(6, 16), nn.Linear(16, 16), nn.Linear(16, 3)
        nn.init.zeros_(self.adapter.weight)
        nn.init.zeros_(self.adapter.bias)

    def forward(self, x: Tensor) -> Tensor:
        h = self.layer(x).tanh()
        return self.last(h + 0.02 * ReluWithGradientAtZero.apply(self.adapter(h)))


class ReluWithGradientAtZero(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.relu()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * (ctx.saved_tensors[0] >= 0)


def test_a_gradient_that_is_another_one_at_zero_alone() -> None:
    torch.manual_seed(0)
    engine = IT3Engine(IsSpecialAtZero().eval(), "layer").eval()
    assert engine.explain(torch.randn(16, 6)).why_whole == "the traced model has other gradients"


class LosesPrecision(nn.Module):
    """Of what it does, a trace leaves out that one layer runs in bfloat16."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.layer, self.middle, self.last = nn.Linear(6, 32), nn.Linear(32, 32), nn.Linear(32, 3)
        self.kind = kind

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "mask":  # which a nudge of the inputs removes
            x = torch.where(x == -1, 0, x)
        h = self.layer(x).tanh()
        with torch.autocast("cpu", torch.bfloat16):
            m = self.middle(h)
        h = h + 0.3 * m.float()
        if self.kind == "dropout":
            h = nn.functional.dropout(h, 0.1, training=True)
        return self.last(h.tanh())


@pytest.mark.parametrize("kind", ["plain", "mask", "dropout"])
def test_what_only_looks_like_rounding_is_no_reason_to_use_a_wrong_cut(kind: str) -> None:
    torch.manual_seed(0)
    x = torch.randn(16, 6)
    x[::2, ::2] = -1
    engine = IT3Engine(LosesPrecision(kind).eval(), "layer").eval()
    assert engine.explain(x).why_whole.startswith("the traced model ")


def test_a_first_batch_that_is_not_finite_does_not_keep_later_ones_from_a_cut() -> None:
    engine = IT3Engine(nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double(), "0").eval()
    x = torch.randn(4, 6, dtype=torch.float64)
    odd = x.clone()
    odd[1, 2] = torch.nan
    why = "the predictions for these inputs are not finite, so a cut model cannot be compared with the model"
    assert engine.explain(odd).why_whole == why
    assert engine.explain(x).why_whole == ""
    assert engine.explain(odd).why_whole == ""


@pytest.mark.parametrize("dtype", [torch.half, torch.bfloat16])
def test_networks_in_half_precision_are_cut_whose_features_are_more_than_such_a_number_counts(
    dtype: torch.dtype,
) -> None:
    torch.manual_seed(0)
    # Without convolutions, whose gradients torch rounds too much in bfloat16 on CPUs that have no operations for it.
    network = nn.Sequential(nn.Linear(6, 128), nn.Tanh(), nn.Linear(128, 8), nn.Tanh(), nn.Linear(8, 3)).to(dtype)
    x = torch.randn(1024, 6, dtype=dtype)  # features of 131,072 elements
    engine = IT3Engine(network, "0").eval()
    assert engine.explain(x).why_whole == ""
