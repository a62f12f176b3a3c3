"""What a training was begun with, beside its checkpoint, so that none goes on with that of another configuration."""

import json
from pathlib import Path

from it3 import _C
from it3.command_line.configuration import Configuration
from it3.command_line.wrong_usage import WrongUsageError
from it3.state_files import differences

_TABLES = ("model", "data", "engine", "recipe", "training")
_MAY_CHANGE = ("epochs", "output", "checkpoint", "method")


def begin_or_go_on(configuration: Configuration, seed: int, checkpoint: Path) -> None:
    """Write CHECKPOINT.config where no checkpoint is yet, and compare with it where there is one.

    Raises
    ------
    WrongUsageError
        If the checkpoint was begun with another seed, model, data, engine, recipe or way of training, or if that cannot
        be told.
    RuntimeError
        If the file cannot be written.
    """
    path = Path(f"{checkpoint}.config")
    now = _texts_of(configuration, seed)
    if not checkpoint.exists():
        with _C.NewFile(str(path)) as file:
            file.write(json.dumps(now, indent=2).encode())
        return
    said = differences(_read(path, checkpoint), now)
    if said:
        raise WrongUsageError(
            f"{checkpoint} was begun with another configuration than {configuration.path}: {'; '.join(said)}. Train as "
            "it was begun, or give another checkpoint"
        )


def _texts_of(configuration: Configuration, seed: int) -> dict[str, str]:
    """Write what has to be the same, by the names of keys and tables."""
    tables = {name: configuration.tables[name] for name in _TABLES}
    values = {f"{key} in [{name}]": value for name, table in tables.items() for key, value in table.items()}
    texts = {key: json.dumps(value, sort_keys=True, default=str) for key, value in values.items()}
    for key in _MAY_CHANGE:
        texts.pop(f"{key} in [training]", None)
    return texts | {"seed in [training]": str(seed)}


def _read(path: Path, checkpoint: Path) -> dict[str, str]:
    try:
        found = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        found = None
    if not isinstance(found, dict):
        raise WrongUsageError(
            f"{path} is not there or damaged, so that nobody can tell what {checkpoint} was begun with; give another "
            "checkpoint"
        )
    return found
