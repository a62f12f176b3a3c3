"""``it3 search``: which way of training and adapting is best, on validation data."""

from collections.abc import Mapping
from typing import Annotated, Any

import typer

import it3
from it3.command_line.configuration import Configuration, read_configuration
from it3.command_line.configured import batches_from, engine_from, metric_from
from it3.command_line.printing import AsJson, print_json, work_is_quiet
from it3.command_line.train import Config
from it3.command_line.training import TrainWith
from it3.command_line.wrong_usage import WrongUsageError


def search(
    config: Config,
    processes: Annotated[int, typer.Option(min=1, help="How many trials run at a time.")] = 1,
    as_json: AsJson = False,
) -> None:
    """Search values of the configuration, in [search.space], and options of adapting, in [search.adaptation]."""
    configuration = read_configuration(config)
    space = _space(configuration, "space")
    if space is None:
        raise WrongUsageError(f'{config} needs a table [search.space], such as "training.lr" = [1e-3, 1e-2]')
    configuration.with_settings(dict.fromkeys(space))  # whose names are to be known
    names = ("budget", "adaptation_budget", "seeds", "seed")
    numbers = {name: configuration.get("search", name, int) for name in names}
    with work_is_quiet():
        found = it3.search(
            TrainWith(configuration),
            batches_from(configuration, "validation", engine_from(configuration), numbers["seed"] or 0),
            metric_from(configuration),
            space,
            adaptation=_space(configuration, "adaptation"),
            processes=processes,
            path=configuration.file("search", "journal"),
            higher_is_better=configuration.get("evaluation", "higher_is_better", bool),
            **{name: number for name, number in numbers.items() if number is not None},
        )
    if as_json:
        parts = ("choice", "adaptation", "score", "unadapted", "trials")
        print_json({part: getattr(found, part) for part in parts})
    else:
        typer.echo(str(found))


def _space(configuration: Configuration, name: str) -> dict[str, Any] | None:
    """Return a space; TOML has no pairs, so that ranges are tables of low and high."""
    given: dict[str, Any] | None = configuration.get("search", name, dict)
    return None if given is None else {key: _values(configuration, key, values) for key, values in given.items()}


def _values(configuration: Configuration, key: str, values: Any) -> Any:
    if isinstance(values, Mapping) and set(values) == {"low", "high"}:
        return values["low"], values["high"]
    if isinstance(values, list):
        return values
    raise WrongUsageError(
        f"{key!r} in [search] of {configuration.path} must be a list of choices, or {{low = ..., high = ...}}, not "
        f"{values!r}; a name with dots is put in quotation marks"
    )
