"""The choice of settings of test time for engines that are trained, by their scores on batches."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Literal

import optuna
import torch

from it3 import _C
from it3.engine import IT3Engine
from it3.engine_siblings import check_separate, with_settings
from it3.evaluation.metrics import Metric, NotFiniteError
from it3.searching.spaces import Space, Values, check_values, has_whole_ends, plain, quiet_optuna, suggest, values_at
from it3.support.batches import Batches
from it3.support.kept import own_copy

#: What is searched if nothing else is said.
SEARCH: dict[str, Values] = {
    "num_steps": [1, 2, 3, 5, 10],
    "lr": (1e-5, 1e-1),
    "anchor": ["self", "frozen", "ema"],
    "parameters": ["all", "norm"],
    "norm_statistics": ["running", "batch", "blend"],
    "distance_fn": [None, "mse", "l1"],
}


class FailedTrialError(Exception):
    """These settings do not work on these data."""


@dataclass(frozen=True)
class Choice:
    """The best settings that were found, whose they are, and the scores of those engines with them."""

    name: str
    settings: dict[str, Any]
    scores: list[float]
    study: optuna.Study


@dataclass(frozen=True)
class Judge:
    """Scores engines with given settings on batches; a seed comes before each."""

    batches: Batches
    metric: Metric
    seed: int

    def scores(self, engines: Sequence[IT3Engine], settings: Mapping[str, Any]) -> list[float]:
        """Return the mean of the samples' scores for each engine.

        Raises
        ------
        FailedTrialError
            If adapting so fails, or is not finite.
        """
        scores = []
        for engine in engines:
            torch.manual_seed(self.seed)
            scores.append(self._score(engine, settings))
        return scores

    def _score(self, engine: IT3Engine, settings: Mapping[str, Any]) -> float:
        total, count = 0.0, 0
        other = with_settings(engine, settings)
        if other.model is not engine.model:
            check_separate(other, engine, self.batches[0][0])
        for inputs, targets in self.batches:
            try:
                prediction = other.adapt(own_copy(inputs)).prediction
            except ValueError as error:  # such as a loss that is not finite
                raise FailedTrialError(str(error)) from error
            try:
                score, samples = self.metric.sum(prediction, targets, other.prediction_layout)
            except NotFiniteError as error:
                raise FailedTrialError(str(error)) from error
            total, count = total + score, count + samples
        return total / count

    def choose(self, engines: Mapping[str, Sequence[IT3Engine]], space: Space, budget: int) -> Choice:
        """Search with Optuna's tree-structured Parzen estimator.

        Parameters
        ----------
        engines
            By name, among which is chosen; the settings are one choice for all of a name, for their mean score.
        space
            What to choose from; see :func:`check_space`.
        budget
            Trials.

        Raises
        ------
        ValueError
            If no trial gave finite predictions.
        """
        chosen: dict[int, tuple[str, dict[str, Any], list[float]]] = {}
        reasons: list[str] = []

        def objective(trial: optuna.Trial) -> float:
            names = list(engines)
            name = trial.suggest_categorical("engine", names) if len(names) > 1 else names[0]
            places = suggest(trial, space, lambda option: _counts(option) and has_whole_ends(space[option]))
            settings = _without_idle(engines[name][0].optimization_parameters, values_at(space, places))
            trial.set_user_attr("name", name)
            trial.set_user_attr("choice", plain(settings))
            try:
                scores = self.scores(engines[name], settings)
            except FailedTrialError as error:
                reasons.append(str(error))
                raise optuna.TrialPruned(str(error)) from error
            chosen[trial.number] = (name, settings, scores)
            return fmean(scores)

        with quiet_optuna():
            study = optuna.create_study(
                direction=direction_of(self.metric), sampler=optuna.samplers.TPESampler(seed=self.seed)
            )
            study.optimize(objective, n_trials=budget)
        if not chosen:
            raise ValueError(
                f"no trial gave a score; the first failed because {reasons[0]}. Where predictions are not "
                "finite, search lower learning rates, or check the inputs"
            )
        return Choice(*chosen[study.best_trial.number], study)


def direction_of(metric: Metric) -> Literal["maximize", "minimize"]:
    """Return which way is better, as Optuna calls it."""
    return "maximize" if metric.higher_is_better else "minimize"


def in_one_spelling(space: Space) -> Space:
    """Search ``copy_model`` for ``online``, which is another spelling of its opposite."""
    if "online" not in space:
        return space
    if "copy_model" in space:
        raise ValueError("online is another spelling of copy_model; search one of the two")
    choices = [_C.options_of({"online": value})["copy_model"] for value in space["online"]]
    return {option: values for option, values in space.items() if option != "online"} | {"copy_model": choices}


def check_space(space: Space, own: dict[str, Any]) -> None:
    """Check that each option exists, has choices or a range, and is of use with what is chosen beside it.

    Parameters
    ----------
    space
        What is searched.
    own
        The options that an engine has otherwise.

    Raises
    ------
    ValueError, TypeError
        If not.
    """
    check_values(space)
    for option, values in space.items():
        if option == "distance_fn":
            continue
        beside: list[dict[str, Any]] = [
            {other: value} for other in space if other not in (option, "distance_fn") for value in space[other]
        ]
        if not any(option in _without_idle(own, {option: values[0], **others}) for others in ({}, *beside)):
            _C.overridden(own, {option: values[0]})  # raises


def usable(engine: IT3Engine, inputs: Any) -> dict[str, Values]:
    """Leave out of :data:`SEARCH` choices that the model has no layers for, or twice."""

    def works(option: str, value: Any) -> bool:
        try:
            settings = {option: value, "num_steps": 1, "lr": 0.0, "copy_model": True}
            with_settings(engine, settings).adapt(own_copy(inputs))
        except ValueError:
            return False
        return True

    kept_of: dict[str, Values] = {}
    for option, values in SEARCH.items():
        kept = values
        if option in ("parameters", "norm_statistics"):
            kept = [value for value in values if works(option, value)]
        if option == "distance_fn":  # None stands for the engine's own
            kept = [value for value in values if value != engine.distance_fn]
        if len(kept) > 1:
            kept_of[option] = kept
    return kept_of


def _without_idle(own: dict[str, Any], choice: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out what says more about a choice that is not made, such as ``ema_decay`` without the anchor "ema"."""
    options = {option: value for option, value in choice.items() if option != "distance_fn"}
    used = _C.overridden({**_C.overridden(own, {}), **options}, {})  # the inner one for one spelling
    return {option: value for option, value in choice.items() if option == "distance_fn" or option in used}


def _counts(option: str) -> bool:
    return isinstance(_C.options_of({}).get(option), int)
