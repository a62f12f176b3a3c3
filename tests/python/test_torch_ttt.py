"""The engine agrees with torch-ttt's, in float32, to 1e-5, wherever that one is right."""

import copy
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from it3 import IT3Engine
from models import KINDS, Case, make_case
from torch_ttt_reference import TorchTTTEngine

close = partial(torch.testing.assert_close, rtol=1e-5, atol=1e-5)

# Its embedder is not resized to the features, so a segmentation network is injected at its output.
LAYERS = {"segmentation": "decoder"}


def both(kind: str, device: str, **arguments) -> tuple[IT3Engine, TorchTTTEngine, Case]:
    """The two engines over equal models, with its embedder in ours."""
    case = make_case(kind, torch.float32)
    layer = LAYERS.get(kind, case.layer)
    theirs = TorchTTTEngine(copy.deepcopy(case.model), layer, **copy.deepcopy(arguments))
    theirs.model.eval()
    theirs(case.inputs)  # in train mode, in which the embedder that it builds stays; for images, it is on the CPU
    theirs.to(device)
    case = case.to(device)
    ours = IT3Engine(case.model, layer, theirs.embeder, **copy.deepcopy(arguments))
    return ours, theirs, case


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num_steps", [1, 3, 10])
def test_adaptation(kind: str, num_steps: int, device: str) -> None:
    ours, theirs, case = both(kind, device, optimization_parameters={"num_steps": num_steps, "lr": 1e-3})
    prediction, loss = ours.eval()(case.inputs)
    expected, expected_loss = theirs.eval()(case.inputs)
    close(prediction, expected)
    close(loss, expected_loss.detach())


def test_no_steps(device: str) -> None:
    ours, theirs, case = both("mlp", device, optimization_parameters={"num_steps": 0})
    close(ours.eval()(case.inputs)[0], theirs.eval()(case.inputs)[0])


@pytest.mark.parametrize("kind", KINDS)
def test_adaptation_with_own_distance(kind: str, device: str) -> None:
    ours, theirs, case = both(kind, device, distance_fn=F.l1_loss, optimization_parameters={"lr": 1e-3})
    close(ours.eval()(case.inputs)[0], theirs.eval()(case.inputs)[0])


@pytest.mark.parametrize("with_target", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_training(kind: str, with_target: bool, device: str) -> None:
    ours, theirs, case = both(kind, device)
    ours.model.eval()
    target = case.target if with_target else None
    results = {}
    for name, engine in {"ours": ours, "theirs": theirs}.items():
        y0, loss = engine(case.inputs, target=target)
        gradients = torch.autograd.grad(F.mse_loss(y0, case.target) + loss, list(engine.model.parameters()))
        results[name] = (y0, loss, gradients)
    close(results["ours"], results["theirs"])


def test_its_checkpoint_loads_into_the_default_embedder(device: str) -> None:
    for kind in KINDS:
        _, theirs, case = both(kind, device, optimization_parameters={"lr": 1e-3})
        fresh = IT3Engine(make_case(kind, torch.float32, device, seed=1).model, theirs.features_layer_name)
        fresh.optimization_parameters["lr"] = 1e-3
        fresh.load_state_dict(theirs.state_dict())
        close(fresh.eval()(case.inputs)[0], theirs.eval()(case.inputs)[0])
