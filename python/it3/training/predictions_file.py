"""Predictions in a .npy file that grows batch by batch, and goes on where a killed process left it."""

import hashlib
import io
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO, Self

import torch
from torch import Tensor, nn

from it3 import _C, _build
from it3.embedder import Embedder
from it3.support.identity import check_has_digest, digest_of, identity_of, text_of
from it3.support.kept import random_state, set_random_state
from it3.training.state_files import differences, open_locked, read_state, write_state

if TYPE_CHECKING:
    import numpy as np

    from it3.engine import IT3Engine

_FORMAT = "it3.predict 1"
_SHARE = 20
"""At most one part in so many of the time goes into notes of what is done."""


def samples_dim(prediction: Tensor, layout: _C.Layout) -> int:
    """Return the dimension of a prediction's samples. Raises ValueError for a prediction of no dimensions."""
    if not prediction.dim():
        raise ValueError("the model predicts a scalar for a whole batch, so that there is nothing for each sample")
    return layout.batch_of(prediction.dim())


def check_fits(first: Tensor, prediction: Tensor, dim: int, number: int) -> None:
    """Raise ValueError for a prediction that cannot be put behind those before, as of images of another size."""
    shapes = [(*each.shape[:dim], *each.shape[dim + 1 :]) for each in (first, prediction)]
    if first.dim() != prediction.dim() or shapes[0] != shapes[1] or first.dtype != prediction.dtype:
        raise ValueError(
            f"the prediction for batch {number} is {prediction.dtype} of shape {tuple(prediction.shape)}, which cannot "
            f"be put together with that for the first batch, {first.dtype} of shape {tuple(first.shape)}, along "
            f"dimension {dim}; give batches whose samples have one size, or call engine.adapt() for each"
        )


def no_batches() -> ValueError:
    """Make the error for a loader that gives nothing."""
    return ValueError(
        "the loader gave no batches; a generator or iterator is used up after one run: give a list or a DataLoader "
        "that is not empty"
    )


@dataclass(frozen=True)
class _Done:
    """What was predicted: so many batches, of so many samples and inputs of this hash, and the random state then."""

    batches: int
    rows: int
    digest: str
    random: dict[str, Any]


class PredictionsFile:
    """Predictions on disk; see :meth:`it3.IT3Engine.predict`.

    They go to PATH.partial, beside which PATH.resume notes what is done, and which becomes PATH when it is complete.

    Parameters
    ----------
    path
        Of the .npy file.
    engine
        That predicts.
    options
        All of its options.

    Raises
    ------
    ValueError
        For another suffix, and for an engine whose embedder has no weights yet.
    RuntimeError
        For a folder and other things that are no file to be replaced, or where none can be written.
    ModuleNotFoundError
        Without NumPy.
    """

    def __init__(self, path: str | os.PathLike[str], engine: "IT3Engine", options: Mapping[str, Any]) -> None:
        try:
            self._numpy = import_module("numpy")
        except ImportError as error:
            raise ModuleNotFoundError("predict(path=...) needs NumPy: pip install numpy") from error
        self._path = os.fspath(path)
        if not self._path.endswith(".npy"):
            raise ValueError(f"path must be the name of a .npy file, not {self._path!r}")
        self._target = os.path.realpath(self._path)
        _C.NewFile(self._path).discard()  # raises if there is what cannot be replaced
        is_built = not isinstance(engine.embedder, Embedder) or engine.embedder.is_built
        if not is_built or any(map(nn.parameter.is_lazy, engine.parameters())):
            raise ValueError(
                "the engine has parameters without a shape, which would be drawn anew when the predictions go on after "
                "a kill; train it, load its weights, or call it once before you predict into a file"
            )
        self._partial, self._note = f"{self._target}.partial", f"{self._target}.resume"
        self._identity = _identity(engine, options)
        self._is_online = not options["copy_model"]
        self._first: Tensor | None = None
        self._header_size = 0
        self._next_note = 0.0
        self._digest = self._next_digest = ""  # of the inputs so far, and with those at hand
        self._is_going_on, self._seen = False, 0  # whether batches come that were predicted, and how many have come

    def __enter__(self) -> Self:
        """Begin, or go on.

        Raises
        ------
        ValueError
            For what was begun otherwise, or cannot go on.
        RuntimeError
            If another process is writing there.
        """
        before = self._before = random_state()
        self._file = self._opened()
        try:
            saved = self._read_note()
            if saved is None:
                self._remove(self._note)  # of a file that is gone
                self._file.truncate(0)
                self._start, self._done = before, _Done(0, 0, "", before)
                if self._is_online:
                    self._write_note()
            else:
                self._go_on(saved)
        except BaseException:
            self._file.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Note what is done, so that a call with the same arguments goes on."""
        if self._file.closed:
            return
        if self._is_going_on:
            set_random_state(self._before)
        elif not self._done.batches:
            self._remove(self._partial, self._note)
        else:
            with suppress(OSError, RuntimeError):  # the earlier note holds
                self._write_note()
        with suppress(OSError):
            self._file.close()

    def has(self, inputs: Any) -> bool:
        """Return whether the next batch was predicted before.

        Raises
        ------
        ValueError
            If that was with other inputs, and for inputs that cannot be compared.
        """
        check_has_digest(inputs, "a batch")
        self._next_digest = hashlib.sha256(f"{self._digest} {digest_of(inputs)}".encode()).hexdigest()
        if not self._is_going_on:
            return False
        self._seen, self._digest = self._seen + 1, self._next_digest
        if self._seen == self._done.batches:
            if self._digest != self._done.digest:
                raise ValueError(
                    f"cannot go on from {self._note}: the first {self._seen} batches hold other inputs than "
                    "those that were predicted, or come in another order, as from a DataLoader that shuffles; give the "
                    f"same ones, or delete {self._partial} to begin anew"
                )
            set_random_state(self._done.random)
            self._is_going_on = False
        return True

    def add(self, prediction: Tensor, layout: _C.Layout, number: int) -> None:
        """Write the prediction for a batch.

        Raises
        ------
        ValueError
            For a prediction that does not fit those before.
        OSError
            If it cannot be written.
        """
        dim = samples_dim(prediction, layout)
        if dim:
            raise ValueError(
                f"a .npy file grows along its first dimension, but the samples of these predictions are in dimension "
                f"{dim}; leave out path, and save what predict() returns"
            )
        if prediction.dtype == torch.bfloat16:  # which NumPy does not have
            prediction = prediction.float()
        first = self._first if self._first is not None else prediction
        check_fits(first, prediction, dim, number)
        with self._saying():
            if self._first is None:
                self._first = prediction[:0].clone()
                self._file.write(self._header(0))
            self._file.write(prediction.contiguous().numpy().tobytes())
        self._digest = self._next_digest
        done = self._done
        self._done = _Done(done.batches + 1, done.rows + len(prediction), self._digest, random_state())
        if self._is_online:
            with self._saying():
                self._file.flush()  # so that a kill shows
        elif time.monotonic() >= self._next_note:
            start = time.monotonic()
            with self._saying():
                self._write_note()
            now = time.monotonic()
            self._next_note = now + (_SHARE - 1) * (now - start)

    def result(self) -> "np.memmap[Any, Any]":
        """Give the file its name, and return it, mapped into memory.

        Raises
        ------
        ValueError
            If there were no batches, or fewer than before.
        """
        if self._is_going_on:
            raise ValueError(
                f"cannot go on from {self._note}: the loader gave {self._seen} batches, and {self._done.batches} were "
                f"predicted; give the same ones, or delete {self._partial} to begin anew"
            )
        if self._first is None:
            raise no_batches()
        with self._saying():
            self._file.flush()
            self._file.seek(0)
            self._file.write(self._header(self._done.rows))
            self._file.flush()
            os.fsync(self._file.fileno())
            if os.path.exists(self._target):
                shutil.copymode(self._target, self._partial)
            os.replace(self._partial, self._target)
            self._remove(self._note)
            self._file.close()
        mapped: np.memmap[Any, Any] = self._numpy.load(self._target, mmap_mode="r")
        return mapped

    def _header(self, rows: int) -> bytes:
        """Return what comes before the values; for every number of rows it is as long, as NumPy leaves room."""
        assert self._first is not None  # or nothing is known of the values
        content = io.BytesIO()
        array = self._first.numpy()
        described = {"descr": self._numpy.lib.format.dtype_to_descr(array.dtype), "fortran_order": False}
        self._numpy.lib.format.write_array_header_1_0(content, {**described, "shape": (rows, *array.shape[1:])})
        return content.getvalue()

    def _opened(self) -> BinaryIO:
        """Open the partial file, which no other process can open meanwhile."""
        said = f"another process is predicting into {self._path!r}; wait for its end, or give another path"
        with self._saying():
            return open_locked(self._partial, said)

    def _read_note(self) -> dict[str, Any] | None:
        """Return what an earlier process noted; None if there is nothing to go on from."""
        if not os.path.exists(self._note) or not os.path.getsize(self._partial):
            return None
        saved = read_state(self._note, _FORMAT, "what predict() noted")
        said = differences(saved["identity"], self._identity)
        if said:
            raise ValueError(
                f"cannot go on from {self._note}, which was begun otherwise: {'; '.join(said)}. Predict as it was "
                f"begun, or delete {self._partial} to begin anew"
            )
        return saved

    def _go_on(self, saved: dict[str, Any]) -> None:
        if self._is_online:
            raise ValueError(
                f"cannot go on from {self._note}: with copy_model=False weights are carried from batch to batch, and "
                f"it does not hold those that the next batch needs. Delete {self._partial}, bring the engine to its "
                "start, as by engine.reset(), and begin anew"
            )
        self._first = torch.empty(0, *saved["shape"], dtype=saved["dtype"])
        self._done = _Done(saved["batches"], saved["rows"], saved["digest"], saved["random"])
        size = len(self._header(0)) + self._done.rows * self._first.shape[1:].numel() * self._first.element_size()
        if os.path.getsize(self._partial) < size:
            raise ValueError(
                f"{self._partial} is shorter than {self._note} says, so it is damaged; delete it to begin anew"
            )
        self._file.truncate(size)
        self._file.seek(size)
        self._start = saved["start"]
        self._is_going_on = True
        set_random_state(self._start)

    def _write_note(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
        state = {
            "format": _FORMAT,
            "identity": self._identity,
            "shape": [] if self._first is None else list(self._first.shape[1:]),
            "dtype": None if self._first is None else self._first.dtype,
            "batches": self._done.batches,
            "rows": self._done.rows,
            "digest": self._done.digest,
            "random": self._done.random,
            "start": self._start,
        }
        write_state(self._note, state)

    @staticmethod
    def _remove(*paths: str) -> None:
        for path in paths:
            with suppress(FileNotFoundError):
                os.unlink(path)

    @contextmanager
    def _saying(self) -> Iterator[None]:
        """Name the file in what the system says of it."""
        try:
            yield
        except OSError as error:
            raise OSError(error.errno, f"cannot write {self._path!r}: {os.strerror(error.errno or 0)}") from error


def _identity(engine: "IT3Engine", options: Mapping[str, Any]) -> dict[str, str]:
    """Write what predictions depend on, as far as it can be told."""
    return {
        "it3": _build.version,
        "torch": str(torch.__version__),
        "the network, by a hash of its weights and layers,": digest_of([engine.state_dict(), text_of(engine.model)]),
        "the embedder": text_of(engine.embedder),
        **identity_of(engine),
        **{f"the option {name}": text_of(value) for name, value in options.items()},
    }
