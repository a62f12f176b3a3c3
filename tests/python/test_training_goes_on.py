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
from kinds_of_network import state_of
from models import VectorCNN
from torch import Tensor, nn
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
    assert os.listdir(tmp_path) == ["training.pt"]
    make, given = way("plain")
    engine = make()
    steps = []
    counts = Stops(0, lambda: None)
    counts.on_step = lambda step: steps.append(step.step)
    engine.fit(epochs=4, checkpoint=path, callbacks=[counts], **given)
    assert steps == list(range(7, 13))  # of the third and the fourth epoch
    assert_same(engine, whole)


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
    half = torch.optim.lr_scheduler.ExponentialLR
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
