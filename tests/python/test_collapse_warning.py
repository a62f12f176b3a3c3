"""A calibrated engine warns once where adapting makes predictions far more extreme than it has seen."""

import copy
import pickle
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import it3
import numpy as np
import pytest
import torch
from binary import needs_binary, run
from it3 import IT3Engine
from torch import Tensor, nn

MESSAGE = "adaptation has made predictions far more extreme than those of every batch"
RUIN = {"num_steps": 20, "lr": 0.5, "threshold": None}


class Probabilities(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).softmax(1)


class Dense(nn.Module):
    """(B, 5, L) to scores of 3 classes at each position, (B, 3, L)."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.Conv1d(5, 8, 1), nn.Conv1d(8, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x).relu())


def mlp(kind: type[nn.Sequential] = nn.Sequential, outputs: int = 3) -> nn.Module:
    return kind(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, outputs))


def engine_of(model: nn.Module, layer: str = "0", **arguments: object) -> IT3Engine:
    engine = IT3Engine(model, layer, **arguments).eval()
    engine.is_trained = True
    return engine


@contextmanager
def warned(times: int) -> Iterator[None]:
    with warnings.catch_warnings(record=True) as given:
        warnings.simplefilter("always")
        yield
    assert [MESSAGE in str(warning.message) for warning in given] == [True] * times


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def entropy(probabilities: Tensor) -> Tensor:
    return torch.distributions.Categorical(probs=probabilities.movedim(1, -1)).entropy()


@pytest.mark.parametrize("kind", ["logits", "learned logits", "probabilities", "numbers", "dense"])
def test_the_range(kind: str) -> None:
    model = {"probabilities": mlp(Probabilities), "dense": Dense()}.get(kind, mlp())
    distance = "js" if kind in ("logits", "dense") else "mse"
    engine = engine_of(model, "layer" if kind == "dense" else "0", distance_fn=distance)
    shape = (7, 5, 4) if kind == "dense" else (7, 5)
    batches = [torch.randn(shape), 3 * torch.randn(shape), torch.randn(shape)[:4]]
    if kind == "learned logits":
        engine.train()(batches[0], target=torch.arange(7) % 3)
        engine.eval()
    engine.calibrate(batches)
    predictions = [model(x).detach() for x in batches]
    if kind == "numbers":
        expected = max(float(p.norm(dim=1).mean()) for p in predictions)
    else:
        expected = min(float(entropy(p if kind == "probabilities" else p.softmax(1)).mean()) for p in predictions)
    found, most_extreme, samples = engine._core.calibrated_range
    assert found == {"learned logits": "logits", "dense": "logits"}.get(kind, kind)
    assert most_extreme == pytest.approx(expected, rel=1e-5)
    assert samples == 4


@pytest.mark.parametrize("distance", ["js", "mse"])
@pytest.mark.parametrize("copy_model", [True, False])
def test_one_warning(distance: str, copy_model: bool) -> None:
    engine = engine_of(mlp(), distance_fn=distance)
    x = torch.randn(32, 5)
    if distance == "mse":  # which alone does not make them larger
        engine.distance_fn = lambda second, first: -(second * first).mean()
    engine.calibrate([x, torch.randn(32, 5)])
    with warned(0):
        engine.adapt(x, num_steps=3, threshold=None)
        engine.adapt(x, num_steps=0, threshold=None)
    with warned(1):
        engine.adapt(x, **RUIN, copy_model=copy_model)
        engine.adapt(x, **RUIN, copy_model=copy_model)
    engine.reset()
    engine.calibrate([x])
    with warned(1):  # of a new range
        engine.optimization_parameters |= RUIN
        engine(x)


def test_the_message_is_all_that_is_told() -> None:
    """And not where in the source of it3 it comes from, on the machine that built it."""
    engine = engine_of(mlp(), distance_fn="js")
    x = torch.randn(32, 5)
    engine.calibrate([x])
    with pytest.warns(UserWarning, match=r"^adaptation has made .* The engine warns of this once$"):
        engine.adapt(x, **RUIN)


def test_without_the_threshold_the_warning_stays(tmp_path: Path) -> None:
    engine = engine_of(mlp(), distance_fn="js")
    x = torch.randn(32, 5)
    engine.calibrate([x])
    engine.optimization_parameters |= {**RUIN, "threshold": None}
    engine.save(tmp_path / "engine.pt", example_inputs=x)
    for each in (engine, it3.load(tmp_path / "engine.pt")):
        with warned(1):
            assert each.adapt(x).adapted_samples is None


def test_what_adaptation_has_not_done() -> None:
    """Predictions that were as extreme before, and batches that are smaller, are no sign of a collapse."""
    engine = engine_of(mlp(), distance_fn="js")
    engine.calibrate([torch.randn(32, 5)])
    with warned(0):
        engine.adapt(1000 * torch.randn(32, 5), **RUIN)
        engine.adapt(torch.randn(31, 5), **RUIN)
    with warned(1):
        engine.adapt(torch.randn(32, 5), **RUIN)


def test_without_calibration() -> None:
    with warned(0):
        engine_of(mlp(), distance_fn="js").adapt(torch.randn(32, 5), **RUIN)


def test_copies_and_files_know_the_range(tmp_path: Path) -> None:
    engine = engine_of(mlp(), distance_fn="js")
    x = torch.randn(32, 5)
    engine.calibrate([x])
    engine.save(tmp_path / "engine.pt", example_inputs=x)
    others = [
        copy.deepcopy(engine),
        copy.copy(engine),
        pickle.loads(pickle.dumps(engine)),
        it3.load(tmp_path / "engine.pt"),
    ]
    for other in others:
        assert other._core.calibrated_range == engine._core.calibrated_range
        with warned(1):
            other.adapt(x, **RUIN)


def test_a_failed_calibration_changes_nothing() -> None:
    engine = engine_of(mlp(), distance_fn="js")
    engine.calibrate([torch.randn(32, 5)])
    before = engine._core.calibrated_range
    with pytest.raises(ValueError, match="is not finite for sample 1"):
        engine.calibrate([torch.tensor([[1.0], [torch.nan]]).expand(2, 5)])
    with pytest.raises(ValueError, match="quantile must be"):
        engine.calibrate([torch.randn(4, 5)], quantile=2)
    assert engine._core.calibrated_range == before


@needs_binary
def test_the_binary_warns_too(tmp_path: Path) -> None:
    x = torch.randn(32, 5)
    engine = engine_of(mlp(), distance_fn="js")
    np.save(tmp_path / "x.npy", x.numpy())
    engine.save(tmp_path / "plain.pt", example_inputs=x)
    engine.calibrate([x])
    engine.optimization_parameters = {}
    engine.save(tmp_path / "calibrated.pt", example_inputs=x)
    given = ["--input", tmp_path / "x.npy", "--output", tmp_path / "y.npy", "--steps", 20, "--lr", 0.5]
    assert run(tmp_path / "plain.pt", *given).stderr == ""
    calibrated = run(tmp_path / "calibrated.pt", *given)
    by_file = run(tmp_path / "plain.pt", *given, "--calibrate", tmp_path / "x.npy", "--quantile", 0)
    for done in (calibrated, by_file):
        assert done.returncode == 0
        assert done.stderr.startswith(f"it3-adapt: warning: {MESSAGE}")
        assert done.stderr.count("\n") == 1
