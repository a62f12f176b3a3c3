"""How far a loop is: a bar where somebody watches, else a line now and then."""

import sys
import time
from collections.abc import Sized
from typing import Any, Self

_SECONDS = 30.0
"""Between two lines of a log."""


def tqdm_or_none() -> Any:
    """Return tqdm's bar for where this runs, a terminal or a notebook; None without tqdm."""
    try:
        from tqdm.auto import tqdm  # noqa: PLC0415  (which is not needed)
    except ImportError:
        return None
    return tqdm


def length_of(loader: object) -> int | None:
    """Return the number of batches, where a loader tells it."""
    try:
        return len(loader) if isinstance(loader, Sized) else None
    except TypeError:  # of a DataLoader around a dataset without a length
        return None


class Progress:
    """Tells of a loop on the standard error: by tqdm in terminals and notebooks, by plain lines elsewhere.

    Parameters
    ----------
    is_shown
        Whether it tells anything.
    """

    def __init__(self, is_shown: bool) -> None:
        self._is_shown = is_shown
        is_watched = sys.stderr.isatty() or "ipykernel" in sys.modules
        self._make_bar = tqdm_or_none() if is_shown and is_watched else None
        self._bar: Any = None
        self._what, self._done = "", 0
        self._total: int | None = None

    def __enter__(self) -> Self:
        """Begin."""
        return self

    def __exit__(self, *_: object) -> None:
        """Take away a bar that an error has left."""
        self.end()

    def begin(self, what: str, total: int | None) -> None:
        """Begin to count batches, of so many if that is known."""
        self._what, self._total, self._done = what, total, 0
        self._last = time.monotonic()
        if self._make_bar is not None:
            self._bar = self._make_bar(total=total, desc=what, unit="batch", leave=False)

    def count(self, said: str = "") -> None:
        """Count a batch, of which something may be said."""
        self._done += 1
        if self._bar is not None:
            self._bar.set_postfix_str(said, refresh=False)
            self._bar.update()
        elif self._is_shown and time.monotonic() - self._last >= _SECONDS:
            self._last = time.monotonic()
            of = "" if self._total is None else f" of {self._total}"
            self._say(f"{self._what}: batch {self._done}{of}{', ' if said else ''}{said}")

    def end(self, said: str = "") -> None:
        """End what was begun, with a line of what came of it."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
        if said and self._is_shown:
            self._say(f"{self._what}: {said}")

    @staticmethod
    def _say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)
