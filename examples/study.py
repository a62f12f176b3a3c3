"""What all studies share: train, choose on validation corruptions, compare on the test's, draw and write.

The settings of the adapted row are searched by it3.tune on held-out samples under other corruptions than the test's.
The test then has these, two fixed settings, and the controls, on the same inputs, for networks of several seeds.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import it3
import matplotlib as mpl
import torch
import torch.nn.functional as F
from it3 import IT3Engine
from it3.metrics import metric_of
from matplotlib import pyplot as plt
from rich.console import Console
from sklearn.metrics import roc_auc_score
from torch import Tensor

SEEDS = 5
SEARCH: dict[str, Any] = {
    "num_steps": [1, 2, 3, 5],
    "lr": (1e-5, 1e-2),
    "anchor": ["self", "frozen", "ema"],
    "parameters": ["all", "norm"],
    "norm_statistics": ["running", "batch", "blend"],
    "prediction": ["first", "mean"],
}
Batches = list[tuple[Any, Tensor]]
TensorFunction = Callable[[Tensor, Tensor], Tensor]


@dataclass
class Study:
    """What is studied.

    `validation`, `clean` and `test` are batches; validation and test are corrupted, each in its own way.
    """

    script: str
    title: str
    make_engine: Callable[[], IT3Engine]
    inputs: Tensor
    targets: Tensor
    criterion: TensorFunction
    metric: str | TensorFunction
    validation: Batches
    clean: Batches
    test: Batches
    epochs: int
    batch: int = 64
    higher_is_better: bool = True
    learning_rate: float = 1e-3
    search: dict[str, Any] = field(default_factory=lambda: SEARCH)
    #: Trials of the search for settings.
    budget: int = 40
    #: For a metric that is a function: what a predictor without a network predicts, see it3.evaluate. For the others it
    #: is made of the training targets.
    reference: Tensor | None = None
    #: Of several in one script.
    part: str = ""

    @property
    def name(self) -> str:
        """The stem of its files' names."""
        return f"{self.script}_{self.part}" if self.part else self.script


def cross_entropy(probabilities: Tensor, reference: Tensor) -> Tensor:
    """Compare class probabilities, (B, C, ...), with others, with one-hot labels, or with classes, (B, ...)."""
    if reference.dim() < probabilities.dim():
        reference = F.one_hot(reference, probabilities.shape[1]).movedim(-1, 1)
    return -(reference * (probabilities + 1e-6).log()).sum(1).mean()


def batches_of(inputs: Tensor, targets: Tensor, size: int) -> Batches:
    """Cut samples into batches."""
    return list(zip(inputs.split(size), targets.split(size), strict=True))


def train(study: Study, seed: int, second_term: bool) -> IT3Engine:
    """Train a network in an engine, with both terms of IT3's loss or with the first alone."""
    torch.manual_seed(seed)
    engine = study.make_engine()
    optimizer = torch.optim.Adam(engine.parameters(), lr=study.learning_rate)
    steps = study.epochs * (len(study.inputs) // study.batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3 * study.learning_rate, total_steps=steps)
    engine.train()
    for _ in range(study.epochs):
        for rows in torch.randperm(len(study.inputs)).split(study.batch):
            if len(rows) < study.batch:
                continue
            inputs, targets = study.inputs[rows], study.targets[rows]
            if second_term:
                prediction, loss_ttt = engine(inputs, target=targets)
            else:
                prediction, loss_ttt = engine.model(inputs), 0.0
            loss = study.criterion(prediction, targets) + loss_ttt
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return engine.eval()


def aurocs(study: Study, engines: list[IT3Engine]) -> list[float]:
    """Return how well ‖y1 - y0‖ separates clean inputs from corrupted ones, one number an engine."""
    found = []
    for engine in engines:
        clean, corrupted = (
            torch.cat([engine.uncertainty(x) for x, _ in batches]) for batches in (study.clean, study.test)
        )
        labels = torch.cat([torch.zeros(len(clean)), torch.ones(len(corrupted))])
        found.append(float(roc_auc_score(labels, torch.cat([clean, corrupted]))))
    return found


def draw(study: Study, evaluation: it3.Evaluation, engine: IT3Engine, path: Path) -> None:
    """Draw gains with their intervals, the loss over steps, and the uncertainty of clean and corrupted inputs."""
    mpl.use("Agg")
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(14, 4), layout="constrained", width_ratios=(1.4, 1, 1))
    rows = [row for row in evaluation.rows if row["name"] != "0 steps"][::-1]
    for place, row in enumerate(rows):
        color = "tab:green" if row["low"] > 0 else "tab:red" if row["high"] < 0 else "tab:gray"
        left.plot([row["low"], row["high"]], [place, place], color=color, linewidth=3)
        left.plot(row["gain"], place, "o", color=color)
    left.axvline(0, color="black", linewidth=0.8)
    left.set(yticks=range(len(rows)), yticklabels=[row["name"] for row in rows], xlabel="gain against 0 steps, 95 %")
    losses = torch.stack([engine.adapt(x, num_steps=10, lr=1e-3).losses for x, _ in study.test[:20]]).T
    middle.plot(range(1, 11), losses, color="tab:blue", alpha=0.3)
    middle.plot(range(1, 11), losses.mean(1), color="tab:blue", linewidth=2)
    middle.set(xlabel="step", ylabel="distance of y1 to y0", title="20 test batches, and their mean")
    for label, batches in {"clean": study.clean, "corrupted": study.test}.items():
        values = torch.cat([engine.uncertainty(x) for x, _ in batches])
        right.hist(values.clamp(1e-6).log10().numpy(), bins=40, density=True, alpha=0.6, label=label)
    right.set(xlabel="log10 ‖y1 - y0‖", title="Uncertainty")
    right.legend()
    figure.suptitle(study.title)
    figure.savefig(path, dpi=100)
    plt.close(figure)


def markdown(
    study: Study, evaluation: it3.Evaluation, tuning: "it3.Tuning", scores: list[float], seconds: float
) -> str:
    """Write the section of the report."""
    chosen = ", ".join(f"`{name}` {f'{v:.2g}' if isinstance(v, float) else v}" for name, v in tuning.choice.items())
    metric = metric_of(study.metric, study.higher_is_better)
    better = "higher" if metric.higher_is_better else "lower"
    lines = [
        f"## {study.title}",
        "",
        f"| | {metric.name} ({better} is better) | gain against 0 steps | 95 % interval | | ms a batch | MB |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in evaluation.rows:
        deviation = f"{row['score']:.4f} ± {row['sd']:.4f}"
        gain = (
            ("", "", "")
            if row["name"] == "0 steps"
            else (f"{row['gain']:+.4f}", f"{row['low']:+.4f} to {row['high']:+.4f}", row["verdict"])
        )
        has_costs = row["milliseconds"] == row["milliseconds"]  # not nan, as for the predictor without a network
        costs = (f"{row['milliseconds']:.1f}", f"{row['megabytes']:.1f}") if has_costs else ("", "")
        cells = (row["name"], deviation, *gain, *costs)
        lines.append("| " + " | ".join(cells) + " |")
    mean = sum(scores) / len(scores)
    lines += [
        "",
        f"Chosen on validation ({tuning.unadapted:.4f} with 0 steps, {tuning.score:.4f} so): {chosen}.",
        "",
        *(f"- {line}" for line in evaluation.verdict.splitlines()),
        "",
        "Uncertainty tells clean from shifted inputs with an AUROC of "
        f"{mean:.2f} ({min(scores):.2f} to {max(scores):.2f} over seeds).",
        f"`make study-{study.script}`, {seconds / 60:.1f} minutes.",
        "",
        f"![{study.title}](pictures/{study.name}.png)",
        "",
    ]
    return "\n".join(lines)


def compare(study: Study, arguments: argparse.Namespace, console: Console) -> None:
    """Train, choose, compare, and write the picture and the section of the report."""
    start = time.perf_counter()
    engines, plain = [], []
    for seed in range(arguments.seeds):
        with console.status(f"{study.title}: training {seed + 1} of {arguments.seeds}"):
            engines.append(train(study, seed, True))
            plain.append(train(study, seed, False))
    with console.status(f"{study.title}: choosing settings on the validation's shift"):
        tuning = it3.tune(
            engines[0],
            study.validation,
            study.metric,
            arguments.budget or study.budget,
            higher_is_better=study.higher_is_better,
            search=study.search,
        )
    variants = {
        "adapted, chosen on validation": tuning.choice,
        "adapted, lr 1e-3, 3 steps": {"lr": 1e-3, "num_steps": 3},
        "adapted, frozen anchor, lr 1e-3, 3 steps": {"lr": 1e-3, "num_steps": 3, "anchor": "frozen"},
    }
    with console.status(f"{study.title}: comparing on the test's shift"):
        reference = study.targets if study.reference is None else study.reference
        evaluation = it3.evaluate(
            engines,
            study.test,
            study.metric,
            variants,
            higher_is_better=study.higher_is_better,
            without_second_term=plain,
            reference=reference,
        )
        scores = aurocs(study, engines)
    seconds = time.perf_counter() - start
    draw(study, evaluation, engines[0], arguments.output / f"{study.name}.png")
    report = markdown(study, evaluation, tuning, scores, seconds)
    (arguments.output / f"{study.name}.md").write_text(report)
    print(study.title, evaluation, tuning, sep="\n\n")
    print(f"\nAUROC of clean against shifted inputs: {sum(scores) / len(scores):.3f}; {seconds:.0f} s\n")


def run(build: Callable[[], Study | list[Study]], description: str | None) -> None:
    """Run a study, or several, from the command line."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=SEEDS, help="networks to train of each kind")
    parser.add_argument("--budget", type=int, help="trials of the search for settings; by default the study's own")
    parser.add_argument("--output", type=Path, default=Path("output"), help="folder for the picture and the report")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    console = Console()
    with console.status("data"):
        studies = build()
    for study in studies if isinstance(studies, list) else [studies]:
        compare(study, arguments, console)
