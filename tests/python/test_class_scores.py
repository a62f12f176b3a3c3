"""Entropy, balance and calibration are those of the formulas, for logits and for probabilities."""

import numpy as np
import pytest
import torch
from it3 import Layout
from it3.evaluation.class_scores import CalibrationError, are_probabilities, balanced, entropy_of_first
from it3.evaluation.metrics import right_classes
from scipy import stats
from torch import Tensor

SHAPES = [((6, 4), 1), ((3, 5, 4), 2), ((2, 4, 3, 5), 1)]


def naive_ece(probabilities: np.ndarray, classes: np.ndarray) -> float:
    """Of (N, C) and (N,), as Guo et al. write it: bin m holds confidences in ((m - 1) / 15, m / 15]."""
    confidence, right = probabilities.max(1), probabilities.argmax(1) == classes
    error = 0.0
    for m in range(1, 16):
        held = (confidence > (m - 1) / 15) & (confidence <= m / 15)
        if held.any():
            error += held.sum() / len(classes) * abs(right[held].mean() - confidence[held].mean())
    return error


@pytest.mark.parametrize(("shape", "dim"), SHAPES)
def test_entropy_against_scipy(shape: tuple[int, ...], dim: int) -> None:
    torch.manual_seed(0)
    logits = 3 * torch.randn(shape, dtype=torch.double)
    expected = stats.entropy(logits.softmax(dim).numpy(), axis=dim).mean()
    for first, probable in ((logits, False), (logits.softmax(dim), True)):
        assert are_probabilities(first, Layout()) == probable
        entropy = entropy_of_first(probable, Layout())
        assert entropy(torch.randn(shape), first).item() == pytest.approx(expected, rel=1e-9)


def test_gradients_of_the_entropy_are_those_of_logits_and_finite_where_a_class_is_impossible() -> None:
    logits = torch.tensor([[0.3, -1.0, 2.0], [200.0, -200.0, 0.0]], dtype=torch.double, requires_grad=True)
    by_logits, by_probabilities = (
        torch.autograd.grad(entropy_of_first(probable, Layout())(logits, first), logits)[0]
        for probable, first in ((False, logits), (True, logits.softmax(1)))
    )
    torch.testing.assert_close(by_probabilities, by_logits, rtol=1e-9, atol=1e-12)
    hopeless = torch.tensor([[1e4, -1e4, 0.0]], requires_grad=True)
    gradient = torch.autograd.grad(entropy_of_first(True, Layout())(hopeless, hopeless.softmax(1)), hopeless)[0]
    assert gradient.isfinite().all()


@pytest.mark.parametrize(
    ("shape", "layout"),
    [
        ((6, 4), Layout()),
        ((3, 5, 4), Layout()),
        ((2, 4, 3, 5), Layout()),
        ((2, 3, 5, 4), Layout(channel_dim=-1)),
        ((4, 3, 2), Layout(channel_dim=0, batch_dim=1)),
    ],
)
def test_diversity_and_balance_against_numpy(shape: tuple[int, ...], layout: Layout) -> None:
    torch.manual_seed(0)
    dim = layout.channel_of(len(shape))
    logits = 3 * torch.randn(shape, dtype=torch.double)
    p = np.moveaxis(logits.softmax(dim).numpy(), dim, -1)
    mean = p.reshape(-1, 4).mean(0)
    information = stats.entropy(p, axis=-1).mean() - stats.entropy(mean)
    right = p / mean / (p / mean).sum(-1, keepdims=True)
    for first, probable in ((logits, False), (logits.softmax(dim), True)):
        loss = entropy_of_first(probable, layout, is_diverse=True)
        assert loss(torch.randn(shape), first).item() == pytest.approx(information, rel=1e-9)
        found = balanced(first, probable, layout)
        np.testing.assert_allclose(
            np.moveaxis((found if probable else found.softmax(dim)).numpy(), dim, -1), right, rtol=1e-9
        )
        assert are_probabilities(found, layout) == probable
        if not probable:
            np.testing.assert_allclose(np.moveaxis((logits - found).numpy(), dim, -1), np.log(mean) + 0 * p, rtol=1e-9)


@pytest.mark.parametrize("probable", [True, False])
@pytest.mark.parametrize("shape", [(1, 4), (1, 4, 1, 1)])
def test_one_prediction_alone_has_no_diversity(shape: tuple[int, ...], probable: bool) -> None:
    """Nor a slope, which Adam would make a step of, however small it were by rounding."""
    torch.manual_seed(0)
    logits = (3 * torch.randn(shape)).requires_grad_()
    loss = entropy_of_first(probable, Layout(), is_diverse=True)(logits, logits.softmax(1) if probable else logits)
    assert loss.item() == 0
    assert not torch.autograd.grad(loss, logits)[0].any()


def test_balance_by_hand() -> None:
    """Divided by the means 0.75 and 0.25, the second sample turns to the second class."""
    p = torch.tensor([[0.9, 0.1], [0.6, 0.4]])
    right = torch.tensor([[1.2 / 1.6, 0.4 / 1.6], [0.8 / 2.4, 1.6 / 2.4]])
    torch.testing.assert_close(balanced(p, True, Layout()), right)
    torch.testing.assert_close(balanced(p.log() + 5, False, Layout()).softmax(1), right)
    found = balanced(p.half(), True, Layout())
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, right, rtol=1e-2, atol=0)
    torch.testing.assert_close(balanced(p[:1], True, Layout()), torch.full((1, 2), 0.5))


def test_classes_that_are_impossible_stay_so_when_balanced() -> None:
    p = torch.tensor([[0.9, 0.1, 0.0], [0.6, 0.4, 0.0]])
    for found in (balanced(p, True, Layout()), balanced(p.log(), False, Layout()).softmax(1)):
        assert found.argmax(1).tolist() == [0, 1]
        assert not found[:, 2].any()
    with pytest.raises(ValueError, match="two classes or more"):
        balanced(torch.ones(3), False, Layout())


@pytest.mark.parametrize(("shape", "dim"), SHAPES)
@pytest.mark.parametrize("probable", [True, False])
def test_calibration_error_against_the_formula(shape: tuple[int, ...], dim: int, probable: bool) -> None:
    torch.manual_seed(0)
    error = CalibrationError()
    seen: list[Tensor] = []
    classes: list[Tensor] = []
    for _ in range(7):
        logits = 2 * torch.randn(shape)
        target = torch.randint(0, 4, [size for place, size in enumerate(shape) if place != dim])
        given = logits.softmax(dim) if probable else logits
        error.add(given, right_classes(given, target), Layout())
        seen.append(logits.double().softmax(dim).movedim(dim, -1).reshape(-1, 4))
        classes.append(target.flatten())
    expected = naive_ece(torch.cat(seen).numpy(), torch.cat(classes).numpy())
    assert error.value == pytest.approx(expected, rel=1e-5)


def test_calibration_error_by_hand() -> None:
    """Two predictions of 0.9 and two of 0.6, of which one each is right: (|0.9 - 0.5| + |0.6 - 0.5|) / 2."""
    scores = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6], [0.4, 0.6]], dtype=torch.double)
    error = CalibrationError()
    error.add(scores, right_classes(scores, torch.tensor([0, 1, 0, 1])), Layout())
    assert error.value == pytest.approx(0.25)
    sure = CalibrationError()
    sure.add(torch.eye(3), torch.ones(3, 1, dtype=torch.bool), Layout())
    assert sure.value == 0


@pytest.mark.parametrize(
    "scores",
    [torch.ones(4, 1), torch.full((2, 3), 0.5), torch.tensor([[1.2, -0.2]]), torch.eye(2).long(), torch.ones(3)],
)
def test_what_are_no_probabilities(scores: Tensor) -> None:
    assert not are_probabilities(scores, Layout())
    assert are_probabilities(torch.full((2, 3, 4), 0.25), Layout())
    assert are_probabilities(torch.full((2, 4, 3), 0.25), Layout(channel_dim=1))
