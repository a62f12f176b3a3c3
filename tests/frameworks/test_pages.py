"""What the pages of docs/frameworks show runs as it stands there."""

import os
import sys
from pathlib import Path

import pytest
import torch
from command_line import PYTHON_FOLDER
from installed import ROOT
from pages import Page

PAGES = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs/frameworks").glob("*.md"))


@pytest.mark.parametrize("name", PAGES)
def test_the_blocks_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "page").mkdir()
    monkeypatch.chdir(tmp_path / "page")
    torch.manual_seed(0)
    monkeypatch.setenv("RAY_worker_maximum_startup_concurrency", "16")  # else Ray prints where workers start slowly
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    ours = {"PYTHONPATH": str(PYTHON_FOLDER), "OMP_NUM_THREADS": "1", "NO_COLOR": "1", "COLUMNS": "120", "PATH": path}
    Page(name, (ROOT / name).read_text(), tmp_path / "page").run({**os.environ, **ours})
