"""What napoleon does not make of numpy's style by itself."""

import re
from typing import Any

from sphinx.application import Sphinx


def setup(app: Sphinx) -> dict[str, bool]:
    """Add the changes to Sphinx, before and after napoleon's."""
    app.connect("autodoc-process-docstring", keep_colon, priority=400)
    app.connect("autodoc-process-docstring", part_names, priority=600)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def keep_colon(_app: Sphinx, what: str, _name: str, _part: Any, _options: Any, lines: list[str]) -> None:
    """Keep a property's first line from being read as "type: text"."""
    if what == "property":
        lines[:0] = ["..", ""]  # an empty comment


def part_names(_app: Sphinx, _what: str, _name: str, _part: Any, _options: Any, lines: list[str]) -> None:
    """Give each of several attributes that share a text, "low, high", an entry of its own; name classes shortly."""
    start = ".. attribute:: "
    for place in reversed(range(len(lines))):
        lines[place] = re.sub(r"^( *:type( \w+)?: )(torch[\w.]+)$", r"\1~\3", lines[place])
        if lines[place].startswith(start):
            names = lines[place].removeprefix(start).split(", ")
            lines[place : place + 1] = [start + names[0], *(" " * len(start) + name for name in names[1:])]
