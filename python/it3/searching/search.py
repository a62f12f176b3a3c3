"""Which way of training and adapting is best, searched on data that are held out from the test."""

import math
import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import optuna
from optuna.trial import FrozenTrial, TrialState
from torch import Tensor

from it3.engine import IT3Engine
from it3.engine_siblings import sibling
from it3.evaluation.metrics import metric_of
from it3.searching.choosing import check_space, direction_of, in_one_spelling
from it3.searching.journal import opened_study
from it3.searching.processes import Processes, ThisProcess
from it3.searching.proposals import COUNTED, ask
from it3.searching.spaces import Space, check_values, lines_of, plain, quiet_optuna, values_at
from it3.searching.trials import Experiment, Train
from it3.support.batches import Loader, batches_of
from it3.support.checks import check_count
from it3.support.kept import seed_all, seeded_runs

if TYPE_CHECKING:
    import pandas as pd


_CONTROLS = {"unadapted": "0 steps", "second": "y1", "batch_statistics": "0 steps with the batch's statistics"}


@dataclass(frozen=True)
class Search:
    """What :func:`it3.search` chose.

    Attributes
    ----------
    choice
        The settings of training by name.
    adaptation
        The settings of test time that are best for engines so trained, which :func:`it3.evaluate` takes as a variant.
    score, unadapted
        The metric on the validation data with these settings, and with 0 steps and running statistics, as means over
        the engines of the trial. They were chosen by these data, so that both are optimistic.
    trials
        One dictionary a trial: its ``number`` in the study, ``settings``, ``adaptation``, ``score``, the engines'
        ``scores``, ``adaptations`` (all that were tried, each with its ``settings`` and ``score``), ``unadapted``,
        ``second`` (the unadapted y1), ``batch_statistics`` (0 steps with the statistics of the batch; nan for a model
        without batch normalization), ``training_seconds`` and ``adaptation_seconds`` (of all its engines together) and
        ``failure``: why there is no score, "" if there is.
    study
        Optuna's record, in which a setting from a list is its place there.

    Examples
    --------
    >>> found.choice["layer"] in ("0", "1"), sorted(found.adaptation)
    (True, ['num_steps'])
    >>> print(found)
    score ... on the validation data, ... with 0 steps; 3 trials
    trained with
      layer = ...
    """

    choice: dict[str, Any]
    adaptation: dict[str, Any]
    score: float
    unadapted: float
    trials: list[dict[str, Any]]
    study: optuna.Study
    _experiment: Experiment = field(repr=False)

    def retrain(self, seeds: int = 5) -> list[IT3Engine]:
        """Train engines with the choice, which adapt by the choice, with other seeds than those of the search.

        What was chosen for some seeds looks better with them than with others. The random generators are left as they
        are.

        Parameters
        ----------
        seeds
            How many.

        Raises
        ------
        ValueError
            Unless this is a whole number, 1 or more; and whatever the function that trains raises.

        Examples
        --------
        >>> engines = found.retrain(seeds=2)
        >>> evaluation = it3.evaluate(engines, [(x + 2, y)], "mse")
        """
        check_count("seeds", seeds, 1)
        first = self._experiment.seeds.stop
        with seeded_runs():
            engines = [self._experiment.engine(self.choice, seed) for seed in range(first, first + seeds)]
        return [sibling(engine, self.adaptation) for engine in engines]

    def to_frame(self) -> "pd.DataFrame":
        """Return the trials as a pandas.DataFrame, by number; each setting is a column.

        Examples
        --------
        >>> found.to_frame()["settings.layer"].isin(["0", "1"]).all()
        np.True_
        """
        import pandas as pd  # noqa: PLC0415  (only those who ask for it need it)

        return pd.json_normalize(self.trials, max_level=1).set_index("number")

    def __str__(self) -> str:
        """Return what was chosen, and the best score without adapting, which it has to beat."""
        failed = sum(bool(trial["failure"]) for trial in self.trials)
        count = f"{len(self.trials)} trials" + (f", of which {failed} failed" if failed else "")
        sign = 1 if self.study.direction == optuna.study.StudyDirection.MAXIMIZE else -1
        without = [
            (sign * trial[control], said, trial["number"])
            for trial in self.trials
            for control, said in _CONTROLS.items()
            if math.isfinite(trial[control])
        ]
        best, said, number = max(without)
        return "\n".join(
            [
                f"score {self.score:.4g} on the validation data, {self.unadapted:.4g} with 0 steps; {count}",
                "trained with",
                *lines_of(self.choice, {}),
                "adapted with",
                *lines_of(self.adaptation, {}),
                f"The best score of a trial without adapting is {sign * best:.4g}: {said}, trial {number}.",
            ]
        )


def search(
    train: Train,
    validation: Loader,
    metric: str | Callable[[Tensor, Any], Any],
    space: Space,
    *,
    adaptation: Space | None = None,
    budget: int = 20,
    adaptation_budget: int = 40,
    seeds: int = 2,
    processes: int = 1,
    path: str | os.PathLike[str] | None = None,
    higher_is_better: bool | None = None,
    seed: int = 0,
) -> Search:
    """Search how to train and how to adapt, one within the other, with Optuna.

    Each trial trains engines with settings that Optuna's tree-structured Parzen estimator proposes, chooses the
    settings of test time that are best for them all, as :func:`it3.tune` does, and is scored by what they then predict
    for the validation data. A trial that fails is warned of and recorded, and the others go on.

    The test is touched once: ``train`` uses the training data alone, the search sees the validation data alone, whose
    shift is like that to be expected but not that of the test; then :meth:`Search.retrain` trains anew, and
    :func:`it3.evaluate` compares these engines with what a gain has to beat, on the test. Whoever goes back to the
    search after that has no test any more.

    Parameters
    ----------
    train
        Trains an engine: ``train(settings, seed)``, with one value for each name in the space. It makes the network
        too. Before each call the random generators of torch, Python and NumPy are seeded, and engines are put into eval
        mode after it.
    validation
        Batches (inputs, targets) that are held out from training and from the test. Or a function of `seed` that gives
        them.
    metric, higher_is_better
        See :func:`it3.evaluate`.
    space
        What to search of training: by name, a list of choices, which may be anything, such as layers, recipes or
        embedders; or a pair, the two ends of a range, searched on a logarithmic scale, among whole numbers if both ends
        are.
    adaptation
        What to search of test time, as for :func:`it3.tune`. An option that refines a choice, such as ``norm_prior``,
        needs that choice beside it.
    budget
        Trials, with those of earlier calls that are in the journal. No settings are tried twice: there are fewer if the
        space has no more.
    adaptation_budget
        Trials of settings of test time, in each trial. They take no training.
    seeds
        How many engines each trial trains: with the seeds from `seed` on, the same for all trials, so that they differ
        by their settings.
    processes
        How many trials run at a time, each in a process that is spawned: what they need goes there by pickle, and
        torch's threads are divided among them. If one dies, its trial has failed. With one, trials run in this process,
        and the same seed gives the same search.
    path
        Of a journal of Optuna's, in which each trial is written down when it ends. The same call goes on where an
        earlier one was ended, and does no more than what is left; `budget` and `processes` may change, but nothing else
        that scores hang on. Whether ``train`` is what it was cannot be told: after changing it, take another path.
    seed
        Of the search, of the first engine of each trial, and of torch's random generators before each adaptation.

    Raises
    ------
    ValueError, TypeError
        For spaces, numbers and batches that are not accepted, an unknown option or metric, a path that holds another
        search, what cannot be sent to other processes, and if no trial gave a score.
    RuntimeError
        If another process is searching at the path, or if processes do not come to their first trial.

    Examples
    --------
    >>> def train(settings, seed):
    ...     network = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 1))
    ...     engine = it3.IT3Engine(network, settings["layer"])
    ...     optimizer = torch.optim.Adam(engine.parameters(), settings["lr"])
    ...     for _ in range(3):
    ...         prediction, loss_ttt = engine(x, target=y)
    ...         optimizer.zero_grad()
    ...         (F.mse_loss(prediction, y) + loss_ttt).backward()
    ...         optimizer.step()
    ...     return engine
    >>> space = {"layer": ["0", "1"], "lr": (1e-3, 1e-2)}
    >>> shifted = [(x + 1, y)]
    >>> found = it3.search(train, shifted, "mse", space, adaptation={"num_steps": [1, 3]}, budget=3, path="search.log")
    >>> found.score <= max(trial["score"] for trial in found.trials)
    True
    """
    if not callable(train):
        raise TypeError(f"train must be a function of settings and a seed that trains an engine, not {train!r}")
    measure = metric_of(metric, higher_is_better)
    _check_is_space("space", space)
    check_values(space)
    if adaptation is not None:
        _check_is_space("adaptation", adaptation)
        adaptation = in_one_spelling(adaptation)
        check_space(adaptation, {})
    counts = {"budget": budget, "adaptation_budget": adaptation_budget, "seeds": seeds, "processes": processes}
    for name, count in counts.items():
        check_count(name, count, 1)
    check_count("seed", seed, 0)
    with seeded_runs(), quiet_optuna():
        seed_all(seed)
        experiment = Experiment(
            train=train,
            metric=metric,
            space=dict(space),
            adaptation=adaptation,
            batches=batches_of(validation, seed),
            higher_is_better=higher_is_better,
            adaptation_budget=adaptation_budget,
            seeds=range(seed, seed + seeds),
            seed=seed,
        )
        with opened_study(path, direction_of(measure), experiment.identity()) as study:
            left = budget - len(_counted(study))
            if left > 0:
                workers = ThisProcess(experiment) if processes == 1 else Processes(experiment, min(processes, left))
                _run(study, experiment, workers, left)
            return _search_of(study, experiment)


def _run(study: optuna.Study, experiment: Experiment, workers: ThisProcess | Processes, left: int) -> None:
    """Have trials run, until there are as many as wanted, or all that differ."""
    running: dict[int, optuna.Trial] = {}
    with workers:
        while True:
            while left > 0 and len(running) < workers.room:
                trial = ask(study, experiment.space, experiment.seed)
                if trial is None:
                    break
                trial.set_user_attr("settings", plain(values_at(experiment.space, trial.params)))
                running[trial.number] = trial
                workers.start(trial.number, trial.params)
                left -= 1
            if not running:
                return
            for number, record in workers.finished().items():
                trial = running.pop(number)
                for name, value in record.items():
                    trial.set_user_attr(name, value)
                if "failure" in record:
                    study.tell(trial, state=TrialState.PRUNED)
                    said = f"trial {number} with {trial.user_attrs['settings']} failed: {record['failure']}"
                    warnings.warn(said, stacklevel=3)
                else:
                    study.tell(trial, record["score"])


def _search_of(study: optuna.Study, experiment: Experiment) -> Search:
    trials = [_described(trial, experiment) for trial in _counted(study)]
    if all(trial["failure"] for trial in trials):
        raise ValueError(f"no trial gave a score; the first failed: {trials[0]['failure']}")
    best = next(trial for trial in trials if trial["number"] == study.best_trial.number)
    return Search(
        choice=best["settings"],
        adaptation=best["adaptation"],
        score=best["score"],
        unadapted=best["unadapted"],
        trials=trials,
        study=study,
        _experiment=experiment,
    )


def _counted(study: optuna.Study) -> list[FrozenTrial]:
    return study.get_trials(deepcopy=False, states=COUNTED)


def _described(trial: FrozenTrial, experiment: Experiment) -> dict[str, Any]:
    record = trial.user_attrs
    numbers = ("score", "unadapted", "second", "batch_statistics", "training_seconds", "adaptation_seconds")
    return {
        "number": trial.number,
        "settings": values_at(experiment.space, trial.params),
        "adaptation": values_at(experiment.choices, record.get("adaptation", {})),
        "scores": record.get("scores", []),
        "adaptations": record.get("adaptations", []),
        **{name: record.get(name, math.nan) for name in numbers},
        "failure": record.get("failure", ""),
    }


def _check_is_space(name: str, space: object) -> None:
    if not isinstance(space, Mapping) or not space or not all(isinstance(key, str) for key in space):
        raise ValueError(
            f"{name} must be a mapping of names to lists of choices or pairs (low, high), such as "
            f'{{"lr": (1e-4, 1e-2)}}, not {space!r:.80}'
        )
