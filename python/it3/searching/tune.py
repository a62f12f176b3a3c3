"""Which settings adapt best, searched on data that are held out from the test."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from torch import Tensor

from it3 import _C
from it3.engine import IT3Engine
from it3.engine_siblings import sibling
from it3.evaluation.metrics import metric_of
from it3.evaluation.rows import UNADAPTED
from it3.searching.choosing import FailedTrialError, Judge, check_space, in_one_spelling, usable
from it3.searching.spaces import Values, lines_of
from it3.support.batches import Loader, batches_of
from it3.support.checks import check_count
from it3.support.kept import seeded_runs


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
        search, so that these are optimistic.
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
        score = f"score {self.score:.4g} on the held-out data, {self.unadapted:.4g} with 0 steps"
        return "\n".join([score, *lines_of(chosen, self.worth)])


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
        logarithmic scale. Default: :data:`it3.searching.choosing.SEARCH`, but for what the model has no layers for.
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
    check_count("budget", budget, 1)
    measure = metric_of(metric, higher_is_better)
    sign = 1 if measure.higher_is_better else -1
    with seeded_runs():
        judge = Judge(batches_of(loader, seed), measure, seed)
        if search is None:
            search = usable(next(iter(by_name.values())), judge.batches[0][0])
        search = in_one_spelling(search)
        for engine in by_name.values():
            check_space(search, engine.optimization_parameters)

        def score(name: str, choice: Mapping[str, Any]) -> float:
            return judge.scores([by_name[name]], choice)[0]

        try:  # what is wrong with the data shows here
            unadapted = {name: score(name, UNADAPTED) for name in by_name}
        except FailedTrialError as error:
            raise ValueError(
                f"the model without adaptation (num_steps=0) cannot be scored on these data: {error}"
            ) from error
        best = judge.choose({name: [engine] for name, engine in by_name.items()}, search, budget)
        name, choice, value = best.name, best.settings, best.scores[0]
        own = {"distance_fn": None, **_C.options_of(by_name[name].optimization_parameters)}
        worth = {}
        for option, chosen in choice.items():
            if not _is_same(chosen, own.get(option)):
                try:
                    without = score(name, {**choice, option: own.get(option)})
                except FailedTrialError:
                    without = math.nan
                worth[option] = sign * (value - without)
    return Tuning(
        engine=sibling(by_name[name], choice),
        name=name,
        choice=choice,
        score=value,
        unadapted=unadapted[name],
        worth=worth,
        study=best.study,
    )


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


def _is_same(value: Any, own: Any) -> bool:
    """Return whether two values of an option are one; patterns of parameters may be one or a list."""
    one, other = ([v] if isinstance(v, str) else v for v in (value, own))
    return one is other or bool(one == other)
