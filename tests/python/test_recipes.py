"""The authors' programs as data: each trains and adapts, and its distances are their formulas."""

import it3
import pytest
import torch
import torch.nn.functional as F
from it3 import recipes
from it3.recipes import AIRFOIL, BOSTON, CIFAR10, FACE_AGE, MNIST, PROGRAMS, TORCH_TTT, Recipe
from torch import Tensor, nn


def probabilities(seed: int) -> Tensor:
    return torch.randn(5, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.double).softmax(1)


def test_the_swapped_divergence_is_that_of_the_programs() -> None:
    p, q = probabilities(0), probabilities(1)
    m = (p + q) / 2
    expected = 0.5 * (
        F.kl_div(p.log(), m, reduction="batchmean") + F.kl_div(q.log(), m, reduction="batchmean")
    )  # torch's is KL(target || input)
    torch.testing.assert_close(recipes.swapped_js(p, q), expected, rtol=1e-9, atol=1e-12)


def test_the_other_two_distances() -> None:
    p, classes = probabilities(0), torch.tensor([0, 3, 1, 1, 2])
    target = F.one_hot(classes, 4).double()
    torch.testing.assert_close(recipes.negative_log_likelihood(p, target), F.nll_loss(p.log(), classes))
    torch.testing.assert_close(recipes.negative_dot_product(p, target), -p[torch.arange(5), classes].mean())


def classifier() -> nn.Sequential:
    """Of images with batch normalization, with a layer of each number of channels that recipes name."""
    return nn.Sequential(
        *(nn.Flatten(), nn.Linear(36, 128), nn.BatchNorm1d(128), nn.Linear(128, 50), nn.ReLU()),
        *(nn.Linear(50, 10), nn.Softmax(1)),
    )


def case_of(recipe: Recipe) -> tuple[nn.Module, str | None, Tensor, Tensor]:
    torch.manual_seed(0)
    if recipe in (BOSTON, AIRFOIL):
        model = nn.Sequential(nn.Linear(4 + 1, 8), nn.Tanh(), nn.Linear(8, 1))
        return model, None, torch.randn(6, 4), -torch.rand(6, 1)
    if recipe is FACE_AGE:
        model = nn.Sequential(nn.Conv2d(3 + 1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 1))
        return model, None, torch.randn(6, 3, 6, 6), torch.rand(6, 1)
    layer = {"MNIST": "4", "CIFAR-10": "2"}.get(recipe.name, "3")
    # The program for CIFAR-10 trains logits; those for MNIST have networks that end in a softmax.
    model = classifier()[:-1] if recipe is CIFAR10 else classifier()
    return model, layer, torch.randn(6, 1, 6, 6), torch.tensor([0, 9, 3, 4, 1, 1])


@pytest.mark.parametrize("recipe", PROGRAMS, ids=lambda recipe: recipe.name)
def test_each_program_trains_and_adapts(recipe: Recipe) -> None:
    model, layer, inputs, targets = case_of(recipe)
    engine = recipe.make_engine(model, layer)
    engine.train()
    prediction, loss = engine(inputs, target=targets)
    is_one_pass = recipe in (FACE_AGE, AIRFOIL)
    assert bool(loss == 0) == is_one_pass
    total = loss + prediction.square().sum()
    gradients = torch.autograd.grad(total, list(engine.model.parameters()), materialize_grads=True)
    assert all(g.isfinite().all() and g.abs().sum() > 0 for g in gradients)
    evaluation = it3.evaluate(
        engine.eval(), [(inputs, targets)], "mse" if layer is None else "accuracy", {"it": recipe.adaptation}
    )
    row = next(row for row in evaluation.rows if row["name"] == "it")
    assert torch.tensor(row["score"]).isfinite()


def test_arguments_take_the_place_of_the_recipes() -> None:
    engine = BOSTON.make_engine(nn.Sequential(nn.Linear(5, 2), nn.Linear(2, 1)), neutral=-7.0)
    assert engine.neutral == -7.0
    assert engine.features_layer_name == "input"


@pytest.mark.parametrize("recipe", [MNIST, TORCH_TTT, CIFAR10])
def test_a_layer_is_needed_where_it_is_not_the_input(recipe: Recipe) -> None:
    with pytest.raises(ValueError, match=f"the recipe for {recipe.name} feeds y0 back at .*; give that layer's name"):
        recipe.make_engine(classifier())


def test_recipes_make_embedders_of_their_own() -> None:
    one, other = (MNIST.make_engine(classifier(), "4").embedder for _ in range(2))
    assert one is not other
