"""An engine is made and trained as a configuration says; a search calls it in other processes too."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import it3
from it3.command_line.configuration import Configuration
from it3.command_line.configured import criterion_from, engine_from, example_from_data, loader_from, optimizer_from
from it3.command_line.printing import work_is_quiet
from it3.command_line.wrong_usage import WrongUsageError
from it3.support.checks import check_count
from it3.support.kept import seed_all
from it3.training.callbacks import Callback
from it3.training.fit import fit


@dataclass(frozen=True)
class Trained:
    """An engine, what its epochs came to, and the inputs of its first batch."""

    engine: it3.IT3Engine
    history: list[dict[str, Any]]
    example_inputs: Any


class _Told(Callback):
    """Tells a function of each epoch's row."""

    def __init__(self, done: Callable[[dict[str, Any]], object]) -> None:
        self._done = done

    def on_epoch(self, row: Mapping[str, Any]) -> None:
        """Tell."""
        self._done(dict(row))


def train_by(
    configuration: Configuration,
    seed: int,
    done: Callable[[dict[str, Any]], object] = lambda _: None,
    checkpoint: Path | None = None,
) -> Trained:
    """Make an engine and train it, after seeding the random generators; it is in eval mode afterwards.

    With a checkpoint it goes on there, if that was begun with the same configuration.
    """
    epochs = configuration.need("training", "epochs", int)
    try:
        check_count("epochs", epochs, 1)
    except ValueError as error:
        raise WrongUsageError(f"[training] of {configuration.path}: {error}") from error
    criterion = criterion_from(configuration)
    seed_all(seed)
    engine = engine_from(configuration)
    optimizer = optimizer_from(configuration)
    loader = loader_from(configuration, "train")
    history = fit(
        engine,
        loader,
        criterion,
        epochs=epochs,
        optimizer=optimizer,
        callbacks=[_Told(done)],
        checkpoint=checkpoint,
        identity=_texts_of(configuration) | {"seed in [training]": str(seed)},
    )
    return Trained(engine.eval(), history.rows, example_from_data(loader, engine))


def _texts_of(configuration: Configuration) -> dict[str, str]:
    """Write what has to be the same for a training to go on, by the names of keys and tables."""
    tables = {name: configuration.tables[name] for name in ("model", "data", "engine", "recipe", "training")}
    values = {f"{key} in [{name}]": value for name, table in tables.items() for key, value in table.items()}
    texts = {key: json.dumps(value, sort_keys=True, default=str) for key, value in values.items()}
    for key in ("epochs", "output", "checkpoint", "method"):
        texts.pop(f"{key} in [training]", None)
    return texts


@dataclass(frozen=True)
class TrainWith:
    """What it3.search takes as its function ``train``: settings are values of the configuration by dotted names."""

    configuration: Configuration

    def __call__(self, settings: dict[str, Any], seed: int) -> it3.IT3Engine:
        """Train an engine."""
        with work_is_quiet():  # in other processes too
            return train_by(self.configuration.with_settings(settings), seed).engine
