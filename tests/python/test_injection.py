"""Injections that reach the prediction, and inputs that passes write to."""

from functools import partial

import pytest
import reference
import torch
from it3 import IT3Engine
from kinds_of_network import NETWORKS
from torch import Tensor, nn

close = partial(torch.testing.assert_close, rtol=1e-8, atol=1e-10)


class LastState(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.fc = nn.LSTM(4, 8, batch_first=True), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        _, (h, _) = self.lstm(x)
        return self.fc(h[-1])


class Unused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.fc = nn.Linear(4, 8), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        self.layer(x)
        return self.fc(x)


class WritesItsInput(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.fc = nn.Linear(4, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x.mul_(0.5)
        return self.fc(torch.tanh(self.layer(x)))


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("network", ["hooks", "traced"])
@pytest.mark.parametrize(("model", "layer", "shape"), [(LastState, "lstm", (3, 5, 4)), (Unused, "layer", (3, 4))])
def test_an_injection_without_effect_is_an_error(
    model: type[nn.Module], layer: str, shape: tuple[int, ...], network: str, train: bool
) -> None:
    engine = IT3Engine(NETWORKS[network](model()), layer).train(train)
    with pytest.raises(ValueError, match="does not reach the prediction"):
        engine(torch.randn(shape))
    if not train:
        with pytest.raises(ValueError, match="does not reach the prediction"):
            engine.uncertainty(torch.randn(shape))


@pytest.mark.parametrize("network", NETWORKS)
def test_inputs_that_forward_writes_to(network: str) -> None:
    torch.manual_seed(0)
    model = WritesItsInput().double()
    x = torch.randn(5, 4).double()
    engine = IT3Engine(NETWORKS[network](model), "layer", optimization_parameters={"lr": 1e-2}).eval()
    engine.uncertainty(x.clone())
    weights = [w.detach() for w in engine.embedder.parameters()]

    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.fc = model.layer, model.fc

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(torch.tanh(self.layer(0.5 * x)))

    expected, losses, _ = reference.adapt(
        Plain(), "layer", lambda s, f: reference.embed(s, f, *weights), x.clone(), lr=1e-2
    )
    given = x.clone()
    adaptation = engine.adapt(given)
    close(adaptation.prediction, expected)
    close(adaptation.losses.tolist(), losses)
    close(given, 0.5 * x)
    engine.uncertainty(given)
    close(given, 0.25 * x)


def test_inputs_with_a_graph_are_constants() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2)).double()
    engine = IT3Engine(model, "0").eval()
    z = torch.randn(3, 4).double()
    x = nn.Linear(4, 4).double()(z)
    attached, detached = engine.adapt(x), engine.adapt(x.detach())
    close(attached.prediction, detached.prediction, rtol=0, atol=0)
    close(attached.losses, detached.losses, rtol=0, atol=0)


def test_embedder_may_be_spelled_as_torch_ttt_does() -> None:
    model, own = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2)), nn.Linear(2, 8)
    assert IT3Engine(model, "0", embeder=own).embedder is own
    engine = IT3Engine(model, "0").eval()
    engine.embeder = own
    assert engine.embedder is own
    assert [name for name, _ in engine.named_children()] == ["model", "embedder"]
    with pytest.raises(TypeError, match="embeder is torch-ttt's spelling of embedder; give one of the two"):
        IT3Engine(model, "0", own, embeder=own)
