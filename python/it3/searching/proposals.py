"""Which settings the next trial of a search takes: none that another one had, as training takes long."""

import itertools
import math
import warnings
from typing import Any

import numpy as np
import optuna
from optuna.trial import TrialState

from it3.searching.spaces import Space, Values, has_whole_ends, suggest

COUNTED = (TrialState.COMPLETE, TrialState.PRUNED)
_OF_TPE = 20


def ask(study: optuna.Study, space: Space, seed: int) -> optuna.Trial | None:
    """Begin a trial, whose ``params`` are places in the space; None if all there is has been tried.

    The choice follows from the seed and the trials that there are, those that were lost left out, so that a search that
    was interrupted goes on as it would have.
    """
    trials = study.get_trials(deepcopy=False, states=(*COUNTED, TrialState.RUNNING))
    tried = [trial.params for trial in trials]
    if len(tried) >= math.prod(_count(values) for values in space.values()):
        return None
    drafts = optuna.create_study(direction=study.direction)
    drafts.add_trials(trials)
    of_tpe, of_random = map(int, np.random.SeedSequence([seed, len(tried)]).generate_state(2))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # of the constant liar in Optuna 4
        drafts.sampler = optuna.samplers.TPESampler(seed=of_tpe, constant_liar=True)
    for attempt in itertools.count():
        if attempt == _OF_TPE:  # which keeps to where it is good
            drafts.sampler = optuna.samplers.RandomSampler(seed=of_random)
        draft = drafts.ask()
        places = _suggest(draft, space)
        if places not in tried:
            break
        drafts.tell(draft, state=TrialState.FAIL)
    study.sampler = _AsDrafted(places)
    trial = study.ask()
    _suggest(trial, space)
    return trial


class _AsDrafted(optuna.samplers.BaseSampler):
    """Gives what was chosen before."""

    def __init__(self, places: dict[str, Any]) -> None:
        self._places = places

    def infer_relative_search_space(self, *_: Any) -> dict[str, Any]:
        return {}

    def sample_relative(self, *_: Any) -> dict[str, Any]:
        return {}

    def sample_independent(self, _study: Any, _trial: Any, param_name: str, _of: Any) -> Any:
        return self._places[param_name]


def _suggest(trial: optuna.Trial, space: Space) -> dict[str, Any]:
    return suggest(trial, space, lambda name: has_whole_ends(space[name]))


def _count(values: Values) -> float:
    """Return among how many values there is to choose."""
    if isinstance(values, list):
        return len(values)
    low, high = values
    return high - low + 1 if has_whole_ends(values) else 1 if low == high else math.inf
