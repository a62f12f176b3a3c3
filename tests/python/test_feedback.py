"""What is fed back is of a kind with the labels that were fed in training."""

from functools import partial
from pathlib import Path

import it3
import pytest
import reference
import torch
from it3 import IT3Engine
from models import mlp
from torch import Tensor, nn

close = partial(torch.testing.assert_close, rtol=1e-8, atol=1e-10)
X = torch.randn(5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
CLASSES = torch.tensor([0, 2, 1, 1, 0])


def engine_of(**arguments) -> tuple[IT3Engine, reference.TensorFunction]:
    torch.manual_seed(0)
    engine = IT3Engine(mlp().double(), "0", **arguments).eval()
    engine.uncertainty(X)
    weights = [w.detach() for w in engine.embedder.parameters()]
    return engine, lambda signal, features: reference.embed(signal, features, *weights)


def second(engine: IT3Engine, embed: reference.TensorFunction, signal: Tensor) -> Tensor:
    return reference.second_prediction(engine.model, "0", embed, reference.add, X, signal)


@pytest.mark.parametrize("distance", ["cross_entropy", "kl", "js"])
def test_probabilities_where_the_distance_is_between_distributions(distance: str) -> None:
    engine, embed = engine_of(distance_fn=distance)
    plain = engine.adapt(X, num_steps=0)
    close(plain.second, second(engine, embed, plain.first.softmax(1)))
    alone = engine.adapt(X, num_steps=0, per_sample=True)
    close(alone.second, plain.second)


@pytest.mark.parametrize("distance", ["mse", "l1", "cosine"])
def test_the_prediction_elsewhere(distance: str) -> None:
    engine, embed = engine_of(distance_fn=distance)
    plain = engine.adapt(X, num_steps=0)
    close(plain.second, second(engine, embed, plain.first))


def test_probabilities_after_training_by_classes(tmp_path: Path) -> None:
    engine, embed = engine_of()
    engine.train()
    _, loss = engine(X, target=CLASSES)
    one_hot = torch.eye(3, dtype=torch.float64)[CLASSES]
    close(loss, (second(engine, embed, one_hot) - one_hot).square().mean())
    engine.eval()
    plain = engine.adapt(X, num_steps=0)
    close(plain.second, second(engine, embed, plain.first.softmax(1)))
    other, _ = engine_of()
    other.load_state_dict(engine.state_dict())
    close(other.adapt(X, num_steps=0).second, plain.second)
    engine.save(tmp_path / "engine.pt", X)
    close(it3.load(tmp_path / "engine.pt").adapt(X, num_steps=0).second, plain.second, rtol=1e-6, atol=1e-8)


def test_the_prediction_after_training_by_values_or_on_probabilities() -> None:
    engine, embed = engine_of()
    engine.train()(X, target=torch.randn(5, 3).double())
    plain = engine.eval().adapt(X, num_steps=0)
    close(plain.second, second(engine, embed, plain.first))
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 3), nn.Softmax(-1)).double()
    engine = IT3Engine(model, "0")
    engine(X, target=CLASSES)
    weights = [w.detach() for w in engine.embedder.parameters()]
    plain = engine.eval().adapt(X, num_steps=0)
    close(plain.second, second(engine, lambda s, f: reference.embed(s, f, *weights), plain.first))


@pytest.mark.parametrize(("feedback", "distance"), [("prediction", "kl"), ("probabilities", "mse")])
def test_it_can_be_said(feedback: str, distance: str) -> None:
    engine, embed = engine_of(feedback=feedback, distance_fn=distance)
    plain = engine.adapt(X, num_steps=0)
    signal = plain.first.softmax(1) if feedback == "probabilities" else plain.first
    close(plain.second, second(engine, embed, signal))


def test_another_feedback_and_a_single_class_are_errors() -> None:
    with pytest.raises(ValueError, match="feedback must be one of auto, probabilities, prediction, not 'logits'"):
        IT3Engine(mlp(), "0", feedback="logits")
    engine = IT3Engine(nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 1)), "0", distance_fn="kl").eval()
    with pytest.raises(ValueError, match=r"has one class"):
        engine(X.float())


@pytest.mark.filterwarnings("error")
def test_an_embedder_that_was_never_trained_is_told_of_once(tmp_path: Path) -> None:
    engine = IT3Engine(mlp(), "0").eval()
    engine.adapt(X.float(), num_steps=0)
    with pytest.warns(UserWarning, match="never trained"):
        engine(X.float())
    engine(X.float())
    engine.save(tmp_path / "engine.pt", X.float())
    with pytest.warns(UserWarning, match="never trained"):
        it3.load(tmp_path / "engine.pt")(X.float())
    engine.train()(X.float(), target=X[:, :3].float())
    trained = IT3Engine(mlp(), "0").eval()
    trained.load_state_dict(engine.state_dict())
    trained(X.float())
    engine.eval().save(tmp_path / "engine.pt", X.float())
    it3.load(tmp_path / "engine.pt")(X.float())


def test_the_default_learning_rate_is_small() -> None:
    engine = IT3Engine(mlp(), "0").eval()
    assert torch.equal(engine.adapt(X.float()).prediction, engine.adapt(X.float(), lr=1e-5).prediction)
