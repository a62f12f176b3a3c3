"""What all studies share: train, choose on validation shifts, compare on the test's, draw and write.

The settings of the adapted row are searched by it3.tune on held-out samples under other shifts than the test's. The
test then has these, two fixed settings, and the controls, on the same inputs, for networks of several seeds.
"""

import argparse
import time
from collections.abc import Callable, Mapping
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
from torch import Tensor
from uncertainty import measures

SEEDS = 5
SEARCH: dict[str, Any] = {
    "num_steps": [1, 2, 3, 5],
    "lr": (1e-5, 1e-2),
    "anchor": ["self", "frozen", "ema"],
    "parameters": ["all", "norm"],
    "norm_statistics": ["running", "batch", "blend"],
    "prediction": ["first", "mean"],
}
CHOSEN = "adapted, chosen on validation"
STEPS = (1, 2, 3, 5, 10)  # at which the picture shows the metric
Batches = list[tuple[Any, Tensor]]
TensorFunction = Callable[[Tensor, Tensor], Tensor]


@dataclass
class Study:
    """What is studied.

    `validation` and `clean` are batches, `shifts` batches by the name of the test's shift; validation has other shifts
    than the test.
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
    shifts: dict[str, Batches]
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
    #: Cheap repairs of the inputs by name, see it3.evaluate.
    repairs: Mapping[str, Callable[[Any], Any]] = field(default_factory=dict)
    #: What hangs together: a label for each batch of a shift, the same for all shifts. By default its place, as the
    #: shifts are of the same samples.
    clusters: list[Any] | None = None
    #: Of several in one script.
    part: str = ""

    @property
    def name(self) -> str:
        """The stem of its files' names."""
        return f"{self.script}_{self.part}" if self.part else self.script

    @property
    def test(self) -> Batches:
        """The batches of all shifts."""
        return [batch for batches in self.shifts.values() for batch in batches]

    def labels(self) -> tuple[list[Any], list[str]]:
        """Return the cluster, and the shift, of each batch of the test."""
        clusters = [label for of in self.shifts.values() for label in (self.clusters or range(len(of)))]
        return clusters, [name for name, of in self.shifts.items() for _ in of]


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


def errors_of(study: Study) -> TensorFunction:
    """Return the function that gives each sample's error, for a prediction and targets."""
    metric = metric_of(study.metric, study.higher_is_better)

    def errors(prediction: Tensor, targets: Tensor) -> Tensor:
        scores, samples = metric.scores(prediction, targets)
        scores = scores.expand(samples)
        return (1 - scores if metric.higher_is_better else scores).float()

    return errors


def over_steps(study: Study, engine: IT3Engine, choice: dict[str, Any]) -> tuple[list[int], list[float]]:
    """Return the metric on the test by the number of steps, all else as chosen."""
    variants = {f"{steps} steps": {**choice, "num_steps": steps} for steps in STEPS}
    evaluation = it3.evaluate(
        engine, study.test, study.metric, variants, higher_is_better=study.higher_is_better, resamples=100
    )
    score = {row["name"]: row["score"] for row in evaluation.rows}
    return [0, *STEPS], [score["0 steps"], *(score[name] for name in variants)]


def draw(study: Study, evaluation: it3.Evaluation, engine: IT3Engine, choice: dict[str, Any], path: Path) -> None:
    """Draw the metric under each shift and over steps, and the uncertainty of clean and shifted inputs."""
    mpl.use("Agg")
    figure, (left, middle, right) = plt.subplots(
        1, 3, figsize=(15, 4.5), layout="constrained", width_ratios=(1.6, 1, 1)
    )
    metric = metric_of(study.metric, study.higher_is_better)
    shown = dict.fromkeys(["0 steps", evaluation.best_control, CHOSEN])
    for row in evaluation.rows:
        if row["name"] in shown:
            label = f"{row['name']} (best control)" if row["name"] == evaluation.best_control else row["name"]
            left.plot(list(row["groups"]), list(row["groups"].values()), "o-", label=label)
    left.set(ylabel=f"{metric.name}, {'higher' if metric.higher_is_better else 'lower'} is better")
    left.tick_params(axis="x", rotation=45 if len(study.shifts) > 4 else 0)
    left.legend()
    middle.plot(*over_steps(study, engine, choice), "o-")
    middle.set(xlabel="steps, all else as chosen", title=f"{metric.name} on the test, one network")
    for label, batches in {"clean": study.clean, "shifted": study.test}.items():
        values = torch.cat([engine.uncertainty(x) for x, _ in batches])
        right.hist(values.clamp(1e-6).log10().numpy(), bins=40, density=True, alpha=0.6, label=label)
    right.set(xlabel="log10 ‖y1 - y0‖", title="Uncertainty")
    right.legend()
    figure.suptitle(study.title)
    figure.savefig(path, dpi=100)
    plt.close(figure)


def table(titles: list[str], rows: list[list[str]]) -> list[str]:
    """Write a table in Markdown."""
    lines = [titles, ["---"] * len(titles), *rows]
    return ["| " + " | ".join(cells) + " |" for cells in lines]


def number(value: float, how: str) -> str:
    """Write a number, or nothing for nan."""
    return "" if value != value else format(value, how)  # noqa: PLR0124


def markdown(
    study: Study,
    evaluation: it3.Evaluation,
    tuning: "it3.Tuning",
    uncertainty: list[dict[str, Any]],
    seconds: float,
) -> str:
    """Write the section of the report."""
    chosen = ", ".join(f"`{name}` {f'{v:.2g}' if isinstance(v, float) else v}" for name, v in tuning.choice.items())
    metric = metric_of(study.metric, study.higher_is_better)
    better = "higher" if metric.higher_is_better else "lower"
    rows = [
        [
            row["name"],
            f"{row['score']:.4f} ± {row['sd']:.4f}",
            "" if row["name"] == "0 steps" else f"{row['gain']:+.4f} ({row['low']:+.4f} to {row['high']:+.4f})",
            f"{number(row['worst'], '.4f')} ({row['worst_group']})",
            number(row["ece"], ".3f"),
            number(row["milliseconds"], ".1f"),
            number(row["megabytes"], ".1f"),
        ]
        for row in evaluation.rows
    ]
    titles = [
        "",
        f"{metric.name} ({better} is better)",
        "gain against 0 steps (95 %)",
        "worst shift",
        "ECE",
        "ms",
        "MB",
    ]
    of_uncertainty = [
        [
            row["uncertainty"],
            *(number(row[key], ".3f") for key in ("auroc_shift", "auroc_error", "area_risk_coverage", "risk")),
        ]
        for row in uncertainty
    ]
    titles_of_uncertainty = ["", "AUROC of the shift", "AUROC of errors", "area under risk and coverage", "risk of all"]
    return "\n".join(
        [
            *(f"## {study.title}", "", *table(titles, rows), ""),
            *(f"Chosen on validation ({tuning.unadapted:.4f} with 0 steps, {tuning.score:.4f} so): {chosen}.", ""),
            *(f"- {line}" for line in evaluation.verdict.splitlines()),
            *("", *table(titles_of_uncertainty, of_uncertainty), ""),
            *(f"`make study-{study.script}`, {seconds / 60:.1f} minutes.", ""),
            *(f"![{study.title}](pictures/{study.name}.png)", ""),
        ]
    )


def compare(study: Study, arguments: argparse.Namespace, console: Console) -> None:
    """Train, choose, compare, and write the picture and the section of the report."""
    start = time.perf_counter()
    engines, plain = [], []
    for seed in range(arguments.seeds):
        with console.status(f"{study.title}: training {seed + 1} of {arguments.seeds}"):
            engines.append(train(study, seed, True))
            plain.append(train(study, seed, False))
    with console.status(f"{study.title}: choosing settings on the validation's shifts"):
        tuning = it3.tune(
            engines[0],
            study.validation,
            study.metric,
            arguments.budget or study.budget,
            higher_is_better=study.higher_is_better,
            search=study.search,
        )
    variants = {
        CHOSEN: tuning.choice,
        "adapted, the defaults": {},
        "adapted, frozen anchor, lr 1e-3, 3 steps": {"lr": 1e-3, "num_steps": 3, "anchor": "frozen"},
    }
    clusters, groups = study.labels()
    with console.status(f"{study.title}: comparing on the test's shifts"):
        evaluation = it3.evaluate(
            engines,
            study.test,
            study.metric,
            variants,
            higher_is_better=study.higher_is_better,
            without_second_term=plain,
            reference=study.targets if study.reference is None else study.reference,
            repairs=study.repairs,
            clusters=clusters,
            groups=groups,
        )
        uncertainty = measures(engines, study.clean, study.test, errors_of(study))
    seconds = time.perf_counter() - start
    draw(study, evaluation, engines[0], tuning.choice, arguments.output / f"{study.name}.png")
    report = markdown(study, evaluation, tuning, uncertainty, seconds)
    (arguments.output / f"{study.name}.md").write_text(report)
    print(study.title, evaluation, tuning, *uncertainty, sep="\n", end=f"\n\n{seconds:.0f} s\n")


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
