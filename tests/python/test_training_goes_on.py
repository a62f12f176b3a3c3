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
from models import VectorCNN
from torch import Tensor
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
