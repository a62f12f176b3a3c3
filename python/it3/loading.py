"""Engines from files."""

import os

import torch

from it3.engine import IT3Engine
from it3.saved_file import read_engine


def load(path: str | os.PathLike[str], device: torch.device | str | None = None) -> IT3Engine:
    """Read an engine that :func:`it3.save` or C++ wrote, in eval mode.

    Parameters
    ----------
    path
        The file.
    device
        Where its tensors go; by default, where they were.

    Raises
    ------
    RuntimeError
        Naming the file, if it is missing, damaged, no engine, or of another format.

    Examples
    --------
    >>> it3.save(engine, "engine.pt", example_inputs=x)
    >>> loaded = it3.load("engine.pt")
    >>> torch.allclose(loaded.adapt(x).prediction, engine.adapt(x).prediction)
    True
    """
    return IT3Engine._from_saved(read_engine(path, device))
