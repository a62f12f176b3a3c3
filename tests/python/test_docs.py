"""What README.md and the pages of docs show runs as it stands there."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import it3
import pytest
import torch

pytest.importorskip("matplotlib")
pytest.importorskip("optuna")
pytest.importorskip("pandas")
pytest.importorskip("tensorboard")
pytest.importorskip("typer")

from binary import BINARY
from command_line import PYTHON_FOLDER
from installed import ROOT, build_against, run
from pages import Page, blocks_of, cpp_program, pages

CPP = ["README.md", "docs/how_to/cpp.md", "docs/how_to/save_and_deploy.md"]
"""The pages whose C++ is compiled and run."""


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> dict[str, str]:
    """What commands see: it3 and it3-adapt on the PATH, and output without colors."""
    programs = tmp_path_factory.mktemp("programs")
    (programs / "it3").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m it3 "$@"\n')
    (programs / "it3").chmod(0o755)
    if BINARY:
        (programs / "it3-adapt").symlink_to(Path(BINARY).absolute())
    path = os.pathsep.join([str(programs), str(Path(sys.executable).parent), os.environ["PATH"]])
    output = {"NO_COLOR": "1", "COLUMNS": "120"}
    ours = {"PYTHONPATH": str(PYTHON_FOLDER), "IT3_CACHE_DIR": str(cache), "OMP_NUM_THREADS": "1"}
    return {**os.environ, **output, **ours, "PATH": path}


@pytest.fixture
def _as_a_reader(environment: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Run in the page's folder, draw without a screen, and leave torch as it was."""
    (tmp_path / "page").mkdir()
    monkeypatch.chdir(tmp_path / "page")
    monkeypatch.setenv("IT3_CACHE_DIR", environment["IT3_CACHE_DIR"])
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The C++ of all pages, built as how_to/cpp.md says. It takes the name of a page."""
    folder = tmp_path_factory.mktemp("cpp")
    all_pages = [Page(name, (ROOT / name).read_text(), folder) for name in CPP]
    (folder / "program.cpp").write_text(cpp_program(all_pages))
    (cmake,) = (block.code for page in all_pages for block in page.blocks if block.language == "cmake")
    (folder / "CMakeLists.txt").write_text(cmake)
    return build_against(it3.cmake_prefix_path, str(folder), folder / "build") / "program"


@pytest.mark.usefixtures("_as_a_reader")
@pytest.mark.parametrize("name", pages())
def test_the_blocks_run(name: str, environment: dict[str, str], request: pytest.FixtureRequest, tmp_path: Path) -> None:
    page = Page(name, (ROOT / name).read_text(), tmp_path / "page")
    if page.calls("it3-adapt") and not BINARY:
        pytest.skip("IT3_ADAPT does not name the binary; make test builds it")
    if request.config.getoption("--without-torchscript"):
        pytest.skip("some pages are of TorchScript")
    page.run(environment)
    assert page.cpp() == "" or name in CPP, "C++ of this page is not compiled; say why, or name it in CPP"
    if name in CPP:
        run(request.getfixturevalue("program"), name)


WRONG = {
    "an error": "```python\nx = 1\n\nraise ValueError\n```",
    "another value": "```python\nx = 1\n```\n\n```pycon\n>>> x\n2\n```",
    "no examples": "```pycon\nx = 1\n```",
    "another line": "```console\n$ echo a\nb\n```",
    "a command that fails": "```console\n$ false\n```",
    "a command that fails as expected": "```console\n$ echo a; false\na\n```",
    "no command": "```console\nls\n```",
    "another language": "```sh\nls\n```",
    "no language": "```\nls\n```",
    "no end": "```python\nx = 1\n",
    "in a list": "- so:\n\n  ```python\n  raise ValueError\n  ```",
}


@pytest.mark.usefixtures("_as_a_reader")
@pytest.mark.parametrize("text", WRONG.values(), ids=WRONG)
def test_what_is_wrong_on_a_page_is_found(text: str, environment: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises((AssertionError, ValueError)):
        Page("page.md", text, tmp_path / "page").run(environment)


RIGHT = """
# All kinds

<!-- not run: it would fail -->
```python
raise ValueError
```

<!-- file: given.toml -->
```toml
a = 1
```

```{note}
nothing of ours
```

```python
import inspect
import pathlib


class Model:
    size = 5
```

```pycon
>>> count = len(pathlib.Path("given.toml").read_text())
>>> print(inspect.getsource(Model))
class Model:
    ...
```

```console
$ cat \\
  given.toml
a = ...
$ touch made
```

```python
assert count == 6
assert pathlib.Path("made").exists()
```
"""


@pytest.mark.usefixtures("_as_a_reader")
def test_a_page_of_all_kinds(environment: dict[str, str], tmp_path: Path) -> None:
    Page("page.md", RIGHT, tmp_path / "page").run(environment)


def test_blocks_are_found() -> None:
    found = [(block.language, block.line, block.is_run, block.file) for block in blocks_of(RIGHT)]
    assert found[:3] == [("python", 6, False, ""), ("toml", 11, False, "given.toml"), ("python", 19, True, "")]
    assert [language for language, *_ in found[3:]] == ["pycon", "console", "python"]
