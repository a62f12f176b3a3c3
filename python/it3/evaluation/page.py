"""An evaluation as HTML: a page of its own, and what notebooks show."""

import io
import warnings
from datetime import datetime
from pathlib import Path
from typing import Any

import jinja2
import torch

from it3 import _build
from it3.evaluation.evaluation import Evaluation
from it3.evaluation.rows import BASE

_TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,  # the names of rows and groups are the user's
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_WORST = 10  # groups that are always shown
_INK = "#010203"  # stands for the color of the page's text, which may be light or dark


def page(evaluation: Evaluation) -> bytes:
    """Return a page in UTF-8, which refers to nothing outside of it.

    Raises
    ------
    ModuleNotFoundError
        Without matplotlib.
    """
    rows = {row["name"]: row for row in evaluation.rows}
    shown = list(dict.fromkeys([BASE, evaluation.best_control, *(name for name in rows if rows[name]["verdict"])]))
    groups = _worst_first(evaluation, rows[BASE]["groups"])
    text = _TEMPLATES.get_template("evaluation.html.jinja").render(
        evaluation=evaluation,
        sentences=evaluation._sentences(),
        columns=evaluation._columns(),
        shown=[rows[name] for name in shown],
        worst=groups[:_WORST],
        others=groups[_WORST:],
        picture=_picture_of(evaluation),
        versions={"it3": _build.version, "torch": torch.__version__},
        now=datetime.now().astimezone(),
    )
    return text.encode(errors="backslashreplace")  # names of files may have what is no text


def fragment(evaluation: Evaluation) -> str:
    """Return the table and the verdict."""
    template = _TEMPLATES.get_template("evaluation_fragment.html.jinja")
    return template.render(evaluation=evaluation, sentences=evaluation._sentences(), columns=evaluation._columns())


def _worst_first(evaluation: Evaluation, groups: dict[Any, float]) -> list[Any]:
    return sorted(groups, key=lambda group: groups[group], reverse=not evaluation.higher_is_better)


def _picture_of(evaluation: Evaluation) -> str:
    """Return the gains drawn, as an SVG element whose text and lines take the color of what is around it."""
    import matplotlib as mpl  # noqa: PLC0415
    from matplotlib import style  # noqa: PLC0415

    from it3.plots.of_evaluation import gains, size_of_gains  # noqa: PLC0415  (matplotlib is needed for the page alone)
    from it3.plots.parts import separate_axes  # noqa: PLC0415

    inked = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
    as_text = {"svg.fonttype": "none", "svg.hashsalt": "it3"}
    file = io.StringIO()
    # With matplotlib's own settings, whatever the user's are.
    with style.context("default"), mpl.rc_context({**dict.fromkeys(inked, _INK), **as_text}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from")  # the browser has other fonts
        figure: Any = gains(evaluation, ax=separate_axes(*size_of_gains(evaluation))).figure
        figure.savefig(
            file, format="svg", transparent=True, metadata=dict.fromkeys(("Creator", "Date", "Format", "Type"))
        )
    svg = file.getvalue()
    return svg[svg.index("<svg") :].replace(_INK, "currentColor")
