"""Does adaptation help? Adapted predictions beside the controls that a gain has to beat."""

import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from it3 import _C
from it3.controls import Reference
from it3.engine import IT3Engine
from it3.kept import own_copy, seeded_runs
from it3.looking import Batches, Loader, batches_of, check_separate, options_with, with_settings
from it3.metrics import Metric, metric_of

if TYPE_CHECKING:
    import pandas as pd

BASE = "0 steps"
PLAIN = "no second term, 0 steps"
RUNNING = {"norm_statistics": "running", "norm_prior": None}
UNADAPTED = {"num_steps": 0, "threshold": None, "prediction": "first", "copy_model": True, **RUNNING}
_CONFIDENCE = 0.95


@dataclass(frozen=True)
class Gain:
    """How much better one row's score is than another's, above 0 for better, with its 95 % bootstrap interval."""

    value: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        """Whether the interval lies above 0, "helps", below, "hurts", or neither."""
        return "helps" if self.low > 0 else "hurts" if self.high < 0 else "no clear effect"

    def __str__(self) -> str:
        """Write it as people read it."""
        return f"{self.value:+.4g} (95 % interval {self.low:+.4g} to {self.high:+.4g})"


@dataclass
class _Row:
    options: dict[str, Any]
    answer: str  # the attribute of an adaptation that counts
    is_control: bool
    reference: Reference | None = None  # what predicts in a network's place
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
        ``megabytes`` (10^6 bytes that a batch takes at its peak, beyond what was there before); both are nan for the
        reference. The ``verdict`` of a row that helps says so if it is not better than the reference.

    Examples
    --------
    >>> evaluation = it3.evaluate(engine, [(x, y), (x + 1, y)], "mse", {"3 steps": {"num_steps": 3}})
    >>> [row["name"] for row in evaluation.rows][-1]
    '3 steps'
    """

    def __init__(
        self, rows: dict[str, _Row], counts: list[list[int]], metric: Metric, resamples: int, drawn: list[int]
    ) -> None:
        self._rows, self._counts, self._metric, self._resamples = rows, counts, metric, resamples
        self._drawn = drawn  # the runs that differ, from which the bootstrap draws
        self.rows = [self._describe(name, row) for name, row in rows.items()]

    def compare(self, name: str, other: str) -> Gain:
        """Return how much better a row is than another one.

        The interval is a percentile bootstrap in two levels: runs are drawn with replacement, and in each its batches,
        as the samples of a batch are adapted together. Runs of one engine that are the same to the bit count once. With
        one run of one batch there is nothing to draw: it is (nan, nan).

        Examples
        --------
        >>> gain = evaluation.compare("3 steps", "0 steps")
        >>> gain.low <= gain.high
        True
        """
        sign = 1 if self._metric.higher_is_better else -1
        pairs = zip(self._rows[name].sums, self._rows[other].sums, strict=True)
        differences = [
            sign * (torch.tensor(a, dtype=torch.double) - torch.tensor(b, dtype=torch.double)) for a, b in pairs
        ]
        counts = [torch.tensor(c, dtype=torch.double) for c in self._counts]
        value = float(sum(d.sum() for d in differences) / sum(c.sum() for c in counts))
        differences, counts = ([of_runs[run] for run in self._drawn] for of_runs in (differences, counts))
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
        """Return a sentence on each adapted row: whether it helps, and whether a control does as well.

        Examples
        --------
        >>> evaluation.verdict.split(":")[0]
        '3 steps'
        """
        return "\n".join(self._verdict_of(name) for name, row in self._rows.items() if not row.is_control)

    def to_frame(self) -> "pd.DataFrame":
        """Return the rows as a pandas.DataFrame, by name.

        Examples
        --------
        >>> evaluation.to_frame().loc["0 steps", "gain"]
        np.float64(0.0)
        """
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
            costs = (
                ("", "")
                if math.isnan(row["milliseconds"])
                else (f"{row['milliseconds']:.2f}", f"{row['megabytes']:.1f}")
            )
            lines.append((row["name"], *numbers, *costs))
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
            "verdict": "" if name == BASE else gain.verdict + self._short_of_reference(name, gain),
            "milliseconds": 1e3 * statistics.median(row.seconds) if row.seconds else float("nan"),
            "megabytes": row.megabytes,
        }

    def _reference_gain(self, name: str) -> tuple[str, Gain] | None:
        """Return the reference's name and a row's gain against it, unless there is none, or the row is it."""
        found = next((other for other, row in self._rows.items() if row.reference is not None), None)
        return None if found in (None, name) else (str(found), self.compare(name, str(found)))

    def _short_of_reference(self, name: str, gain: Gain) -> str:
        against = self._reference_gain(name)
        if against is None or gain.low <= 0 or against[1].low > 0:
            return ""
        return f", but {'worse' if against[1].high < 0 else 'no better'} than the {against[0]}"

    def _verdict_of(self, name: str) -> str:
        gain = self.compare(name, BASE)
        said = f"{name}: {gain.verdict}; {self._metric.name} {gain} against {BASE}"
        against = self._reference_gain(name)
        if against is not None:
            reference, beyond = against
            than = "better" if beyond.low > 0 else "worse" if beyond.high < 0 else "not clearly better"
            said += f"; {than} than predicting the {reference}, by {beyond}"
        others = {
            other: self.compare(name, other)
            for other, row in self._rows.items()
            if row.is_control and other != BASE and row.reference is None
        }
        equals = [f"'{other}' ({beyond})" for other, beyond in others.items() if beyond.low <= 0]
        if gain.low > 0 and equals:
            said += ". But without adapting, as much may come from " + ", ".join(equals)
        return said + "."


def evaluate(
    engines: IT3Engine | Sequence[IT3Engine],
    loader: Loader,
    metric: str | Callable[[Tensor, Any], Any],
    variants: Mapping[str, Mapping[str, Any]] | None = None,
    *,
    higher_is_better: bool | None = None,
    seeds: int = 1,
    without_second_term: IT3Engine | Sequence[IT3Engine] = (),
    reference: Tensor | Callable[[Any], Tensor] | None = None,
    resamples: int = 10_000,
) -> Evaluation:
    """Compare adapted predictions with those that a gain has to beat, on the same inputs.

    The controls are the same network with 0 steps; its unadapted y1; where a variant uses other statistics for batch
    normalization, these with 0 steps; and, if given, networks that were trained without the second term of the loss,
    and what can be predicted without a network. Engines, models and random generators are left as they are.

    Parameters
    ----------
    engines
        An engine, or several that were trained with different seeds: each is a run.
    loader
        Batches (inputs, targets) of the data in question, the same for all rows; or a function of the run's number that
        gives them.
    metric
        "accuracy" (targets are class indices, or scores like the prediction's), "mse" or "mae"; or a function of
        (prediction, targets) that gives the scores of the samples, (B,), or of the whole batch, a scalar.
    variants
        By name, options that override the engine's, and ``distance_fn``, such as :attr:`it3.Tuning.choice`; the one
        default is the engine's own options, as "adapted". With ``copy_model`` False, weights are kept from batch to
        batch on a copy of the model, which starts with the weights of now.
    higher_is_better
        What the scores of a function of your own mean; True if not given.
    seeds
        The runs of each engine. Before each run the random generators of torch are seeded with its number, so that a
        loader that corrupts or shuffles draws anew; the engines take turns.
    without_second_term
        Engines that were trained on the first term alone, which take turns with the runs.
    reference
        The training targets, by which a predictor without a network becomes a control: the "majority class" for
        accuracy, the "training mean" of each output for mse, the "training median" for mae. For a function of your own
        the prediction itself, of a sample or broadcast to a batch; or, for any metric, a function of the inputs that
        predicts.
    resamples
        Of the bootstrap.

    Raises
    ------
    ValueError, TypeError
        For an unknown metric, no batches, predictions and targets that do not fit, scores that are not finite, a model
        that cannot be copied where it has to be, and what the options raise.

    Examples
    --------
    >>> print(it3.evaluate(engine, [(x, y), (x + 1, y)], "mse", reference=y))
                            mse ...
    """
    runs = _runs_of(engines, seeds)
    plain = [without_second_term] if isinstance(without_second_term, IT3Engine) else list(without_second_term)
    measure = metric_of(metric, higher_is_better)
    control = None if reference is None else Reference.of(reference, measure)
    rows = _rows_of(runs[0], variants if variants is not None else {"adapted": {}}, bool(plain), control)
    counts: list[list[int]] = []
    with seeded_runs():
        if isinstance(loader, Iterator):  # there is one pass
            loader = batches_of(loader, 0)
        for run, engine in enumerate(runs):
            batches = batches_of(loader, run)
            engine.uncertainty(own_copy(batches[0][0]))  # shapes the embedder, and takes what a first call takes
            of_run: list[int] = []
            for name, row in rows.items():
                torch.manual_seed(run)  # so that rows do not depend on one another
                with _saying(name, run):
                    of_row = plain[run % len(plain)] if name == PLAIN else engine
                    of_run = _measure(of_row, batches, measure, row)
            counts.append(of_run)
    controls_first = sorted(rows.items(), key=lambda item: not item[1].is_control)
    return Evaluation(dict(controls_first), counts, measure, resamples, _different(runs, rows))


def _different(runs: list[IT3Engine], rows: dict[str, _Row]) -> list[int]:
    """Return the runs that do not repeat an earlier one of the same engine: nothing was drawn there."""
    first: dict[Any, int] = {}
    for run, engine in enumerate(runs):
        first.setdefault((id(engine), tuple(tuple(row.sums[run]) for row in rows.values())), run)
    return list(first.values())


def _runs_of(engines: object, seeds: int) -> list[IT3Engine]:
    if isinstance(engines, Mapping):
        raise TypeError(
            "evaluate() takes an IT3Engine, or a list of them, one a run, not a mapping; call it once for each engine"
        )
    given = [engines] if isinstance(engines, IT3Engine) else list(engines) if isinstance(engines, Sequence) else None
    if given is None or not all(isinstance(engine, IT3Engine) for engine in given):
        raise TypeError(f"engines must be an IT3Engine, or a list of them, not {type(engines).__name__}")
    if not given:
        raise ValueError("there are no engines to evaluate")
    if isinstance(seeds, bool) or not isinstance(seeds, int) or seeds < 1:
        raise ValueError(f"seeds must be a whole number from 1, not {seeds!r}")
    return given * seeds


def _rows_of(
    engine: IT3Engine, variants: Mapping[str, Mapping[str, Any]], has_plain: bool, reference: Reference | None
) -> dict[str, _Row]:
    rows = {
        BASE: _Row(UNADAPTED, "prediction", is_control=True),
        f"{BASE}, y1": _Row(UNADAPTED, "second", is_control=True),
    }
    for options in variants.values():
        if not isinstance(options, Mapping):
            raise TypeError(f"a variant must be a mapping of options, not a {type(options).__name__}")
        merged = options_with(engine, options)
        used = {name: merged.get(name, default) for name, default in RUNNING.items()}
        if used["norm_statistics"] not in ("running", None):
            prior = "" if used["norm_prior"] is None else f", prior {used['norm_prior']:g}"
            name = f"{BASE}, {used['norm_statistics']} statistics{prior}"
            rows[name] = _Row({**UNADAPTED, **used}, "prediction", is_control=True)
    if has_plain:
        rows[PLAIN] = _Row(UNADAPTED, "prediction", is_control=True)
    if reference is not None:
        rows[reference.name] = _Row({}, "", is_control=True, reference=reference)
    for name, options in variants.items():
        if name in rows:
            raise ValueError(f"a variant is called {name!r}, which is the name of a control; call it otherwise")
        rows[name] = _Row(dict(options), "prediction", is_control=False)
    return rows


@contextmanager
def _saying(name: str, run: int) -> Iterator[None]:
    """Note with an exception where it happened."""
    try:
        yield
    except Exception as error:
        error.add_note(f"in the row {name!r}, run {run}")
        raise


def _measure(engine: IT3Engine, batches: Batches, metric: Metric, row: _Row) -> list[int]:
    """Append a run to a row, and count the samples of its batches."""
    other = with_settings(engine, UNADAPTED if row.reference is not None else row.options)
    if other.model is not engine.model:
        check_separate(other, engine, batches[0][0])
    sums, counts = [], []
    for inputs, targets in batches:
        given = own_copy(inputs)
        start = time.perf_counter()
        adaptation = other.adapt(given)  # which finds out where the classes are
        answer: Tensor = adaptation.prediction if row.reference is not None else getattr(adaptation, row.answer)
        if answer.is_cuda:
            torch.cuda.synchronize(answer.device)
        if row.reference is None:
            row.seconds.append(time.perf_counter() - start)
        else:
            answer = row.reference.predict(own_copy(inputs), answer, other.prediction_layout)
        score, samples = metric.sum(answer, targets, other.prediction_layout)
        sums.append(score)
        counts.append(samples)
    row.sums.append(sums)
    if len(row.sums) == 1 and row.reference is None:
        if other.model is not engine.model:
            other.reset()  # weights that were kept over all batches may not bear the first once more
        row.megabytes = _peak_megabytes(other, own_copy(batches[0][0]))
    return counts


def _peak_megabytes(engine: IT3Engine, inputs: Any) -> float:
    """Return what a call takes at its peak, beyond what was there before, as torch's allocators tell."""
    return _C.peak_memory(lambda: engine.adapt(inputs, copy_model=True)) / 1e6
