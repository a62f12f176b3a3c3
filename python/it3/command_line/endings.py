"""How the program ends: one line on the error output, and the exit code."""

import sys
import traceback
import warnings
from collections.abc import Sequence
from typing import Any, TextIO

import typer
from typer.core import TyperGroup

from it3.command_line.wrong_usage import WrongUsageError

_PLAIN = (ValueError, TypeError, RuntimeError, OSError)
"""Errors whose words are enough; the kind of others is said too."""


class Program(TyperGroup):
    """The commands, of which each ends with 0 (done), 1 (the work failed), 2 (wrong usage) or 130 (Ctrl-C)."""

    def main(  # type: ignore[override]  # noqa: D102
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        given = list(sys.argv[1:] if args is None else args)
        is_debug = "--debug" in given  # before the command, or among what belongs to it
        left = [arg for arg in given if arg != "--debug"] or ["--help"]
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            try:
                code = super().main(left, prog_name, standalone_mode=False, **extra)
            except typer.TyperException as error:
                code = _told(error, error.format_message(), error.exit_code, is_debug)
            except WrongUsageError as error:
                code = _told(error, _line_of(error), 2, is_debug)
            except Exception as error:  # whatever the user's code raises
                code = _told(error, _line_of(error), 1, is_debug)
        if not standalone_mode:
            return code
        sys.exit(code if isinstance(code, int) else 0)


def _told(error: Exception, line: str, code: int, is_debug: bool) -> int:
    """Tell of an error, and return the exit code."""
    if is_debug:
        traceback.print_exception(error)
    print(f"it3: {line}", file=sys.stderr)
    return code


def _line_of(error: Exception) -> str:
    """Return an error in one line."""
    words = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    lines = [line.strip() for line in words.splitlines() if line.strip()]
    line = lines[0] if lines else ""
    if not line or not isinstance(error, _PLAIN) or isinstance(error, NotImplementedError):
        line = f"{type(error).__name__}: {line}".removesuffix(": ")
    notes = "; ".join(getattr(error, "__notes__", ()))
    return f"{line} ({notes})" if notes else line


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Write a warning as people read it on a terminal."""
    print(f"it3: warning: {' '.join(str(message).split())}", file=file or sys.stderr)
