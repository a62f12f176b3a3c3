"""When adaptation stops, which samples adapt, and which prediction is the answer."""

from functools import partial

import pytest
import reference
import torch
from kinds_of_network import NETWORKS, build
from models import KINDS, make_case

close = partial(torch.testing.assert_close, rtol=1e-10, atol=1e-10)


def steps_by_the_rule(losses: list[float], tolerance: float, patience: int) -> int:
    """How many steps are done, for the loss at each evaluation."""
    least, waited = losses[0], 0
    for step, loss in enumerate(losses[1:], start=1):
        if loss < least - tolerance * abs(least):
            waited = 0
        else:
            waited += 1
        least = min(least, loss)
        if waited == patience:
            return step
    return len(losses)


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize(("tolerance", "patience"), [(0.0, 1), (0.3, 1), (0.6, 1), (0.3, 2), (0.6, 3)])
def test_stopping(network: str, tolerance: float, patience: int) -> None:
    case = make_case("mlp")
    engine, _ = build(case, network, optimization_parameters={"num_steps": 25, "lr": 0.05})
    losses = engine.adapt(case.inputs).losses.tolist()
    steps = steps_by_the_rule(losses, tolerance, patience)
    adaptation = engine.adapt(case.inputs, tolerance=tolerance, patience=patience)
    assert adaptation.steps == steps < 25
    close(adaptation.losses.tolist(), losses[:steps])
    close(adaptation.prediction, engine.adapt(case.inputs, num_steps=steps).prediction)


@pytest.mark.parametrize("anchor", ["self", "frozen"])
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("kind", KINDS)
def test_threshold_agrees_with_the_formula(kind: str, network: str, anchor: str, device: str) -> None:
    case = make_case(kind, device=device)
    engine, embed = build(case, network, optimization_parameters={"anchor": anchor})
    uncertainty = engine.uncertainty(case.inputs)
    threshold = uncertainty.sort().values[len(uncertainty) // 2 :][:2].mean().item()
    rows = uncertainty > threshold
    expected, losses, _ = reference.adapt(
        case.model, case.layer, embed, case.inputs, anchor=anchor, rows=rows.nonzero().flatten()
    )
    with torch.no_grad():
        plain = case.model(case.inputs)
    adaptation = engine.adapt(case.inputs, threshold=threshold)
    assert torch.equal(adaptation.adapted_samples, rows)
    close(adaptation.prediction[rows], expected[rows])
    close(adaptation.prediction[~rows], plain[~rows])
    close(adaptation.losses.tolist(), losses)


@pytest.mark.parametrize("network", NETWORKS)
def test_threshold_above_all(network: str) -> None:
    case = make_case("mlp")
    engine, _ = build(case, network, optimization_parameters={"threshold": 1e9, "copy_model": False})
    adaptation = engine.adapt(case.inputs)
    assert adaptation.steps == 0
    assert not adaptation.adapted_samples.any()
    close(adaptation.prediction, case.model(case.inputs).detach())
    assert engine.drift().distance == 0
    assert engine(case.inputs)[1].item() == 0


def test_samples_without_a_threshold() -> None:
    case = make_case("mlp")
    engine, _ = build(case, "traced")
    assert engine.adapt(case.inputs).adapted_samples is None


@pytest.mark.parametrize("how", ["inputs", "pairs", "singles", "mappings"])
def test_calibration(how: str) -> None:
    case = make_case("mlp")
    engine, _ = build(case, "traced")
    batches = case.inputs.split(3)
    given = {
        "inputs": batches,
        "pairs": [(x, torch.zeros(len(x))) for x in batches],
        "singles": [[x] for x in batches],
        "mappings": [{"input": x} for x in batches],
    }[how]
    threshold = engine.calibrate(given, quantile=0.7)
    distances = torch.cat([engine.uncertainty(x) for x in batches])
    close(threshold, torch.quantile(distances, 0.7).item())
    assert engine.optimization_parameters["threshold"] == threshold
    assert engine.adapt(case.inputs).adapted_samples.sum() == 2  # of 7


def test_calibration_errors() -> None:
    case = make_case("mlp")
    engine, _ = build(case, "traced")
    with pytest.raises(ValueError, match="quantile must be a number from 0 to 1, not 95"):
        engine.calibrate([case.inputs], quantile=95)
    with pytest.raises(ValueError, match="no batches"):
        engine.calibrate([])


@pytest.mark.parametrize("network", NETWORKS)
def test_predictions(network: str) -> None:
    case = make_case("segmentation")
    engine, embed = build(case, network)
    first, _, model = reference.adapt(case.model, case.layer, embed, case.inputs)
    with torch.no_grad():
        second = reference.second_prediction(model, case.layer, embed, reference.add, case.inputs, first)
    expected = {"first": first, "second": second, "mean": (first + second) / 2}
    uncertainty = (second - first).flatten(1).norm(dim=1)
    for name, prediction in expected.items():
        adaptation = engine.adapt(case.inputs, prediction=name)
        close(adaptation.prediction, prediction)
        close(adaptation.first, first)
        close(adaptation.uncertainty, uncertainty)
        engine.optimization_parameters["prediction"] = name
        close(engine(case.inputs)[0], prediction)
