"""The engine agrees with the formulas, in float64, to 1e-10."""

from functools import partial

import pytest
import reference
import torch
import torch.nn.functional as F
from it3 import IT3Engine
from models import KINDS, Case, make_case
from torch import Tensor

close = partial(torch.testing.assert_close, rtol=1e-10, atol=1e-10)


def build(case: Case, **arguments) -> tuple[IT3Engine, reference.TensorFunction]:
    """An engine in eval mode whose embedder has its weights, and that embedder by the formula."""
    engine = IT3Engine(case.model, case.layer, **arguments).eval()
    engine.uncertainty(case.inputs)
    weights = [w.detach() for w in engine.embedder.parameters()]
    return engine, lambda prediction, features: reference.embed(prediction, features, *weights)


@pytest.mark.parametrize("num_steps", [0, 1, 3, 10])
@pytest.mark.parametrize("kind", KINDS)
def test_steps(kind: str, num_steps: int, device: str) -> None:
    case = make_case(kind, device=device)
    engine, embed = build(case, optimization_parameters={"num_steps": num_steps})
    prediction, loss = engine(case.inputs)
    expected, losses, model = reference.adapt(case.model, case.layer, embed, case.inputs, num_steps=num_steps)
    close(prediction, expected)
    close(loss.item(), losses[-1] if losses else 0.0)
    adaptation = engine.adapt(case.inputs)
    close(adaptation.losses.tolist(), losses)
    close(adaptation.prediction, expected)
    with torch.no_grad():
        second = reference.second_prediction(model, case.layer, embed, reference.add, case.inputs, expected)
    close(adaptation.second, second)
    close(adaptation.uncertainty, torch.stack([(a - b).norm() for a, b in zip(second, expected, strict=True)]))
    close(adaptation.state_dict(), dict(model.state_dict()))
    close(adaptation.model()(case.inputs), model(case.inputs))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "options",
    [
        {"optimizer_name": "adam", "betas": (0.8, 0.95), "eps": 1e-4, "weight_decay": 0.1},
        {"optimizer_name": "adamw"},
        {"optimizer_name": "adamw", "weight_decay": 0.3, "lr": 0.1},
        {"optimizer_name": "sgd", "lr": 0.1},
        {"optimizer_name": "sgd", "lr": 0.1, "momentum": 0.9, "weight_decay": 0.1},
        {"optimizer_name": "rmsprop"},
        {"optimizer_name": "rmsprop", "momentum": 0.5, "eps": 1e-3, "weight_decay": 0.1},
        {"optimizer_name": "adagrad"},
        {"optimizer_name": "adagrad", "weight_decay": 0.1, "eps": 1e-3},
        {"max_grad_norm": 0.01, "optimizer_name": "sgd", "lr": 1.0},
        {"max_grad_norm": 1e9, "optimizer_name": "sgd", "lr": 0.1},
    ],
    ids=str,
)
def test_optimizers(kind: str, options: dict, device: str) -> None:
    case = make_case(kind, device=device)
    engine, embed = build(case, optimization_parameters={"num_steps": 4, **options})
    prediction, loss = engine(case.inputs)
    expected, losses, _ = reference.adapt(case.model, case.layer, embed, case.inputs, num_steps=4, **options)
    close(prediction, expected)
    close(loss.item(), losses[-1])


def scaled_product(features: Tensor, embedding: Tensor) -> Tensor:
    while embedding.dim() < features.dim():
        embedding = embedding.unsqueeze(-1)
    return features * (1 + 0.1 * embedding)


def huber(y1: Tensor, y0: Tensor) -> Tensor:
    return F.smooth_l1_loss(y1, y0, beta=0.1) + 0.01 * y1.square().mean()


@pytest.mark.parametrize("kind", KINDS)
def test_custom_functions(kind: str, device: str) -> None:
    case = make_case(kind, device=device)
    engine, embed = build(case, combine_fn=scaled_product, distance_fn=huber)
    prediction, loss = engine(case.inputs)
    expected, losses, _ = reference.adapt(
        case.model, case.layer, embed, case.inputs, combine=scaled_product, distance=huber
    )
    close(prediction, expected)
    close(loss.item(), losses[-1])


def test_custom_embedder(case: Case, device: str) -> None:
    embedder = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Sigmoid()).to(device, torch.float64)
    engine = IT3Engine(case.model, case.layer, embedder).eval()
    expected, _, _ = reference.adapt(case.model, case.layer, lambda y, _: embedder(y), case.inputs)
    close(engine(case.inputs)[0], expected)


@pytest.mark.parametrize(
    ("selection", "is_selected"),
    [
        ("all", lambda name: True),
        ("norm", lambda name: name.startswith("norm.")),
        ("conv1", lambda name: name.startswith("conv1.")),
        (["*.bias", "fc"], lambda name: name.endswith(".bias") or name.startswith("fc.")),
        (["norm", "conv2.weight"], lambda name: name.startswith("norm.") or name == "conv2.weight"),
    ],
    ids=["all", "norm", "conv1", "biases and fc", "norm and conv2"],
)
def test_selected_parameters(selection: str | list[str], is_selected, device: str) -> None:
    case = make_case("cnn", device=device)
    engine, embed = build(case, optimization_parameters={"parameters": selection})
    adaptation = engine.adapt(case.inputs)
    expected, _, model = reference.adapt(case.model, case.layer, embed, case.inputs, parameters=is_selected)
    close(adaptation.prediction, expected)
    close(adaptation.state_dict(), dict(model.state_dict()))


@pytest.mark.parametrize("with_target", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_training_gradients(kind: str, with_target: bool, device: str) -> None:
    case = make_case(kind, device=device)
    engine, embed = build(case, distance_fn=huber)
    engine.train()
    case.model.eval()  # batch statistics are test_training's subject
    y0, loss_ttt = engine(case.inputs, target=case.target if with_target else None)
    total = F.l1_loss(y0, case.target) + 0.7 * loss_ttt
    parameters = [*case.model.parameters(), *engine.embedder.parameters()]
    gradients = torch.autograd.grad(total, parameters)

    weights = list(engine.embedder.parameters())
    embed = lambda prediction, features: reference.embed(prediction, features, *weights)  # noqa: E731
    expected_y0 = case.model(case.inputs)
    signal = case.target if with_target else expected_y0
    y1 = reference.second_prediction(case.model, case.layer, embed, reference.add, case.inputs, signal)
    expected_total = F.l1_loss(expected_y0, case.target) + 0.7 * huber(y1, signal)
    close(total, expected_total)
    close(gradients, torch.autograd.grad(expected_total, parameters))


def test_training_gradient_by_finite_differences() -> None:
    case = make_case("residual")
    engine, _ = build(case)
    engine.train()
    weight = case.model.fc2.weight

    def loss_ttt(value: Tensor) -> Tensor:
        with torch.no_grad():
            original = weight.clone()
            weight.copy_(value)
            loss = engine(case.inputs, target=case.target)[1]
            weight.copy_(original)
        return loss

    (gradient,) = torch.autograd.grad(engine(case.inputs, target=case.target)[1], [weight])
    for i, j in [(0, 0), (3, 7), (9, 2)]:
        step = torch.zeros_like(weight)
        step[i, j] = 1e-6
        slope = (loss_ttt(weight + step) - loss_ttt(weight - step)) / 2e-6
        torch.testing.assert_close(gradient[i, j], slope, rtol=1e-6, atol=1e-9)
