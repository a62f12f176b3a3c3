"""The pages of docs/api tell of every public name, once."""

import inspect
import re
import runpy
from collections import Counter
from pathlib import Path

import it3
import pytest
from installed import ROOT

API = ROOT / "docs" / "api"
HEADERS = ROOT / "csrc" / "include" / "it3"

PUBLIC = runpy.run_path(str(ROOT / "docs" / "_extensions" / "public_names.py"))
NOT_FOR_USERS, public_names = PUBLIC["NOT_FOR_USERS"], PUBLIC["public_names"]

ENTRY = re.compile(r"^\.\. (?:auto(\w+)|py:data):: (\S+)\n((?: +:\S.*\n)*)", re.MULTILINE)


@pytest.fixture(scope="module")
def entries() -> Counter[str]:
    """Return how often pages have an entry for each name; "it3.X.*" stands for all documented members of a class."""
    pytest.importorskip("optuna")
    pytest.importorskip("matplotlib")
    names: list[str] = []
    for page in API.glob("*.md"):
        for _, name, options in ENTRY.findall(page.read_text()):
            module = re.search(r":module: (\S+)", options)
            names.append(f"{module[1]}.{name}" if module else name)
            members = re.search(r":members:(.*)", options)
            if members:
                names += [f"{name}.{member.strip() or '*'}" for member in members[1].split(",")]
    return Counter(names)


def test_every_public_name_has_one_entry(entries: Counter[str]) -> None:
    assert {name: entries[f"it3.{name}"] for name in it3.__all__} == dict.fromkeys(it3.__all__, 1)


def test_every_method_and_property_of_the_engine_has_one_entry(entries: Counter[str]) -> None:
    own = {
        name
        for base in it3.IT3Engine.__mro__
        if base.__module__.startswith("it3.")
        for name in vars(base)
        if not name.startswith("_") and f"IT3Engine.{name}" not in NOT_FOR_USERS
    }
    assert {"fit", "predict", "save", "adapt", "forward", "calibrate"} <= own
    assert {name: entries[f"it3.IT3Engine.{name}"] for name in own} == dict.fromkeys(own, 1)


def test_every_member_has_an_entry(entries: Counter[str]) -> None:
    without = {
        name
        for name in public_names()
        if not entries[f"it3.{name}"] and not entries[f"it3.{name.rpartition('.')[0]}.*"]
    }
    assert not without


def test_no_entry_is_there_twice(entries: Counter[str]) -> None:
    assert {name for name, count in entries.items() if count > 1} == set()


@pytest.mark.parametrize("name", ["plots.gains", "plots.cut", "recipes.Recipe.make_engine", "loggers.TensorBoard"])
def test_public_names_are_those_of_the_modules_too(name: str) -> None:
    pytest.importorskip("optuna")
    pytest.importorskip("matplotlib")
    assert name in public_names()


def test_public_names_have_no_private_or_borrowed_ones() -> None:
    pytest.importorskip("optuna")
    pytest.importorskip("matplotlib")
    names = public_names()
    assert not {name for name in names if any(part.startswith("_") for part in name.split("."))} - {"__version__"}
    assert "recipes.IT3Engine" not in names
    assert "loggers.Callback" not in names


@pytest.mark.parametrize("module", [it3.loggers, it3.recipes])
def test_classes_and_functions_of_modules_have_examples(module: object) -> None:
    parts = {
        name: part
        for name, part in vars(module).items()
        if not name.startswith("_") and getattr(part, "__module__", "") == module.__name__
    }
    described = {name for name, part in parts.items() if inspect.isclass(part) or inspect.isfunction(part)}
    assert described
    assert {name for name in described if ">>> " in (inspect.getdoc(parts[name]) or "")} == described


def test_every_page_can_be_reached() -> None:
    toctree = re.search(r"```{toctree}\n:hidden:\n\n(.*?)```", (API / "python.md").read_text(), re.DOTALL)
    assert toctree is not None
    assert {*toctree[1].split(), "python", "cpp"} == {page.stem for page in API.glob("*.md")}


def test_every_public_header_has_one_entry() -> None:
    shown = re.findall(r"{doxygenfile} (\S+)", (API / "cpp.md").read_text())
    read = re.findall(r"it3/backend/(\w+\.h)", (ROOT / "docs" / "Doxyfile").read_text())
    public = {path.name for path in HEADERS.glob("*.h")} - {"it3.h"}
    assert sorted(shown) == sorted(public | set(read))
    assert {name for name in read if not Path(HEADERS, "backend", name).exists()} == set()
