"""What the second pass of training is fed with, by the formula."""

import copy
import pickle
from functools import partial

import pytest
import reference
import torch
import torch.nn.functional as F
from it3 import IT3Engine, TrainingRecipe
from kinds_of_network import NETWORKS, build, state_of
from models import KINDS, Case, make_case
from torch import Tensor

close = partial(torch.testing.assert_close, rtol=1e-10, atol=1e-10)


def attached(engine: IT3Engine) -> reference.TensorFunction:
    """The default embedder by the formula, with gradients for its weights."""
    return lambda prediction, features: reference.embed(prediction, features, *engine.embedder.parameters())


def pass_with(case: Case, engine: IT3Engine, signal: Tensor) -> Tensor:
    return reference.second_prediction(case.model, case.layer, attached(engine), reference.add, case.inputs, signal)


def gradients(engine: IT3Engine, loss: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(loss, list(engine.parameters()), retain_graph=True, materialize_grads=True))


@pytest.mark.parametrize("neutral", [None, -9.0])
@pytest.mark.parametrize("second_pass", ["target", "prediction", "detached_prediction"])
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_terms_and_their_gradients(
    kind: str, network: str, second_pass: str, neutral: float | None, device: str
) -> None:
    case = make_case(kind, device=device)
    recipe = TrainingRecipe(second_pass=second_pass, weight=0.3)
    engine, _ = build(case, network, neutral=neutral, training_recipe=recipe)
    engine.train()
    engine.model.eval()  # the mode of batch normalization is another matter
    first, loss = engine(case.inputs, target=case.target)
    y0 = case.model(case.inputs) if neutral is None else pass_with(case, engine, torch.full_like(case.target, neutral))
    signal = {"target": case.target, "prediction": y0, "detached_prediction": y0.detach()}[second_pass]
    expected = 0.3 * F.mse_loss(pass_with(case, engine, signal), case.target)
    close(first, y0)
    close(loss, expected)
    for actual, right in zip(
        gradients(engine, loss + first.sum()), gradients(engine, expected + y0.sum()), strict=True
    ):
        close(actual, right)


def test_gradients_through_what_is_fed_back_are_another_matter() -> None:
    case = make_case("mlp")
    found = {}
    for second_pass in ("prediction", "detached_prediction"):
        engine, _ = build(case, "traced", training_recipe=TrainingRecipe(second_pass=second_pass))
        engine.embedder.load_state_dict(found.setdefault("embedder", engine.embedder.state_dict()))
        loss = engine.train()(case.inputs, target=case.target)[1]
        found[second_pass] = loss.detach(), gradients(engine, loss)[0]
    close(found["prediction"][0], found["detached_prediction"][0])
    assert not torch.allclose(found["prediction"][1], found["detached_prediction"][1])


@pytest.mark.parametrize("drawn_for", [None, "sample", "batch"])
def test_a_second_pass_that_is_drawn(drawn_for: str | None, device: str) -> None:
    case = make_case("mlp", device=device)
    recipe = TrainingRecipe(second_pass="drawn", target_probability=0.3, drawn_for=drawn_for)
    seen: list[Tensor] = []

    def distance(second: Tensor, reference: Tensor) -> Tensor:
        seen.append(second.detach())
        return F.mse_loss(second, reference)

    engine, _ = build(case, "traced", distance_fn=distance, training_recipe=recipe)
    engine.train()
    with torch.no_grad():
        y0 = case.model(case.inputs)
        with_target, with_prediction = (pass_with(case, engine, signal) for signal in (case.target, y0))
    shares = []
    for _ in range(400):
        seen.clear()
        engine(case.inputs, target=case.target)
        has_target = torch.isclose(seen[0], with_target).all(1)
        assert (has_target | torch.isclose(seen[0], with_prediction).all(1)).all()
        shares.append(has_target.double().mean().item())
    assert 0.2 < sum(shares) / len(shares) < 0.4
    assert any(0 < share < 1 for share in shares) == (drawn_for != "batch")


@pytest.mark.parametrize("second_pass", ["prediction", "target", "none"])
@pytest.mark.parametrize("network", NETWORKS)
def test_a_first_pass_that_is_drawn(network: str, second_pass: str) -> None:
    """As in the authors' program for MNIST, y0 = f(x | label or neutral), and y1 = f(x | y0)."""
    case = make_case("mlp")
    recipe = TrainingRecipe(first_pass="drawn", second_pass=second_pass, target_probability=0.75)
    engine, _ = build(case, network, neutral=9.0, training_recipe=recipe)
    engine.train()
    with_target, with_neutral = (pass_with(case, engine, s) for s in (case.target, torch.full_like(case.target, 9.0)))
    shares = []
    for _ in range(200):
        y0, loss = engine(case.inputs, target=case.target)
        has_target = torch.isclose(y0, with_target).all(1)
        shares.append(has_target.double().mean().item())
        right = torch.where(has_target[:, None], with_target, with_neutral)
        close(y0, right)
        signal = {"prediction": right, "target": case.target}.get(second_pass)
        expected = 0 * loss if signal is None else F.mse_loss(pass_with(case, engine, signal), case.target)
        close(loss, expected)
    assert 0.65 < sum(shares) / len(shares) < 0.85
    if second_pass != "none":
        for actual, right in zip(gradients(engine, loss), gradients(engine, expected), strict=True):
            close(actual, right)


def test_a_recipe_without_a_second_term() -> None:
    case = make_case("mlp")
    engine, _ = build(case, "traced", training_recipe=TrainingRecipe(second_pass="none"))
    y0, loss = engine.train()(case.inputs, target=case.target)
    close(y0, case.model(case.inputs))
    assert loss.item() == 0


def test_noise_is_on_what_is_fed_back_and_nowhere_else() -> None:
    case = make_case("mlp")
    recipe = TrainingRecipe(second_pass="detached_prediction", noise=0.5)
    engine, _ = build(case, "traced", training_recipe=recipe)
    fed: list[Tensor] = []

    def own_embedder(prediction: Tensor) -> Tensor:
        fed.append(prediction.detach())
        return torch.tanh(prediction.sum(1, keepdim=True))

    engine.embedder = own_embedder
    engine.train()
    y0 = case.model(case.inputs).detach()
    noise = []
    for _ in range(200):
        fed.clear()
        first, _ = engine(case.inputs, target=case.target)
        close(first, y0)
        noise.append(fed[-1] - y0)
    values = torch.stack(noise)
    assert abs(values.mean()) < 0.05
    assert abs(values.std() - 0.5) < 0.03


@pytest.mark.parametrize("network", NETWORKS)
def test_the_first_step_feeds_back_probabilities_as_all_do(network: str) -> None:
    case = make_case("mlp")
    recipe = TrainingRecipe(second_pass="detached_prediction")
    engine, _ = build(case, network, training_recipe=recipe)
    engine.train()
    classes = torch.arange(len(case.inputs)) % 3
    y0 = case.model(case.inputs)
    expected = F.mse_loss(pass_with(case, engine, y0.softmax(1).detach()), F.one_hot(classes, 3).to(y0))
    for _ in range(2):
        close(engine(case.inputs, target=classes)[1], expected)
    engine, _ = build(case, network, training_recipe=recipe, feedback="prediction")
    engine.train()
    expected = F.mse_loss(pass_with(case, engine, y0.detach()), F.one_hot(classes, 3).to(y0))
    close(engine(case.inputs, target=classes)[1], expected)


@pytest.mark.parametrize("second_pass", ["target", "prediction", "detached_prediction"])
def test_without_a_target_predictions_are_compared(second_pass: str) -> None:
    case = make_case("mlp")
    engine, _ = build(case, "traced", training_recipe=TrainingRecipe(second_pass=second_pass))
    y0 = case.model(case.inputs)
    signal = y0.detach() if second_pass == "detached_prediction" else y0
    expected = F.mse_loss(pass_with(case, engine, signal), y0)
    first, loss = engine.train()(case.inputs)
    close(loss, expected)
    for actual, right in zip(gradients(engine, loss), gradients(engine, expected), strict=True):
        close(actual, right)
    assert first.requires_grad


def test_a_recipe_is_a_value() -> None:
    recipe = TrainingRecipe(second_pass="drawn", weight=2, drawn_for="batch", noise=0.1)
    assert (recipe.second_pass, recipe.weight, recipe.target_probability) == ("drawn", 2.0, None)
    assert (recipe.drawn_for, recipe.noise, TrainingRecipe().drawn_for) == ("batch", 0.1, None)
    assert recipe == TrainingRecipe(second_pass="drawn", weight=2.0, drawn_for="batch", noise=0.1)
    assert recipe != TrainingRecipe()
    assert recipe != "drawn"
    assert eval(repr(recipe)) == recipe
    assert {recipe, pickle.loads(pickle.dumps(recipe)), copy.deepcopy(recipe)} == {recipe}
    case = make_case("mlp")
    engine, _ = build(case, "hooks", training_recipe=recipe)
    for other in (copy.deepcopy(engine), copy.copy(engine)):
        assert other.training_recipe == recipe


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"second_pass": "targets"}, "second_pass must be one of target, prediction, .*, not 'targets'"),
        ({"weight": -1.0}, "weight must be a number, 0 or more, not -1"),
        ({"weight": float("nan")}, "weight must be a number"),
        ({"second_pass": "none", "weight": 2.0}, "weight multiplies the second term"),
        ({"second_pass": "none", "noise": 1.0}, "noise is added to what is fed back, but with .* nothing is"),
        ({"noise": float("inf")}, "noise must be a standard deviation, 0 or more"),
        (
            {"first_pass": "drawn", "target_probability": 1.5},
            "target_probability must be a number from 0 to 1, not 1.5",
        ),
        ({"target_probability": 0.5}, "target_probability says how .*; give 'drawn' for one of the two"),
        ({"second_pass": "prediction", "drawn_for": "batch"}, "drawn_for says how .*second_pass='prediction'"),
        ({"first_pass": "target"}, "first_pass must be one of neutral, drawn, not 'target'"),
        ({"second_pass": "drawn", "drawn_for": "samples"}, "drawn_for must be one of sample, batch, not 'samples'"),
    ],
)
def test_what_no_recipe_can_be(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainingRecipe(**arguments)


def test_recipes_that_do_not_fit_the_call() -> None:
    case = make_case("mlp")
    engine, _ = build(case, "traced", training_recipe=TrainingRecipe(first_pass="drawn", second_pass="none"))
    engine.train()
    before = state_of(engine)
    with pytest.raises(ValueError, match="the training recipe draws from the targets, but no target was given"):
        engine(case.inputs)
    engine.training_recipe = TrainingRecipe(first_pass="drawn", second_pass="none", drawn_for="sample")
    with pytest.raises(ValueError, match="drawn_for='sample' needs a neutral signal"):
        engine(case.inputs, target=case.target)
    with pytest.raises(TypeError, match=r"training_recipe must be an it3\.TrainingRecipe, not a dict"):
        engine.training_recipe = {"second_pass": "none"}
    with pytest.raises(TypeError, match=r"training_recipe must be an it3\.TrainingRecipe, not a str"):
        IT3Engine(case.model, case.layer, training_recipe="none")
    assert all(torch.equal(value, before[name]) for name, value in engine.state_dict().items())
