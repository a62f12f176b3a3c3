"""Things that are named by where they can be imported from."""

import importlib
import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from it3.command_line.wrong_usage import WrongUsageError, nearest


def thing_at(path: str, folder: Path | None = None) -> Any:
    """Return what an import path names.

    Parameters
    ----------
    path
        "package.module:thing" or "file.py:thing"; of a thing within a thing, "module:outer.inner".
    folder
        What files lie relative to, and where modules are looked for first. Default: the current one.

    Raises
    ------
    WrongUsageError
        For what is no such path, and where there is no such module, file or thing.
    """
    place, colon, name = path.rpartition(":")
    if not (colon and place and name):
        raise WrongUsageError(
            f"{path!r} names nothing that can be imported; write package.module:thing or file.py:thing"
        )
    folder = (folder or Path()).absolute()
    module = _module_of_file(folder / place) if place.endswith(".py") else _module_called(place, folder)
    thing: Any = module
    for part in name.split("."):
        if not hasattr(thing, part):
            names = [known for known in vars(thing) if not known.startswith("_")] if hasattr(thing, "__dict__") else []
            raise WrongUsageError(f"{place} has no {part!r}{nearest(part, names)}")
        thing = getattr(thing, part)
    return thing


def model_at(path: str, weights: Path | None = None, folder: Path | None = None) -> nn.Module:
    """Return the model that an import path names: a module, or what a function or class returns without arguments.

    Parameters
    ----------
    path, folder
        See :func:`thing_at`.
    weights
        A file with the model's state dictionary, by itself or as the item "state_dict" of a dictionary, as torch.save
        writes it.

    Raises
    ------
    WrongUsageError, ValueError, TypeError
        Where there is no model, and for weights that are no such file, or do not fit.
    """
    thing = thing_at(path, folder)
    if not isinstance(thing, nn.Module):
        if not callable(thing):
            raise WrongUsageError(f"{path} is a {type(thing).__name__}, not a model, or a function that makes one")
        thing = thing()
    if not isinstance(thing, nn.Module):
        raise TypeError(f"{path} must be a torch.nn.Module, or return one, but returned a {type(thing).__name__}")
    if weights is not None:
        _load(thing, weights)
    return thing


def _load(model: nn.Module, path: Path) -> None:
    if not path.is_file():
        raise WrongUsageError(f"there is no file {path} with weights")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of whatever kind damage makes
        raise ValueError(f"{path} is not a file of weights that torch.save wrote, or is damaged") from error
    inner = state.get("state_dict") if isinstance(state, Mapping) else None
    state = inner if isinstance(inner, Mapping) else state
    if not isinstance(state, Mapping):
        raise ValueError(f"{path} holds a {type(state).__name__}, not a state dictionary")
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        words = " ".join(str(error).split())
        raise ValueError(f"the weights in {path} do not fit the model: {words}") from error


def _module_called(name: str, folder: Path) -> ModuleType:
    _look_in(folder)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not (name == error.name or name.startswith(f"{error.name}.")):
            raise  # the module is there, and imports what is not
        raise WrongUsageError(
            f"there is no module {name!r} in {folder} or among the installed ones; a file is named as file.py:thing"
        ) from error


def _module_of_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise WrongUsageError(f"there is no file {path}")
    _look_in(path.parent)  # for what lies beside it; and other processes find it by its name
    other_name = f"it3_file_{path.stem}"
    for name in (path.stem, other_name):
        known = sys.modules.get(name)
        if known is not None and getattr(known, "__file__", None) == str(path):
            return known
    # Under its own name, by which pickle refers to what is in it, unless that is another module's.
    found = None if path.stem in sys.modules else importlib.util.find_spec(path.stem)
    name = path.stem if found is not None and found.origin == str(path) else other_name
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _look_in(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
