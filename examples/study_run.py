"""A study on the command line: train as was chosen, compare on the test's shifts, write and draw.

Its picture is drawn from NAME.json; with that in docs/measurements/studies, redraw.py draws it again without a run.

With --search, first choose how to train and to adapt, which takes hours.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import it3
from it3 import IT3Engine
from it3.evaluation.metrics import metric_of
from other_methods import methods_of_torch_ttt
from rich.console import Console
from study import Study, TensorFunction, train
from study_picture import draw
from study_record import CHOSEN, DEFAULTS, record_of, write
from study_report import section
from study_search import Choice, search
from torch import Tensor
from uncertainty import measures

SEEDS = 5
STEPS = (1, 2, 3, 5, 10)  # at which the picture shows the metric


@dataclass(frozen=True)
class Comparison:
    """What a study gave.

    Attributes
    ----------
    chosen
        Networks that were trained as was chosen, beside all controls.
    defaults
        Networks and engines as they are out of the box, without any choice.
    uncertainty
        A row for each kind, see :func:`uncertainty.measures`.
    over_steps
        The metric on the test by the number of steps, all else as chosen, of one network.
    """

    choice: Choice
    chosen: it3.Evaluation
    defaults: it3.Evaluation
    uncertainty: list[dict[str, Any]]
    over_steps: dict[int, float]
    engine: IT3Engine
    seconds: float


def compare(study: Study, seeds: int, console: Console) -> Comparison:
    """Train networks, and compare them on the test."""
    start = time.perf_counter()
    choice = Choice.of(study)
    chosen, plain, defaults = [], [], []
    for seed in range(100, 100 + seeds):  # other seeds than the search's
        with console.status(f"{study.title}: training {seed - 99} of {seeds}"):
            chosen.append(train(study, choice.training, seed))
            plain.append(train(study, study.out_of_the_box, seed, second_term=False))
            defaults.append(train(study, study.out_of_the_box, seed))
    clusters, groups = study.labels()

    def evaluate(engines: list[IT3Engine], variants: dict[str, Any], **controls: Any) -> it3.Evaluation:
        return it3.evaluate(
            engines,
            study.test,
            study.metric,
            variants,
            higher_is_better=study.higher_is_better,
            clusters=clusters,
            groups=groups,
            **controls,
        )

    with console.status(f"{study.title}: comparing on the test's shifts"):
        return Comparison(
            choice,
            evaluate(
                chosen,
                {CHOSEN: choice.adaptation},
                without_second_term=plain,
                reference=study.targets if study.reference is None else study.reference,
                repairs=study.repairs,
                others=methods_of_torch_ttt(study, choice),
            ),
            evaluate(defaults, {DEFAULTS: {}}),
            measures(study, chosen, errors_of(study)),
            over_steps(study, chosen[0], choice.adaptation),
            chosen[0],
            time.perf_counter() - start,
        )


def errors_of(study: Study) -> TensorFunction:
    """Return the function that gives each sample's error, for a prediction and targets."""
    metric = metric_of(study.metric, study.higher_is_better)

    def errors(prediction: Tensor, targets: Tensor) -> Tensor:
        scores, samples = metric.scores(prediction, targets)
        scores = scores.expand(samples)
        return (1 - scores if metric.higher_is_better else scores).float()

    return errors


def over_steps(study: Study, engine: IT3Engine, adaptation: dict[str, Any]) -> dict[int, float]:
    """Return the metric on the test by the number of steps, all else as chosen."""
    variants = {f"{steps} steps": {**adaptation, "num_steps": steps} for steps in STEPS}
    evaluation = it3.evaluate(
        engine, study.test, study.metric, variants, higher_is_better=study.higher_is_better, resamples=100
    )
    score = {row["name"]: row["score"] for row in evaluation.rows}
    return {0: score["0 steps"]} | {steps: score[f"{steps} steps"] for steps in STEPS}


def run(build: Callable[[], Study | list[Study]], description: str | None) -> None:
    """Run a study, or several, from the command line."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=SEEDS, help="networks to train of each kind")
    parser.add_argument("--output", type=Path, default=Path("output"), help="folder for what is written")
    parser.add_argument("--search", type=int, metavar="TRIALS", help="first choose by so many ways to train")
    parser.add_argument("--processes", type=int, default=1, help="in which the search trains")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    console = Console()
    with console.status("data"):
        studies = build()
    for study in studies if isinstance(studies, list) else [studies]:
        if arguments.search:
            search(study, arguments.search, arguments.processes, arguments.output / f"{study.name}.search")
        comparison = compare(study, arguments.seeds, console)
        record = record_of(study, comparison)
        write(record, arguments.output / f"{study.name}.json")
        draw(record, arguments.output / f"{study.name}.png")
        (arguments.output / f"{study.name}.md").write_text(section(study, comparison))
        print(study.title, comparison.chosen, comparison.defaults, *comparison.uncertainty, sep="\n", end="\n\n")
