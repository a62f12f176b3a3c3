"""Which settings adapt best, searched on data that are held out from the test."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import optuna
import torch
from torch import Tensor

from it3 import _C
from it3.engine import IT3Engine
from it3.kept import own_copy, seeded_runs
from it3.looking import Batches, Loader, batches_of, check_separate, sibling, with_settings
from it3.metrics import Metric, NotFiniteError, metric_of
from it3.rows import UNADAPTED

Values = list[Any] | tuple[float, float]

#: What is searched if nothing else is said: a list holds choices, a pair the ends of a range on a logarithmic scale.
SEARCH: dict[str, Values] = {
    "num_steps": [1, 2, 3, 5, 10],
    "lr": (1e-5, 1e-1),
    "anchor": ["self", "frozen", "ema"],
    "parameters": ["all", "norm"],
    "norm_statistics": ["running", "batch", "blend"],
    "distance_fn": [None, "mse", "l1"],
}


@dataclass(frozen=True)
class Tuning:
    """What :func:`it3.tune` chose.

    Attributes
    ----------
    engine
        A copy of the chosen engine, around the same model, with the chosen settings.
    name
        Which of the engines it is: its key, or "".
    choice
        The chosen settings by name, which :func:`it3.evaluate` takes as a variant; ``distance_fn`` None is the engine's
        own.
    score, unadapted
        The metric on the held-out data with these settings, and with 0 steps and running statistics.
    worth
        By setting, how much better the score is with the choice than with the engine's own value, all else as chosen;
        above 0 for better; nan where the engine's own value gives no finite predictions. The data are those of the
        search, so that these are on the bright side.
    study
        Optuna's record of all trials.

    Examples
    --------
    >>> tuning = it3.tune(engine, [(x, y)], "mse", budget=2, search={"lr": [1e-4, 1e-3]})
    >>> tuning.choice["lr"] in (1e-4, 1e-3)
    True
    >>> tuning.engine.optimization_parameters["lr"] == tuning.choice["lr"]
    True
    """

    engine: IT3Engine
    name: str
    choice: dict[str, Any]
    score: float
    unadapted: float
    worth: dict[str, float]
    study: optuna.Study

    def __str__(self) -> str:
        """Return what was chosen and what each choice was worth."""
        chosen = {"layer": self.engine.features_layer_name, **self.choice}
        lines = [f"score {self.score:.4g} on the held-out data, {self.unadapted:.4g} with 0 steps"]
        for name, value in chosen.items():
            worth = f"   worth {self.worth[name]:+.4g}" if name in self.worth else ""
            lines.append(f"  {name} = {value!r}{worth}")
        return "\n".join(lines)


def tune(
    engines: IT3Engine | Mapping[str, IT3Engine] | Sequence[IT3Engine],
    loader: Loader,
    metric: str | Callable[[Tensor, Any], Any],
    budget: int = 50,
    *,
    higher_is_better: bool | None = None,
    search: Mapping[str, Values] | None = None,
    seed: int = 0,
) -> Tuning:
    """Search how to adapt, with Optuna's tree-structured Parzen estimator.

    Engines, models and random generators are left as they are. Where ``copy_model`` is False, each trial adapts a copy
    of the model from batch to batch, which starts with the weights of now.

    Parameters
    ----------
    engines
        An engine, or several by name to choose from, such as some that were trained for different layers. Those of a
        list are called "0", "1", ...
    loader
        Batches (inputs, targets) of held-out data with a shift like that to be expected; never those of the test, as
        what is chosen on data looks better on them than it is. Or a function of `seed` that gives them.
    metric, higher_is_better
        See :func:`it3.evaluate`.
    budget
        Trials.
    search
        What to search: by option, or "distance_fn", a list of choices or a pair, the two ends of a range, searched on a
        logarithmic scale. Default: :data:`it3.tuning.SEARCH`, but for what the model has no layers for.
    seed
        Of the search, and of torch's random generators before the loader and before each trial.

    Raises
    ------
    ValueError, TypeError
        For an unknown option or metric, no batches, predictions and targets that do not fit, and if no trial gave
        finite predictions.

    Examples
    --------
    >>> tuning = it3.tune(engine, [(x, y)], "mse", budget=3, search={"num_steps": [1, 3], "lr": (1e-4, 1e-2)})
    >>> sorted(tuning.choice)
    ['lr', 'num_steps']
    """
    by_name = _by_name(engines)
    if isinstance(budget, bool) or not isinstance(budget, int) or budget < 1:
        raise ValueError(f"budget must be a whole number of trials from 1, not {budget!r}")
    measure = metric_of(metric, higher_is_better)
    sign = 1 if measure.higher_is_better else -1
    with seeded_runs():
        batches = batches_of(loader, seed)
        if search is None:
            search = _usable(next(iter(by_name.values())), batches[0][0])
        search = _in_one_spelling(search)
        for engine in by_name.values():
            _check_search(search, engine)

        def score(name: str, choice: Mapping[str, Any]) -> float:
            torch.manual_seed(seed)
            return _score(by_name[name], choice, batches, measure)

        try:  # what is wrong with the data shows here
            unadapted = {name: score(name, UNADAPTED) for name in by_name}
        except _FailedTrialError as error:
            raise ValueError(
                f"the model without adaptation (num_steps=0) cannot be scored on these data: {error}"
            ) from error
        choices: dict[int, tuple[str, dict[str, Any]]] = {}
        reasons: list[str] = []

        def objective(trial: optuna.Trial) -> float:
            names = list(by_name)
            name = trial.suggest_categorical("engine", names) if len(names) > 1 else names[0]
            choice = _without_idle(
                by_name[name], {option: _suggest(trial, option, values) for option, values in search.items()}
            )
            choices[trial.number] = (name, choice)
            trial.set_user_attr("name", name)
            trial.set_user_attr("choice", {option: _plain(value) for option, value in choice.items()})
            try:
                return score(name, choice)
            except _FailedTrialError as error:
                reasons.append(str(error))
                raise optuna.TrialPruned(str(error)) from error

        with _quiet_optuna():
            study = optuna.create_study(
                direction="maximize" if measure.higher_is_better else "minimize",
                sampler=optuna.samplers.TPESampler(seed=seed),
            )
            study.optimize(objective, n_trials=budget)
        if not study.get_trials(states=[optuna.trial.TrialState.COMPLETE]):
            raise ValueError(
                f"no trial gave a score; the first failed because {reasons[0]}. Where predictions are not "
                "finite, search lower learning rates, or check the inputs"
            )
        name, choice = choices[study.best_trial.number]
        own = {"distance_fn": None, **_C.options_of(by_name[name].optimization_parameters)}
        worth = {}
        for option, value in choice.items():
            if not _is_same(value, own.get(option)):
                try:
                    without = score(name, {**choice, option: own.get(option)})
                except _FailedTrialError:
                    without = math.nan
                worth[option] = sign * (study.best_value - without)
    return Tuning(
        engine=sibling(by_name[name], choice),
        name=name,
        choice=choice,
        score=study.best_value,
        unadapted=unadapted[name],
        worth=worth,
        study=study,
    )


class _FailedTrialError(Exception):
    """These settings do not work on these data."""


def _by_name(engines: object) -> dict[str, IT3Engine]:
    if isinstance(engines, IT3Engine):
        return {"": engines}
    by_name: dict[str, Any] = {}
    if isinstance(engines, Mapping):
        by_name = dict(engines)
    elif isinstance(engines, Sequence):
        by_name = {str(place): engine for place, engine in enumerate(engines)}
    if not all(isinstance(engine, IT3Engine) for engine in by_name.values()) or (not by_name and engines):
        raise TypeError(f"engines must be an IT3Engine, or several in a mapping or list, not {type(engines).__name__}")
    if not by_name:
        raise ValueError("there are no engines to choose from")
    return by_name


def _score(engine: IT3Engine, settings: Mapping[str, Any], batches: Batches, metric: Metric) -> float:
    """Return the mean of the samples' scores. Raises _FailedTrialError if adapting so fails, or is not finite."""
    total, count = 0.0, 0
    other = with_settings(engine, settings)
    if other.model is not engine.model:
        check_separate(other, engine, batches[0][0])
    for inputs, targets in batches:
        try:
            prediction = other.adapt(own_copy(inputs)).prediction
        except ValueError as error:  # such as a loss that is not finite
            raise _FailedTrialError(str(error)) from error
        try:
            score, samples = metric.sum(prediction, targets, other.prediction_layout)
        except NotFiniteError as error:
            raise _FailedTrialError(str(error)) from error
        total, count = total + score, count + samples
    return total / count


def _in_one_spelling(search: Mapping[str, Values]) -> Mapping[str, Values]:
    """Search ``copy_model`` for ``online``, which is another spelling of its opposite."""
    if "online" not in search:
        return search
    if "copy_model" in search:
        raise ValueError("online is another spelling of copy_model; search one of the two")
    choices = [_C.options_of({"online": value})["copy_model"] for value in search["online"]]
    return {option: values for option, values in search.items() if option != "online"} | {"copy_model": choices}


def _check_search(search: Mapping[str, Values], engine: IT3Engine) -> None:
    """Check that each option exists, has choices or a range, and is of use with what is chosen beside it."""
    for option, values in search.items():
        if isinstance(values, tuple):
            ends = [v for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
            if len(ends) != 2 or len(values) != 2 or not 0 < ends[0] <= ends[1] < math.inf:
                raise ValueError(
                    f"the range of {option!r} must be a pair (low, high) above 0, as it is searched on a logarithmic "
                    f"scale, not {values!r}; a list holds choices"
                )
        elif not isinstance(values, list) or not values:
            raise ValueError(f"{option!r} needs a list of choices, or a pair (low, high), not {values!r}")
    for option, values in search.items():
        if option == "distance_fn":
            continue
        beside: list[dict[str, Any]] = [
            {other: value} for other in search if other not in (option, "distance_fn") for value in search[other]
        ]
        if not any(option in _without_idle(engine, {option: values[0], **others}) for others in ({}, *beside)):
            _C.overridden(engine.optimization_parameters, {option: values[0]})  # raises


def _without_idle(engine: IT3Engine, choice: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out what says more about a choice that is not made, such as ``ema_decay`` without the anchor "ema"."""
    options = {option: value for option, value in choice.items() if option != "distance_fn"}
    own = _C.overridden(engine.optimization_parameters, {})  # in one spelling
    used = _C.overridden({**own, **options}, {})
    return {option: value for option, value in choice.items() if option == "distance_fn" or option in used}


def _usable(engine: IT3Engine, inputs: Any) -> dict[str, Values]:
    """Leave out choices that the model has no layers for, or twice."""

    def works(option: str, value: Any) -> bool:
        try:
            settings = {option: value, "num_steps": 1, "lr": 0.0, "copy_model": True}
            with_settings(engine, settings).adapt(own_copy(inputs))
        except ValueError:
            return False
        return True

    usable: dict[str, Values] = {}
    for option, values in SEARCH.items():
        kept = values
        if option in ("parameters", "norm_statistics"):
            kept = [value for value in values if works(option, value)]
        if option == "distance_fn":  # None stands for the engine's own
            kept = [value for value in values if value != engine.distance_fn]
        if len(kept) > 1:
            usable[option] = kept
    return usable


def _suggest(trial: optuna.Trial, option: str, values: Values) -> Any:
    if isinstance(values, tuple):
        low, high = values
        is_whole = isinstance(low, int) and isinstance(high, int) and isinstance(_C.options_of({}).get(option), int)
        if is_whole:
            return trial.suggest_int(option, int(low), int(high), log=True)
        return trial.suggest_float(option, low, high, log=True)
    # Optuna takes no lists as choices, such as patterns of parameters.
    return values[trial.suggest_categorical(option, range(len(values)))]


def _is_same(value: Any, own: Any) -> bool:
    """Return whether two values of an option are one; patterns of parameters may be one or a list."""
    one, other = ([v] if isinstance(v, str) else v for v in (value, own))
    return one is other or bool(one == other)


def _plain(value: Any) -> Any:
    """Return what Optuna's record can hold."""
    return value if value is None or isinstance(value, bool | int | float | str | list | tuple) else repr(value)


@contextmanager
def _quiet_optuna() -> Iterator[None]:
    verbosity = optuna.logging.get_verbosity()
    try:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        yield
    finally:
        optuna.logging.set_verbosity(verbosity)
