"""A configuration: one TOML file that says what to train, evaluate and search."""

import copy
import inspect
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import it3
from it3.command_line.wrong_usage import WrongUsageError, nearest

_ENGINE = [name for name in inspect.signature(it3.IT3Engine).parameters if name not in ("model", "training_recipe")]
_RECIPE = ("first_pass", "second_pass", "weight", "target_probability", "drawn_for", "noise")
_KEYS: dict[str, Iterable[str] | None] = {
    "model": ("make", "weights", "device"),
    "data": ("train", "validation", "test"),
    "engine": _ENGINE,
    "recipe": _RECIPE,
    "training": ("epochs", "optimizer", "lr", "criterion", "seed", "output", "method", "checkpoint"),
    "adaptation": None,
    "evaluation": ("metric", "higher_is_better", "reference", "repairs", "others", "groups", "clusters"),
    "search": ("space", "adaptation", "budget", "adaptation_budget", "seeds", "seed", "journal"),
}
"""What the tables may hold; None: names of the user's own."""


@dataclass(frozen=True)
class Configuration:
    """What a file says.

    Attributes
    ----------
    path
        The file; paths and modules in it are looked for in its folder.
    tables
        Its tables by name, all of them, of which those that are not in the file are empty.
    """

    path: Path
    tables: dict[str, dict[str, Any]]

    @property
    def folder(self) -> Path:
        """Where the file is."""
        return self.path.absolute().parent

    def get(self, table: str, key: str, kind: type | tuple[type, ...], default: Any = None) -> Any:
        """Return a value, or the default. Raises WrongUsageError for a value of another type."""
        if key not in self.tables[table]:
            return default
        value = self.tables[table][key]
        kinds = kind if isinstance(kind, tuple) else (kind,)
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            names = " or ".join(_WORDS[each] for each in kinds)
            raise WrongUsageError(f"{key} in [{table}] of {self.path} must be {names}, not {value!r}")
        return value

    def need(self, table: str, key: str, kind: type | tuple[type, ...]) -> Any:
        """Return a value. Raises WrongUsageError if there is none."""
        value = self.get(table, key, kind)
        if value is None:
            raise WrongUsageError(f"{self.path} needs {key!r} in [{table}] for this")
        return value

    def file(self, table: str, key: str, default: str | None = None) -> Path | None:
        """Return a path, relative to the configuration's folder."""
        name = self.get(table, key, str, default)
        return None if name is None else self.folder / name

    def with_settings(self, settings: Mapping[str, Any]) -> "Configuration":
        """Return a configuration with values in the place of some, by names such as "training.lr".

        Raises WrongUsageError for names that nothing can have.
        """
        tables = copy.deepcopy(self.tables)
        for name, value in settings.items():
            *within, key = name.split(".")
            holder = tables
            for part in within:
                holder = holder.setdefault(part, {})
                if not isinstance(holder, dict):
                    raise WrongUsageError(
                        f"{name!r} names nothing in {self.path}, as {part!r} is {holder!r}, not a table"
                    )
            holder[key] = value
        _check_keys(self.path, tables)
        return Configuration(self.path, tables)


_WORDS = {str: "text", int: "a whole number", float: "a number", bool: "true or false", dict: "a table", list: "a list"}


def read_configuration(path: Path) -> Configuration:
    """Read a configuration.

    Raises
    ------
    WrongUsageError
        If there is no such file, it is not TOML, or has tables or keys that are not known; the nearest is named.
    """
    if not path.is_file():
        raise WrongUsageError(f"there is no file {path}")
    try:
        with path.open("rb") as file:
            given = tomllib.load(file)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise WrongUsageError(f"{path} is not a TOML file: {error}") from error
    _check_keys(path, given)
    return Configuration(path, {name: given.get(name, {}) for name in _KEYS})


def _check_keys(path: Path, given: Mapping[str, Any]) -> None:
    for name, table in given.items():
        if name not in _KEYS:
            raise WrongUsageError(f"{path} has an unknown table [{name}]{nearest(name, _KEYS)}")
        if not isinstance(table, dict):
            raise WrongUsageError(f"{name!r} in {path} must be a table, [{name}], not {table!r}")
        known = _KEYS[name]
        for key, value in table.items():
            if known is not None and key not in known:
                raise WrongUsageError(f"{path} has an unknown key {key!r} in [{name}]{nearest(key, known)}")
            if known is None and not isinstance(value, dict):
                raise WrongUsageError(
                    f"{key!r} in [{name}] of {path} must be a table of options, such as {{num_steps = 3}}, "
                    f"not {value!r}"
                )
