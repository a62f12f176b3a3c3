"""What is said of names that do not exist."""

from collections.abc import Iterable
from difflib import get_close_matches


class WrongUsageError(ValueError):
    """What was asked for cannot be done as it was written; the exit code is 2."""


def nearest(name: str, names: Iterable[str]) -> str:
    """Return the words that name the nearest of some names, and all of them."""
    names = list(names)
    close = get_close_matches(name, names, 1, cutoff=0.5)
    guess = f"; did you mean {close[0]!r}?" if close else ";"
    return f"{guess} There are {', '.join(map(repr, names))}" if names else "; there are none"
