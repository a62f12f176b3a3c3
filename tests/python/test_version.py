"""The version: CMake reads without Python what setuptools-scm gives to wheels, wherever the sources come from."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WHAT_TELLS_THE_VERSION = ("pyproject.toml", "cmake/It3Version.cmake", ".git_archival.txt", ".gitattributes")
LAST_RELEASE = re.search(r'^fallback_version = "(.*)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)[1]

if not (ROOT / ".git_archival.txt").exists():
    pytest.skip("a source archive is the end of the way that versions take", allow_module_level=True)
pytest.importorskip("setuptools_scm")


def run(*command: str, folder: Path) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SETUPTOOLS_SCM")}
    done = subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True, text=True)
    return done.stdout


def git(*arguments: str, folder: Path) -> str:
    identity = ("-c", "user.name=it3", "-c", "user.email=it3@example.org")
    return run("git", *identity, *arguments, folder=folder)


def commit(folder: Path, times: int = 1) -> None:
    for _ in range(times):
        git("commit", "--quiet", "--allow-empty", "--message", "A change", folder=folder)


def by_cmake(folder: Path) -> tuple[str, ...]:
    """Return the command that prints it."""
    script = folder.parent / "print_version.cmake"
    script.write_text(
        f'include("{folder}/cmake/It3Version.cmake")\nmessage("${{IT3_VERSION}} ${{IT3_VERSION_NUMBERS}}")\n'
    )
    return ("cmake", "-P", str(script))


def versions(folder: Path) -> tuple[str, str]:
    """By setuptools-scm, and by CMake."""
    printed = subprocess.run(by_cmake(folder), check=True, capture_output=True, text=True).stderr.split()
    assert printed[0].startswith(printed[1])
    assert re.fullmatch(r"\d+\.\d+\.\d+", printed[1])
    return run(sys.executable, "-m", "setuptools_scm", folder=folder).strip(), printed[0]


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """Sources without git."""
    folder = tmp_path / "sources"
    for name in WHAT_TELLS_THE_VERSION:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    return folder


@pytest.fixture
def repository(sources: Path) -> Path:
    git("init", "--quiet", folder=sources)
    git("add", ".", folder=sources)
    commit(sources)
    return sources


def test_a_tag_is_the_version(repository: Path) -> None:
    git("tag", "v3.4.5", folder=repository)
    assert versions(repository) == ("3.4.5", "3.4.5")


def test_a_candidate_for_release_is_the_version(repository: Path) -> None:
    git("tag", "v3.4.5rc1", folder=repository)
    assert versions(repository) == ("3.4.5rc1", "3.4.5rc1")


def test_commits_after_a_tag_are_counted(repository: Path) -> None:
    git("tag", "v3.4.5", folder=repository)
    commit(repository, times=3)
    assert versions(repository) == ("3.4.5.post1.dev3",) * 2


@pytest.mark.parametrize("tag", ["another-name", "paper-2025", "vision2"])
def test_tags_that_are_no_versions_do_not_count(tag: str, repository: Path) -> None:
    git("tag", "v3.4.5", folder=repository)
    commit(repository)
    git("tag", tag, folder=repository)
    assert versions(repository) == ("3.4.5.post1.dev1",) * 2


@pytest.mark.parametrize("tag", ["v3.4.5-rc1", "v3.4.5.post1", "v3.4.5.dev1"])
def test_a_tag_from_which_one_of_them_cannot_count_on_is_an_error(tag: str, repository: Path) -> None:
    git("tag", tag, folder=repository)
    for command in (by_cmake(repository), (sys.executable, "-m", "setuptools_scm")):
        done = subprocess.run(command, cwd=repository, check=False, capture_output=True, text=True)
        assert done.returncode != 0
        assert tag in done.stderr


def test_changes_that_are_not_committed_are_no_release(repository: Path) -> None:
    git("tag", "v3.4.5", folder=repository)
    with (repository / "pyproject.toml").open("a") as file:
        file.write("# changed\n")
    assert versions(repository) == ("3.4.5.post1.dev0",) * 2


def test_without_tags_the_last_release_is_counted_from(repository: Path) -> None:
    commit(repository)
    assert versions(repository) == (f"{LAST_RELEASE}.post1.dev2",) * 2


def test_a_shallow_clone_builds(repository: Path, tmp_path: Path) -> None:
    git("tag", "v3.4.5", folder=repository)
    commit(repository, times=3)
    git("clone", "--quiet", "--depth", "1", f"file://{repository}", str(tmp_path / "clone"), folder=tmp_path)
    assert versions(tmp_path / "clone") == (f"{LAST_RELEASE}.post1.dev1",) * 2


@pytest.mark.parametrize(("commits", "version"), [(0, "3.4.5"), (2, "3.4.5.post1.dev2")])
def test_an_archive_that_git_writes_knows_it(repository: Path, tmp_path: Path, commits: int, version: str) -> None:
    git("tag", "v3.4.5", folder=repository)
    commit(repository, times=commits)
    git("archive", "--output", str(tmp_path / "archive.tar"), "--prefix", "archive/", "HEAD", folder=repository)
    shutil.unpack_archive(tmp_path / "archive.tar", tmp_path, filter="data")
    assert versions(tmp_path / "archive") == (version, version)


def test_an_archive_of_a_repository_without_tags_is_the_last_release(repository: Path, tmp_path: Path) -> None:
    git("archive", "--output", str(tmp_path / "archive.tar"), "--prefix", "archive/", "HEAD", folder=repository)
    shutil.unpack_archive(tmp_path / "archive.tar", tmp_path, filter="data")
    assert versions(tmp_path / "archive") == (LAST_RELEASE, LAST_RELEASE)


def test_a_source_archive_says_it(sources: Path) -> None:
    (sources / "PKG-INFO").write_text("Metadata-Version: 2.4\nName: it3\nVersion: 3.4.5\n\nVersion: of a text\n")
    assert versions(sources) == ("3.4.5", "3.4.5")


def test_sources_without_git_are_the_last_release(sources: Path) -> None:
    assert versions(sources) == (LAST_RELEASE, LAST_RELEASE)


def test_inside_of_another_repository_its_tags_do_not_count(sources: Path) -> None:
    git("init", "--quiet", folder=sources.parent)
    git("add", ".", folder=sources.parent)
    commit(sources.parent)
    git("tag", "v9.9.9", folder=sources.parent)
    assert versions(sources) == (LAST_RELEASE, LAST_RELEASE)


def test_the_last_release_is_the_same_everywhere() -> None:
    headings = re.findall(r"^## (\d\S*) — (\S*)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    citation = re.findall(r"^(?:version|date-released): (\S*)", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    assert headings[0][0] == LAST_RELEASE
    assert tuple(citation) == headings[0]
