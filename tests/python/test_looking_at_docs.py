"""tools/look_at_docs.py finds what is wrong with pages."""

import subprocess
import sys
from pathlib import Path

import pytest
from browser import CHROMIUM
from installed import ROOT

HEAD = '<!DOCTYPE html><meta name="viewport" content="width=device-width"><link rel="icon" href="data:,"><main>'


def look(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, ROOT / "tools" / "look_at_docs.py", folder]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def test_pages_that_do_not_exist_are_an_error(tmp_path: Path) -> None:
    done = look(tmp_path)
    assert done.returncode == 2
    assert "has no index.html" in done.stderr


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_wide_parts_errors_and_missing_files_are_found(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text(
        HEAD
        + '<div style="width: 900px">wide</div><div style="overflow-x: auto"><p style="width: 2000px">scrolls</p></div>'
        + '<img src="none.png"><script src="https://example.org/x.js"></script><script>nothing()</script></main>'
    )
    (tmp_path / "right.html").write_text(HEAD + "<p>All is well.</p></main>")
    done = look(tmp_path)
    assert done.returncode == 1
    *wrong, last = done.stdout.splitlines()
    assert last == "Looked at 2 pages in windows of 1280 and 360 pixels."
    assert not [line for line in wrong if "right.html" in line or "scrolls" in line or "2000" in line]
    for part in (
        "pixels wide in a window of 360",
        "900px",
        "none.png cannot be shown",
        "(404)",
        "nothing is not defined",
    ):
        assert [line for line in wrong if part in line], part
    assert [line for line in wrong if "loads https://example.org/x.js" in line]
    assert not [line for line in wrong if "window of 1280" in line]


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_pages_that_are_right_pass(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text(HEAD + "<p>All is well.</p></main>")
    done = look(tmp_path)
    assert (done.returncode, done.stdout) == (0, "Looked at 1 pages in windows of 1280 and 360 pixels.\n")
