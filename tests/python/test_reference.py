"""What can be predicted without a network is a control."""

from functools import partial

import it3
import pytest
import torch
from it3 import IT3Engine
from torch import Tensor, nn

close = partial(torch.testing.assert_close, rtol=1e-9, atol=1e-9)


def regression(outputs: int = 2, seed: int = 0) -> tuple[IT3Engine, list[tuple[Tensor, Tensor]], Tensor]:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, outputs)).double()
    x, y = torch.randn(30, 5, dtype=torch.double), torch.randn(30, outputs, dtype=torch.double)
    training = torch.randn(11, outputs, dtype=torch.double) * torch.arange(1, outputs + 1) + 3
    return IT3Engine(model, "0").eval(), list(zip(x.split(4), y.split(4), strict=True)), training


def row_of(evaluation: it3.Evaluation, name: str) -> dict:
    return next(row for row in evaluation.rows if row["name"] == name)


def test_the_training_mean_and_median() -> None:
    engine, batches, training = regression()
    y = torch.cat([y for _, y in batches])
    row = row_of(it3.evaluate(engine, batches, "mse", reference=training), "training mean")
    close(row["score"], (y - training.mean(0)).square().mean().item())
    assert row["milliseconds"] != row["milliseconds"]
    row = row_of(it3.evaluate(engine, batches, "mae", reference=training), "training median")
    close(row["score"], (y - training.median(0).values).abs().mean().item())
    even = training[:10]
    row = row_of(it3.evaluate(engine, batches, "mae", reference=even), "training median")
    close(row["score"], (y - even.quantile(0.5, dim=0)).abs().mean().item())


@pytest.mark.parametrize("shape", [(11,), (11, 1)])
def test_targets_without_a_dimension_of_outputs(shape: tuple[int, ...]) -> None:
    engine, batches, training = regression(1)
    y = torch.cat([y for _, y in batches])
    row = row_of(it3.evaluate(engine, batches, "mse", reference=training.reshape(shape)), "training mean")
    close(row["score"], (y - training.mean()).square().mean().item())
    flat = [(x, y[:, 0]) for x, y in batches]
    row = row_of(it3.evaluate(engine, flat, "mse", reference=training.reshape(shape)), "training mean")
    close(row["score"], (y - training.mean()).square().mean().item())


def test_the_majority_class() -> None:
    engine, batches, _ = regression(4)
    labeled = [(x, y.argmax(1)) for x, y in batches]
    training = torch.tensor([2, 1, 1, 3, 1, 0])
    labels = torch.cat([y for _, y in labeled])
    for given in (training, nn.functional.one_hot(training, 4).double()):
        row = row_of(it3.evaluate(engine, labeled, "accuracy", reference=given), "majority class")
        close(row["score"], (labels == 1).double().mean().item())


def test_a_reference_for_a_metric_of_ones_own() -> None:
    engine, batches, _ = regression()
    y = torch.cat([y for _, y in batches])

    def worst(prediction: Tensor, targets: Tensor) -> Tensor:
        return -(prediction - targets).abs().amax(1)

    constant = torch.tensor([0.5, -1.0], dtype=torch.double)
    expected = worst(constant.expand_as(y), y).mean().item()
    for reference in (constant, lambda x: constant.expand(len(x), 2)):
        close(row_of(it3.evaluate(engine, batches, worst, reference=reference), "reference")["score"], expected)
    last = row_of(it3.evaluate(engine, batches, "mse", reference=lambda x: x[:, :2]), "reference")
    close(last["score"], torch.cat([(x[:, :2] - t).square().mean(1) for x, t in batches]).mean().item())


def test_the_reference_is_a_control_to_beat() -> None:
    """Adaptation that halves a large error, beside a mean that has none to speak of, and beside a bad one."""
    engine, batches, _ = regression()
    zeros = [(x, torch.zeros_like(y)) for x, y in batches]
    with torch.no_grad():
        engine.model[2].bias.fill_(5.0)
    shrinking = {
        "shrunk": {"num_steps": 3, "lr": 0.2, "parameters": "2.bias", "distance_fn": lambda _, y: (y**2).mean()}
    }
    beaten = it3.evaluate(engine, zeros, "mse", shrinking, reference=torch.full((3, 2), 0.01))
    row = beaten.rows[-1]
    assert row["low"] > 0 > row["beyond_high"]
    assert row["verdict"] == "worse"
    assert beaten.best_control == "training mean"
    assert beaten.verdict.startswith("shrunk: worse; mse -")
    assert "against the best control, 'training mean', and +" in beaten.verdict
    close(row["beyond"], row_of(beaten, "training mean")["score"] - row["score"])
    beating = it3.evaluate(engine, zeros, "mse", shrinking, reference=torch.full((3, 2), 9.0))
    assert beating.rows[-1]["verdict"] == "helps"
    assert beating.best_control != "training mean"


def test_references_that_do_not_fit() -> None:
    engine, batches, training = regression()
    with pytest.raises(TypeError, match="reference must be the training targets, a tensor; or a function"):
        it3.evaluate(engine, batches, "mse", reference=0.5)
    with pytest.raises(ValueError, match=r"reference is empty, of shape \(0, 2\)"):
        it3.evaluate(engine, batches, "mse", reference=training[:0])
    with pytest.raises(ValueError, match="finite"):
        it3.evaluate(engine, batches, "mse", reference=training / 0)
    with pytest.raises(
        ValueError, match=r"training mean: .* of shape \(3,\) cannot be broadcast to .* of shape \(4, 2\)"
    ):
        it3.evaluate(engine, batches, "mse", reference=torch.zeros(5, 3))
    with pytest.raises(ValueError, match="hold the class 7, but the prediction has 2 classes"):
        it3.evaluate(engine, [(x, y.argmax(1)) for x, y in batches], "accuracy", reference=torch.tensor([7]))
    with pytest.raises(TypeError, match=r"reference\(\) must return a tensor, but returned a float"):
        it3.evaluate(engine, batches, "mse", reference=lambda x: 0.5)
