"""Where a search is written down, so that it can go on after whatever ended it."""

import fcntl
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Literal

import optuna
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import TrialState

Direction = Literal["maximize", "minimize"]
_NAME = "it3.search"
_IDENTITY = "identity"


@contextmanager
def opened_study(
    path: str | os.PathLike[str] | None, direction: Direction, identity: Mapping[str, str]
) -> Iterator[optuna.Study]:
    """Open the study that a file holds, or begin it; without a path, in memory.

    No other process can open it meanwhile. Trials that were running when an earlier one ended count as failed ones
    without a record.

    Parameters
    ----------
    path
        A journal of Optuna's.
    direction
        "maximize" or "minimize".
    identity
        What has to be as it was when the study began.

    Raises
    ------
    ValueError
        If the file holds something else, or another search.
    RuntimeError
        If another process is searching there.
    """
    if path is None:
        yield _study(None, direction, identity, "")
        return
    place = Path(path).absolute()
    with open(place, "a+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # which the end of the process ends, however it comes
        except BlockingIOError:
            raise RuntimeError(
                f"another process is searching in {str(path)!r}; wait for its end, or give another path. One search "
                "runs in several processes by the argument processes"
            ) from None
        _check_and_mend(file, str(path))
        try:
            storage = optuna.storages.JournalStorage(JournalFileBackend(str(place), _Held(str(place))))
        except Exception as error:
            raise _not_a_search(str(path)) from error
        yield _study(storage, direction, identity, str(path))


class _Held(JournalFileOpenLock):
    """The lock that is held all the time. One of Optuna's would outlive a process that is killed."""

    def acquire(self) -> bool:
        return True

    def release(self) -> None: ...


def _check_and_mend(file: BinaryIO, path: str) -> None:
    """Drop the end of a line, which a killed process did not finish; Optuna would not read what follows."""
    file.seek(0)
    content = file.read()
    if content and not content.startswith(b'{"op_code":'):
        raise _not_a_search(path)
    if not content.endswith(b"\n"):
        file.truncate(content.rfind(b"\n") + 1)


def _not_a_search(path: str) -> ValueError:
    return ValueError(f"{path!r} holds something else than a search; give another path")


def _study(
    storage: optuna.storages.BaseStorage | None, direction: Direction, identity: Mapping[str, str], path: str
) -> optuna.Study:
    if storage is None or _NAME not in optuna.get_all_study_names(storage):
        study = optuna.create_study(storage=storage, study_name=_NAME, direction=direction)
    else:
        study = optuna.load_study(storage=storage, study_name=_NAME)
    known = study.user_attrs.get(_IDENTITY)
    if known is None:
        study.set_user_attr(_IDENTITY, dict(identity))
    elif known != identity:
        differing = [name for name in identity if known.get(name) != identity[name]]
        said = "; ".join(f"{name} was {known.get(name)}, and is {identity[name]}" for name in differing)
        raise ValueError(
            f"{path!r} holds another search, whose scores are not to be compared with this one's: {said}. Give another "
            "path, or search by the same arguments"
        )
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)
    return study
