"""The rows of an evaluation: what predicts in each, and what came of it."""

import math
import statistics
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from it3 import _C
from it3.engine import IT3Engine
from it3.engine_siblings import check_separate, options_with, with_settings
from it3.evaluation.class_scores import CalibrationError, are_probabilities, balanced, entropy_of_first
from it3.evaluation.controls import Reference
from it3.evaluation.metrics import Metric
from it3.support.kept import own_copy

BASE = "0 steps"
PLAIN = "no second term, 0 steps"
ENTROPY = "entropy minimization"
DIVERSITY = "entropy and diversity"
BALANCED = "balanced classes"
RUNNING: dict[str, Any] = {"norm_statistics": "running", "norm_prior": None}
OF_BATCH: dict[str, Any] = {"norm_statistics": "batch", "norm_prior": None}
UNADAPTED = {"num_steps": 0, "threshold": None, "prediction": "first", "copy_model": True, **RUNNING}


@dataclass
class Predictor:
    """What predicts in a row, for one run."""

    predict: Callable[[Any], Tensor]
    layout: _C.Layout
    #: A call that takes as much memory and may follow all others; None for what is no network, which costs nothing.
    again: Callable[[Any], object] | None
    #: Goes back to where `again` can start. By itself, as torch complains of memory that was taken before it counts and
    #: is freed while it does.
    reset: Callable[[], object] = lambda: None


@dataclass
class Row:
    """A row of an evaluation.

    Attributes
    ----------
    prepare
        Makes what predicts, of a run's engine, the run's number and its first inputs.
    is_control
        Whether it is what a gain has to beat, rather than a variant.
    may_fail
        Whether the evaluation goes on without it, as nobody asked for it and nobody can leave it out.
    failure
        Why it has no score; "" if it has one.
    sums
        Of the samples' scores, [run][batch].
    by_group
        For each group the sum of its samples' scores, and how many they are.
    calibration
        Of each run, for accuracy.
    """

    prepare: Callable[[IT3Engine, int, Any], Predictor]
    is_control: bool = True
    may_fail: bool = False
    failure: str = ""
    sums: list[list[float]] = field(default_factory=list)
    by_group: dict[Hashable, tuple[float, int]] = field(default_factory=dict)
    calibration: list[CalibrationError] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    megabytes: float = math.nan

    def count_groups(self, scores: Tensor, labels: Sequence[Hashable]) -> None:
        """Count a batch's scores, (B,) or a scalar, for the groups of its samples.

        Raises
        ------
        ValueError
            For one score of a batch with several groups.
        """
        if scores.dim() == 0:
            if len(set(labels)) > 1:
                raise ValueError(
                    "groups has several labels in a batch, but the metric gives one score for it; let it give a score "
                    "for each sample, (B,)"
                )
            scores = scores.expand(len(labels))
        for label, score in zip(labels, scores.tolist(), strict=True):
            total, count = self.by_group.get(label, (0.0, 0))
            self.by_group[label] = total + score, count + 1

    def give_up(self, batches: Sequence[int]) -> None:
        """Have no score, in runs of so many batches."""
        self.sums = [[math.nan] * of_run for of_run in batches]
        self.by_group, self.calibration, self.seconds, self.megabytes = {}, [], [], math.nan

    @property
    def milliseconds(self) -> float:
        """The median of a batch."""
        return 1e3 * statistics.median(self.seconds) if self.seconds else math.nan

    @property
    def calibration_error(self) -> float:
        """The mean over runs, as each has a network of its own."""
        return statistics.fmean(of.value for of in self.calibration) if self.calibration else math.nan


def rows_of(
    engine: IT3Engine,
    inputs: Any,
    metric: Metric,
    variants: Mapping[str, Mapping[str, Any]],
    *,
    plain: Sequence[IT3Engine] = (),
    reference: Reference | None = None,
    repairs: Mapping[str, Callable[[Any], Any]] | None = None,
) -> dict[str, Row]:
    """Return the controls, and behind them the variants, by name.

    Parameters
    ----------
    engine, inputs
        The first run's engine, and the first batch's inputs, which it has seen: some controls are of use for some
        networks only.
    metric, variants, plain, reference, repairs
        See :func:`it3.evaluate`.

    Raises
    ------
    ValueError, TypeError
        For variants and repairs that are no such, or are called like another row.
    """
    rows = {BASE: _adapted(UNADAPTED), f"{BASE}, y1": _adapted(UNADAPTED, answer="second", may_fail=True)}
    to_try = _statistics_to_try(engine, inputs, variants)
    for statistics_used in to_try:
        kind, prior = statistics_used["norm_statistics"], statistics_used["norm_prior"]
        of = "" if prior is None else f", prior {prior:g}"
        rows[f"{BASE}, {kind} statistics{of}"] = _adapted({**UNADAPTED, **statistics_used}, may_fail=True)
    of_classes = metric.is_accuracy or _predicts_classes(engine) or _predicts_probabilities(engine, inputs)
    if of_classes:
        rows[f"{BASE}, {BALANCED}"] = _balanced(RUNNING)
        if OF_BATCH in to_try:
            rows[f"{BASE}, batch statistics, {BALANCED}"] = _balanced(OF_BATCH)
    for name, repair in (repairs or {}).items():
        if not callable(repair):
            raise TypeError(f"the repair {name!r} must be a function of the inputs, not a {type(repair).__name__}")
        add_row(rows, f"{BASE}, {name}", _repaired(repair), "a repair")
    if plain:
        rows[PLAIN] = Row(lambda _engine, run, inputs: _of_options(plain[run % len(plain)], UNADAPTED, inputs))
    if reference is not None:
        rows[reference.name] = _of_reference(reference)
    if of_classes:
        rows.update(_entropy_rows(engine, variants))
    for name, options in variants.items():
        add_row(rows, name, _adapted(options, is_control=False), "a variant")
    return rows


def add_row(rows: dict[str, Row], name: str, row: Row, what: str) -> None:
    """Add a row of a name that the user chose. Raises ValueError if another row is called so."""
    if name in rows:
        raise ValueError(f"{what} is called {name!r}, which is the name of a control or of another row; rename it")
    rows[name] = row


def _adapted(
    options: Mapping[str, Any], answer: str = "prediction", *, is_control: bool = True, may_fail: bool = False
) -> Row:
    return Row(lambda engine, _run, inputs: _of_options(engine, options, inputs, answer), is_control, may_fail)


def _of_options(engine: IT3Engine, options: Mapping[str, Any], inputs: Any, answer: str = "prediction") -> Predictor:
    other = with_settings(engine, options)
    is_twin = other.model is not engine.model
    if is_twin:
        check_separate(other, engine, inputs)

    def predict(inputs: Any) -> Tensor:
        prediction: Tensor = getattr(other.adapt(inputs), answer)
        return prediction

    def again(inputs: Any) -> None:
        other.adapt(inputs, copy_model=True, cuda_graphs="off")  # a graph holds its memory from before

    def reset() -> None:
        if is_twin:
            other.reset()  # weights that were kept over all batches may not bear the first once more

    return Predictor(predict, other.prediction_layout, again, reset)


def _repaired(repair: Callable[[Any], Any]) -> Row:
    def prepare(engine: IT3Engine, _run: int, inputs: Any) -> Predictor:
        plain = _of_options(engine, UNADAPTED, inputs)

        def predict(inputs: Any) -> Tensor:
            return plain.predict(repair(inputs))

        return Predictor(predict, plain.layout, predict)

    return Row(prepare)


def _balanced(statistics_used: Mapping[str, Any]) -> Row:
    def prepare(engine: IT3Engine, _run: int, inputs: Any) -> Predictor:
        of_probabilities = _predicts_probabilities(engine, inputs)
        plain = _of_options(engine, {**UNADAPTED, **statistics_used}, inputs)

        def predict(inputs: Any) -> Tensor:
            return balanced(plain.predict(inputs), of_probabilities, plain.layout)

        return Predictor(predict, plain.layout, predict)

    return Row(prepare, may_fail=True)


def _of_reference(reference: Reference) -> Row:
    def prepare(engine: IT3Engine, _run: int, inputs: Any) -> Predictor:
        plain = _of_options(engine, UNADAPTED, inputs)

        def predict(inputs: Any) -> Tensor:
            return reference.predict(own_copy(inputs), plain.predict(inputs), plain.layout)

        return Predictor(predict, plain.layout, None)

    return Row(prepare)


def _statistics_to_try(
    engine: IT3Engine, inputs: Any, variants: Mapping[str, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Return the batch's statistics where there is batch normalization, and what else variants normalize by."""
    to_try = [OF_BATCH]
    try:
        with_settings(engine, {**UNADAPTED, **OF_BATCH}).adapt(own_copy(inputs))
    except ValueError as error:
        if "no batch normalization" in str(error):
            to_try = []
    for options in variants.values():
        if not isinstance(options, Mapping):
            raise TypeError(f"a variant must be a mapping of options, not a {type(options).__name__}")
        merged = options_with(engine, options)
        used = {name: merged.get(name, default) for name, default in RUNNING.items()}
        if used["norm_statistics"] != "running" and used not in to_try:
            to_try.append(used)
    return to_try


def _entropy_rows(engine: IT3Engine, variants: Mapping[str, Mapping[str, Any]]) -> dict[str, Row]:
    """Return what minimizes entropy with what each variant may spend, by the first variant that may spend that."""
    seen: list[dict[str, Any]] = []
    firsts = {}
    for name, options in variants.items():
        budget = _C.options_of(_budget_of(engine, options))  # in one spelling
        if budget["num_steps"] and budget not in seen:
            seen.append(budget)
            firsts[name] = options
    return {
        f"{title}, {name}": _minimizing_entropy(options, is_diverse)
        for title, is_diverse in ((ENTROPY, False), (DIVERSITY, True))
        for name, options in firsts.items()
    }


def _minimizing_entropy(options: Mapping[str, Any], is_diverse: bool) -> Row:
    def prepare(engine: IT3Engine, _run: int, inputs: Any) -> Predictor:
        of_probabilities = _predicts_probabilities(engine, inputs)
        loss = entropy_of_first(of_probabilities, engine.prediction_layout, is_diverse=is_diverse)
        return _of_options(engine, {**_budget_of(engine, options), "distance_fn": loss}, inputs)

    return Row(prepare, may_fail=True)


def _budget_of(engine: IT3Engine, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return a variant's options without what is about y1: anchors, and the choice of the answer and of samples."""
    without = {"anchor": "self", "prediction": "first", "threshold": None}
    return _C.overridden(options_with(engine, options), without)


def _predicts_probabilities(engine: IT3Engine, inputs: Any) -> bool:
    prediction = with_settings(engine, UNADAPTED).adapt(own_copy(inputs)).prediction
    return are_probabilities(prediction, engine.prediction_layout)


def _predicts_classes(engine: IT3Engine) -> bool:
    """Return whether an engine was made for, or has learned from, classes that its predictions are logits of."""
    return engine.distance_fn in ("cross_entropy", "kl", "js") or engine._core.learned_probabilities
