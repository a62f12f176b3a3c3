"""Tables as text."""

from collections.abc import Collection, Iterable, Sequence
from typing import TypeVar

Cells = TypeVar("Cells", bound=Sequence[str])


def without_empty(columns: Iterable[tuple[str, Cells]]) -> list[tuple[str, Cells]]:
    """Return those of a table's columns, pairs of a title and cells, that have a cell with something in it."""
    return [(title, cells) for title, cells in columns if any(cells)]


def table_of(columns: Iterable[tuple[str, Sequence[str]]], texts: Collection[str] = ("",)) -> str:
    """Write columns, pairs of a title and cells, below their titles, without empty ones.

    Those of the titles in `texts` are to the left, the others to the right.
    """
    aligned = []
    for title, cells in without_empty(columns):
        width = max(map(len, [title, *cells]))
        aligned.append([cell.ljust(width) if title in texts else cell.rjust(width) for cell in [title, *cells]])
    return "\n".join("  ".join(line).rstrip() for line in zip(*aligned, strict=True))
