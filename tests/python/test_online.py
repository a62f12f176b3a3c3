"""What happens between calls that keep adapted weights: restoration, recovery, drift."""

import copy
from functools import partial

import pytest
import torch
from kinds_of_network import NETWORKS, build, state_of
from models import make_case

close = partial(torch.testing.assert_close, rtol=1e-10, atol=1e-10)
ONLINE = {"copy_model": False, "num_steps": 1, "optimizer_name": "sgd", "lr": 0.1}


@pytest.mark.parametrize("network", NETWORKS)
def test_restoration_agrees_with_the_formula(network: str, device: str) -> None:
    """After each step, weights whose draw is below the probability are those of the start (CoTTA)."""
    case = make_case("mlp", device=device)
    twin = copy.deepcopy(case)
    engine, _ = build(case, network, optimization_parameters={**ONLINE, "restore_probability": 0.3})
    plain, _ = build(twin, network, optimization_parameters=ONLINE)
    plain.embedder = engine.embedder
    start = state_of(case.model)
    for call in range(3):
        plain(case.inputs)
        torch.manual_seed(call)
        engine(case.inputs)
        torch.manual_seed(call)
        with torch.no_grad():
            for name, weight in twin.model.named_parameters():
                weight.copy_(torch.where(torch.rand(weight.shape, device=device) < 0.3, start[name], weight))
        close(dict(case.model.state_dict()), dict(twin.model.state_dict()))


def test_restoration_of_everything_is_the_start(device: str) -> None:
    case = make_case("mlp", device=device)
    engine, _ = build(case, "traced", optimization_parameters={"restore_probability": 1.0, "num_steps": 3})
    assert torch.equal(engine.adapt(case.inputs).prediction, engine.adapt(case.inputs, num_steps=0).prediction)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_restoration_reaches_half_precision_weights(dtype: torch.dtype) -> None:
    case = make_case("mlp", dtype)
    engine, _ = build(case, "traced", optimization_parameters={"restore_probability": 1.0, "copy_model": False})
    start = state_of(case.model)
    for _ in range(2):
        engine(case.inputs)
    assert all(torch.equal(value, start[name]) for name, value in case.model.state_dict().items())


@pytest.mark.parametrize("network", NETWORKS)
def test_recovery_follows_its_rule(network: str) -> None:
    """Losses are made up by the inputs' scale; the rule is computed beside."""
    case = make_case("mlp")
    factor = 1.5
    engine, _ = build(case, network, optimization_parameters={**ONLINE, "lr": 1e-3, "recovery_factor": factor})
    start = state_of(case.model)
    average = least = None
    recoveries = 0
    for scale in [3, 3, 10, 10, 0.2, 0.2, 1, 1, *20 * [10], 0.2, 0.2, 3]:
        inputs = scale * case.inputs
        frozen = {"num_steps": 1, "lr": 0.0, "copy_model": True, "recovery_factor": None}
        loss = engine.adapt(inputs, **frozen).losses[0].item()
        adaptation = engine.adapt(inputs)
        following = loss if average is None else 0.9 * average + 0.1 * loss
        collapsed = average is not None and following > factor * least
        assert adaptation.recovered is collapsed
        if collapsed:
            recoveries += 1
            twin = copy.deepcopy(case.model)
            twin.load_state_dict(start)
            fresh, _ = build(type(case)(twin, case.layer, case.inputs, case.target), network)
            fresh.embedder = engine.embedder
            close(adaptation.prediction, fresh.adapt(inputs, **{**ONLINE, "lr": 1e-3}).prediction)
            average = least = adaptation.losses[0].item()
        else:
            average = following
            least = average if least is None else min(least, average)
    assert recoveries >= 2


@pytest.mark.parametrize("network", NETWORKS)
def test_recovery_from_values_that_are_not_finite(network: str) -> None:
    case = make_case("mlp")
    engine, _ = build(case, network, optimization_parameters={**ONLINE, "recovery_factor": 100.0})
    start = state_of(case.model)
    expected = engine.adapt(case.inputs, copy_model=True).prediction
    engine(case.inputs)
    ruined = {name: torch.full_like(value, torch.nan) for name, value in start.items()}
    engine(case.inputs)
    with torch.no_grad():  # as if a step had ruined them
        for name, weight in case.model.named_parameters():
            weight.detach().data.copy_(ruined[name])
    adaptation = engine.adapt(case.inputs)
    assert adaptation.recovered
    close(adaptation.prediction, expected)


def test_inputs_that_are_not_finite_are_an_error_with_recovery_too() -> None:
    case = make_case("mlp")
    engine, _ = build(case, "traced", optimization_parameters={**ONLINE, "recovery_factor": 2.0})
    engine(case.inputs)
    start = state_of(case.model)
    with pytest.raises(ValueError, match="the loss at step 1 of 1 is nan"):
        engine(case.inputs * torch.nan)
    assert engine.drift().distance > 0  # what was adapted before is not lost
    assert torch.equal(start["0.weight"], case.model.state_dict()["0.weight"])
    engine(case.inputs)


@pytest.mark.parametrize("network", NETWORKS)
def test_drift(network: str, device: str) -> None:
    case = make_case("mlp", device=device)
    engine, _ = build(case, network, optimization_parameters={"copy_model": False})
    start = state_of(case.model)
    assert engine.drift().distance == 0
    for _ in range(2):
        engine(case.inputs)
    drift = engine.drift()
    changes = {name: (value - start[name]).norm() for name, value in case.model.state_dict().items()}
    close(dict(drift.by_parameter), {name: change.item() for name, change in changes.items()})
    whole = torch.stack([value.norm() for value in start.values()]).norm()
    close(drift.distance, torch.stack(list(changes.values())).norm().item())
    close(drift.relative, drift.distance / whole.item())
    engine.reset()
    assert engine.drift().distance == 0


@pytest.mark.parametrize("network", NETWORKS)
def test_calls_of_no_steps_forget_nothing(network: str) -> None:
    case = make_case("mlp")
    twin = copy.deepcopy(case)
    options = {"copy_model": False, "anchor": "ema"}
    engine, _ = build(case, network, optimization_parameters=options)
    other, _ = build(twin, network, optimization_parameters=options)
    other.embedder = engine.embedder
    for _ in range(2):
        engine(case.inputs)
        other(case.inputs)
        assert torch.equal(engine.adapt(case.inputs, num_steps=0).prediction, case.model(case.inputs))
    assert torch.equal(engine(case.inputs)[0], other(case.inputs)[0])
