"""``it3 doctor``: what is installed, and what works."""

from typing import Annotated, Any

import typer

from it3.command_line.installation import report, uses_of_packages
from it3.command_line.printing import AsJson, print_json, print_pairs, work_is_quiet


def doctor(
    thorough: Annotated[
        bool, typer.Option("--thorough", help="Also export and compile a small network, which takes up to a minute.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Tell what is installed and what works; the exit code is 0 if all that is needed works."""
    with work_is_quiet():
        found = report(thorough=thorough)
    if as_json:
        print_json(found)
    else:
        _print(found)
    if not found["is_usable"]:
        raise typer.Exit(1)


def _print(found: dict[str, Any]) -> None:
    uses = uses_of_packages()
    lines = {name: _said(name, version, uses) for name, version in found["versions"].items()}
    cuda = found["devices"]["CUDA devices"]
    lines |= {"CPU threads": found["devices"]["CPU threads"], "CUDA devices": ", ".join(cuda) or "none"}
    for check in found["checks"]:
        answer = {True: "yes", False: "NO" if check["is_needed"] else "no", None: "not tried"}[check["works"]]
        lines[check["name"]] = f"{answer}; {check['why']}"
    cache = found["cache"]
    lines["cache of it3.compile"] = f"{cache['folder']}" + (f"; {cache['why_not']}" if cache["why_not"] else "")
    print_pairs(lines)
    typer.echo("\nAll that is needed works." if found["is_usable"] else "\nSomething that is needed does not work.")


def _said(name: str, version: str | None, uses: dict[str, str]) -> str:
    return version or f"not installed; needed by {uses[name]}"
