"""Tables as text."""

from collections.abc import Mapping, Sequence


def table_of(columns: Mapping[str, Sequence[str]]) -> str:
    """Write columns below their titles, the first one to the left, the others to the right; without empty ones."""
    shown = [[title, *cells] for title, cells in columns.items() if any(cells)]
    widths = [max(map(len, column)) for column in shown]
    return "\n".join(
        "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]).rstrip()
        for line in zip(*shown, strict=True)
    )
