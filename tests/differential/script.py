"""Prints a case as a script that needs nothing but it3 and torch."""

import re
from dataclasses import fields
from pathlib import Path

from differential.case import Case

PARTS = ("naive.py", "naive_adapt.py", "case.py", "rig.py", "changes.py", "check.py", "refusals.py", "uses.py")


def text_of(case: Case) -> str:
    """The case, with only what is not the default."""
    given = {f.name: getattr(case, f.name) for f in fields(Case)}
    shown = [
        f"    {n}={v!r},\n"
        for f, (n, v) in zip(fields(Case), given.items(), strict=True)
        if n != "source" and v != f.default
    ]
    return f'SOURCE = """{case.source}"""\nCASE = Case(\n    source=SOURCE,\n{"".join(shown)})\n'


def script_of(case: Case, why: str) -> str:
    """The reference, the comparison and the case in one text."""
    folder = Path(__file__).parent
    parts = []
    for name in PARTS:
        text = (folder / name).read_text()
        text = re.sub(r"^from differential\b[^(\n]*(\([^)]*\))?\n", "", text, flags=re.MULTILINE)
        parts.append(f"# ---- {name}\n{text}")
    lines = "\n".join(f"# {line}" for line in why.splitlines())
    head = (
        f"{lines}\n# The case is at the end; `check` compares what it3 does with the reference above it.\nimport sys\n"
    )
    tail = "torch.set_num_threads(1)\nprint(check(CASE))\n"
    return head + "\n\n".join(parts) + "\n\n# ---- the case\n" + text_of(case) + "\n" + tail
