"""A study's section of docs/results.md."""

from typing import TYPE_CHECKING, Any

from it3.evaluation.metrics import metric_of
from study import Study

if TYPE_CHECKING:
    import it3
    from study_run import Comparison


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
