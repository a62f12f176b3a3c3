"""``it3 export``: a trained engine in another kind of file, or the network that adapted to some samples."""

from pathlib import Path
from typing import Annotated, Literal

import typer

import it3
from it3.command_line.adapt import Setting, loaded
from it3.command_line.adapting import Batches
from it3.command_line.configuration import Configuration, read_configuration
from it3.command_line.configured import engine_from, example_from_data, loader_from, trained_engine
from it3.command_line.printing import AsJson, print_json, work_is_quiet
from it3.command_line.wrong_usage import WrongUsageError

Form = Literal["torchscript", "aoti"]


def export(
    source: Annotated[Path, typer.Argument(metavar="CONFIG|ENGINE", help="A .toml file, or a saved engine.")],
    output: Annotated[Path, typer.Option(help="The file: .pt, or .pt2 with --format aoti.")],
    samples: Annotated[
        Path | None, typer.Option("--input", help="Of an engine: the samples that its network adapts to.")
    ] = None,
    settings: Setting = None,
    form: Annotated[
        Form, typer.Option("--format", help="Of a configuration; aoti: with programs compiled by AOTInductor.")
    ] = "torchscript",
    as_json: AsJson = False,
) -> None:
    """Write what `it3 train` trained as another kind of file; or a network adapted to samples, which needs no it3."""
    if output.exists() and source.exists() and output.samefile(source):
        raise WrongUsageError(f"{output} would replace {source}; give another name")
    with work_is_quiet():
        if source.suffix == ".toml":
            if samples is not None or settings:
                raise WrongUsageError("--input and --set are for an engine; a configuration has its own")
            _write_engine(read_configuration(source), output, form)
        else:
            if samples is None or form != "torchscript":
                raise WrongUsageError("an engine needs --input, the samples to adapt to, and takes no --format aoti")
            _write_adapted(loaded(source, settings, None), samples, output)
    if as_json:
        print_json({"output": str(output), "bytes": output.stat().st_size})
    else:
        typer.echo(f"written to {output}")


def _write_engine(configuration: Configuration, output: Path, form: Form) -> None:
    trained = trained_engine(configuration)
    engine = engine_from(configuration).eval()
    example = example_from_data(loader_from(configuration, "train"), engine)
    engine.uncertainty(example)  # which gives the embedder its shape
    engine.load_state_dict(trained.state_dict())
    engine.optimization_parameters = dict(trained.optimization_parameters)
    engine._core.calibrated_range = trained._core.calibrated_range
    engine.save(output, example, format=form)


def _write_adapted(engine: it3.IT3Engine, samples: Path, output: Path) -> None:
    (batch,) = Batches(samples, engine, None)
    engine.adapt(batch).save(output, batch)
