"""Distances by name agree with torch's own losses, or with the formula."""

import pytest
import torch
import torch.nn.functional as F
from it3 import IT3Engine
from models import make_case
from torch import Tensor


def p(logits: Tensor) -> Tensor:
    return logits.softmax(1)


def kl(a: Tensor, b: Tensor) -> Tensor:
    return torch.xlogy(a, a / b).sum(1).mean()


def js(a: Tensor, b: Tensor) -> Tensor:
    return (kl(a, (a + b) / 2) + kl(b, (a + b) / 2)) / 2


def one_hot(classes: Tensor, y1: Tensor) -> Tensor:
    return F.one_hot(classes, y1.shape[1]).movedim(-1, 1).to(y1)


BETWEEN_PREDICTIONS = {
    "mse": F.mse_loss,
    "l1": F.l1_loss,
    "cross_entropy": lambda y1, y0: F.cross_entropy(y1, p(y0)),
    "kl": lambda y1, y0: kl(p(y0), p(y1)),
    "js": lambda y1, y0: js(p(y0), p(y1)),
    "cosine": lambda y1, y0: 1 - F.cosine_similarity(y1, y0, dim=1).mean(),
}
TO_CLASSES = {
    "mse": lambda y1, c: F.mse_loss(y1, one_hot(c, y1)),
    "l1": lambda y1, c: F.l1_loss(y1, one_hot(c, y1)),
    "cross_entropy": F.cross_entropy,
    "kl": F.cross_entropy,  # a one-hot target has no entropy
    "js": lambda y1, c: js(one_hot(c, y1), p(y1)),
    "cosine": lambda y1, c: 1 - F.cosine_similarity(y1, one_hot(c, y1), dim=1).mean(),
}


@pytest.mark.parametrize("kind", ["mlp", "segmentation"])
@pytest.mark.parametrize("name", BETWEEN_PREDICTIONS)
def test_adaptation(name: str, kind: str, device: str) -> None:
    case = make_case(kind, device=device)
    named = IT3Engine(case.model, case.layer, distance_fn=name, feedback="prediction").eval()
    named(case.inputs)
    custom = IT3Engine(case.model, case.layer, named.embedder, distance_fn=BETWEEN_PREDICTIONS[name]).eval()
    torch.testing.assert_close(named(case.inputs), custom(case.inputs), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", ["mlp", "segmentation"])
@pytest.mark.parametrize("name", TO_CLASSES)
def test_training_with_class_targets(name: str, kind: str, device: str) -> None:
    case = make_case(kind, device=device)
    classes = case.target.argmax(1)
    seen = []

    def watch(y1: Tensor, target: Tensor) -> Tensor:
        seen.append(y1)
        return F.mse_loss(y1, target)

    engine = IT3Engine(case.model, case.layer, distance_fn=name)
    loss = engine(case.inputs, target=classes)[1]
    IT3Engine(case.model, case.layer, engine.embedder, distance_fn=watch)(case.inputs, target=classes)
    torch.testing.assert_close(loss, TO_CLASSES[name](seen[0], classes))
    loss.backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in engine.parameters())


@pytest.mark.parametrize("name", BETWEEN_PREDICTIONS)
def test_gradients_are_finite_for_very_sure_predictions(name: str, device: str) -> None:
    case = make_case("mlp", torch.float32, device)
    with torch.no_grad():
        case.model[4].weight.mul_(1e4)
    engine = IT3Engine(case.model, case.layer, distance_fn=name)
    for target in (None, torch.zeros(7, dtype=torch.long, device=device)):
        loss = engine(case.inputs, target=target)[1]
        gradients = torch.autograd.grad(loss, list(engine.parameters()))
        assert all(torch.isfinite(gradient).all() for gradient in gradients)
