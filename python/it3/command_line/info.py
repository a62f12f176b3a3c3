"""``it3 info``: what a saved engine holds."""

from pathlib import Path
from typing import Annotated, Any

import typer

from it3.command_line.printing import AsJson, print_json, print_pairs, work_is_quiet
from it3.command_line.saved_facts import facts_of
from it3.command_line.wrong_usage import WrongUsageError


def info(
    file: Annotated[Path, typer.Argument(help="What engine.save() or it3 train wrote.")],
    as_json: AsJson = False,
) -> None:
    """Tell what a saved engine holds; reading a file runs code in it, so read files of people you trust."""
    if not file.is_file():
        raise WrongUsageError(f"there is no file {file}")
    with work_is_quiet():
        facts = facts_of(file)
    if as_json:
        print_json(facts)
        return
    print_pairs({name.replace("_", " "): _text(value) for name, value in facts.items() if name != "options"})
    typer.echo("options:")
    for name, value in facts["options"].items():
        typer.echo(f"  {name} = {value}")


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return "none"
    if isinstance(value, dict):
        return ", ".join(f"{name.replace('_', ' ')} {_text(item)}" for name, item in value.items() if item != "")
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
