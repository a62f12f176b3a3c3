"""Scores are those of a formula, and what does not fit is refused."""

from functools import partial

import it3
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from it3 import IT3Engine, Layout
from it3.evaluation.metrics import NotFiniteError, accuracy, mae, metric_of, mse
from torch import Tensor, nn

close = partial(torch.testing.assert_close, rtol=1e-9, atol=1e-9, check_dtype=False)


def test_accuracy_by_hand() -> None:
    scores = torch.tensor([[0.1, 0.9], [0.8, 0.2], [0.3, 0.7]])
    classes = torch.tensor([1, 1, 1])
    expected = torch.tensor([1.0, 0, 1])
    close(accuracy(scores, classes), expected)
    close(accuracy(scores, classes[:, None]), expected)
    close(accuracy(scores, F.one_hot(classes, 2)), expected)
    close(accuracy(scores, F.one_hot(classes, 2).bool().float()), expected)
    for dtype in (torch.float32, torch.uint8, torch.bool, torch.int16):
        close(accuracy(scores, classes.to(dtype)), expected)
    close(accuracy(scores.log().masked_fill(scores < 0.15, -torch.inf), classes), expected)
    images = torch.stack([scores.T, 1 - scores.T])  # (2, 2, 3)
    close(
        accuracy(images, classes.repeat(2, 1), Layout(channel_dim=1)), torch.tensor([2 / 3, 1 / 3], dtype=torch.double)
    )


@pytest.mark.parametrize("shape", [(4, 5), (4, 6, 5), (4, 5, 3, 2), (4, 5, 2, 3, 2)])
def test_accuracy_against_numpy(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    dim = {2: 1, 3: 2}.get(len(shape), 1)
    scores, classes = torch.randn(shape), torch.randint(0, 5, (*shape[:dim], *shape[dim + 1 :]))
    right = np.argmax(scores.numpy(), axis=dim) == classes.numpy()
    close(accuracy(scores, classes), torch.tensor(right.reshape(4, -1).mean(1)))


class Tokens(nn.Module):
    """(B, T, 4) to scores of tokens, (B, T, V), or with classes in the middle, (B, V, T)."""

    def __init__(self, classes: int, is_middle: bool = False) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 6)
        self.head = nn.Conv1d(6, classes, 1) if is_middle else nn.Linear(6, classes)
        self.is_middle = is_middle

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.layer(x))
        return self.head(x.transpose(1, 2) if self.is_middle else x)


@pytest.mark.parametrize("classes", [5, 7])  # 7 is T
@pytest.mark.parametrize("is_middle", [False, True])
def test_accuracy_of_tokens_is_over_the_models_classes(classes: int, is_middle: bool) -> None:
    torch.manual_seed(0)
    engine = IT3Engine(Tokens(classes, is_middle).double(), "layer").eval()
    x, y = torch.randn(6, 7, 4, dtype=torch.double), torch.randint(0, classes, (6, 7))
    rows = it3.evaluate(engine, [(x[:4], y[:4]), (x[4:], y[4:])], "accuracy", reference=y).rows
    with torch.no_grad():
        found = engine.model(x).argmax(1 if is_middle else 2)
    close(rows[0]["score"], (found == y).double().mean().item())
    most = y.flatten().mode().values
    reference = next(row for row in rows if row["name"] == "majority class")
    close(reference["score"], (y == most).double().mean().item())


@pytest.mark.parametrize(("metric", "power"), [(mse, 2), (mae, 1)])
def test_errors_of_regression(metric, power: int) -> None:
    torch.manual_seed(0)
    a, b = torch.randn(4, 3, 2), torch.randn(4, 3, 2)
    close(metric(a.double(), b.double()), (a - b).double().abs().pow(power).reshape(4, -1).mean(1), rtol=1e-6)
    close(metric(torch.tensor([[0.5], [2.0]]), torch.tensor([0.25, 0.0])), torch.tensor([0.25**power, 2.0**power]))
    close(metric(torch.tensor([0.5, 2.0]), torch.tensor([[0.25], [0.0]])), torch.tensor([0.25**power, 2.0**power]))
    close(metric(a[:, None], a), torch.zeros(4))
    close(metric(torch.tensor([[2.0]]), torch.tensor([True])), torch.tensor([1.0]))
    close(metric(torch.tensor([[2.0]]), torch.tensor([5], dtype=torch.uint8)), torch.tensor([3.0**power]))
    close(metric(torch.tensor([[3 + 4j]]), torch.tensor([[0j]])), torch.tensor([5.0**power]))
    # Samples in dimension 1.
    close(
        metric(a.double(), b.double(), Layout(batch_dim=1)),
        (a - b).double().abs().pow(power).mean((0, 2)),
        rtol=1e-6,
    )


@pytest.mark.parametrize("metric", [mse, mae])
@pytest.mark.parametrize(
    ("a", "b"),
    [((2, 3), (3, 2)), ((2, 3), (6,)), ((4, 2, 3), (4, 3, 2)), ((1, 3), (3, 1)), ((1, 3), (3,)), ((4,), (1,))],
)
def test_shapes_that_only_count_alike(metric, a: tuple[int, ...], b: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="do not fit a prediction of shape") as error:
        metric(torch.zeros(a), torch.zeros(b))
    assert str(a) in str(error.value)
    assert str(b) in str(error.value)


@pytest.mark.parametrize(
    ("prediction", "targets", "message"),
    [
        (torch.zeros(4), torch.zeros(4), r"scores of two classes or more, such as \(B, C\), not .* \(4,\)"),
        (torch.zeros(4, 1), torch.zeros(4), r"not a prediction of shape \(4, 1\), with classes in dimension 1"),
        (torch.zeros(4, 3), torch.zeros(3), r"targets of shape \(3,\) do not fit .* \(4, 3\)"),
        (torch.zeros(4, 3, 5), torch.zeros(4, 5), r"\(4, 5\) do not fit .* with classes in dimension 2"),
        (torch.zeros(4, 3), torch.tensor([0, 1, 2, 3]), "hold the class 3, but the prediction has 3 classes, 0 to 2"),
        (torch.zeros(4, 3), torch.tensor([0, 1, -100, 2]), "hold the class -100"),
        (torch.zeros(4, 3), torch.tensor([0, 0.5, 1, 2]), "floats that are not whole"),
        (torch.zeros(4, 3), torch.tensor([0, torch.nan, 1, 2]), "floats that are not whole"),
    ],
)
def test_targets_that_are_no_classes(prediction: Tensor, targets: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        accuracy(prediction, targets)


def test_what_is_not_finite_scores_nothing() -> None:
    prediction = torch.zeros(4, 3)
    prediction[2, 1] = torch.nan
    for metric in (accuracy, mse, mae):
        with pytest.raises(NotFiniteError, match=r"prediction is not finite for samples 2 of the batch"):
            metric(prediction, torch.zeros(4, 3))
        with pytest.raises(NotFiniteError, match=r"targets is not finite for samples 2 of the batch"):
            metric(torch.zeros(4, 3), prediction)
    own = metric_of(lambda p, _: p.sum(1))
    with pytest.raises(NotFiniteError, match="metric is not finite for samples 2 of the batch"):
        own.sum(prediction, None)


def a_metric(prediction: Tensor, targets: Tensor) -> Tensor:
    return (prediction - targets).abs()


@pytest.mark.parametrize(
    ("result", "shape"), [(torch.zeros(4, 3), r"\(4, 3\)"), (torch.zeros(1), r"\(1,\)"), (torch.zeros(3), r"\(3,\)")]
)
def test_scores_of_another_shape(result: Tensor, shape: str) -> None:
    engine = IT3Engine(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 3)), "0").eval()
    batches = [(torch.randn(4, 2), torch.randn(4, 3))]

    def own(_prediction: Tensor, _targets: Tensor) -> Tensor:
        return result

    message = rf"'own' must give .* shape \(4,\), or .* it gave scores of shape {shape} for .* \(4, 3\) .* \(4, 3\)"
    with pytest.raises(ValueError, match=message):
        it3.evaluate(engine, batches, own)
    with pytest.raises(ValueError, match=message):
        it3.tune(engine, batches, own, budget=2)


def test_metrics_may_give_numbers() -> None:
    for value in (0.25, np.float32(0.25), torch.tensor(0.25), np.full(4, 0.25)):
        assert metric_of(lambda p, t, value=value: value).sum(torch.zeros(4, 2), None) == (1.0, 4)
    with pytest.raises(TypeError, match="must return a tensor or number, not None"):
        metric_of(lambda p, t: None).sum(torch.zeros(4, 2), None)
    with pytest.raises(TypeError, match="metric must be one of accuracy, mse, mae, or a function, not 3"):
        metric_of(3)
