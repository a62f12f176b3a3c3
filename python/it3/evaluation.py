"""Does adaptation help? Adapted predictions beside the controls that a gain has to beat."""

import copy
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from it3 import _C
from it3.engine import IT3Engine
from it3.metrics import Metric, metric_of

if TYPE_CHECKING:
    import pandas as pd

Batches = Sequence[tuple[Any, Tensor]]
Loader = Iterable[tuple[Any, Tensor]] | Callable[[int], Iterable[tuple[Any, Tensor]]]

BASE = "0 steps"
_UNADAPTED = {"num_steps": 0, "threshold": None, "prediction": "first"}
_RUNNING = {"norm_statistics": "running", "norm_prior": None}
_CONFIDENCE = 0.95


@dataclass(frozen=True)
class Gain:
    """How much better one row's score is than another's, above 0 for better, with its 95 % bootstrap interval."""

    value: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        """Whether the interval lies above 0, below, or neither."""
        return "helps" if self.low > 0 else "hurts" if self.high < 0 else "no clear effect"

    def __str__(self) -> str:
        """Write it as people read it."""
        return f"{self.value:+.4g} (95 % interval {self.low:+.4g} to {self.high:+.4g})"


@dataclass
class _Row:
    options: dict[str, Any]
    answer: str  # the attribute of an adaptation that counts
    is_control: bool
    sums: list[list[float]] = field(default_factory=list)  # of scores, [run][batch]
    seconds: list[float] = field(default_factory=list)
    megabytes: float = float("nan")


class Evaluation:
    """What :func:`it3.evaluate` found.

    Attributes
    ----------
    rows
        One dictionary a row, controls first: ``name``, ``score`` (the mean over all runs' samples), ``sd`` (the
        standard deviation of the runs' scores; nan for one run), ``gain``, ``low`` and ``high`` (against the same runs'
        0 steps, above 0 for better, with the 95 % interval), ``verdict``, ``milliseconds`` (the median of a batch) and
        ``megabytes`` (10^6 bytes that a batch takes at its peak, beyond what was there before).
    """

    def __init__(self, rows: dict[str, _Row], counts: list[list[int]], metric: Metric, resamples: int) -> None:
        self._rows, self._counts, self._metric, self._resamples = rows, counts, metric, resamples
        self.rows = [self._describe(name, row) for name, row in rows.items()]

    def compare(self, name: str, other: str) -> Gain:
        """Tell how much better a row is than another one.

        The interval is a percentile bootstrap in two levels: runs are drawn with replacement, and in each its batches,
        as the samples of a batch are adapted together. With one run of one batch there is nothing to draw: it is (nan,
        nan).
        """
        sign = 1 if self._metric.higher_is_better else -1
        pairs = zip(self._rows[name].sums, self._rows[other].sums, strict=True)
        differences = [
            sign * (torch.tensor(a, dtype=torch.double) - torch.tensor(b, dtype=torch.double)) for a, b in pairs
        ]
        counts = [torch.tensor(c, dtype=torch.double) for c in self._counts]
        value = float(sum(d.sum() for d in differences) / sum(c.sum() for c in counts))
        if len(differences) == len(differences[0]) == 1:
            return Gain(value, float("nan"), float("nan"))
        generator = torch.Generator().manual_seed(0)
        shape = (self._resamples, len(differences))
        runs = torch.randint(len(differences), shape, generator=generator)
        total, count = torch.zeros(shape, dtype=torch.double), torch.zeros(shape, dtype=torch.double)
        for run, (difference, of_run) in enumerate(zip(differences, counts, strict=True)):
            chosen = (runs == run).nonzero(as_tuple=True)
            batches = torch.randint(len(difference), (len(chosen[0]), len(difference)), generator=generator)
            total[chosen], count[chosen] = difference[batches].sum(1), of_run[batches].sum(1)
        tail = (1 - _CONFIDENCE) / 2
        bounds = torch.quantile(total.sum(1) / count.sum(1), torch.tensor([tail, 1 - tail], dtype=torch.double))
        return Gain(value, *bounds.tolist())

    @property
    def verdict(self) -> str:
        """Say of each adapted row, in a sentence, whether it helps, and whether a control does as well."""
        return "\n".join(self._verdict_of(name) for name, row in self._rows.items() if not row.is_control)

    def to_frame(self) -> "pd.DataFrame":
        """Give the rows as a pandas.DataFrame, by name."""
        import pandas as pd  # noqa: PLC0415  (only those who ask for it need it)

        return pd.DataFrame(self.rows).set_index("name")

    def __str__(self) -> str:
        """Write the table and the verdict."""
        titles = ("", self._metric.name, "sd", "gain", "95 % interval", "ms", "MB")
        lines = [titles]
        for row in self.rows:
            interval = "" if row["name"] == BASE else f"{row['low']:+.4f} to {row['high']:+.4f}"
            gain = "" if row["name"] == BASE else f"{row['gain']:+.4f}"
            numbers = (f"{row['score']:.4f}", f"{row['sd']:.4f}", gain, interval)
            lines.append((row["name"], *numbers, f"{row['milliseconds']:.2f}", f"{row['megabytes']:.1f}"))
        widths = [max(len(line[column]) for line in lines) for column in range(len(titles))]
        cells = ((line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])) for line in lines)
        return "\n".join("  ".join(line).rstrip() for line in cells) + "\n\n" + self.verdict

    def _describe(self, name: str, row: _Row) -> dict[str, Any]:
        scores = [sum(of_run) / sum(count) for of_run, count in zip(row.sums, self._counts, strict=True)]
        gain = self.compare(name, BASE)
        return {
            "name": name,
            "score": sum(map(sum, row.sums)) / sum(map(sum, self._counts)),
            "sd": statistics.stdev(scores) if len(scores) > 1 else float("nan"),
            "gain": gain.value,
            "low": gain.low,
            "high": gain.high,
            "verdict": "" if name == BASE else gain.verdict,
            "milliseconds": 1e3 * statistics.median(row.seconds),
            "megabytes": row.megabytes,
        }

    def _verdict_of(self, name: str) -> str:
        gain = self.compare(name, BASE)
        said = f"{name}: {gain.verdict}; {self._metric.name} {gain} against {BASE}"
        controls = {other: self.compare(name, other) for other, row in self._rows.items() if row.is_control}
        equals = [f"'{other}' ({beyond})" for other, beyond in controls.items() if other != BASE and beyond.low <= 0]
        if gain.low > 0 and equals:
            said += ". But without adapting, as much may come from " + ", ".join(equals)
        return said + "."


def evaluate(
    engines: IT3Engine | Sequence[IT3Engine],
    loader: Loader,
    metric: str | Callable[[Tensor, Tensor], Tensor],
    variants: Mapping[str, Mapping[str, Any]] | None = None,
    *,
    higher_is_better: bool | None = None,
    seeds: int = 1,
    without_second_term: Sequence[IT3Engine] = (),
    resamples: int = 10_000,
) -> Evaluation:
    """Compare adapted predictions with those that a gain has to beat, on the same inputs.

    The controls are the same network with 0 steps; its unadapted y1; where a variant uses other statistics for batch
    normalisation, these with 0 steps; and, if given, networks that were trained without the second term of the loss.

    Parameters
    ----------
    engines
        An engine, or several that were trained with different seeds: each is a run. They are left as they are.
    loader
        Batches (inputs, targets) of the data in question, the same for all rows; or a function of the run's number that
        gives them.
    metric
        "accuracy" (targets are class indices, or scores like the prediction's), "mse" or "mae"; or a function of
        (prediction, targets) that gives the scores of the samples, (B,), or of the whole batch, a scalar.
    variants
        By name, options that override the engine's; the one default is the engine's own options, as "adapted". With
        ``copy_model`` False, weights are kept from batch to batch and put back at the end.
    higher_is_better
        What the scores of a function of your own mean; True if not given.
    seeds
        The runs of a single engine. Before each the random generators are seeded with its number, so that a loader that
        corrupts or shuffles draws anew.
    without_second_term
        Engines that were trained on the first term alone, one a run.
    resamples
        Of the bootstrap.

    Raises
    ------
    ValueError
        For an unknown metric, no batches, and what the options raise.
    """
    runs = [engines] * seeds if isinstance(engines, IT3Engine) else list(engines)
    measure = metric_of(metric, higher_is_better)
    rows = _rows_of(runs[0], variants if variants is not None else {"adapted": {}})
    plain_name = "no second term, 0 steps"
    if without_second_term:
        rows[plain_name] = _Row({**_UNADAPTED, **_RUNNING}, "prediction", is_control=True)
    counts = []
    for run, engine in enumerate(runs):
        torch.manual_seed(run)
        batches = list(loader(run) if callable(loader) else loader)
        if not batches:
            raise ValueError("the loader gave no batches; evaluate() goes through it once a run")
        counts.append([len(targets) for _, targets in batches])
        engine.uncertainty(batches[0][0])  # shapes the embedder, and takes what a first call takes
        for name, row in rows.items():
            of_row = without_second_term[run % len(without_second_term)] if name == plain_name else engine
            _measure(of_row, batches, measure, row)
    controls_first = sorted(rows.items(), key=lambda item: not item[1].is_control)
    return Evaluation(dict(controls_first), counts, measure, resamples)


def _rows_of(engine: IT3Engine, variants: Mapping[str, Mapping[str, Any]]) -> dict[str, _Row]:
    rows = {
        BASE: _Row({**_UNADAPTED, **_RUNNING}, "prediction", is_control=True),
        f"{BASE}, y1": _Row({**_UNADAPTED, **_RUNNING}, "second", is_control=True),
    }
    for options in variants.values():
        merged = {**engine.optimization_parameters, **options}
        used = {name: merged.get(name, default) for name, default in _RUNNING.items()}
        if used["norm_statistics"] != "running":
            prior = "" if used["norm_prior"] is None else f", prior {used['norm_prior']:g}"
            name = f"{BASE}, {used['norm_statistics']} statistics{prior}"
            rows[name] = _Row({**_UNADAPTED, **used}, "prediction", is_control=True)
    for name, options in variants.items():
        if name in rows:
            raise ValueError(f"a variant is called {name!r}, which is the name of a control; call it otherwise")
        rows[name] = _Row(dict(options), "prediction", is_control=False)
    return rows


def _measure(engine: IT3Engine, batches: Batches, metric: Metric, row: _Row) -> None:
    """Append a run to a row."""
    is_online = {**engine.optimization_parameters, **row.options}.get("copy_model", True) is False
    if is_online:
        engine = copy.deepcopy(engine)
        engine.reset()
    sums = []
    for inputs, targets in batches:
        start = time.perf_counter()
        adaptation = engine.adapt(inputs, **row.options)
        answer: Tensor = getattr(adaptation, row.answer)
        if answer.is_cuda:
            torch.cuda.synchronize(answer.device)
        row.seconds.append(time.perf_counter() - start)
        sums.append(metric.sum(answer, targets))
    row.sums.append(sums)
    if len(row.sums) == 1:
        row.megabytes = _peak_megabytes(engine, batches[0][0], row.options)


def _peak_megabytes(engine: IT3Engine, inputs: Any, options: dict[str, Any]) -> float:
    """Give what a call takes at its peak, beyond what was there before, as torch's allocators tell."""
    return _C.peak_memory(lambda: engine.adapt(inputs, **{**options, "copy_model": True})) / 1e6
