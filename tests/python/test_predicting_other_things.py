"""Predictions do not go on with other inputs, functions and labels, however much these look alike."""

import ast
import os
import subprocess
import sys
from collections import UserDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import it3
import numpy as np
import pytest
import torch
from it3 import IT3Engine
from test_predicting import Stops, batches, stop
from torch import Tensor, nn


class Holder:
    def __init__(self, x: Tensor) -> None:
        self.x = x


class Packed(nn.Module):
    """A model of wide tensors, of which it takes a part, of arrays, and of objects."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4))

    def forward(self, x: Any) -> Tensor:
        return self.body(torch.as_tensor(x.x if isinstance(x, Holder) else x)[:, :6])


def packed_engine(**parts: Any) -> IT3Engine:
    torch.manual_seed(0)
    engine = IT3Engine(Packed(), "body.0", it3.Embedder(), optimization_parameters={"num_steps": 1}, **parts)
    engine.is_trained = True
    engine.uncertainty({"x": batches()[0]})
    return engine


@pytest.mark.parametrize("kind", [UserDict, dict, np.asarray])
def test_other_inputs_that_are_no_tensors_are_seen(kind: Any, tmp_path: Path) -> None:
    """Which are large, so that what is printed of them is not all."""

    def given(change: float) -> list[Any]:
        wide = [torch.cat([x, torch.zeros(len(x), 1000)], 1) for x in batches()]
        for x in wide:
            x[:, 500] += change
        return [kind(x=x) if kind is not np.asarray else {"x": np.asarray(x)} for x in wide]

    path = tmp_path / "y.npy"
    with pytest.raises(KeyboardInterrupt):
        packed_engine().predict(given(0.0), path=path, callbacks=[Stops(3, stop)])
    with pytest.raises(ValueError, match="the first 3 batches hold other inputs than those that were predicted"):
        packed_engine().predict(given(1e-3), path=path)
    told = Stops()
    packed_engine().predict(given(0.0), path=path, callbacks=[told])
    assert told.batches == [3, 4]


def test_inputs_that_cannot_be_compared_are_refused(tmp_path: Path) -> None:
    given = [{"x": Holder(x)} for x in batches()]
    with pytest.raises(
        ValueError, match=r"a batch holds a Holder, whose content cannot be compared .* or leave out pa"
    ):
        packed_engine().predict(given, path=tmp_path / "y.npy")
    assert os.listdir(tmp_path) == []
    assert packed_engine().predict(given).shape == (12, 4)


def test_other_functions_and_labels_are_seen(tmp_path: Path) -> None:
    """Of the same name and length."""

    def scaled(by: float) -> Callable[[Tensor, Tensor], Tensor]:
        return lambda a, b: by * (a - b).square().sum()

    functions = [lambda a, b: (a - b).square().sum(), lambda a, b: (a - b).abs().sum(), scaled(1.0), scaled(2.0)]
    labels = [it3.DrawnLabels(torch.arange(8.0).reshape(2, 4) + change) for change in (0, 1)]
    ways: list[tuple[dict[str, Any], dict[str, Any], str]] = [
        ({"distance_fn": functions[0]}, {"distance_fn": functions[1]}, r"distance_fn was .*<lambda> \(code .*, and is"),
        ({"distance_fn": functions[2]}, {"distance_fn": functions[3]}, r"distance_fn was .*<lambda> \(code .*, and is"),
        ({"neutral": labels[0]}, {"neutral": labels[1]}, "neutral, by a hash, was"),
        ({}, {"neutral": 0.5}, "neutral, by a hash, was"),
        ({}, {"feedback": "prediction"}, "feedback was 'auto', and is 'prediction'"),
        ({}, {"combine_fn": lambda features, embedding: features - embedding}, "combine_fn was .*, and is"),
    ]
    for number, (begun, other, match) in enumerate(ways):
        path = tmp_path / f"{number}.npy"
        inputs = [{"x": x} for x in batches()]
        with pytest.raises(KeyboardInterrupt):
            packed_engine(**begun).predict(inputs, path=path, callbacks=[Stops(3, stop)])
        with pytest.raises(ValueError, match=match):
            packed_engine(**other).predict(inputs, path=path)
        told = Stops()
        packed_engine(**begun).predict(inputs, path=path, callbacks=[told])
        assert told.batches == [3, 4]


FUNCTIONS = """
import torch
from it3.support.identity import text_of

def made(by):
    @torch.no_grad()
    def scaled(x, names={"a": 1.0}):
        return by * x if x in {"one", "two", "three", "four", "five"} else [2 * each for each in x]
    return scaled

def made_otherwise(by):
    @torch.no_grad()
    def scaled(x, names={"a": 1.0}):
        return by * x if x in {"one", "two", "three", "four", "five"} else [3 * each for each in x]
    return scaled

made_otherwise.__qualname__ = made.__qualname__
print([text_of(function).split("(code ")[1] for function in (made(1.0), made(2.0), made_otherwise(1.0), made)])
"""


def test_functions_have_the_same_text_in_every_process() -> None:
    """Also where their code holds sets, whose order changes from process to process."""
    told = []
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONHASHSEED": seed}
        command = [sys.executable, "-c", FUNCTIONS]
        told.append(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout)
    assert told[0] == told[1]
    assert len(set(ast.literal_eval(told[0]))) == 4
