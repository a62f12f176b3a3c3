"""A training that was ended, however, goes on as if it had not been."""

import os
import random
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import it3
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from it3 import IT3Engine
from it3.fitting import fit
from kinds_of_network import state_of
from models import VectorCNN
from torch import Tensor, nn
from torch.optim import lr_scheduler
from torch.utils.data import DataLoader, Dataset
from trained import SGD, Stops, assert_same, by_hand, data, data_list, make_engine, raise_, seed_all, shuffled


class Noisy(Dataset[Any]):
    """Draws from the generators of torch, Python and NumPy for each sample."""

    def __len__(self) -> int:
        return 20

    def __getitem__(self, index: int) -> Any:
        x = torch.full((6,), index / 20) + torch.randn(6) + random.random() + np.random.random()  # noqa: NPY002
        return x, index % 3


class Conv(VectorCNN):
    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(super().forward(x.reshape(-1, 1, 1, 6).expand(-1, -1, 8, -1).repeat(1, 1, 1, 2)[..., :8]), 0.3)


def way(name: str) -> tuple[Callable[[], IT3Engine], dict[str, Any]]:
    """Return what makes an engine, and arguments of fit() but for the epochs, alike in every process."""
    generator = torch.Generator().manual_seed(2)
    given: dict[str, Any] = {"criterion": F.cross_entropy}
    make: Callable[[], IT3Engine] = make_engine
    if name == "plain":
        given["loader"] = shuffled()
    elif name == "generators":
        given |= {"loader": shuffled(generator=generator), "optimizer": SGD, "max_grad_norm": 0.5}
        given |= {"validation": DataLoader(data(), 4, shuffle=True, generator=torch.Generator().manual_seed(4))}
        given |= {"metric": "accuracy"}
        given |= {"scheduler": lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 0.2, total_steps=12)}
    elif name == "noisy":
        given |= {"loader": DataLoader(Noisy(), 8, shuffle=True)}
        given |= {"optimizer": lambda parameters: torch.optim.Adagrad(parameters, lr=0.1)}
        given |= {"scheduler": lambda o: torch.optim.lr_scheduler.ReduceLROnPlateau(o, patience=0, threshold=0.5)}
    else:
        given |= {"loader": DataLoader(data(), 8, shuffle=True)}
        recipe = it3.TrainingRecipe(first_pass="drawn", second_pass="prediction", noise=0.1)

        def make() -> IT3Engine:
            torch.manual_seed(0)
            return IT3Engine(Conv(), "conv1", distance_fn="js", neutral=it3.RandomOneHot(), training_recipe=recipe)

    return make, given


def rows_of(history: it3.History) -> list[dict[str, Any]]:
    return [{name: str(value) for name, value in row.items() if name != "seconds"} for row in history.rows]


@pytest.mark.parametrize("name", ["plain", "generators", "noisy", "convolutions"])
def test_a_training_that_was_ended_goes_on(name: str, tmp_path: Path) -> None:
    make, given = way(name)
    whole = make()
    seed_all(7)
    expected = whole.fit(epochs=4, **given)
    after = torch.rand(1), random.random(), np.random.random()  # noqa: NPY002
    path = tmp_path / "training.pt"
    for step in (5, 8):  # in the second epoch, and in the third
        make, given = way(name)
        engine = make()
        seed_all(7 if step == 5 else 99)
        stops = Stops(step, lambda: raise_(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            engine.fit(epochs=4, checkpoint=path, callbacks=[stops], **given)
    make, given = way(name)
    engine = make()
    seed_all(99)
    history = engine.fit(epochs=4, checkpoint=path, **given)
    assert_same(engine, whole)
    assert rows_of(history) == rows_of(expected)
    assert after == (torch.rand(1), random.random(), np.random.random())  # noqa: NPY002
    make, given = way(name)
    again = make()
    assert rows_of(again.fit(epochs=4, checkpoint=path, **given)) == rows_of(expected)  # nothing is left to do
    assert_same(again, whole)


def test_more_epochs_train_on_in_the_same_process(tmp_path: Path) -> None:
    """By the same objects, which the first call has left at its end."""
    engine, whole = make_engine(), make_engine()
    seed_all(1)
    optimizer = SGD(whole.parameters())
    by_hand(whole, shuffled(), F.cross_entropy, 4, optimizer, torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5))
    seed_all(1)
    optimizer = SGD(engine.parameters())
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
    given = {"optimizer": optimizer, "scheduler": scheduler, "checkpoint": tmp_path / "training.pt"}
    engine.fit(shuffled(), F.cross_entropy, epochs=2, **given)
    seed_all(2)
    engine.fit(shuffled(), F.cross_entropy, epochs=4, **given)
    assert_same(engine, whole)


def test_a_callback_that_raises_at_the_end_of_an_epoch_does_not_cost_it(tmp_path: Path) -> None:
    class Draws(it3.Callback):
        """Draws after each epoch, as what shows some samples does, and raises after one of them."""

        def __init__(self, raises_at: int = 0) -> None:
            self.raises_at, self.epochs = raises_at, []

        def on_epoch(self, row: Any) -> None:
            torch.rand(1)
            self.epochs.append(row["epoch"])
            if row["epoch"] == self.raises_at:
                raise ValueError("boom")

    engine, whole = make_engine(), make_engine()
    given: dict[str, Any] = {"criterion": F.cross_entropy, "loader": shuffled(), "epochs": 4}
    seed_all(1)
    whole.fit(**given, callbacks=[Draws()])
    seed_all(1)
    with pytest.raises(ValueError, match="boom"):
        engine.fit(**given, callbacks=[Draws(2)], checkpoint=tmp_path / "t.pt")
    engine.fit(**given, callbacks=[draws := Draws()], checkpoint=tmp_path / "t.pt")
    assert draws.epochs == [3, 4]
    assert_same(engine, whole)


KILLED = """
import os, signal, sys, torch
torch.set_num_threads(1)
import test_training_goes_on as t
import trained
make, given = t.way("plain")
engine = make()
trained.seed_all(7)
stops = trained.Stops(int(sys.argv[2]), lambda: os.kill(os.getpid(), signal.SIGKILL))
engine.fit(epochs=4, checkpoint=sys.argv[1], callbacks=[stops], **given)
"""


def test_a_killed_process_loses_no_epoch(tmp_path: Path) -> None:
    make, given = way("plain")
    whole = make()
    seed_all(7)
    whole.fit(epochs=4, **given)
    path = tmp_path / "training.pt"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", KILLED, str(path), "8"], env=environment, check=False)
    assert done.returncode == -9
    assert sorted(os.listdir(tmp_path)) == ["training.pt", "training.pt.lock"]  # whose lock has ended
    make, given = way("plain")
    engine = make()
    steps = []
    counts = Stops(0, lambda: None)
    counts.on_step = lambda step: steps.append(step.step)
    engine.fit(epochs=4, checkpoint=path, callbacks=[counts], **given)
    assert steps == list(range(7, 13))  # of the third and the fourth epoch
    assert os.listdir(tmp_path) == ["training.pt"]
    assert_same(engine, whole)


def test_one_process_a_checkpoint(tmp_path: Path) -> None:
    path, linked = tmp_path / "training.pt", tmp_path / "linked.pt"
    linked.symlink_to(path)
    refused = []

    def another() -> None:
        for each in (path, linked):
            with pytest.raises(RuntimeError, match=r"another process is training into '.*.pt'; wait"):
                make_engine(seed=1).fit(data_list(), F.cross_entropy, epochs=2, checkpoint=each)
            refused.append(each)

    engine, alone = make_engine(), make_engine()
    seed_all(1)
    engine.fit(data_list(), F.cross_entropy, epochs=2, checkpoint=path, callbacks=[Stops(4, another)])
    assert refused == [path, linked]
    assert sorted(os.listdir(tmp_path)) == ["linked.pt", "training.pt"]
    seed_all(1)
    alone.fit(data_list(), F.cross_entropy, epochs=2)
    assert len(alone.fit(data_list(), F.cross_entropy, epochs=2, checkpoint=linked)) == 2  # read, and not trained
    assert_same(engine, alone)


@contextmanager
def disk_of(size: int) -> Iterator[None]:
    """Have files end at a size, as a full disk does; Python has the system say so rather than end the process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_leaves_the_earlier_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "training.pt"
    make_engine().fit(data_list(), F.cross_entropy, checkpoint=path)
    before = path.read_bytes()
    engine = make_engine()
    with pytest.raises(RuntimeError, match=r"cannot write '.*training.pt': File too large"), disk_of(1000):
        engine.fit(data_list(), F.cross_entropy, epochs=2, checkpoint=path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["training.pt"]
    with pytest.raises(RuntimeError, match=r"cannot write '.*/nowhere/training.pt': No such file or directory"):
        engine.fit(data_list(), F.cross_entropy, epochs=2, checkpoint=tmp_path / "nowhere/training.pt")


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
