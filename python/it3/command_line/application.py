"""The commands of ``it3``, together."""

from typing import Annotated

import typer

import it3
from it3.command_line.adapt import adapt
from it3.command_line.bench import bench
from it3.command_line.doctor import doctor
from it3.command_line.endings import Program
from it3.command_line.evaluate import evaluate
from it3.command_line.export import export
from it3.command_line.info import info
from it3.command_line.layers import layers
from it3.command_line.search import search
from it3.command_line.train import train

_EXAMPLES = """
**Examples**

* `it3 doctor`
* `it3 layers networks.py:make_network --shape 2,3,32,32 --suggest`
* `it3 adapt engine.pt --input x.npy --output y.npy --set num_steps=1`

Exit codes: 0 done, 1 the work failed, 2 wrong usage, 130 interrupted by Ctrl-C.
"""

app = typer.Typer(
    name="it3",
    cls=Program,
    rich_markup_mode="markdown",
    epilog=_EXAMPLES,
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


app.command()(doctor)
app.command()(layers)
app.command()(info)
app.command()(adapt)
app.command()(train)
app.command()(evaluate)
app.command()(search)
app.command()(export)
app.command()(bench)
