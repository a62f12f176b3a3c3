"""``it3 train``: an engine is trained as a configuration says."""

from pathlib import Path
from typing import Annotated, Any

import typer

from it3.command_line.configuration import read_configuration
from it3.command_line.configured import output_of
from it3.command_line.printing import AsJson, print_json, work_is_quiet
from it3.command_line.training import train_by
from it3.command_line.wrong_usage import WrongUsageError

Config = Annotated[Path, typer.Argument(metavar="CONFIG", help="A TOML file.")]


def train(config: Config, as_json: AsJson = False) -> None:
    """Train an engine and write it to the file that `output` in [training] names, by default engine.pt."""
    configuration = read_configuration(config)
    output = output_of(configuration)
    if not output.parent.is_dir():
        raise WrongUsageError(f"there is no folder {output.parent} to write {output.name} in")
    seed, method = configuration.get("training", "seed", int, 0), configuration.get("training", "method", str, "script")
    if method not in ("script", "trace"):
        raise WrongUsageError(f"method in [training] of {config} must be 'script' or 'trace', not {method!r}")
    with work_is_quiet():
        trained = train_by(configuration, seed, _tell, configuration.file("training", "checkpoint"))
        trained.engine.save(output, trained.example_inputs, method)
    if as_json:
        print_json({"output": str(output), "epochs": trained.history})
    else:
        typer.echo(f"trained for {len(trained.history)} epochs; written to {output}")


def _tell(epoch: dict[str, Any]) -> None:
    """Tell of an epoch on the error output."""
    terms = f"{epoch['loss_criterion']:.4g} of the criterion and {epoch['loss_ttt']:.4g} of the second term"
    typer.echo(f"epoch {epoch['epoch']}: loss {epoch['loss']:.4g}, {terms}", err=True)
