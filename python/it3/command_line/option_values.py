"""Options of an engine as they are written on a command line."""

from collections.abc import Iterable
from typing import Any

from it3 import _C
from it3.command_line.wrong_usage import WrongUsageError, nearest


def options_from(settings: Iterable[str]) -> dict[str, Any]:
    """Return options from "name=value", as `it3-adapt --set` reads them.

    Values are none, true, false, numbers or words; several are written with commas: betas=0.9,0.999. Those of
    parameters are words: parameters=0,2.bias.

    Raises
    ------
    WrongUsageError
        For what has no sign =, a name that no option has, one that is given twice, and a value that is not accepted.
    """
    options: dict[str, Any] = {}
    names = [info.name for info in _C.option_infos()]
    for setting in settings:
        name, sign, text = setting.partition("=")
        if not sign:
            raise WrongUsageError(f"--set takes NAME=VALUE, such as num_steps=3, not {setting!r}")
        if name not in (*names, "online"):
            raise WrongUsageError(f"no option is called {name!r}{nearest(name, names)}")
        if name in options:
            raise WrongUsageError(f"the option {name!r} is given twice")
        # Names of parameters may look like numbers, as those in a Sequential do.
        options[name] = _words_from(text) if name == "parameters" else _value_from(text)
    return options


def checked(given: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    """Return an engine's options with others in the place of some. Raises WrongUsageError for values of no use."""
    try:
        return _C.overridden(given, options)
    except (ValueError, TypeError) as error:
        raise WrongUsageError(str(error)) from error


def _value_from(text: str) -> Any:
    words = {"none": None, "true": True, "false": False}
    if text in words:
        return words[text]
    parts = [_number_or_word(part) for part in text.split(",")]
    if len(parts) == 1:
        return parts[0]
    return parts if not any(isinstance(part, str) for part in parts) else _words_from(text)


def _words_from(text: str) -> str | list[str]:
    return text.split(",") if "," in text else text


def _number_or_word(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
