"""What a study's picture shows, as plain values that are kept as JSON, so that it can be drawn again without a run.

Files lie in docs/measurements/studies; study_picture.py draws them.
"""

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from study import Batches, Study

if TYPE_CHECKING:
    from it3 import IT3Engine
    from study_run import Comparison

Record = dict[str, Any]

RECORDS = Path(__file__).parent.parent / "docs" / "measurements" / "studies"
CHOSEN, DEFAULTS = "adapted, as chosen", "adapted, the defaults"
BINS = 30
SMALLEST = 1e-6
"""Uncertainties below this are shown as this, as they are shown by their logarithms."""


def record_of(study: Study, comparison: "Comparison") -> Record:
    """Return what the picture of a comparison shows.

    The keys: ``title``; ``metric`` and ``higher_is_better``; ``source``, where the values come from; ``best_control``
    and ``beyond``, how much better the choice is than it, [gain, low, high]; ``rows``, each with ``name``, ``score``,
    ``gain``, ``low``, ``high`` and ``groups``, the score under each shift; ``over_steps``, the metric by the number of
    steps; and ``uncertainty``, ``edges`` of bins of log10 of the uncertainty with the densities of ``clean`` and
    ``shifted`` inputs.
    """
    evaluation = comparison.chosen
    chosen = next(row for row in evaluation.rows if row["name"] == CHOSEN)
    kept = ("name", "score", "gain", "low", "high", "groups")
    return {
        "title": study.title,
        "metric": evaluation.metric,
        "higher_is_better": evaluation.higher_is_better,
        "source": f"a run of examples/{study.script}.py, torch {torch.__version__}, {len(evaluation.counts)} networks",
        "best_control": evaluation.best_control,
        "beyond": [_rounded(chosen[key]) for key in ("beyond", "beyond_low", "beyond_high")],
        "rows": [{key: _rounded(row[key]) for key in kept} for row in evaluation.rows],
        "over_steps": {str(steps): _rounded(score) for steps, score in comparison.over_steps.items()},
        "uncertainty": _histograms(comparison.engine, {"clean": study.clean, "shifted": study.test}),
    }


def write(record: Record, path: Path) -> None:
    """Write a record."""
    path.write_text(json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def read(path: Path) -> Record:
    """Read a record."""
    record: Record = json.loads(path.read_text(encoding="utf-8"))
    return record


def _histograms(engine: "IT3Engine", batches_by_name: dict[str, Batches]) -> dict[str, list[float]]:
    values = {
        name: torch.cat([engine.uncertainty(x) for x, _ in batches]).clamp(SMALLEST).log10().double()
        for name, batches in batches_by_name.items()
    }
    both = torch.cat([*values.values()])
    edges = torch.linspace(float(both.min()), max(float(both.max()), float(both.min()) + 1e-3), BINS + 1).double()
    densities = {name: torch.histogram(of, edges, density=True).hist.tolist() for name, of in values.items()}
    return {name: [_rounded(each) for each in of] for name, of in {"edges": edges.tolist(), **densities}.items()}


def _rounded(value: Any) -> Any:
    """Round to six digits, and give None for nan, which JSON lacks."""
    if isinstance(value, dict):
        return {str(key): _rounded(of) for key, of in value.items()}
    if isinstance(value, float):
        return None if math.isnan(value) else float(f"{value:.6g}")
    return value
