"""Where the trials of a search run: in this process, or in several that are started for them."""

import multiprocessing
import os
import pickle
import signal
import threading
from collections.abc import Mapping
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from typing import Any, Self

import torch

from it3.searching.spaces import Places
from it3.searching.trials import Experiment

Record = dict[str, Any]
_READY = "ready"
_PICKLED = ("train", "metric", "space", "adaptation", "batches")


class ThisProcess:
    """The process that searches, which runs a trial when it is connection for what is finished."""

    room = 1

    def __init__(self, experiment: Experiment) -> None:
        self._experiment = experiment
        self._given: dict[int, Places] = {}

    def __enter__(self) -> Self:
        """Begin."""
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is left to end."""

    def start(self, number: int, places: Places) -> None:
        """Take a trial."""
        self._given[number] = places

    def finished(self) -> Mapping[int, Record]:
        """Run it."""
        number, places = self._given.popitem()
        return {number: self._experiment.run(places)}


class Processes:
    """Processes that are spawned, as forks cannot use CUDA; one that dies takes nothing along but its trial.

    They know nothing of the study: they are given settings, and answer with what came of them. So one process alone
    writes the journal and counts the trials.

    Parameters
    ----------
    experiment
        Goes to each by pickle.
    room
        How many there are; torch's threads are divided among them.

    Raises
    ------
    ValueError
        For what cannot be pickled.
    RuntimeError
        If a process does not come to its first trial.
    """

    def __init__(self, experiment: Experiment, room: int) -> None:
        self.room = room
        self._content = _pickled(experiment)
        self._workers: list[_Worker] = []

    def __enter__(self) -> Self:
        """Begin."""
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        """End all processes: at once after an exception, such as Ctrl-C."""
        for worker in self._workers:
            worker.end(at_once=kind is not None)

    def start(self, number: int, places: Places) -> None:
        """Have a process that is idle run a trial, or a new one."""
        idle = next((worker for worker in self._workers if worker.number is None), None)
        if idle is None:
            idle = _Worker(self._content, max(1, torch.get_num_threads() // self.room))
            self._workers.append(idle)
        idle.send(number, places)

    def finished(self) -> Mapping[int, Record]:
        """Wait for trials to end."""
        records: dict[int, Record] = {}
        while not records:
            busy = {worker.connection: worker for worker in self._workers if worker.number is not None}
            for connection in wait(list(busy)):
                worker = busy[connection]  # type: ignore[index]
                number = worker.number
                record = worker.record()
                if record is not None and number is not None:
                    records[number] = record
                if worker.is_dead:
                    self._workers.remove(worker)
        return records


class _Worker:
    """A process, and the trial that it is at."""

    def __init__(self, content: bytes, threads: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, of_process = context.Pipe()
        self._process = context.Process(target=_work, args=(of_process, content, threads))
        self._process.start()
        of_process.close()  # so that the end of the process is the end of what can be read
        self.number: int | None = None
        self._is_ready = self.is_dead = False

    def send(self, number: int, places: Places) -> None:
        self.number = number
        with suppress(BrokenPipeError):  # it has died, which reading tells
            self.connection.send(dict(places))

    def record(self) -> Record | None:
        """Return what came of the trial, or None if the process has told only that it is there."""
        try:
            answer: Any = self.connection.recv()
        except (EOFError, ConnectionResetError):
            self.is_dead = True
            self._process.join()
            how = f"ended with exit code {self._process.exitcode}"
            if not self._is_ready:
                raise RuntimeError(
                    f"a process of the search {how} before its first trial, as its own message says. A script that "
                    'calls it3.search with processes has to do so under `if __name__ == "__main__":`, as each '
                    "process imports it anew"
                ) from None
            return {"failure": f"its process {how}"}
        if answer == _READY:
            self._is_ready = True
            return None
        if isinstance(answer, Exception):
            raise answer
        self.number = None
        return dict(answer)

    def end(self, *, at_once: bool) -> None:
        if at_once:
            self._process.kill()
        self.connection.close()
        self._process.join()


def _work(connection: Connection, content: bytes, threads: int) -> None:
    """Run trials until there are no more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that searches, which ends this one
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    try:
        experiment: Experiment = pickle.loads(content)
    except Exception as error:
        connection.send(
            ValueError(
                f"a process of the search cannot load what it was sent: {type(error).__name__}: {error}. train, "
                "metric and the settings must be from modules that it can import, not from a notebook; or use "
                "processes=1"
            )
        )
        return
    connection.send(_READY)
    while True:
        try:
            places = connection.recv()
        except EOFError:
            return
        try:
            connection.send(experiment.run(places))
        except Exception as error:
            connection.send(error)


def _end_with_parent() -> None:
    """End this process when the one that searches was killed, in the middle of a trial of which nobody will hear."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _pickled(experiment: Experiment) -> bytes:
    try:
        return pickle.dumps(experiment)
    except Exception:
        for name in _PICKLED:
            try:
                pickle.dumps(getattr(experiment, name))
            except Exception as error:
                raise ValueError(
                    f"{name} cannot be sent to other processes, as pickle says: {error}. Functions must be at the top "
                    "level of a module, no lambdas and not within a function; or use processes=1"
                ) from error
        raise
