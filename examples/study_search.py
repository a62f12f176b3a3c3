"""How to train and to adapt, chosen by it3.search on a study's validation data; what was chosen is kept in chosen/.

Each trial trains networks of two seeds, and tries settings of test time on them. All trials' scores are kept too, in
docs/trials.
"""

import dataclasses
import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import it3
import pandas as pd
from study import RECIPES, Study, train

CHOSEN = Path(__file__).parent / "chosen"
TRIALS = Path(__file__).parent.parent / "docs" / "trials"
OF_TEST_TIME: dict[str, Any] = {
    "num_steps": [1, 2, 3, 5, 10],
    "lr": (1e-5, 1e-2),
    "anchor": ["self", "frozen", "ema"],
    "parameters": ["all", "norm"],
    "norm_statistics": ["running", "batch", "blend"],
    "prediction": ["first", "mean"],
}


@dataclass(frozen=True)
class Choice:
    """What a search chose.

    `training` is for :func:`study.train`, `adaptation` a variant for it3.evaluate. `score` and `unadapted` are of the
    validation data.
    """

    training: dict[str, Any]
    adaptation: dict[str, Any]
    score: float
    unadapted: float
    trials: int

    @classmethod
    def of(cls, study: Study) -> "Choice":
        """Read what the last search of a study chose."""
        return cls(**json.loads((CHOSEN / f"{study.name}.json").read_text()))


def search(study: Study, trials: int, processes: int, journal: Path) -> None:
    """Search, or go on with a search at its journal, and keep what it chose and all its trials."""
    # What trials need of the study, as it goes to other processes; validation goes there by itself.
    training = dataclasses.replace(study, validation=[], clean=[], shifts={}, reference=None, repairs={})
    distances = ["cross_entropy", "js", "mse"] if study.is_of_classes else ["mse", "l1"]
    found = it3.search(
        functools.partial(train, training),
        study.validation,
        study.metric,
        {"layer": study.layers, "recipe": list(RECIPES), "weight": (0.1, 3.0), "neutral": [False, True]},
        adaptation={**OF_TEST_TIME, "distance_fn": distances},
        budget=trials,
        adaptation_budget=study.adaptations,
        processes=processes,
        path=journal,
        higher_is_better=study.higher_is_better,
    )
    tried = [
        {"training": trial["number"], **trial["settings"], **adaptation["settings"], "score": adaptation["score"]}
        for trial in found.trials
        for adaptation in trial["adaptations"]
    ]
    choice = Choice(found.choice, found.adaptation, found.score, found.unadapted, len(tried))
    CHOSEN.mkdir(exist_ok=True)
    (CHOSEN / f"{study.name}.json").write_text(json.dumps(dataclasses.asdict(choice), indent=2) + "\n")
    TRIALS.mkdir(exist_ok=True)
    pd.DataFrame(tried).to_csv(TRIALS / f"{study.name}.csv.gz", index=False, float_format="%.5g")
    print(study.title, found, sep="\n", end="\n\n")
