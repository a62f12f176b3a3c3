"""The commands of ``it3``, together."""

from typing import Annotated

import typer

import it3
from it3.command_line.adapt import adapt
from it3.command_line.bench import bench
from it3.command_line.doctor import doctor
from it3.command_line.endings import Program
from it3.command_line.epilogs import EPILOGS, PROGRAM
from it3.command_line.evaluate import evaluate
from it3.command_line.export import export
from it3.command_line.info import info
from it3.command_line.layers import layers
from it3.command_line.search import search
from it3.command_line.train import train

app = typer.Typer(
    name="it3",
    cls=Program,
    rich_markup_mode="markdown",
    epilog=PROGRAM,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _say_version(is_asked: bool) -> None:
    if is_asked:
        typer.echo(f"it3 {it3.__version__}")
        raise typer.Exit


@app.callback()
def _it3(
    version: Annotated[
        bool, typer.Option("--version", callback=_say_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Print the traceback of an error too; also after the command.")
    ] = False,
) -> None:
    """Idempotent Test-Time Training: look at models and engines, train, adapt and evaluate."""


for _command in (doctor, layers, info, adapt, train, evaluate, search, export, bench):
    app.command(epilog=EPILOGS[_command.__name__])(_command)
