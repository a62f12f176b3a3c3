"""The uncertainty of classes is between probabilities, wherever it is told, kept or compared with a threshold."""

import pickle
from functools import partial
from pathlib import Path

import it3
import numpy as np
import pytest
import torch
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
    kept = [i for i, moved in enumerate(adapted.adapted_samples.tolist()) if not moved]
    index = torch.tensor(kept)
    close(adapted.prediction.index_select(samples, index), unadapted.first.index_select(samples, index))


def test_it_is_of_predictions_as_they_are_where_these_are_fed_back() -> None:
    engine, x, *_ = engine_of("vectors")
    engine.feedback = "prediction"
    unadapted = engine.adapt(x, num_steps=0)
    close(unadapted.uncertainty, (unadapted.second - unadapted.first).norm(dim=1))


def test_after_training_by_class_indices_a_surer_network_is_less_uncertain() -> None:
    engine, x, *_ = engine_of("vectors")
    engine = IT3Engine(engine.model, "0").train()
    engine(x, target=torch.arange(8) % 3)
    engine.eval()
    unadapted = engine.adapt(x, num_steps=0)
    close(unadapted.uncertainty, formula(unadapted.first, unadapted.second, 0, 1))
    with torch.no_grad():
        before = engine.uncertainty(x)
        engine.model[2].weight *= 1e3
        engine.model[2].bias *= 1e3
    surer = engine.adapt(x, num_steps=0)
    assert surer.uncertainty.median() < 1e-3 * before.median()
    assert (surer.second - surer.first).norm(dim=1).median() > (unadapted.second - unadapted.first).norm(dim=1).median()


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
    assert f"mean uncertainty {expected.uncertainty.mean().item():.4f}"[:22] in done.stdout + done.stderr
