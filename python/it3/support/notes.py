"""Exceptions that say where they happened."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def noted(where: str) -> Iterator[None]:
    """Note with an exception where it happened."""
    try:
        yield
    except Exception as error:
        error.add_note(where)
        raise
