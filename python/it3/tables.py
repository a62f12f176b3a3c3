"""Tables as text."""

from collections.abc import Collection, Mapping, Sequence


def table_of(columns: Mapping[str, Sequence[str]], texts: Collection[str] = ()) -> str:
    """Write columns below their titles, without empty ones.

    The first one, and those of the titles in `texts`, are to the left, the others to the right.
    """
    shown = {title: [title, *cells] for title, cells in columns.items() if any(cells)}
    first = next(iter(shown), "")
    columns_as_wide = []
    for title, cells in shown.items():
        width = max(map(len, cells))
        is_left = title == first or title in texts
        columns_as_wide.append([cell.ljust(width) if is_left else cell.rjust(width) for cell in cells])
    return "\n".join("  ".join(line).rstrip() for line in zip(*columns_as_wide, strict=True))
