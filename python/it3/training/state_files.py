"""Files of what a loop has to know to go on: written complete or not at all, and checked when they are read."""

import fcntl
import io
import os
import zipfile
from contextlib import suppress
from typing import Any, BinaryIO

import torch

from it3 import _C


def open_locked(path: str, said: str) -> BinaryIO:
    """Open a file, which is made if it is not there, and which no other process can open so meanwhile.

    Parameters
    ----------
    path
        The file, which whoever has opened it may rename or remove.
    said
        The message where another process has it.

    Raises
    ------
    RuntimeError
        If another process has it.
    OSError
        If it cannot be opened.
    """
    while True:
        file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666), "r+b")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # which the end of the process ends, however it comes
        except BlockingIOError:
            file.close()
            raise RuntimeError(said) from None
        except OSError:
            pass  # some file systems cannot lock
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
                return file
        file.close()  # another process has renamed or removed it between opening and locking


def write_state(path: str | os.PathLike[str], state: dict[str, Any]) -> None:
    """Write a state, in the place of what was there.

    Parameters
    ----------
    path
        The file.
    state
        Of tensors, numbers, texts, tuples, lists and dictionaries; with the entry "format".

    Raises
    ------
    RuntimeError
        If the file cannot be written; what was there stays.
    """
    content = _bytes_of(state)
    with _C.NewFile(path) as file:
        file.write(content.getvalue())


def check_can_be_read(state: dict[str, Any], owner: str) -> None:
    """Raise ValueError for a state of the owner's that could be written, but not be read again."""
    try:
        torch.load(_bytes_of(state), map_location="cpu", weights_only=True)
    except Exception as error:  # of pickle, for what it cannot write, or of torch
        raise ValueError(
            f"no checkpoint can hold the state of {owner}, which keeps functions or objects that "
            f"torch.load(..., weights_only=True) does not read: {_first_line(error)}"
        ) from error


def _bytes_of(state: dict[str, Any]) -> io.BytesIO:
    content = io.BytesIO()  # torch's own writers end the process when a disk is full
    torch.save(state, content)
    content.seek(0)
    return content


def _first_line(error: Exception) -> str:
    """Return what is said of the object itself in torch's long message."""
    lines = str(error).splitlines() or [type(error).__name__]
    return next((line.strip() for line in lines if "WeightsUnpickler error" in line), lines[0])


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
