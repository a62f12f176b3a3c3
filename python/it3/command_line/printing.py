"""What is printed: one JSON document, a table, or lines."""

import contextlib
import dataclasses
import json
import math
import sys
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch import Tensor

from it3.support.tables import without_empty

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document, and nothing else.")]


@contextlib.contextmanager
def work_is_quiet() -> Iterator[None]:
    """Send to the error output what the user's own code prints, so that the output holds the answer alone."""
    with contextlib.redirect_stdout(sys.stderr):
        yield


def print_json(document: Any) -> None:
    """Print a document; numbers that JSON lacks are null."""
    typer.echo(json.dumps(plain(document), indent=2, allow_nan=False))


def plain(value: Any) -> Any:  # noqa: PLR0911
    """Return a value as JSON can hold it."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, Tensor):
        return plain(value.tolist())
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {item.name: plain(getattr(value, item.name)) for item in dataclasses.fields(value)}
    return str(value)


def print_table(columns: Mapping[str, list[str]], text: str, words: tuple[str, ...] = ()) -> None:
    """Print a table: by rich in a terminal, as plain text elsewhere.

    Parameters
    ----------
    columns
        Cells by the title of the column.
    text
        The same as plain text.
    words
        Titles of the columns that hold words, which begin at the left.
    """
    console = Console()
    if not console.is_terminal:
        typer.echo(text)
        return
    columns = dict(without_empty(columns.items()))
    table = Table(box=SIMPLE_HEAD, padding=(0, 1))
    for title in columns:
        header = Text(title.replace(" ", "\n"))
        table.add_column(header, justify="left" if title in words else "right", no_wrap=True)
    for row in zip(*columns.values(), strict=True):
        table.add_row(*map(Text, row))
    lengths = [max(map(len, [*title.split(), *cells])) for title, cells in columns.items()]
    console.width = max(console.width, sum(lengths) + 3 * len(lengths) + 2)  # wrapped by the terminal rather than cut
    console.print(table)


def print_pairs(pairs: Mapping[str, Any]) -> None:
    """Print names and values, one pair a line."""
    width = max(map(len, pairs), default=0) + 2
    for name, value in pairs.items():
        typer.echo(f"{name + ':':<{width}}{value}")
