"""Files of what a loop has to know to go on: written complete or not at all, and checked when they are read."""

import io
import os
import zipfile
from typing import Any

import torch

from it3 import _C


def write_state(path: str | os.PathLike[str], state: dict[str, Any], *, check: bool = False) -> None:
    """Write a state, in the place of what was there.

    Parameters
    ----------
    path
        The file.
    state
        Of tensors, numbers, texts, tuples, lists and dictionaries; with the entry "format".
    check
        Whether to see first that it can be read again.

    Raises
    ------
    ValueError
        If it could not be.
    RuntimeError
        If the file cannot be written; what was there stays.
    """
    content = io.BytesIO()  # torch's own writers end the process when a disk is full
    torch.save(state, content)
    if check:
        content.seek(0)
        try:
            torch.load(content, map_location="cpu", weights_only=True)
        except Exception as error:
            raise ValueError(
                "the state holds what torch.load(..., weights_only=True) does not read, so that nothing could go on "
                f"from the file; an optimizer or a scheduler may keep functions or objects: {error}"
            ) from error
    with _C.NewFile(path) as file:
        file.write(content.getvalue())


def read_state(path: str | os.PathLike[str], kind: str, what: str) -> dict[str, Any]:
    """Read what was written with the format `kind`.

    Parameters
    ----------
    what
        What such a file holds, for messages.

    Raises
    ------
    ValueError
        For a file that is damaged, or holds something else.
    """
    wrong = ValueError(f"{str(path)!r} is damaged, or does not hold {what}; delete it, or give another path")
    try:
        with zipfile.ZipFile(path) as archive:  # torch does not look at the checksums
            damaged = archive.testzip()
        state = torch.load(path, map_location="cpu", weights_only=True)
        if damaged is None and state["format"] == kind:
            return dict(state)
    except OSError:
        raise
    except Exception as error:  # of whatever kind damage makes
        raise wrong from error
    raise wrong


def differences(then: dict[str, str], now: dict[str, str]) -> list[str]:
    """Say what is another than it was."""
    names = [name for name in dict.fromkeys([*then, *now]) if then.get(name) != now.get(name)]
    return [f"{name} was {then.get(name)}, and is {now.get(name)}" for name in names]
