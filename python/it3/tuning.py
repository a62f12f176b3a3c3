"""Which settings adapt best, searched on data that are held out from the test."""

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import optuna
from torch import Tensor

from it3 import _C
from it3.engine import IT3Engine
from it3.evaluation import Loader
from it3.metrics import metric_of

Values = list[Any] | tuple[float, float]

#: What is searched if nothing else is said: a list holds choices, a pair the ends of a range on a logarithmic scale.
SEARCH: dict[str, Values] = {
    "num_steps": [1, 2, 3, 5, 10],
    "lr": (1e-5, 1e-1),
    "anchor": ["none", "frozen", "ema"],
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
        The chosen settings by name; ``distance_fn`` None is the engine's own.
    score, unadapted
        The metric on the held-out data with these settings, and with 0 steps.
    worth
        By setting, how much better the score is with the choice than with the engine's own value, all else as chosen;
        above 0 for better. The data are those of the search, so that these are on the bright side.
    study
        Optuna's record of all trials.
    """

    engine: IT3Engine
    name: str
    choice: dict[str, Any]
    score: float
    unadapted: float
    worth: dict[str, float]
    study: optuna.Study

    def __str__(self) -> str:
        """Say what was chosen and what each choice was worth."""
        chosen = {"layer": self.engine.features_layer_name, **self.choice}
        lines = [f"score {self.score:.4g} on the held-out data, {self.unadapted:.4g} with 0 steps"]
        for name, value in chosen.items():
            worth = f"   worth {self.worth[name]:+.4g}" if name in self.worth else ""
            lines.append(f"  {name} = {value!r}{worth}")
        return "\n".join(lines)


def tune(
    engines: IT3Engine | Mapping[str, IT3Engine],
    loader: Loader,
    metric: str | Callable[[Tensor, Tensor], Tensor],
    budget: int = 50,
    *,
    higher_is_better: bool | None = None,
    search: Mapping[str, Values] | None = None,
    seed: int = 0,
) -> Tuning:
    """Search how to adapt, with Optuna's tree-structured Parzen estimator.

    Parameters
    ----------
    engines
        An engine, or several by name to choose from, such as some that were trained for different layers.
    loader
        Batches (inputs, targets) of held-out data with a shift like that to be expected; never those of the test, as
        what is chosen on data looks better on them than it is.
    metric, higher_is_better
        See :func:`it3.evaluate`.
    budget
        Trials.
    search
        What to search: by option, or "distance_fn", a list of choices or the two ends of a range, searched on a
        logarithmic scale. Default: :data:`it3.tuning.SEARCH`, but for what the model has no layers for.
    seed
        Of the search.

    Raises
    ------
    ValueError
        For an unknown option, and if no trial gave finite predictions.
    """
    by_name = {"": engines} if isinstance(engines, IT3Engine) else dict(engines)
    measure = metric_of(metric, higher_is_better)
    batches = list(loader(seed) if callable(loader) else loader)
    if search is None:
        search = _usable(next(iter(by_name.values())), batches[0][0])
    sign = 1 if measure.higher_is_better else -1

    def score(name: str, choice: Mapping[str, Any]) -> float:
        engine = _with_settings(by_name[name], choice)
        total = sum(measure.sum(engine.adapt(inputs).prediction, targets) for inputs, targets in batches)
        return total / sum(len(targets) for _, targets in batches)

    def objective(trial: optuna.Trial) -> float:
        names = list(by_name)
        name = trial.suggest_categorical("engine", names) if len(names) > 1 else names[0]
        choice = {option: _suggest(trial, option, values) for option, values in search.items()}
        trial.set_user_attr("name", name)
        trial.set_user_attr("choice", choice)
        try:
            return score(name, choice)
        except ValueError as error:  # such as a loss that is not finite
            raise optuna.TrialPruned(str(error)) from error

    with _quiet_optuna():
        study = optuna.create_study(
            direction="maximize" if measure.higher_is_better else "minimize",
            sampler=optuna.samplers.TPESampler(seed=seed),
        )
        study.optimize(objective, n_trials=budget)
    if not study.get_trials(states=[optuna.trial.TrialState.COMPLETE]):
        raise ValueError("no trial gave finite predictions; search lower learning rates, or check the inputs")
    name, choice = study.best_trial.user_attrs["name"], study.best_trial.user_attrs["choice"]
    own = {"distance_fn": None, **_C.options_of(by_name[name].optimization_parameters)}
    worth = {
        option: sign * (study.best_value - score(name, {**choice, option: own.get(option)}))
        for option, value in choice.items()
        if _as_list(value) != _as_list(own.get(option))
    }
    return Tuning(
        engine=_with_settings(by_name[name], choice),
        name=name,
        choice=choice,
        score=study.best_value,
        unadapted=score(name, {"num_steps": 0}),
        worth=worth,
        study=study,
    )


def _with_settings(engine: IT3Engine, choice: Mapping[str, Any]) -> IT3Engine:
    """Make an engine around the same model with other settings."""
    other = copy.copy(engine)
    other._online = _C.Online()
    options = {name: value for name, value in choice.items() if name != "distance_fn"}
    other.optimization_parameters = {**engine.optimization_parameters, **options}
    if choice.get("distance_fn") is not None:
        other.distance_fn = choice["distance_fn"]
    _C.options_of(other.optimization_parameters)
    return other


def _usable(engine: IT3Engine, inputs: Any) -> dict[str, Values]:
    """Leave out choices that the model has no layers for, or twice."""

    def works(option: str, value: Any) -> bool:
        try:
            _with_settings(engine, {option: value, "num_steps": 1, "lr": 0.0, "copy_model": True}).adapt(inputs)
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
        return trial.suggest_float(option, *values, log=True)
    # Optuna takes no lists as choices, such as patterns of parameters.
    return values[trial.suggest_categorical(option, range(len(values)))]


def _as_list(value: Any) -> Any:
    """Give patterns of parameters in one form, whether there are one or more."""
    return [value] if isinstance(value, str) else value


@contextmanager
def _quiet_optuna() -> Iterator[None]:
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(verbosity)
