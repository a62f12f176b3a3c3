"""The uncertainty of classes is between probabilities, wherever it is told, kept or compared with a threshold."""

import pickle
import warnings
from functools import partial
from pathlib import Path

import it3
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from binary import needs_binary, result, run
from it3 import IT3Engine, Layout
from torch import Tensor, nn

close = partial(torch.testing.assert_close, rtol=1e-10, atol=1e-12)


class TimeFirst(nn.Module):
    """Logits of shape (time, samples, classes) from inputs of shape (time, samples, columns)."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x).tanh())


class Exponential(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x).exp()


def engine_of(kind: str) -> tuple[IT3Engine, Tensor, int, int]:
    """An engine that feeds back probabilities, inputs, and the prediction's dimensions of samples and of classes."""
    torch.manual_seed(0)
    arguments: dict = {"distance_fn": "js", "optimization_parameters": {"num_steps": 1, "lr": 1e-2}}
    if kind == "vectors":
        model, x, dims = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)), torch.randn(8, 6), (0, 1)
    elif kind == "images":
        model, x, dims = (
            nn.Sequential(nn.Conv2d(2, 4, 3), nn.Tanh(), nn.Conv2d(4, 3, 1)),
            torch.randn(8, 2, 6, 6),
            (0, 1),
        )
    else:
        model, x, dims = TimeFirst(), torch.randn(4, 8, 6), (1, 2)
        arguments |= {
            "prediction_layout": Layout(channel_dim=2, batch_dim=1),
            "features_layout": Layout(channel_dim=2, batch_dim=1),
        }
    layer = "first" if kind == "sequences" else "0"
    return IT3Engine(model.double(), layer, **arguments).eval(), x.double(), *dims


def formula(first: Tensor, second: Tensor, samples: int, classes: int) -> Tensor:
    by_sample = (second.exp() / second.exp().sum(classes, keepdim=True)).unbind(samples)
    of_first = (first.exp() / first.exp().sum(classes, keepdim=True)).unbind(samples)
    return torch.stack([(a - b).square().sum().sqrt() for a, b in zip(by_sample, of_first, strict=True)])


KINDS = ["vectors", "images", "sequences"]


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_between_probabilities(kind: str) -> None:
    engine, x, samples, classes = engine_of(kind)
    for steps in (0, 2):
        adapted = engine.adapt(x, num_steps=steps)
        close(adapted.uncertainty, formula(adapted.first, adapted.second, samples, classes))
        each = engine.adapt(x, num_steps=steps, per_sample=True)
        close(each.uncertainty, formula(each.first, each.second, samples, classes))
    unadapted = engine.adapt(x, num_steps=0)
    close(engine.uncertainty(x), unadapted.uncertainty)


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_the_threshold_and_calibration_go_by_it(kind: str, per_sample: bool) -> None:
    engine, x, samples, classes = engine_of(kind)
    unadapted = engine.adapt(x, num_steps=0)
    distances = formula(unadapted.first, unadapted.second, samples, classes)
    close(engine.calibrate([x], quantile=0.6), float(torch.quantile(distances, 0.6)))
    adapted = engine.adapt(x, per_sample=per_sample)
    assert torch.equal(adapted.adapted_samples, distances > engine.optimization_parameters["threshold"])
    assert 0 < int(adapted.adapted_samples.sum()) < 8
    kept = adapted.adapted_samples.logical_not().nonzero().flatten()
    close(adapted.prediction.index_select(samples, kept), unadapted.first.index_select(samples, kept))


def test_it_is_of_predictions_as_they_are_where_these_are_fed_back() -> None:
    engine, x, *_ = engine_of("vectors")
    engine.feedback = "prediction"
    unadapted = engine.adapt(x, num_steps=0)
    close(unadapted.uncertainty, (unadapted.second - unadapted.first).norm(dim=1))


def trained(distance: str) -> tuple[IT3Engine, Tensor, Tensor]:
    """An engine around a classifier of three clouds of points that overlap, and points whose classes are known."""
    torch.manual_seed(0)
    classes = torch.arange(1500) % 3
    x = torch.eye(3)[classes] @ torch.randn(3, 6) + 0.8 * torch.randn(1500, 6)
    engine = IT3Engine(nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 3)), "0", distance_fn=distance).train()
    optimizer = torch.optim.Adam(engine.parameters(), lr=1e-2)
    for _ in range(20):
        for rows in torch.arange(1000).split(50):
            logits, loss_ttt = engine(x[rows], target=classes[rows])
            optimizer.zero_grad()
            (F.cross_entropy(logits, classes[rows]) + loss_ttt).backward()
            optimizer.step()
    return engine.eval(), x[1000:], classes[1000:]


def auroc(values: Tensor, is_error: Tensor) -> float:
    """The share of pairs of an error and a right answer in which the error has the larger value."""
    return float((values[is_error][:, None] > values[~is_error]).double().mean())


@pytest.mark.parametrize("distance", ["cross_entropy", "js"])
def test_it_tells_the_errors_of_a_trained_classifier(distance: str) -> None:
    engine, x, classes = trained(distance)
    unadapted = engine.adapt(x, num_steps=0)
    is_error = unadapted.first.argmax(1) != classes
    assert 0.05 < is_error.double().mean() < 0.5
    assert auroc(engine.uncertainty(x), is_error) > 0.65
    assert auroc((unadapted.second - unadapted.first).norm(dim=1), is_error) < 0.5  # what it would be of logits


@pytest.mark.parametrize("distance", ["mse", "l1"])
def test_training_by_class_indices_warns_where_y1_is_drawn_to_one_hot_vectors(distance: str) -> None:
    engine, x, *_ = engine_of("vectors")
    engine = IT3Engine(engine.model, "0", distance_fn=distance).train()
    with pytest.warns(UserWarning, match="class indices, and the distance is .*Give distance_fn='cross_entropy'"):
        engine(x, target=torch.arange(8) % 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        engine(x, target=torch.arange(8) % 3)  # told once


@pytest.mark.parametrize("distance", ["cross_entropy", "kl", "js"])
def test_training_a_model_of_probabilities_warns_where_the_distance_takes_logits(distance: str) -> None:
    engine, x, *_ = engine_of("vectors")
    classes = torch.arange(8) % 3
    model = nn.Sequential(engine.model, nn.Softmax(1))
    for target in (classes, F.one_hot(classes, 3).double()):
        engine = IT3Engine(model, "0.0", distance_fn=distance).train()
        with pytest.warns(UserWarning, match="returns class probabilities, but the distance .* takes .* as logits"):
            engine(x, target=target)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            engine(x, target=target)  # told once
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        IT3Engine(engine.model[0], "0", distance_fn=distance).train()(x, target=classes)  # logits
        IT3Engine(model, "0.0").train()(x, target=classes)  # probabilities, as numbers


def test_a_threshold_from_when_something_else_was_fed_back_is_refused() -> None:
    engine, x, *_ = engine_of("vectors")
    engine.calibrate([x])
    engine.feedback = "prediction"
    for call in (engine.adapt, engine):
        with pytest.raises(ValueError, match="when class probabilities were fed back, but now predictions are"):
            call(x)
    engine.adapt(x, threshold=None)
    engine.calibrate([x])
    engine.adapt(x)
    engine.feedback = "auto"
    with pytest.raises(ValueError, match="when predictions were fed back, but now class probabilities are"):
        engine.adapt(x)


@pytest.mark.parametrize("feedback", ["prediction", "probabilities"])
@pytest.mark.parametrize("per_sample", [False, True])
def test_samples_with_an_infinite_distance_never_adapt(feedback: str, per_sample: bool) -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 2)
    x[1] = 40.0
    options = {"threshold": 1e-6}
    engine = IT3Engine(
        *(Exponential(), "linear", nn.Linear(2, 2)),
        combine_fn=lambda features, embedding: features + 10 + 0 * embedding,  # whose exponential is beyond float32
        feedback=feedback,
        optimization_parameters=options,
    ).eval()
    with torch.no_grad():
        engine.model.linear.weight.copy_(torch.ones(2, 2))
    engine.uncertainty(torch.zeros(3, 2))  # where the network is cut is found out by finite predictions
    unadapted = engine.adapt(x, num_steps=0, threshold=None)
    assert unadapted.first.isfinite().all()
    assert unadapted.second.isfinite().all(1).tolist() == [True, False, True]
    adapted = engine.adapt(x, per_sample=per_sample)
    assert adapted.adapted_samples.tolist() == [True, False, True]
    torch.testing.assert_close(adapted.prediction[1], unadapted.first[1])


def test_an_adaptation_keeps_it_when_pickled() -> None:
    engine, x, *_ = engine_of("vectors")
    adapted = engine.adapt(x)
    close(pickle.loads(pickle.dumps(adapted)).uncertainty, adapted.uncertainty)


@needs_binary
def test_files_and_the_binary_tell_the_same(tmp_path: Path) -> None:
    engine, x, *_ = engine_of("vectors")
    engine.model.float()
    x = x.float()
    engine = IT3Engine(engine.model, "0", distance_fn="js", optimization_parameters={"num_steps": 1}).eval()
    engine.save(tmp_path / "engine.pt", x)
    expected = engine.adapt(x)
    torch.testing.assert_close(it3.load(tmp_path / "engine.pt").adapt(x).uncertainty, expected.uncertainty)
    np.save(tmp_path / "x.npy", x.numpy())
    names = [tmp_path / name for name in ("engine.pt", "x.npy", "y.npy", "u.npy")]
    done = run(names[0], "-i", names[1], "-o", names[2], "--uncertainty", names[3])
    assert done.returncode == 0, done.stderr
    torch.testing.assert_close(result(names[3]), expected.uncertainty)
    assert f"mean uncertainty after adapting {expected.uncertainty.mean().item():.4f}"[:37] in done.stdout + done.stderr
    done = run(names[0], "-i", names[1], "-o", names[2], "--steps", 0)
    assert f"mean uncertainty {engine.uncertainty(x).mean().item():.4f}"[:22] in done.stdout + done.stderr
