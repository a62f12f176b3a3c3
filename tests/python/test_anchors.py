"""Anchors agree with their formulas, in float64, to 1e-10."""

import copy
from functools import partial

import pytest
import reference
import torch
from it3 import IT3Engine
from kinds_of_network import NETWORKS, build, hooked, state_of
from models import KINDS, make_case
from torch import Tensor, nn

close = partial(torch.testing.assert_close, rtol=1e-10, atol=1e-10)
ANCHORS = [{"anchor": "frozen"}, {"anchor": "ema"}, {"anchor": "ema", "ema_decay": 0.6}]


@pytest.mark.parametrize("options", ANCHORS, ids=str)
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("kind", KINDS)
def test_agrees_with_the_formula(kind: str, network: str, options: dict, device: str) -> None:
    case = make_case(kind, device=device)
    for more in ({}, {"optimizer_name": "sgd", "lr": 0.1, "max_grad_norm": 0.05}):
        engine, embed = build(case, network, optimization_parameters={"num_steps": 4, **options, **more})
        before = state_of(case.model)
        adaptation = engine.adapt(case.inputs)
        expected, losses, model = reference.adapt(
            case.model, case.layer, embed, case.inputs, num_steps=4, **options, **more
        )
        close(adaptation.prediction, expected)
        close(adaptation.losses.tolist(), losses)
        close(adaptation.state_dict(), dict(model.state_dict()))
        assert all(torch.equal(value, before[name]) for name, value in case.model.state_dict().items())
        assert all(p.requires_grad and p.grad is None for p in case.model.parameters())


def test_the_three_differ() -> None:
    case = make_case("mlp")
    engine, _ = build(case, "traced")
    predictions = [engine.adapt(case.inputs, anchor=anchor).prediction for anchor in (None, "frozen", "ema")]
    assert len({tuple(p.flatten().tolist()) for p in predictions}) == 3
    assert torch.equal(predictions[0], engine.adapt(case.inputs, anchor="self").prediction)


@pytest.mark.parametrize("network", NETWORKS)
def test_gradients_pass_through_the_second_input_alone(network: str) -> None:
    """A finite difference of ||F(x | f(x)) - f(x)||^2 by one weight of f, F held."""
    case = make_case("residual")
    engine, embed = build(
        case, network, optimization_parameters={"optimizer_name": "sgd", "lr": 1.0, "num_steps": 1, "anchor": "frozen"}
    )
    step = engine.adapt(case.inputs).state_dict()["fc1.weight"][0, 0] - case.model.fc1.weight[0, 0]

    def loss(change: float) -> Tensor:
        moved = copy.deepcopy(case.model)
        moved.fc1.weight.data[0, 0] += change
        y0 = moved(case.inputs)
        y1 = reference.second_prediction(case.model, case.layer, embed, reference.add, case.inputs, y0)
        return (y1 - y0).square().mean()

    with torch.no_grad():
        slope = (loss(1e-5) - loss(-1e-5)) / 2e-5
    torch.testing.assert_close(step.detach(), -slope, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("anchor", ["frozen", "ema"])
@pytest.mark.parametrize("network", NETWORKS)
def test_anchors_of_online_calls_go_on(network: str, anchor: str) -> None:
    """The frozen anchor stays the network of the first call; the average goes on from call to call."""
    case = make_case("mlp")
    options = {"anchor": anchor, "optimizer_name": "sgd", "lr": 0.1}
    online, embed = build(case, network, optimization_parameters={"num_steps": 2, "copy_model": False, **options})
    expected, losses, _ = reference.adapt(case.model, case.layer, embed, case.inputs, num_steps=6, **options)
    calls = [online.adapt(case.inputs) for _ in range(2)]
    last = copy.deepcopy(online) if network == "traced" else online  # a copy takes the anchor along
    calls.append(last.adapt(case.inputs))
    close(calls[-1].prediction, expected)
    close(torch.cat([call.losses for call in calls]).tolist(), losses)


def test_a_model_that_keeps_its_weights_elsewhere_too() -> None:
    """The anchor's weights must reach a layer that holds its parameters in a list of its own, as an LSTM does."""

    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = nn.LSTM(3, 5, batch_first=True)
            self.layer = nn.Linear(5, 5)
            self.tail = nn.LSTM(5, 4, batch_first=True)
            self.head = nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.tail(torch.tanh(self.layer(self.rnn(x)[0])))[0][:, -1])

    torch.manual_seed(0)
    model = Recurrent().double().eval()
    x = torch.randn(4, 6, 3, dtype=torch.float64)
    embedder = nn.Linear(2, 5).double()

    def embed(prediction: Tensor, features: Tensor) -> Tensor:
        return embedder(prediction)[:, None]

    def add(features: Tensor, embedding: Tensor) -> Tensor:
        return features + embedding.reshape(len(features), 1, -1)

    for anchor in ("frozen", "ema"):
        engine = IT3Engine(model, "layer", embedder, add, optimization_parameters={"anchor": anchor}).eval()
        expected, losses, _ = reference.adapt(model, "layer", embed, x, combine=add, anchor=anchor)
        adaptation = engine.adapt(x)
        close(adaptation.prediction, expected)
        close(adaptation.losses.tolist(), losses)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_an_average_of_half_precision_weights_moves(dtype: torch.dtype) -> None:
    case = make_case("mlp", dtype)
    engine, _ = build(
        case, "traced", optimization_parameters={"anchor": "ema", "ema_decay": 0.999, "num_steps": 50, "lr": 1e-4}
    )
    frozen = engine.adapt(case.inputs, anchor="frozen", ema_decay=None)
    assert not torch.equal(engine.adapt(case.inputs).losses, frozen.losses)


def test_distance_that_ignores_the_predictions() -> None:
    case = make_case("mlp")
    engine = IT3Engine(case.model, case.layer, distance_fn=lambda a, b: (a.detach() - b.detach()).mean()).eval()
    with pytest.raises(ValueError, match="does not depend on any parameter"):
        engine.adapt(case.inputs, anchor="frozen")


@pytest.mark.parametrize("way", ["eager", "script", "program", "whole"])
def test_a_frozen_tail_on_adapted_features(way: str) -> None:
    """y1 = tail0(head(x) + embed(y0)): gradients go through y0 and through the features."""
    torch.manual_seed(0)
    head = nn.Sequential(nn.Linear(5, 8), nn.Tanh())
    tail = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3))
    model = nn.Sequential(head, tail).double()
    x = torch.randn(6, 5, dtype=torch.double)
    given = copy.deepcopy(model)
    if way == "script":
        given = torch.jit.script(given)
    if way == "program":
        given = torch.export.export(given, (x,))
    if way == "whole":
        given = hooked(given)
    options = {"num_steps": 4, "lr": 1e-2, "anchor": "frozen_tail"}
    engine = IT3Engine(given, "0", optimization_parameters=options).eval()
    if way == "whole":
        before = state_of(engine)
        with pytest.raises(ValueError, match="anchor='frozen_tail' is for a network that is cut at its layer"):
            engine.adapt(x)
        close(state_of(engine.model), {n.removeprefix("model."): v for n, v in before.items() if n.startswith("model")})
        return
    engine.uncertainty(x)
    weights = [p.detach() for p in engine.embedder.parameters()]
    head, tail, start = copy.deepcopy(head), copy.deepcopy(tail), copy.deepcopy(tail).requires_grad_(False)
    optimizer = torch.optim.Adam([*head.parameters(), *tail.parameters()], lr=1e-2)
    losses = []
    for _ in range(4):
        features = head(x)
        y0 = tail(features)
        loss = nn.functional.mse_loss(start(features + reference.embed(y0, features, *weights)), y0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    adaptation = engine.adapt(x)
    close(adaptation.losses.tolist(), losses)
    close(adaptation.prediction, tail(head(x)).detach())
    if way != "program":  # which is for six samples
        close(engine.adapt(x, per_sample=True).prediction[:1], engine.adapt(x[:1]).prediction)
