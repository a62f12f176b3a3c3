"""Engines to train, data for them, and the loop written out by hand."""

import random
from collections.abc import Callable
from typing import Any

import it3
import numpy as np
import torch
from it3 import IT3Engine
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

SGD = lambda parameters: torch.optim.SGD(parameters, lr=0.05, momentum=0.9)  # noqa: E731


def make_engine(seed: int = 0, **arguments: Any) -> IT3Engine:
    """Make an engine with dropout in the model, whose embedder has no shape yet."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 3))
    return IT3Engine(model, "0", **{"distance_fn": "js", **arguments})


def data(size: int = 22) -> TensorDataset:
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(size, 6, generator=generator)
    return TensorDataset(x, x[:, :3].argmax(1))


def shuffled(**arguments: Any) -> DataLoader[Any]:
    return DataLoader(data(), 8, shuffle=True, **arguments)  # 8, 8 and 6 samples


def by_hand(
    engine: IT3Engine,
    loader: Any,
    criterion: Callable[..., Tensor],
    epochs: int,
    optimizer: torch.optim.Optimizer,
    scheduler: Any = None,
    max_grad_norm: float | None = None,
) -> list[list[tuple[float, float, int]]]:
    """The loop of docs/how_to/train.md, which also returns both losses of each batch, and its size."""
    told = []
    engine.train()
    for _ in range(epochs):
        told.append([])
        for x, y in loader:
            prediction, loss_ttt = engine(x, target=y)
            loss = criterion(prediction, y)
            optimizer.zero_grad()
            (loss + loss_ttt).backward()
            if max_grad_norm is not None:
                nn.utils.clip_grad_norm_(engine.parameters(), max_grad_norm)
            optimizer.step()
            told[-1].append((loss.item(), loss_ttt.item(), len(y)))
        if scheduler is not None:
            scheduler.step()
    return told


def assert_same(one: IT3Engine, other: IT3Engine) -> None:
    torch.testing.assert_close(one.state_dict(), other.state_dict(), rtol=0, atol=0)


def data_list() -> list[tuple[Tensor, Tensor]]:
    x, y = data().tensors
    return list(zip(x.split(8), y.split(8), strict=True))


def raise_(error: BaseException) -> Any:
    raise error


class Stops(it3.Callback):
    def __init__(self, step: int, how: Callable[[], Any]) -> None:
        self._step, self._how = step, how

    def on_step(self, step: it3.TrainingStep) -> None:
        if step.step == self._step:
            self._how()


def seed_all(seed: int) -> None:
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
