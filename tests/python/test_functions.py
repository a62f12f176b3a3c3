"""Embedders, combine_fn and distance_fn of the user's may write to what they are given; nothing else sees it."""

from functools import partial

import pytest
import reference
import torch
from it3 import IT3Engine
from kinds_of_network import NETWORKS
from models import make_case
from torch import Tensor, nn

close = partial(torch.testing.assert_close, rtol=1e-9, atol=1e-10)


class Embeds(nn.Module):
    def __init__(self, writes: bool) -> None:
        super().__init__()
        self.linear, self.writes = nn.Linear(3, 8, dtype=torch.float64), writes

    def forward(self, y: Tensor) -> Tensor:
        return self.linear(y.mul_(0.5) if self.writes else y * 0.5).tanh()


def add_in_place(features: Tensor, embedding: Tensor) -> Tensor:
    return features.add_(embedding)


def difference_in_place(y1: Tensor, y0: Tensor) -> Tensor:
    return y0.sub_(y1).square().mean()


WRITING = {
    "embedder": (True, None, "mse"),
    "combine": (False, add_in_place, "mse"),
    "distance": (False, None, "smooth"),
}


def engine_of(case, network: str, what: str, **options) -> tuple[IT3Engine, nn.Module]:
    torch.manual_seed(1)
    writes, combine, distance = WRITING[what]
    embedder = Embeds(writes)
    plain = Embeds(writes=False)
    plain.load_state_dict(embedder.state_dict())
    distance_fn = difference_in_place if what == "distance" else distance
    model = NETWORKS[network](case.model.eval())
    engine = IT3Engine(model, case.layer, embedder, combine, distance_fn, {"lr": 0.01, **options}).eval()
    return engine, plain


@pytest.mark.filterwarnings("ignore:.*one after another")
@pytest.mark.parametrize("anchor", ["self", "frozen"])
@pytest.mark.parametrize("parameters", ["all", "2"])  # the last layer alone: the head is run once
@pytest.mark.parametrize("what", WRITING)
@pytest.mark.parametrize("network", NETWORKS)
def test_functions_may_write_to_what_they_are_given(network: str, what: str, parameters: str, anchor: str) -> None:
    case = make_case("mlp")
    engine, plain = engine_of(case, network, what, parameters=parameters, anchor=anchor)
    before = case.inputs.clone()

    def embed(y: Tensor, _: Tensor) -> Tensor:
        return plain(y)

    def adapts(name: str) -> bool:
        return parameters == "all" or name.startswith("2.")

    expected, losses, _ = reference.adapt(
        case.model, case.layer, embed, case.inputs, lr=0.01, parameters=adapts, anchor=anchor
    )
    for _ in range(2):
        actual = engine.adapt(case.inputs)
        close(actual.prediction, expected)
        close(actual.losses.tolist(), losses)
    each, _ = reference.adapt_each(
        case.model, case.layer, embed, case.inputs, lr=0.01, parameters=adapts, anchor=anchor
    )
    close(engine.adapt(case.inputs, per_sample=True).prediction, each)
    assert torch.equal(case.inputs, before)


@pytest.mark.parametrize("what", WRITING)
@pytest.mark.parametrize("network", NETWORKS)
def test_training_returns_what_the_network_predicted(network: str, what: str) -> None:
    case = make_case("mlp")
    engine, plain = engine_of(case, network, what)
    target = torch.rand(len(case.inputs), 3, dtype=torch.float64)
    given = target.clone()
    y0 = case.model(case.inputs)
    y1 = reference.second_prediction(case.model, case.layer, lambda y, _: plain(y), reference.add, case.inputs, target)
    expected = (y1 - target).square().mean()
    prediction, loss = engine.train()(case.inputs, target=given)
    close(prediction, y0)
    close(loss, expected)
    assert torch.equal(given, target)
    parameters = [p for p in case.model.parameters() if p.requires_grad]
    close(
        torch.autograd.grad(prediction.sum() + loss, parameters),
        torch.autograd.grad(y0.sum() + expected, parameters),
    )


@pytest.mark.parametrize("network", NETWORKS)
def test_another_shape_is_an_error_that_names_function_and_shapes(network: str) -> None:
    case = make_case("mlp")
    model = NETWORKS[network](case.model.eval())
    engine = IT3Engine(model, case.layer, Embeds(writes=False), lambda f, e: (f + e)[:1]).eval()
    with pytest.raises(ValueError, match=r"combine_fn must return .* the features' shape, \[\d+, 8\], not .*\[1, 8\]"):
        engine.adapt(case.inputs)
