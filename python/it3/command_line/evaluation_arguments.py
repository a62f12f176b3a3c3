"""What [evaluation] of a configuration says beside the metric: more rows, and what the samples belong to."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from it3.command_line.configuration import Configuration
from it3.command_line.configured import loader_from
from it3.command_line.importing import thing_at
from it3.command_line.wrong_usage import WrongUsageError
from it3.engine import IT3Engine
from it3.support.devices import device_of
from it3.training.fit import pairs_of

_TRAINING = "train"


def evaluation_arguments(configuration: Configuration, engine: IT3Engine) -> dict[str, Any]:
    """Return arguments of :func:`it3.evaluate` by name, without those that the configuration does not give.

    Parameters
    ----------
    configuration
        Whose [evaluation] may have: ``higher_is_better``; ``reference``, "train" for the targets of the training data,
        or an import path; ``repairs``, a table of import paths by name; ``others``, such a table, or the import path of
        a function that makes one; and ``groups`` and ``clusters``, lists or import paths.
    engine
        That is evaluated, on whose device the training targets are put.

    Raises
    ------
    WrongUsageError
        For values of other types, and for what cannot be imported.
    """
    found = {
        "higher_is_better": configuration.get("evaluation", "higher_is_better", bool),
        "reference": _reference(configuration, engine),
        "repairs": _things(configuration, "repairs"),
        "others": _others(configuration),
        "groups": _labels(configuration, "groups"),
        "clusters": _labels(configuration, "clusters"),
    }
    return {name: value for name, value in found.items() if value is not None}


def _reference(configuration: Configuration, engine: IT3Engine) -> Any:
    path = configuration.get("evaluation", "reference", str)
    if path != _TRAINING:
        return None if path is None else thing_at(path, configuration.folder)
    torch.manual_seed(0)
    batches = pairs_of(loader_from(configuration, _TRAINING), 1, _TRAINING)  # all at once may not fit into memory
    targets = [of_batch for _, of_batch in batches]
    if not all(isinstance(of_batch, Tensor) for of_batch in targets):
        raise WrongUsageError(
            f"reference in [evaluation] of {configuration.path} is {_TRAINING!r}, but the targets of [data] "
            f"{_TRAINING} are no tensors; give the import path of a function of the inputs that predicts"
        )
    at_least_1d = [of_batch.reshape(1) if of_batch.ndim == 0 else of_batch for of_batch in targets]
    return torch.cat(at_least_1d).to(device_of(engine.model))


def _others(configuration: Configuration) -> Any:
    given = configuration.get("evaluation", "others", (str, dict))
    return thing_at(given, configuration.folder) if isinstance(given, str) else _things(configuration, "others")


def _things(configuration: Configuration, key: str) -> dict[str, Callable[..., Any]] | None:
    """Return what a table of import paths names, by its names."""
    given = configuration.get("evaluation", key, dict)
    if given is None:
        return None
    for name, path in given.items():
        if not isinstance(path, str):
            raise WrongUsageError(
                f"{name!r} in [evaluation.{key}] of {configuration.path} must be an import path, such as "
                f"file.py:function, not {path!r}"
            )
    return {name: thing_at(path, configuration.folder) for name, path in given.items()}


def _labels(configuration: Configuration, key: str) -> Any:
    given = configuration.get("evaluation", key, (str, list))
    return thing_at(given, configuration.folder) if isinstance(given, str) else given
