"""A study's picture, and its section of docs/results.md."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import torch
from it3.evaluation.metrics import metric_of
from matplotlib import pyplot as plt
from study import Study

if TYPE_CHECKING:
    import it3
    from study_run import Comparison

CHOSEN, DEFAULTS = "adapted, as chosen", "adapted, the defaults"


def draw(study: Study, comparison: "Comparison", path: Path) -> None:
    """Draw the metric under each shift and over steps, and the uncertainty of clean and shifted inputs."""
    mpl.use("Agg")
    figure, (left, middle, right) = plt.subplots(
        1, 3, figsize=(15, 4.5), layout="constrained", width_ratios=(1.6, 1, 1)
    )
    metric = metric_of(study.metric, study.higher_is_better)
    best = comparison.chosen.best_control
    for row in comparison.chosen.rows:
        if row["name"] in ("0 steps", best, CHOSEN):
            label = f"{row['name']} (best control)" if row["name"] == best else row["name"]
            left.plot(list(row["groups"]), list(row["groups"].values()), "o-", label=label)
    left.set(ylabel=f"{metric.name}, {'higher' if metric.higher_is_better else 'lower'} is better")
    left.tick_params(axis="x", rotation=45 if len(study.shifts) > 4 else 0)
    left.legend()
    middle.plot(list(comparison.over_steps), list(comparison.over_steps.values()), "o-")
    middle.set(xlabel="steps, all else as chosen", title=f"{metric.name} on the test, one network")
    for label, batches in {"clean": study.clean, "shifted": study.test}.items():
        values = torch.cat([comparison.engine.uncertainty(x) for x, _ in batches])
        right.hist(values.clamp(1e-6).log10().numpy(), bins=40, density=True, alpha=0.6, label=label)
    right.set(xlabel="log10 of the uncertainty", title="Uncertainty")
    right.legend()
    figure.suptitle(study.title)
    figure.savefig(path, dpi=100)
    plt.close(figure)


def section(study: Study, comparison: "Comparison") -> str:
    """Write the section."""
    choice = comparison.choice
    titles_of_uncertainty = ["", "AUROC of the shift", "AUROC of errors", "area under risk and coverage", "risk of all"]
    of_uncertainty = [
        [
            row["uncertainty"],
            *(number(row[key], ".3f") for key in ("auroc_shift", "auroc_error", "area_risk_coverage", "risk")),
        ]
        for row in comparison.uncertainty
    ]
    return "\n".join(
        [
            *(f"## {study.title}", ""),
            f"Trained with {words(choice.training)}; adapted with {words(choice.adaptation)}: the best of "
            f"{choice.trials} trials, {choice.score:.4f} on the validation data, where 0 steps give "
            f"{choice.unadapted:.4f}.",
            *("", *rows_of(study, comparison.chosen), ""),
            *(f"- {line}" for line in comparison.chosen.verdict.splitlines()),
            *("", "Out of the box, without a choice of training or adaptation:", ""),
            *(*rows_of(study, comparison.defaults), ""),
            *(*table(titles_of_uncertainty, of_uncertainty), ""),
            *(f"`make study-{study.script}`, {comparison.seconds / 60:.1f} minutes.", ""),
            *(f"![{study.title}](pictures/{study.name}.png)", ""),
        ]
    )


def rows_of(study: Study, evaluation: "it3.Evaluation") -> list[str]:
    """Write an evaluation as a table."""
    metric = metric_of(study.metric, study.higher_is_better)
    better = "higher" if metric.higher_is_better else "lower"
    titles = ["", f"{metric.name} ({better} is better)", "gain against 0 steps (95 %)", "worst shift"]
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
    return table([*titles, "ECE", "ms", "MB"], rows)


def table(titles: list[str], rows: list[list[str]]) -> list[str]:
    """Write a table in Markdown."""
    lines = [titles, ["---"] * len(titles), *rows]
    return ["| " + " | ".join(cells) + " |" for cells in lines]


def number(value: float, how: str) -> str:
    """Write a number, or nothing for nan."""
    return "" if value != value else format(value, how)  # noqa: PLR0124


def words(settings: dict[str, Any]) -> str:
    """Write settings as people read them."""
    return ", ".join(f"`{name}` {f'{v:.2g}' if isinstance(v, float) else v}" for name, v in settings.items())
