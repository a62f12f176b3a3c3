"""What fit() leaves as it is: generators, modes, gradients and frozen parameters."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from it3 import IT3Engine
from torch import Tensor, nn
from torch.utils.data import DataLoader
from trained import assert_same, by_hand, data, data_list, make_engine, raise_, shuffled


@pytest.mark.parametrize("by_function", [False, True])
def test_validation_by_a_shared_generator_changes_no_training(by_function: bool) -> None:
    engines = [make_engine(), make_engine()]
    for engine, is_validated in zip(engines, (True, False), strict=True):
        generator = torch.Generator().manual_seed(2)
        given: dict[str, Any] = {}
        if is_validated:
            batches = DataLoader(data(17), 5, shuffle=True, generator=generator)
            given = {"validation": (lambda _, batches=batches: batches) if by_function else batches}
            given["metric"] = "accuracy"
        torch.manual_seed(3)
        engine.fit(shuffled(generator=generator), F.cross_entropy, epochs=2, **given)
    assert_same(*engines)


def test_modes_are_as_before(device: str) -> None:
    engine = make_engine().to(device)
    engine.eval()
    engine.model[2].train()
    before = {name: module.training for name, module in engine.named_modules()}
    with torch.no_grad():
        engine.fit(shuffled(), F.cross_entropy, validation=shuffled(), metric="accuracy")  # moves batches
    assert {name: module.training for name, module in engine.named_modules()} == before
    with pytest.raises(ValueError, match="boom"):
        engine.fit(shuffled(), lambda *_: raise_(ValueError("boom")))
    assert {name: module.training for name, module in engine.named_modules()} == before


def test_the_gradients_of_the_last_step_stay() -> None:
    engine, twin = make_engine(), make_engine()
    for parameter in engine.model.parameters():
        parameter.grad = torch.full_like(parameter, 7.0)  # which do not count
    optimizer = torch.optim.Adam(twin.parameters(), lr=1e-3)
    torch.manual_seed(1)
    by_hand(twin, data_list(), F.cross_entropy, 2, optimizer)
    torch.manual_seed(1)
    engine.fit(data_list(), F.cross_entropy, epochs=2)
    gradients = [[each.grad for each in one.parameters()] for one in (engine, twin)]
    assert len(gradients[0]) == 8
    assert all(map(torch.equal, *gradients))


@pytest.mark.parametrize("stale", [1e6, math.inf])
def test_gradients_that_frozen_parameters_have_kept_do_not_count(stale: float) -> None:
    engines = [make_engine(), make_engine()]
    for engine in engines:
        torch.manual_seed(2)
        engine.uncertainty(data_list()[0][0])  # makes the embedder
        engine.model[0].requires_grad_(False)
        optimizer = torch.optim.SGD([each for each in engine.parameters() if each.requires_grad], lr=0.1)
        torch.manual_seed(3)
        if engine is engines[0]:
            engine.model[0].weight.grad = torch.full((8, 6), stale)
            engine.fit(data_list(), F.cross_entropy, optimizer=optimizer, max_grad_norm=1.0)
            assert (engine.model[0].weight.grad == stale).all()  # not touched
        else:
            by_hand(engine, data_list(), F.cross_entropy, 1, optimizer, max_grad_norm=1.0)
    assert_same(*engines)


class Masked(nn.Module):
    """Attends to the first of two features, by a mask that is no weight to train."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.Linear(6, 2), nn.Linear(2, 3)
        self.mask = nn.Parameter(torch.tensor([0.0, -math.inf]), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        features = self.layer(x)
        return self.head(features * (features + self.mask).softmax(1))


def test_frozen_parameters_need_not_be_finite() -> None:
    torch.manual_seed(0)
    engine = IT3Engine(Masked(), "layer", distance_fn="js")
    assert len(engine.fit(data_list(), F.cross_entropy, epochs=2)) == 2
    assert engine.model.mask.tolist() == [0.0, -math.inf]
