"""What a configuration describes: a model, an engine, data, and how to train."""

import copy
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import it3
from it3 import _C
from it3.command_line.configuration import Configuration
from it3.command_line.devices import device_named
from it3.command_line.importing import model_at, thing_at
from it3.command_line.wrong_usage import WrongUsageError, nearest
from it3.support.batches import Batches, Loader, batches_of, check_loader
from it3.support.devices import device_of, on_device
from it3.training.fit import pairs_of

Criterion = Callable[[Tensor, Tensor], Tensor]


def engine_from(configuration: Configuration) -> it3.IT3Engine:
    """Make the engine, untrained. Raises WrongUsageError for arguments that an engine does not take."""
    path = configuration.need("model", "make", str)
    model = model_at(path, configuration.file("model", "weights"), configuration.folder)
    model = copy.deepcopy(model)  # one that was made with its module would be trained twice
    model = model.to(device_named(configuration.get("model", "device", str)))
    arguments = {name: _argument(configuration, name, value) for name, value in configuration.tables["engine"].items()}
    try:
        if configuration.tables["recipe"]:
            arguments["training_recipe"] = it3.TrainingRecipe(**configuration.tables["recipe"])
        return it3.IT3Engine(model, **arguments)
    except (ValueError, TypeError) as error:
        raise WrongUsageError(f"[engine] or [recipe] of {configuration.path}: {error}") from error


def criterion_from(configuration: Configuration) -> Criterion:
    """Return the criterion: an import path, or the name of a function of torch.nn.functional."""
    name = configuration.need("training", "criterion", str)
    if ":" in name:
        found: Criterion = thing_at(name, configuration.folder)
        return found
    losses = [each for each in dir(nn.functional) if each.endswith("_loss") or each.endswith("cross_entropy")]
    if not hasattr(nn.functional, name):
        raise WrongUsageError(f"torch.nn.functional has no {name!r}{nearest(name, losses)}; or give an import path")
    function: Criterion = getattr(nn.functional, name)
    return function


def optimizer_from(configuration: Configuration) -> Callable[[list[nn.Parameter]], torch.optim.Optimizer]:
    """Return what makes the optimizer of training: one of torch.optim by its name, Adam by default."""
    name = configuration.get("training", "optimizer", str, "Adam")
    names = [
        each
        for each, kind in vars(torch.optim).items()
        if isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer) and each != "Optimizer"
    ]
    if name not in names:
        raise WrongUsageError(f"torch.optim has no {name!r}{nearest(name, names)}")
    return partial(getattr(torch.optim, name), lr=configuration.get("training", "lr", (int, float), 1e-3))


def loader_from(configuration: Configuration, name: str) -> Loader:
    """Return the batches (inputs, targets) that [data] names, as they are; those of an iterator as a list.

    Parameters
    ----------
    configuration
        Whose [data] names a loader, or a function that gives one without arguments.
    name
        "train", "validation" or "test".
    """
    path = configuration.need("data", name, str)
    given = thing_at(path, configuration.folder)
    loader = given() if callable(given) else given
    check_loader(loader, path)
    return list(loader) if isinstance(loader, Iterator) else loader


def batches_from(configuration: Configuration, name: str, engine: it3.IT3Engine, seed: int = 0) -> Batches:
    """Return all batches on the device of an engine's model; torch's random generators are seeded before."""
    device = device_of(engine.model)
    batches = batches_of(loader_from(configuration, name), seed)
    return [(on_device(inputs, device), on_device(targets, device)) for inputs, targets in batches]


def example_from_data(loader: Loader, engine: it3.IT3Engine) -> Any:
    """Return the inputs of the first batch, on the device of an engine's model."""
    inputs, _ = next(pairs_of(loader, 1, "loader"))
    return on_device(inputs, device_of(engine.model))


def variants_from(configuration: Configuration) -> dict[str, dict[str, Any]] | None:
    """Return the variants of adapting by name; None where there are none."""
    variants: dict[str, dict[str, Any]] = configuration.tables["adaptation"]
    known = [info.name for info in _C.option_infos()]
    for name, options in variants.items():
        for option in options:
            if option not in (*known, "online", "distance_fn"):
                raise WrongUsageError(
                    f"the variant {name!r} in {configuration.path} has an unknown option {option!r}"
                    f"{nearest(option, known)}"
                )
    return variants or None


def metric_from(configuration: Configuration) -> str | Callable[[Tensor, Any], Any]:
    """Return the metric: a name that it3.evaluate knows, or an import path."""
    name: str = configuration.need("evaluation", "metric", str)
    if ":" not in name:
        return name
    function: Callable[[Tensor, Any], Any] = thing_at(name, configuration.folder)
    return function


def trained_engine(configuration: Configuration) -> it3.IT3Engine:
    """Return the engine that `it3 train` wrote."""
    path = output_of(configuration)
    if not path.is_file():
        raise WrongUsageError(f"there is no file {path} with a trained engine; run: it3 train {configuration.path}")
    return it3.load(path, device_named(configuration.get("model", "device", str)))


def output_of(configuration: Configuration) -> Path:
    """Return where the trained engine is."""
    path = configuration.file("training", "output", "engine.pt")
    assert path is not None
    return path


def _argument(configuration: Configuration, name: str, value: Any) -> Any:
    """Return an argument of an engine; TOML lacks tensors, functions, tuples and None."""
    if isinstance(value, str) and ":" in value:
        found = thing_at(value, configuration.folder)
        is_made = name in ("embedder", "embeder", "neutral") and not isinstance(found, nn.Module | Tensor)
        return found() if is_made and callable(found) else found
    if name in ("prediction_layout", "features_layout") and isinstance(value, dict):
        return it3.Layout(**value)
    if name == "neutral" and isinstance(value, list):
        return torch.tensor(value)
    if name in ("output", "layer_output"):
        return tuple(value) if isinstance(value, list) else value
    if name == "in_dims":
        return _without_none(value)
    return value


def _without_none(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(map(_without_none, value))
    if isinstance(value, dict):
        return {key: _without_none(item) for key, item in value.items()}
    return None if value == "none" else value
