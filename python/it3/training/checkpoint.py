"""Training that was ended, and goes on from the file that it left."""

import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, BinaryIO, Self

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy
from torch.utils.data import DataLoader

from it3 import _C
from it3.support.kept import random_state, set_random_state
from it3.training.state_files import check_can_be_read, differences, open_locked, read_state, write_state

if TYPE_CHECKING:
    from it3.engine import IT3Engine
    from it3.training.optimizing import Stepper

_FORMAT = "it3.fit 1"


class TrainingCheckpoint:
    """The file of a training: the one of the last epoch that ended, or of the one before, complete.

    Parameters
    ----------
    path
        The file.
    engine, stepper
        What is written and read.
    loaders
        Of which the random generators are written too.
    identity
        What must be the same for a training to go on, beside the optimizer and the network's shapes.

    Raises
    ------
    ValueError
        For a loader whose state cannot be written down.
    RuntimeError
        If the file cannot be written.
    """

    _lock: BinaryIO

    def __init__(
        self,
        path: str | os.PathLike[str],
        engine: "IT3Engine",
        stepper: "Stepper",
        loaders: Iterable[object],
        identity: Mapping[str, str],
    ) -> None:
        self._path, self._locked = path, f"{os.path.realpath(path)}.lock"
        self._engine, self._stepper = engine, stepper
        self._identity = dict(identity)
        loaders = list(loaders)
        for loader in loaders:
            if isinstance(loader, DataLoader) and loader.persistent_workers:
                raise ValueError(
                    "a DataLoader with persistent_workers=True keeps random states in its workers, which no checkpoint "
                    "can hold, so that training would go on otherwise; make it without"
                )
        self._generators = [generator for loader in loaders for generator in generators_of(loader)]
        self._was_checked = False
        _C.NewFile(path).discard()  # raises before an epoch is lost
        self._check_can_be_read()

    def __enter__(self) -> Self:
        """Have the file to itself, by another one beside it, as this one is replaced after each epoch.

        Raises
        ------
        RuntimeError
            If another process has it.
        """
        said = f"another process is training into {str(self._path)!r}; wait for its end, or give another path"
        self._lock = open_locked(self._locked, said)
        return self

    def __exit__(self, *_: object) -> None:
        """Leave it to others."""
        with suppress(OSError):
            os.unlink(self._locked)
        self._lock.close()

    def read(self, epochs: int) -> dict[str, Any] | None:
        """Put everything back as it was after the last epoch, and return the rest; None where there is no file.

        Raises
        ------
        ValueError
            For a file that holds something else, another training, or more epochs than are asked for.
        """
        if not os.path.exists(self._path):
            return None
        saved = read_state(self._path, _FORMAT, "a training of fit()")
        had_shapes = self._stepper.is_made
        if not had_shapes:
            self._stepper.make()  # to be compared
        self._check(saved, epochs)
        self._engine.load_state_dict(saved["engine"])
        if not had_shapes:
            self._stepper.make()
        self._stepper.load_state_dict(saved["stepper"])
        for generator, state in zip(self._generators, saved["generators"], strict=True):
            generator.set_state(state)
        set_random_state(saved["random"])
        return saved

    def write(self, rows: list[dict[str, Any]], steps: int) -> None:
        """Write everything, in the place of what was written before.

        Raises
        ------
        ValueError
            For a state that could not be read again.
        RuntimeError
            If it cannot be written: what was there before stays.
        """
        state = {
            "format": _FORMAT,
            "identity": self._identity | self._stepper.identity,
            "engine": self._engine.state_dict(),
            "stepper": self._stepper.state_dict(),
            "generators": [generator.get_state() for generator in self._generators],
            "random": random_state(),
            "rows": rows,
            "steps": steps,
        }
        if not self._was_checked:
            self._check_can_be_read()
            self._was_checked = True
        write_state(self._path, state)

    def _check_can_be_read(self) -> None:
        own = self._engine.state_dict()
        unusual = {name: own[name] for name in own if type(own[name]) is not Tensor and not is_lazy(own[name])}
        check_can_be_read(unusual, "the engine's model or embedder")
        if self._stepper.is_made:
            check_can_be_read(self._stepper.state_dict(), "the optimizer or the scheduler")

    def _check(self, saved: dict[str, Any], epochs: int) -> None:
        said = differences(saved["identity"], self._identity | self._stepper.identity)
        then, own = saved["engine"], self._engine.state_dict()
        said += [f"it has no {name!r} of this engine" for name in own if name not in then]
        said += [f"{name!r} in it is not in this engine" for name in then if name not in own]
        for name, value in own.items():
            if not isinstance(value, Tensor) or not isinstance(then.get(name), Tensor):
                continue  # of what get_extra_state() returns
            is_shaped = not is_lazy(value) and value.numel()
            if is_shaped and value.shape != then[name].shape:
                said.append(f"{name!r} had the shape {tuple(then[name].shape)}, and has {tuple(value.shape)}")
        if said:
            raise ValueError(
                f"{str(self._path)!r} holds another training, with which this one cannot go on: {'; '.join(said[:6])}. "
                "Train as it was begun, or give another path"
            )
        if len(saved["generators"]) != len(self._generators):
            raise ValueError(
                f"{str(self._path)!r} was written with {len(saved['generators'])} random generators in the loaders, "
                f"and there are {len(self._generators)}; give such loaders as the training was begun with"
            )
        if len(saved["rows"]) > epochs:
            raise ValueError(
                f"{str(self._path)!r} holds a training of {len(saved['rows'])} epochs, which is more than epochs="
                f"{epochs}; ask for as many or more, or give another path"
            )


def generators_of(loader: object) -> list[torch.Generator]:
    """Return the random generators of a DataLoader's own, each once; also of one inside, as its attribute `loader`."""
    loader = getattr(loader, "loader", loader)  # of what only turns its batches into pairs
    if not isinstance(loader, DataLoader):
        return []
    holders = [loader, loader.sampler, loader.batch_sampler, getattr(loader.batch_sampler, "sampler", None)]
    found = [getattr(holder, "generator", None) for holder in holders]
    return list({id(each): each for each in found if isinstance(each, torch.Generator)}.values())
