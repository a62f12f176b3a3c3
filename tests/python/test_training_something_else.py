"""A training goes on from its own checkpoint alone, and no other is written."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import it3
import pytest
import torch
import torch.nn.functional as F
from it3 import IT3Engine
from it3.training.fit import fit
from kinds_of_network import state_of
from torch import nn
from torch.optim import lr_scheduler
from torch.utils.data import DataLoader
from trained import SGD, Stops, data, data_list, make_engine


def test_checkpoints_of_something_else(tmp_path: Path) -> None:
    path = tmp_path / "training.pt"
    given: dict[str, Any] = {"criterion": F.cross_entropy, "loader": data_list(), "epochs": 2, "checkpoint": path}
    make_engine().fit(**given)
    engine = make_engine(seed=1)
    before = state_of(engine)
    half = lr_scheduler.ExponentialLR
    for arguments, match in (
        ({"optimizer": SGD}, "optimizer was Adam, and is SGD"),
        ({"optimizer": lambda p: torch.optim.Adam(p, lr=0.01)}, "the optimizer's lr was 0.001, and is 0.01"),
        ({"scheduler": lambda o: half(o, 0.5)}, "scheduler was None, and is ExponentialLR"),
        ({"max_grad_norm": 1.0}, "max_grad_norm was None, and is 1.0"),
        (
            {"criterion": F.multi_margin_loss},
            "criterion was torch.nn.functional.cross_entropy, and is torch.nn.functio",
        ),
        ({"loader": data_list()[:2]}, "the number of batches was 3, and is 2"),
        ({"epochs": 1}, "holds a training of 2 epochs, which is more than epochs=1"),
    ):
        with pytest.raises(ValueError, match=match):
            engine.fit(**given | arguments)
    torch.manual_seed(0)
    wider = IT3Engine(nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 3)), "0", distance_fn="js")
    with pytest.raises(ValueError, match=r"it has no 'model.2.weight' .*'model.3.weight' in it is not in this engine"):
        wider.fit(**given)
    wider = IT3Engine(nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Dropout(), nn.Linear(9, 3)), "0", distance_fn="js")
    with pytest.raises(ValueError, match=r"'model.0.weight' had the shape \(8, 6\), and has \(9, 6\)"):
        wider.fit(**given)
    content = path.read_bytes()
    for bad in (content[:-100], b"nothing", content[:2000] + bytes([content[2000] ^ 1]) + content[2001:]):
        path.write_bytes(bad)
        with pytest.raises(ValueError, match="is damaged, or does not hold a training of fit"):
            engine.fit(**given)
    assert all(torch.equal(value, before[name]) for name, value in engine.state_dict().items())


def test_checkpoints_of_another_engine(tmp_path: Path) -> None:
    """Of which the network and its shapes are the same."""
    path = tmp_path / "training.pt"
    given: dict[str, Any] = {"criterion": F.cross_entropy, "loader": data_list(), "checkpoint": path}
    make_engine(neutral=0.0).fit(epochs=1, **given)
    functions = [lambda features, embedding: features - embedding, lambda features, embedding: features * embedding]
    for arguments, match in (
        ({"neutral": 0.5}, "neutral, by a hash, was"),
        ({"neutral": it3.RandomOneHot()}, "neutral, by a hash, was"),
        ({"feedback": "prediction"}, "feedback was 'auto', and is 'prediction'"),
        ({"combine_fn": functions[0]}, "combine_fn was .*, and is .*<lambda>"),
        ({"distance_fn": "mse"}, "distance_fn was 'js', and is 'mse'"),
        ({"output": lambda prediction: prediction}, "output was None, and is .*<lambda>"),
        ({"in_dims": 1}, "in_dims was None, and is 1"),
        ({"embedder": Own()}, "the embedder was Embedder, and is Own"),
    ):
        with pytest.raises(ValueError, match=match):
            make_engine(**{"neutral": 0.0} | arguments).fit(epochs=2, **given)
    assert len(make_engine(neutral=0.0).fit(epochs=2, **given)) == 2
    labels = [it3.DrawnLabels(torch.arange(3) + change) for change in (0, 1)]
    for number, (begun, other) in enumerate([labels, functions]):
        name = ("neutral", "combine_fn")[number]
        given["checkpoint"] = tmp_path / f"{name}.pt"
        make_engine(**{name: begun}).fit(epochs=1, **given)
        with pytest.raises(ValueError, match=f"{name}.* was .*, and is"):
            make_engine(**{name: other}).fit(epochs=2, **given)


class Own(nn.Linear):
    def __init__(self) -> None:
        super().__init__(3, 8)


SCHEDULERS: dict[str, tuple[Callable[..., Any], Any, Any, str]] = {
    "steps": (lambda o, gamma: lr_scheduler.StepLR(o, 1, gamma), 0.5, 0.9, "scheduler's gamma was 0.5, and is 0.9"),
    "cosine": (lr_scheduler.CosineAnnealingLR, 2, 4, "the scheduler's T_max was 2, and is 4"),
    "cycle": (
        lambda o, steps: lr_scheduler.OneCycleLR(o, 0.1, total_steps=steps),
        6,
        12,
        "scheduler's total_steps was 6, and is 12",
    ),
    "plateau": (
        lambda o, patience: lr_scheduler.ReduceLROnPlateau(o, patience=patience),
        0,
        1,
        "scheduler's patience was 0, and is 1",
    ),
    "functions": (
        lambda o, power: lr_scheduler.LambdaLR(o, lambda epoch: 0.5 ** (power * epoch)),
        1,
        2,
        "scheduler's functions was .*<lambda>.*, and is .*<lambda>",
    ),
    "restarts": (lr_scheduler.CosineAnnealingWarmRestarts, 1, 3, "scheduler's T_0 was 1, and is 3"),
    "several": (
        lambda o, gamma: lr_scheduler.SequentialLR(
            o, [lr_scheduler.ConstantLR(o), lr_scheduler.StepLR(o, 1, gamma)], [1]
        ),
        0.5,
        0.9,
        "scheduler's _schedulers was .*'gamma': 0.5.*, and is .*'gamma': 0.9",
    ),
}


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.filterwarnings("ignore:The epoch parameter in")  # of torch's SequentialLR
def test_checkpoints_with_other_settings_of_the_scheduler(name: str, tmp_path: Path) -> None:
    make, setting, other, match = SCHEDULERS[name]
    given: dict[str, Any] = {"criterion": F.cross_entropy, "loader": data_list(), "checkpoint": tmp_path / "t.pt"}

    def train(epochs: int, setting: Any, lr: float = 0.05) -> it3.History:
        return make_engine().fit(
            epochs=epochs,
            optimizer=lambda parameters: torch.optim.SGD(parameters, lr=lr),
            scheduler=lambda optimizer: make(optimizer, setting),
            **given,
        )

    train(2, setting)
    with pytest.raises(ValueError, match=match):
        train(3, other)
    if name != "cycle":  # which sets the rate itself
        with pytest.raises(ValueError, match=r"initial_lr was 0.05, and is 0.04"):
            train(3, setting, lr=0.04)
    if name != "cycle":  # of 6 steps
        assert len(train(3, setting)) == 3


def test_schedulers_that_have_counted_are_the_same(tmp_path: Path) -> None:
    """The same objects go on, though they hold other counts than at the start."""
    for name, (make, setting, *_) in SCHEDULERS.items():
        if name in ("cycle", "several"):  # the one is at its end, the other warns
            continue
        engine, path = make_engine(), tmp_path / f"{name}.pt"
        optimizer = SGD(engine.parameters())
        given = {"optimizer": optimizer, "scheduler": make(optimizer, setting), "checkpoint": path}
        for epochs in (2, 4):
            assert len(engine.fit(data_list(), F.cross_entropy, epochs=epochs, **given)) == epochs


def test_callers_may_add_to_what_must_be_the_same(tmp_path: Path) -> None:
    def train(epochs: int, identity: dict[str, str] | None) -> it3.History:
        names = ("optimizer", "scheduler", "scheduler_interval", "validation", "metric", "max_grad_norm")
        return fit(
            make_engine(),
            data_list(),
            F.cross_entropy,
            epochs=epochs,
            callbacks=[],
            progress=False,
            checkpoint=tmp_path / "t.pt",
            identity=identity,
            **dict.fromkeys(names),
        )

    train(1, {"the seed": "3"})
    for other, said in (({"the seed": "4"}, "4"), (None, "None")):
        with pytest.raises(ValueError, match=f"the seed was 3, and is {said}"):
            train(2, other)
    assert len(train(2, {"the seed": "3"})) == 2


def test_states_that_no_file_can_hold_are_found_before_an_epoch(tmp_path: Path) -> None:
    class Odd(torch.optim.lr_scheduler.ExponentialLR):
        def __init__(self, optimizer: torch.optim.Optimizer) -> None:
            super().__init__(optimizer, 0.5)
            self.odd = Stops(1, print)

    engine = make_engine()
    engine.uncertainty(data_list()[0][0])
    before = state_of(engine)
    given: dict[str, Any] = {"criterion": F.cross_entropy, "loader": data_list(), "checkpoint": tmp_path / "t.pt"}
    with pytest.raises(
        ValueError, match="no checkpoint can hold the state of the optimizer or the scheduler, which keep"
    ):
        engine.fit(**given, scheduler=Odd)
    assert all(torch.equal(value, before[name]) for name, value in engine.state_dict().items())
    assert os.listdir(tmp_path) == []
    with pytest.raises(ValueError, match="persistent_workers=True keeps random states"):
        engine.fit(**given | {"loader": DataLoader(data(), 8, num_workers=1, persistent_workers=True)})
    odd = Extra({"object": Stops(1, print)})
    before = [parameter.clone() for parameter in odd.parameters()]
    with pytest.raises(ValueError, match="no checkpoint can hold the state of the engine's model or embedder, which k"):
        IT3Engine(odd, "0", distance_fn="js").fit(**given)
    assert all(map(torch.equal, odd.parameters(), before))
    assert os.listdir(tmp_path) == []


class Extra(nn.Sequential):
    """A model with a state that is no tensor."""

    def __init__(self, extra: Any) -> None:
        super().__init__(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
        self.extra = extra

    def get_extra_state(self) -> Any:
        return self.extra

    def set_extra_state(self, state: Any) -> None:
        self.extra = state


def test_states_that_are_no_tensors_go_on(tmp_path: Path) -> None:
    engines = []
    for epochs in (1, 3, 3):
        torch.manual_seed(0)
        engine = IT3Engine(Extra({"scale": 2.0, "names": ["a"]} if epochs == 1 else {}), "0", distance_fn="js")
        checkpoint = tmp_path / "t.pt" if len(engines) < 2 else None
        engine.fit(data_list(), F.cross_entropy, epochs=epochs, checkpoint=checkpoint)
        engines.append(engine)
    assert engines[1].model.extra == {"scale": 2.0, "names": ["a"]}
    for one, other in zip(engines[1].parameters(), engines[2].parameters(), strict=True):
        assert torch.equal(one, other)
