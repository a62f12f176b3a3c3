"""A configuration that trains and evaluates a small network, and the module that it names."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

PARTS = """
import torch
from torch import nn


def make():
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))


def other():
    return make()


def batches(seed, shift):
    generator = torch.Generator().manual_seed(seed)
    inputs = [torch.randn(16, 4, generator=generator) + shift for _ in range(3)]
    return [(x, (x[:, 0] > shift).long() + (x[:, 1] > 1 + shift).long()) for x in inputs]


def train():
    print("this is printed by the user's code")
    return batches(0, 0.0)


def shuffled():
    x = torch.cat([x for x, _ in batches(0, 0.0)])
    data = torch.utils.data.TensorDataset(x, (x[:, 0] > 0).long())
    return torch.utils.data.DataLoader(data, 8, shuffle=True, generator=torch.Generator().manual_seed(5))


def persistent():
    return torch.utils.data.DataLoader(shuffled().dataset, 8, num_workers=1, persistent_workers=True)


def generated():
    yield from batches(0, 0.0)


def validation():
    return batches(1, 0.5)


def test():
    return batches(2, 1.0)


def nothing():
    return []


def without_targets():
    return [torch.randn(3, 4)]


def right(prediction, targets):
    return (prediction.argmax(1) == targets).double()


def clip(x):
    return x.clamp(-1, 1)


other_network = make().eval()
labels = [[f"{batch}, {sample % 2}" for sample in range(16)] for batch in range(3)]


def of_engine(engine):
    return {"thirds": lambda x: engine.model(x) / 3}


def constant(x):
    return torch.tensor([0.0, 1.0, 0.0]).expand(len(x), 3)


def distance(second, first):
    return (second - first).abs().mean()


def embedder():
    return nn.Linear(3, 8)
"""

CONFIGURATION = """
[model]
make = "configured_parts.py:make"

[data]
train = "configured_parts:train"
validation = "configured_parts:validation"
test = "configured_parts:test"

[engine]
features_layer_name = "0"
distance_fn = "js"

[engine.optimization_parameters]
num_steps = 2
lr = 1e-2

[recipe]
second_pass = "drawn"
target_probability = 0.7

[training]
epochs = 3
criterion = "cross_entropy"
optimizer = "SGD"
lr = 0.1
seed = 4

[adaptation]
"5 steps" = {num_steps = 5}
sgd = {optimizer_name = "sgd", lr = 0.1}

[evaluation]
metric = "accuracy"

[search]
budget = 2
adaptation_budget = 2
seeds = 1

[search.space]
"training.lr" = {low = 1e-2, high = 1e-1}
"engine.features_layer_name" = ["0", "1"]

[search.adaptation]
num_steps = [1, 3]
"""


@contextmanager
def configured(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Write both into a folder within another one, which becomes the current one, and give the module."""
    (folder / "inside").mkdir()
    (folder / "inside" / "configured_parts.py").write_text(PARTS)
    (folder / "inside" / "it3.toml").write_text(CONFIGURATION)
    monkeypatch.chdir(folder)
    monkeypatch.delitem(sys.modules, "configured_parts", raising=False)
    monkeypatch.setattr(sys, "path", [str(folder / "inside"), *sys.path])
    yield import_module("configured_parts")
    sys.modules.pop("configured_parts", None)


CONFIG = Path("inside/it3.toml")


def changed(old: str, new: str) -> Path:
    """Write a configuration with one thing changed."""
    assert old in CONFIGURATION
    path = Path("inside/changed.toml")
    path.write_text(CONFIGURATION.replace(old, new))
    return path
