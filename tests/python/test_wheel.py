"""What a wheel holds, of the one that is installed, and of such as are made wrong."""

import importlib.metadata
import re
import runpy
import subprocess
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from installed import ROOT

check = runpy.run_path(str(ROOT / "tools" / "check_wheel.py"))
provider = runpy.run_path(str(ROOT / "tools" / "torch_requirement.py"))["Provider"]
LATER = ("INSTALLER", "REQUESTED", "direct_url.json", ".pyc")
"""What pip writes into an installed wheel."""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The installed it3, as a wheel again."""
    try:
        files = importlib.metadata.files("it3") or []
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("it3 is not installed by pip")
    path = tmp_path_factory.mktemp("wheel") / "it3.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for file in files:
            if not file.name.endswith(LATER) and file.parts[0] != "..":
                archive.write(file.locate(), str(file))
    return path


def names(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


def test_the_installed_wheel_holds_what_it_must_and_nothing_else(wheel: Path) -> None:
    assert check["problems"](wheel) == []


@pytest.mark.parametrize("name", ["it3/_C.pyi", "it3/py.typed", "it3/include/it3/it3.h", "it3/lib/libit3.so"])
def test_a_file_that_is_missing(name: str, wheel: Path) -> None:
    found = check["problems_of_names"]([other for other in names(wheel) if other != name])
    assert [problem.split()[0].removesuffix("*") for problem in found] == [name.removesuffix("so")]


@pytest.mark.parametrize("name", ["tests/python/test_x.py", "it3/lib/libtorch_cpu.so", "it3/bin/it3-adapt", "x.py"])
def test_a_file_that_does_not_belong_there(name: str, wheel: Path) -> None:
    assert check["problems_of_names"]([*names(wheel), name]) == [f"{name} does not belong there"]


def test_a_library_with_absolute_folders_and_a_library_that_nothing_brings(tmp_path: Path) -> None:
    (tmp_path / "empty.cpp").touch()
    for name, flags in [("libother.so", []), ("it3.so", ["-Wl,--no-as-needed", f"-L{tmp_path}", "-lother"])]:
        paths = ["-Wl,-rpath,$ORIGIN/lib:/opt/torch/lib"]
        command = ["g++", "-shared", "-o", tmp_path / name, tmp_path / "empty.cpp", *flags, *paths]
        subprocess.run(command, check=True)
    assert check["problems_of_library"]("it3.so", tmp_path / "it3.so") == [
        "it3.so has libraries looked for in /opt/torch/lib",
        "it3.so needs libother.so",
    ]


def test_a_file_that_names_a_folder_of_the_machine_that_built_it() -> None:
    found = check["problems_of_text"]("it3/_C.so", b"\0/home/someone/it3/csrc/src/x.cpp\0csrc/tmp/y.cpp\0/usr/lib\0")
    assert found == ["it3/_C.so names /home/someone/it3/csrc/src/x.cpp"]


@pytest.mark.parametrize(
    ("version", "required", "problems"),
    [
        ("0.1.0", "torch==2.13.*", 0),
        ("0.1.0+cpu.torch2.13", "torch==2.13.*", 0),
        ("0.1.0+cu130.torch2.14", "torch==2.13.*", 1),
        ("0.1.0", "torch<2.15,>=2.11", 1),
        ("0.1.0+torch2.14", "torch==2.14.*", 2),
    ],
)
def test_the_torch_in_the_metadata_is_the_one_that_was_built_against(
    version: str, required: str, problems: int
) -> None:
    metadata = f'Name: it3\nVersion: {version}\nRequires-Dist: {required}\nRequires-Dist: torch-ttt; extra == "test"\n'
    assert len(check["problems_of_metadata"](metadata, 'version = "0.1.0"\n\ntorch_version = "2.13.0"\n')) == problems


def required(state: str, torch: str | None, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is required of torch by what is built beside this one."""

    def distribution(name: str) -> SimpleNamespace:
        if torch is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return SimpleNamespace(version=torch)

    monkeypatch.setattr(importlib.metadata, "distribution", distribution)
    monkeypatch.chdir(ROOT)
    requirement = provider()
    requirement.build_state(state)
    return requirement.dynamic_metadata({}, {})["dependencies"]


@pytest.mark.parametrize(
    ("torch", "requirement"),
    [("2.13.0+cpu", "torch==2.13.*"), ("2.11.1", "torch==2.11.*"), ("2.14.0a0+git1234567", "torch==2.14.*")],
)
def test_a_wheel_requires_the_torch_that_is_there(
    torch: str, requirement: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert required("wheel", torch, monkeypatch) == [requirement]


def test_a_source_archive_requires_a_torch_that_it_can_be_built_against(monkeypatch: pytest.MonkeyPatch) -> None:
    assert required("sdist", None, monkeypatch) == ["torch>=2.11,<2.15"]


@pytest.mark.parametrize("torch", ["2.10.0", "2.15.0", "3.0.0+cpu"])
def test_no_wheel_for_a_torch_that_nobody_has_looked_at(torch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit, match=re.escape(f"torch>=2.11,<2.15, but torch {torch} is installed")):
        required("wheel", torch, monkeypatch)


def test_no_wheel_without_a_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit, match=re.escape("none is: install torch>=2.11,<2.15")):
        required("wheel", None, monkeypatch)
