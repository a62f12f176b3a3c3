"""Every public docstring has an example, which runs."""

import doctest
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import it3
import pytest
import torch
import torch.nn.functional as F
from it3.evaluation.bootstrap import Bootstrap, Gain
from it3.layer_choice.table import Layer
from torch import nn

# Attributes that torch.nn.Module asks for, aliases, and such as the example of their class shows.
SHOWN_ELSEWHERE = {
    *("IT3Engine.embeder", "IT3Engine.extra_repr", "Embedder.extra_repr", "Embedder.is_built"),
    *("IT3Engine.state_dict", "IT3Engine.get_extra_state", "IT3Engine.set_extra_state", "IT3Engine.is_trained"),
    *("Adaptation.loss", "Adaptation.steps", "Adaptation.uncertainty"),
    *("IT3Engine.optimization_parameters", "IT3Engine.prediction_layout", "IT3Engine.features_layout"),
    *("IT3Engine.training_recipe", "TrainingRecipe.second_pass", "TrainingRecipe.weight", "TrainingRecipe.noise"),
    *("TrainingRecipe.target_probability", "TrainingRecipe.drawn_for", "TrainingRecipe.first_pass"),
    *("Callback.on_step", "Callback.on_epoch", "Callback.on_prediction", "Callback.on_end"),
    *("DrawnLabels.labels", "WithInputLayer.forward"),
    *("Explanation", "Explanation.runs", "Explanation.is_cut", "Explanation.why_whole", "Explanation.compiled"),
    *("Explanation.is_compiled", "Explanation.why_no_cuda_graph", "Explanation.fed_back", "Explanation.features"),
    *("Explanation.prediction", "Explanation.why_not_shared", "Suggestion.name"),
    *("Layout.channel_of", "Layout.batch_of", "Layout.channel_dim", "Layout.batch_dim"),
    *("Bootstrap.difference", "Drift.distance", "Drift.relative", "Drift.by_parameter"),
}
OF_OTHER_CALLS = (it3._C.Drift, Layer, Gain, Bootstrap)
"""What public methods return, or tell of, that has no name of its own in it3."""


def documented() -> Iterator[tuple[str, Any]]:
    """Return the public classes and functions, and the methods and properties that they define."""
    for name in it3.__all__:
        part = getattr(it3, name)
        if callable(part):
            yield name, part
            if name != "Options":  # of whose attributes the class's docstring tells
                yield from members_of(name, part)
    for name in it3.plots.__all__:
        yield f"plots.{name}", getattr(it3.plots, name)
    for part in OF_OTHER_CALLS:
        yield part.__name__, part
        yield from members_of(part.__name__, part)
    for name in ("TensorBoard", "MLflow"):  # whose methods are those of Callback
        yield f"loggers.{name}", getattr(it3.loggers, name)
    for name, part in vars(it3.recipes).items():
        if getattr(part, "__module__", "") == "it3.recipes" and callable(part) and not name.startswith("_"):
            yield f"recipes.{name}", part
            yield from members_of(f"recipes.{name}", part)


def members_of(name: str, part: Any) -> Iterator[tuple[str, Any]]:
    """Return the methods and properties that a class and its bases in it3 define."""
    if not inspect.isclass(part):
        return
    own = {
        attribute: value
        for base in part.__mro__
        if base.__module__.startswith("it3")
        for attribute, value in vars(base).items()
    }
    for attribute, value in own.items():
        if not attribute.startswith("_") and (callable(value) or hasattr(value, "fget") or hasattr(value, "func")):
            yield f"{name}.{attribute}", value


def examples_of(name: str, part: Any) -> list[doctest.Example]:
    docstring = inspect.getdoc(getattr(part, "func", part)) or ""
    return doctest.DocTestParser().get_examples(docstring, name)


def test_every_public_docstring_has_an_example() -> None:
    parts = dict(documented())
    assert set(parts) >= SHOWN_ELSEWHERE
    without = {name for name, part in parts.items() if not examples_of(name, part)}
    assert without == SHOWN_ELSEWHERE


@pytest.mark.filterwarnings("ignore:this engine was never trained")
def test_the_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    if request.config.getoption("--without-torchscript"):
        pytest.skip("some of the examples are of TorchScript")
    """Each goes on from that of the engine's class, and those of Search from that of search()."""
    pytest.importorskip("optuna")
    pytest.importorskip("tensorboard")
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    parts = dict(documented())
    order = ["IT3Engine", *(name for name in parts if name.startswith("IT3Engine.")), "search", *parts]
    names: dict[str, Any] = {"it3": it3, "torch": torch, "nn": nn, "F": F}
    failed = []
    for name in dict.fromkeys(order):
        examples = examples_of(name, parts[name])
        test = doctest.DocTest(examples, names | {}, name, None, None, None)
        told: list[str] = []
        runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
        runner.run(test, out=told.append, clear_globs=False)
        names = test.globs
        if runner.failures:
            failed.append("".join(told))
    assert not failed, "\n".join(failed)
