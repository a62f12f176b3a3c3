"""Does adaptation help? Adapted predictions beside the controls that a gain has to beat."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from it3 import _C
from it3.engine import IT3Engine
from it3.evaluation.class_scores import CalibrationError
from it3.evaluation.controls import Reference
from it3.evaluation.dependence import Dependence
from it3.evaluation.evaluation import Evaluation
from it3.evaluation.labels import Labels, labels_of, labels_of_samples
from it3.evaluation.metrics import Metric, metric_of, right_classes
from it3.evaluation.other_methods import OtherMethods, Others
from it3.evaluation.rows import Predictor, Row, add_row, rows_of
from it3.support.batches import Batches, Loader, batches_of
from it3.support.checks import check_count
from it3.support.kept import KeptRandomState, own_copy, seeded_runs
from it3.support.notes import noted


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
    repairs: Mapping[str, Callable[[Any], Any]] | None = None,
    others: Others | None = None,
    clusters: Labels | None = None,
    groups: Labels | None = None,
    resamples: int = 10_000,
) -> Evaluation:
    """Compare adapted predictions with those that a gain has to beat, on the same inputs.

    The controls are the same network with 0 steps; its unadapted y1; if it has batch normalization, 0 steps with the
    batch's statistics, and with others that a variant uses; for classes, those below; and, if given, 0 steps on
    repaired inputs, networks that were trained without the second term of the loss, other methods, and what can be
    predicted without a network. Engines, models and random generators are left as they are.

    Predictions are of classes if the metric is accuracy, if they are probabilities, which sum to 1, or if the engine's
    distance or training says so. Then these are controls too:

    - "entropy minimization, NAME" (TENT: Wang et al., ICLR 2021, arXiv 2006.10726), with the steps, learning rate,
      optimizer, parameters and statistics of the variant NAME; one row for variants that share these;
    - "entropy and diversity, NAME": with the same, the entropy of the predictions minus that of the batch's mean
      prediction is minimized (SHOT: Liang et al., ICML 2020, arXiv 2002.08546, eq. 4);
    - "0 steps, balanced classes", and the same with the batch's statistics: the probabilities are divided by their mean
      over the batch and normalized again (Saerens et al., Neural Computation 2002). Like diversity, it helps where the
      batches have all classes about equally often, and hurts where they do not.

    Parameters
    ----------
    engines
        An engine, or several that were trained with different seeds: each is a run.
    loader
        Batches (inputs, targets) of the data in question, the same for all rows; or a function of the run's number that
        gives them. Give the same data in the same order in each run: the batches of one place are drawn together.
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
        loader that corrupts draws anew; the engines take turns.
    without_second_term
        Engines that were trained on the first term alone, one for each run, in turn.
    reference
        The training targets, by which a predictor without a network becomes a control: the "majority class" for
        accuracy, the "training mean" of each output for mse, the "training median" for mae. For a function of your own
        the prediction itself, of a sample or broadcast to a batch; or, for any metric, a function of the inputs that
        predicts.
    repairs
        By name, functions that make the inputs better for a network that does not adapt, such as those of
        :mod:`it3.evaluation.repairs`. Each gives a control, "0 steps, NAME".
    others
        Other methods by name, as rows that a gain has to beat too: an :class:`it3.IT3Engine`, an engine of torch-ttt or
        any other module, or a function, that for inputs gives a prediction, or a tuple that begins with one. Each run
        has a copy of a module, so that yours is left as it is and no run sees what another adapted to; a function is
        called as it is, once more with the first batch for the memory that it takes, and must leave the engines' own
        networks alone. For several engines: a
        function that makes the mapping of a copy of the run's engine, such as ``lambda engine: {"TENT":
        TentEngine(engine.model).eval()}``. Methods that change the network that they are given, as torch-ttt's do, need
        a copy of it in any case.
    clusters
        What hangs together in the data, such as the photo that crops are of: a list with a label for each batch, the
        same for every run, or a function of the run's number that gives one. A label in two runs is one cluster.
        Intervals draw clusters, in the place of batches.
    groups
        What ``worst_group`` is chosen from, such as shifts or sub-populations: a list with an entry for each batch, a
        label or one for each of its samples, or a function of the run's number that gives one.
    resamples
        Of the bootstrap, 100 at least.

    Raises
    ------
    ValueError, TypeError
        For an unknown metric, no batches, predictions and targets that do not fit, scores that are not finite, a model
        that cannot be copied where it has to be, another number of labels than batches, and what options, repairs and
        other methods raise.

    Notes
    -----
    Entropy, with diversity or without, is minimized by the engine, with another loss: its time and memory are those of
    two passes a step, of which it needs one. Controls that nobody asked for, y1, statistics and those of classes, have
    the score nan where they fail, as by predictions that are not finite; the verdict says why.

    Examples
    --------
    >>> print(it3.evaluate(engine, [(x, y), (x + 1, y)], "mse", reference=y, repairs={"clipped": it3.clip_to(x)}))
                            mse ...
    """
    runs = _runs_of(engines, seeds)
    plain = [without_second_term] if isinstance(without_second_term, IT3Engine) else list(without_second_term)
    measure = metric_of(metric, higher_is_better)
    control = None if reference is None else Reference.of(reference, measure)
    check_count("resamples", resamples, 100)
    methods = OtherMethods(others)
    rows: dict[str, Row] = {}
    data = Dependence()
    with seeded_runs(), torch.inference_mode(False):  # else copies of networks could not adapt
        if isinstance(loader, Iterator):  # there is one pass
            loader = batches_of(loader, 0)
        for run, engine in enumerate(runs):
            batches = batches_of(loader, run)
            first = batches[0][0]
            of_clusters = labels_of(clusters, run, len(batches), "clusters")
            of_groups = labels_of(groups, run, len(batches), "groups")
            engine.uncertainty(own_copy(first))  # shapes the embedder, and takes what a first call takes
            if run == 0:
                given = {"adapted": {}} if variants is None else variants
                rows = rows_of(engine, first, measure, given, plain=plain, reference=control, repairs=repairs)
            methods.start_run(engine)
            if run == 0:
                for name, row in methods.rows().items():
                    add_row(rows, name, row, "a method of others")
            counts = _measure_rows(rows, engine, run, batches, measure, of_groups)
            data.add(engine, batches, counts, of_clusters)
    for row in rows.values():
        if row.failure:
            row.give_up([len(of_run) for of_run in data.counts])
    controls_first = dict(sorted(rows.items(), key=lambda item: not item[1].is_control))
    return Evaluation(controls_first, data.counts, measure, data.bootstrap(controls_first, resamples))


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
    check_count("seeds", seeds, 1)
    return given * seeds


def _measure_rows(
    rows: Mapping[str, Row], engine: IT3Engine, run: int, batches: Batches, metric: Metric, groups: list[Any] | None
) -> list[int]:
    """Append a run to all rows, and count the samples of its batches."""
    counts: list[int] = []
    for name, row in rows.items():
        if row.failure:
            continue
        with noted(f"in the row {name!r}, run {run}"), KeptRandomState():
            torch.manual_seed(run)  # so that rows do not depend on one another
            try:
                of_row = _measure(row.prepare(engine, run, batches[0][0]), batches, metric, row, groups)
            except ValueError as error:
                if not row.may_fail:
                    raise
                row.failure = str(error)
                continue
            counts = counts or of_row
            if of_row != counts:
                raise ValueError(f"predicts for {of_row} samples of the batches, where 0 steps does for {counts}")
    return counts


def _measure(predictor: Predictor, batches: Batches, metric: Metric, row: Row, groups: list[Any] | None) -> list[int]:
    """Append a run to a row, and count the samples of its batches."""
    is_network = predictor.again is not None
    sums, counts = [], []
    calibration = CalibrationError() if is_network and metric.is_accuracy else None
    for place, (inputs, targets) in enumerate(batches):
        given = own_copy(inputs)
        start = time.perf_counter()
        answer = predictor.predict(given)
        if answer.is_cuda:
            torch.cuda.synchronize(answer.device)
        if is_network:
            row.seconds.append(time.perf_counter() - start)
        scores, samples = metric.scores(answer, targets, predictor.layout)
        sums.append(float(scores * samples) if scores.dim() == 0 else float(scores.sum()))
        counts.append(samples)
        if groups is not None:
            row.count_groups(scores, labels_of_samples(groups[place], samples, "groups"))
        if calibration is not None:
            right = right_classes(answer, targets.to(answer.device), predictor.layout)
            calibration.add(answer, right, predictor.layout)
    row.sums.append(sums)
    if calibration is not None:
        row.calibration.append(calibration)
    if predictor.again is not None and len(row.sums) == 1:
        predictor.reset()
        row.megabytes = _peak_megabytes(predictor.again, own_copy(batches[0][0]))
    return counts


def _peak_megabytes(call: Callable[[Any], object], inputs: Any) -> float:
    """Return what a call takes at its peak, beyond what was there before, as torch's allocators tell."""
    return _C.peak_memory(lambda: call(inputs)) / 1e6
