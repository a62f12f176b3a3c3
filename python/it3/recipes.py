"""How networks are trained and adapted, as data: the authors' programs.

They are the notebooks and scripts of github.com/nikitadurasov/ittt. What a program does that an engine does otherwise
is said with it. All of them make one optimizer for all test batches, which keeps its moments from batch to batch, where
an engine's begins anew.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from it3._C import RandomOneHot, TrainingRecipe
from it3.engine import IT3Engine


@dataclass(frozen=True)
class Recipe:
    """Settings of an engine, of its training and of its adaptation.

    Attributes
    ----------
    name, source
        What it is called, and where it comes from.
    layer
        Where y0 is fed back: "input", or in words the layer to name.
    engine
        Further arguments of :class:`it3.IT3Engine`. Its ``distance_fn`` is that of training.
    optimizer, phases, batch_size
        Of training: a class in torch.optim, pairs of learning rate and epochs, and how many samples a step takes.
    adaptation
        How to adapt, as a variant for :func:`it3.evaluate`: options, and ``distance_fn``.
    test_batch_size
        How many samples adapt together.
    differences
        What the program does otherwise.
    make_embedder
        Makes the embedder; None for the default one.

    Examples
    --------
    >>> recipe = it3.recipes.BOSTON
    >>> recipe.layer, recipe.adaptation["num_steps"]
    ('input', 2)
    """

    name: str
    source: str
    layer: str
    engine: Mapping[str, Any]
    phases: tuple[tuple[float, int], ...]
    batch_size: int
    adaptation: Mapping[str, Any]
    test_batch_size: int
    differences: str
    optimizer: str = "Adam"
    make_embedder: Callable[[], nn.Module] | None = field(default=None, repr=False)

    def make_engine(self, model: nn.Module, layer: str | nn.Module | None = None, **arguments: Any) -> IT3Engine:
        """Make an engine to be trained by this recipe.

        Parameters
        ----------
        model
            The network.
        layer
            The layer at which y0 is fed back; may be left out where that is the input.
        **arguments
            Further arguments of :class:`it3.IT3Engine`, in the place of the recipe's.

        Raises
        ------
        ValueError
            If no layer is given, and the recipe does not feed back at the input; and what the engine raises.

        Examples
        --------
        >>> engine = it3.recipes.BOSTON.make_engine(nn.Sequential(nn.Linear(13 + 1, 30), nn.ReLU(), nn.Linear(30, 1)))
        >>> engine.neutral
        50.0
        """
        if layer is None and self.layer != "input":
            raise ValueError(f"the recipe for {self.name} feeds y0 back at {self.layer}; give that layer's name")
        own = {} if self.make_embedder is None else {"embedder": self.make_embedder()}
        return IT3Engine(model, self.layer if layer is None else layer, **{**self.engine, **own, **arguments})


def negative_log_likelihood(second: Tensor, target: Tensor) -> Tensor:
    """Return -Σ y log p, summed over classes, the mean over samples.

    Parameters
    ----------
    second, target
        Class probabilities p, and labels y, one-hot or probabilities, (B, C).

    Examples
    --------
    >>> it3.recipes.negative_log_likelihood(torch.tensor([[0.5, 0.5]]), torch.tensor([[1.0, 0.0]]))
    tensor(0.6931)
    """
    return -(target * second.clamp_min(1e-8).log()).sum(1).mean()


def swapped_js(second: Tensor, first: Tensor) -> Tensor:
    """Return 0.5 (KL(m ‖ p) + KL(m ‖ q)), m = (p + q) / 2, summed over classes, the mean over samples.

    The authors' programs call it the Jensen-Shannon divergence, of which it has both arguments swapped.

    Parameters
    ----------
    second, first
        Class probabilities p and q, (B, C).

    Examples
    --------
    >>> it3.recipes.swapped_js(torch.tensor([[0.5, 0.5]]), torch.tensor([[0.5, 0.5]]))
    tensor(0.)
    """
    p, q = second.clamp_min(1e-8), first.clamp_min(1e-8)
    middle = (p + q) / 2
    return (middle * (2 * middle.log() - p.log() - q.log())).sum(1).mean() / 2


def negative_dot_product(second: Tensor, first: Tensor) -> Tensor:
    """Return -Σ p q, summed over classes, the mean over samples: least where both are the same one-hot probabilities.

    Parameters
    ----------
    second, first
        Class probabilities, (B, C).

    Examples
    --------
    >>> it3.recipes.negative_dot_product(torch.tensor([[0.5, 0.5]]), torch.tensor([[1.0, 0.0]]))
    tensor(-0.5000)
    """
    return -(second * first).sum(1).mean()


def _of_ten_classes(channels: int) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(nn.Linear(10, channels), nn.LeakyReLU())


MNIST = Recipe(
    name="MNIST",
    source="exps/mnist/mnist_ittt.ipynb",
    layer="the first linear layer's activation, of 50 channels",
    engine={
        "neutral": RandomOneHot(),
        "training_recipe": TrainingRecipe(
            first_pass="drawn", second_pass="prediction", target_probability=0.75, drawn_for="batch"
        ),
        "distance_fn": negative_log_likelihood,
        "feedback": "prediction",
    },
    make_embedder=_of_ten_classes(50),
    phases=((1e-3, 5),),
    batch_size=64,
    adaptation={"num_steps": 10, "lr": 1e-3, "anchor": "frozen_tail", "distance_fn": swapped_js},
    test_batch_size=64,
    differences=(
        "the network, which ends in a softmax, has 50 more outputs, which take the place of the features in the second "
        "pass; the random class is drawn anew in each step"
    ),
)

TORCH_TTT = Recipe(
    name="MNIST, with torch-ttt",
    source="exps/mnist/it3_torch_ttt.ipynb",
    layer="the first convolution",
    engine={"distance_fn": negative_dot_product, "feedback": "prediction"},
    phases=((1e-3, 3),),
    batch_size=256,
    adaptation={"num_steps": 1, "lr": 1e-3, "anchor": "self"},
    test_batch_size=256,
    differences="the embedder is never trained, as it takes its shape after the optimizer was made",
)

CIFAR10 = Recipe(
    name="CIFAR-10",
    source="exps/notebooks/cifar_ittt.ipynb",
    layer="the fourth of six stages, of 128 channels",
    engine={
        "neutral": 0.1,
        "training_recipe": TrainingRecipe(
            first_pass="drawn", second_pass="prediction", target_probability=0.2, drawn_for="batch"
        ),
        "distance_fn": "cross_entropy",
    },
    make_embedder=_of_ten_classes(128),
    optimizer="SGD",
    phases=((1e-3, 70), (1e-4, 10)),
    batch_size=56,
    adaptation={"num_steps": 0, "norm_statistics": "batch", "prediction": "second"},
    test_batch_size=64,
    differences=(
        "a vector of 128 more outputs is added to the features in the second pass; the learning rate also falls along "
        "a cosine. One step is taken, but the answer is from before it"
    ),
)

BOSTON = Recipe(
    name="Boston housing",
    source="exps/tabular/vanilla_model.ipynb",
    layer="input",
    engine={"extra_channels": 1, "neutral": 50.0},
    phases=((1e-3, 30),),
    batch_size=32,
    adaptation={"num_steps": 2, "lr": 1e-4, "anchor": "frozen", "distance_fn": "l1"},
    test_batch_size=8,
    differences="the learning rate is halved when the last batch's loss has not fallen for ten epochs",
)

FACE_AGE = Recipe(
    name="Age of faces",
    source="exps/age/train_ittt.py and exps/age/eval_ittt.ipynb",
    layer="input",
    engine={
        "extra_channels": 1,
        "neutral": -1.0,
        "training_recipe": TrainingRecipe(first_pass="drawn", second_pass="none", target_probability=0.1),
    },
    phases=((1e-3, 10), (1e-4, 10)),
    batch_size=128,
    adaptation={
        "num_steps": 2,
        "lr": 5e-4,
        "anchor": "frozen",
        "distance_fn": "l1",
        "norm_statistics": "batch",
        "prediction": "second",
    },
    test_batch_size=16,
    differences=(
        "the batch's statistics are those of the steps alone; the answer is y1 of the network as it was, fed with the "
        "adapted y0; ages are fed back in units of 50 years, here the network predicts in them"
    ),
)

AIRFOIL = Recipe(
    name="Airfoils",
    source="exps/airfoils/train_evaluate.ipynb",
    layer="input",
    engine={
        "extra_channels": 1,
        "neutral": 0.2,
        "training_recipe": TrainingRecipe(first_pass="drawn", second_pass="none", target_probability=0.25),
    },
    phases=((1e-3, 10), (1e-4, 10)),
    batch_size=128,
    adaptation={"num_steps": 1, "lr": 2e-4, "anchor": "frozen", "distance_fn": "l1"},
    test_batch_size=16,
    differences="the ratio of lift to drag is fed back in units of 500, here the network predicts in them",
)

#: The authors' programs.
PROGRAMS = (MNIST, TORCH_TTT, CIFAR10, BOSTON, FACE_AGE, AIRFOIL)
