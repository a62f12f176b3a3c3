"""One trial of a search: engines that are trained with the same settings, and the best way of adapting them."""

import copy
import math
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from torch import Tensor

from it3.engine import IT3Engine
from it3.evaluation.metrics import Metric, metric_of
from it3.evaluation.rows import UNADAPTED
from it3.paths import package_folder
from it3.searching.choosing import SEARCH, FailedTrialError, Judge, direction_of, usable
from it3.searching.spaces import Places, Space, places_of, values_at
from it3.support.batches import Batches
from it3.support.identity import digest_of, text_of
from it3.support.kept import seed_all, seeded_runs

Train = Callable[[dict[str, Any], int], IT3Engine]


class NoEngineError(TypeError):
    """The user's function is wrong, whatever the settings."""


@dataclass(frozen=True)
class Experiment:
    """What the trials of a search have in common; it goes to other processes by pickle."""

    train: Train
    metric: str | Callable[[Tensor, Any], Any]
    space: Space
    adaptation: Space | None
    batches: Batches
    higher_is_better: bool | None
    adaptation_budget: int
    seeds: range
    seed: int

    @property
    def measure(self) -> Metric:
        """The metric, which may hold what cannot be pickled."""
        return metric_of(self.metric, self.higher_is_better)

    @property
    def choices(self) -> Space:
        """What may be chosen for test time, of which some models have no layers for a part."""
        return self.adaptation or SEARCH

    def engine(self, settings: Mapping[str, Any], seed: int) -> IT3Engine:
        """Train an engine, with settings of its own, as some are modules that learn, and put it into eval mode.

        Raises
        ------
        NoEngineError
            If it is none.
        """
        seed_all(seed)
        engine = self.train(copy.deepcopy(dict(settings)), seed)
        if not isinstance(engine, IT3Engine):
            raise NoEngineError(f"train must return the IT3Engine that it trained, not a {type(engine).__name__}")
        return engine.eval()

    def run(self, places: Places) -> dict[str, Any]:
        """Train and adapt with settings, and return what came of it, or why nothing did, as JSON can hold it."""
        with seeded_runs():
            try:
                start = time.perf_counter()
                engines = [self.engine(values_at(self.space, places), seed) for seed in self.seeds]
                seconds = time.perf_counter() - start
                return {**self._adapted(engines), "training_seconds": seconds}
            except NoEngineError:
                raise
            except FailedTrialError as error:
                return {"failure": f"it cannot be scored without adaptation (num_steps=0): {error}"}
            except Exception as error:  # whatever the user's function raises, the other trials go on
                frames = traceback.extract_tb(error.__traceback__)
                where = next((frame for frame in frames if not frame.filename.startswith(package_folder)), frames[-1])
                return {"failure": f"{type(error).__name__}: {error} ({where.filename}, line {where.lineno})"}

    def identity(self) -> dict[str, str]:
        """Write what trials must have in common to be compared, beside the function that trains."""
        return {
            "space": _text_of_space(self.space),
            "adaptation": _text_of_space(self.choices),
            "metric": f"{text_of(self.metric)} to {direction_of(self.measure)}",
            "adaptation_budget": str(self.adaptation_budget),
            "seeds": f"{len(self.seeds)} from {self.seed}",
            "validation": digest_of(self.batches),
        }

    def _adapted(self, engines: list[IT3Engine]) -> dict[str, Any]:
        start = time.perf_counter()
        judge = Judge(self.batches, self.measure, self.seed)
        unadapted = fmean(judge.scores(engines, UNADAPTED))
        space = self.adaptation or usable(engines[0], self.batches[0][0])
        best = judge.choose({"": engines}, space, self.adaptation_budget)
        return {
            "score": fmean(best.scores),
            "scores": best.scores,
            "unadapted": unadapted,
            "second": _mean_or_nan(judge, engines, {**UNADAPTED, "prediction": "second"}),
            "batch_statistics": _mean_or_nan(judge, engines, {**UNADAPTED, "norm_statistics": "batch"}),
            "adaptation": places_of(self.choices, best.settings),
            "adaptations": [
                {"settings": trial.user_attrs["choice"], "score": math.nan if trial.value is None else trial.value}
                for trial in best.study.trials
            ],
            "adaptation_seconds": time.perf_counter() - start,
        }


def _mean_or_nan(judge: Judge, engines: list[IT3Engine], settings: Mapping[str, Any]) -> float:
    """Return the mean score of what some models have no layers for."""
    try:
        return fmean(judge.scores(engines, settings))
    except FailedTrialError:
        return math.nan


def _text_of_space(space: Space) -> str:
    return ", ".join(f"{name}: {text_of(values)}" for name, values in space.items())
