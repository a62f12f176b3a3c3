"""Where the script ``it3`` begins."""

import signal
import sys
from types import FrameType

_NEEDED = {"numpy", "rich", "typer"}


def main() -> None:
    """Run the command line, and end the process with its exit code."""
    try:
        from it3.command_line.application import app  # noqa: PLC0415  (of those alone who use the command line)
    except ModuleNotFoundError as error:
        if error.name not in _NEEDED:
            raise
        print(f"it3: the command line needs {error.name}: pip install 'it3[cli]'", file=sys.stderr)
        sys.exit(2)
    signal.signal(signal.SIGTERM, _end)
    app(prog_name="it3")


def _end(number: int, _frame: FrameType | None) -> None:
    """End as by an exception, so that files which are not complete are removed."""
    sys.exit(128 + number)
