"""``it3 layers``: the layers of a model, what each costs, and one to begin with."""

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

import it3
from it3.command_line.example_inputs import example_from
from it3.command_line.importing import model_at
from it3.command_line.printing import AsJson, print_json, print_table, work_is_quiet
from it3.layer_choice.advice import suggestion_from
from it3.support.checks import like_of

_MODEL = "package.module:thing or file.py:thing: a module, or a function or class that makes one without arguments."


def layers(
    model: Annotated[str, typer.Argument(help=_MODEL)],
    example: Annotated[
        Path | None, typer.Option("--input", help="Inputs, with the samples first: .npy, .csv or .parquet.")
    ] = None,
    shape: Annotated[
        list[str] | None, typer.Option(help="The shape of random inputs, such as 2,3,32,32; again for a further input.")
    ] = None,
    dtype: Annotated[list[str] | None, typer.Option(help="Of --shape; whole numbers are 0. Default: float32.")] = None,
    weights: Annotated[Path | None, typer.Option(help="The model's state dictionary, as torch.save writes it.")] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Tell how an engine would run with each layer; up to 1 s each.")
    ] = False,
    suggest: Annotated[
        bool, typer.Option("--suggest", help="Name a layer to begin with, and why; some seconds more.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """List the layers of a model at which y0 can be fed back, and what each costs."""
    with work_is_quiet():
        made = model_at(model, weights)
        inputs = example_from(example, shape or [], dtype or ["float32"], like_of(made))
        table = it3.layers(made, inputs, explain=explain)
        suggestion = suggestion_from(table, made, inputs, {}) if suggest else None
    if as_json:
        document = {"layers": [dataclasses.asdict(layer) for layer in table]}
        if suggestion is not None:
            document |= {"suggestion": {"layer": suggestion.name, "reason": suggestion.reason}}  # type: ignore[dict-item]
        print_json(document)
        return
    print_table(table.columns(), str(table), words=("layer", "kind", "runs"))
    if suggestion is not None:
        typer.echo(f"\n{suggestion}")
