"""Warns of public names of it3 that no page documents."""

from public_names import public_names
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util import logging


def setup(app: Sphinx) -> dict[str, bool]:
    """Add the check to Sphinx."""
    app.connect("env-check-consistency", warn_of_missing_names)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def warn_of_missing_names(_app: Sphinx, env: BuildEnvironment) -> None:
    """Warn of each public name that has no entry."""
    there = set(env.domains.python_domain.objects)
    for name in sorted(public_names()):
        if f"it3.{name}" not in there:
            logging.getLogger(__name__).warning("no page of docs/api documents it3.%s", name)
