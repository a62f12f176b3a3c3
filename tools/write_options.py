"""Write what is made from the core's table of options: python/it3/options.py, and the table in docs/how_to/options.md.

With --check, only say whether they are as they would be written.
"""

import re
import subprocess
import sys
import textwrap
from pathlib import Path

from it3 import _C

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs/how_to/options.md"

HEAD = '''"""The options of an engine. Written by tools/write_options.py from the core's table; change that instead."""

from collections.abc import Sequence
from dataclasses import InitVar, dataclass
from typing import Literal

from it3.support.given_options import GivenOptions


@dataclass(frozen=True, kw_only=True, eq=False)
class Options(GivenOptions):
    """How to adapt; may be given wherever a dictionary of options is taken: it is one of those that were given to it.

    Parameters
    ----------
'''
TAIL = '''    online
        Another spelling of ``copy_model``, which holds its opposite. None says nothing.

    Raises
    ------
    ValueError, TypeError
        For values that are not accepted.

    Examples
    --------
    >>> options = it3.Options(num_steps=2, lr=1e-3)
    >>> dict(options)
    {'num_steps': 2, 'lr': 0.001}
    >>> engine = it3.IT3Engine(model, "0", optimization_parameters=options)
    """

'''


def default_of(info: _C.OptionInfo) -> str:
    """Return a default as the dataclass has it, which must not be a list."""
    return {"['all']": "'all'"}.get(info.default_text, info.default_text)


def python() -> str:
    """Return the module with the dataclass."""
    text = HEAD
    for info in _C.option_infos():
        documentation = info.documentation.replace("`", "``").replace("\N{MINUS SIGN}", "-")
        text += f"    {info.name}\n"
        text += textwrap.fill(documentation, 120, initial_indent=8 * " ", subsequent_indent=8 * " ") + "\n"
    text += TAIL
    for info in _C.option_infos():
        text += f"    {info.name}: {info.type} = {default_of(info)}\n"
    text += "    online: InitVar[bool | None] = None\n"
    ruff = [Path(sys.executable).parent / "ruff", "format", "--stdin-filename", "options.py", "-"]
    return subprocess.run(ruff, input=text, capture_output=True, text=True, check=True, cwd=ROOT).stdout


def page() -> str:
    """Return the page of the options with the table in it."""
    rows = ["| name | default | accepted | |", "| --- | --- | --- | --- |"]
    for info in _C.option_infos():
        default = default_of(info).replace("'", '"')
        accepted = info.accepted.removesuffix(", or None")
        rows.append(
            f"| `{info.name}` | `{default}` | {accepted} | {info.documentation} |".replace("(x | y0)", "(x \\| y0)")
        )
    old = PAGE.read_text()
    return re.sub(
        r"(<!-- options -->\n).*?(?=<!-- end -->)", lambda m: m[1] + "\n".join(rows) + "\n", old, flags=re.DOTALL
    )


def main() -> int:
    """Write or check."""
    stale = []
    for path, text in ((ROOT / "python/it3/options.py", python()), (PAGE, page())):
        if path.exists() and path.read_text() == text:
            continue
        stale.append(path.name)
        if "--check" not in sys.argv:
            path.write_text(text)
    if "--check" in sys.argv and stale:
        print(f"stale: {', '.join(stale)}; run tools/write_options.py")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
