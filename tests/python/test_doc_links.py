"""Links from one page of the repository to another lead somewhere, as GitHub and the documentation read them."""

import re
from pathlib import Path

import pytest
from installed import ROOT

PAGES = [
    *ROOT.glob("*.md"),
    *(path for path in (ROOT / "docs").rglob("*.md") if "gallery" not in path.parts),
]
LINK = re.compile(r"\]\(([^)\s]+)\)")


def without_code(text: str) -> str:
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE))


def anchors(page: Path) -> set[str]:
    """Return the names that GitHub gives to a page's headings."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.M), re.M)
    bare = (re.sub(r"\]\([^)]*\)|[^\w\s-]", "", heading).strip().lower() for heading in headings)
    return {name.replace(" ", "-") for name in bare}


def broken(page: Path, text: str) -> list[str]:
    """Return the relative links in a page's text that lead nowhere."""
    wrong = []
    for link in LINK.findall(without_code(text)):
        path, _, heading = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if re.match(r"\w+:", link):
            continue
        if not target.exists() or (heading and target.suffix == ".md" and heading not in anchors(target)):
            wrong.append(link)
    return wrong


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_relative_links_lead_somewhere(page: Path) -> None:
    assert broken(page, page.read_text()) == []


def test_broken_links_are_found() -> None:
    text = "[a](docs/nowhere.md) [b](#no-such-heading) [c](docs/results.md) [d](#try-it) `[e](f)` [g](https://h.i/j)"
    assert broken(ROOT / "README.md", text) == ["docs/nowhere.md", "#no-such-heading"]


def test_pages_of_the_repository_s_own_files_include_these() -> None:
    for page in (ROOT / "docs" / "project").glob("*.md"):
        included = re.search(r"{include} (\S+)", page.read_text())
        assert included is not None
        assert (page.parent / included[1]).resolve() == ROOT / f"{page.stem.upper()}.md"
