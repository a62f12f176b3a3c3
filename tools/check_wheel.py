"""Fail for a wheel that lacks a file, holds one that it must not, or tells of the machine that built it.

Usage: check_wheel.py WHEEL...
"""

import re
import subprocess
import sys
import tempfile
import zipfile
from email.parser import HeaderParser
from fnmatch import fnmatch
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "python/it3"
WRITTEN_BY_HAND = {".py", ".pyi", ".jinja", ".typed"}
NEEDED = [
    *(f"it3/{path.relative_to(PACKAGE)}" for path in PACKAGE.rglob("*") if path.suffix in WRITTEN_BY_HAND),
    *(f"it3/{path.relative_to(ROOT / 'csrc')}" for path in (ROOT / "csrc/include").rglob("*.h")),
    *(f"it3/lib/cmake/it3/{name}.cmake" for name in ("it3Config", "it3ConfigVersion", "it3Targets", "FindLibTorch")),
    "it3/lib/cmake/it3/it3Targets-*.cmake",
    "it3/lib/libit3.*",
    "it3/_C.*.so",
    "it3/_build.py",
    "it3-*.dist-info/METADATA",
    "it3-*.dist-info/RECORD",
    "it3-*.dist-info/WHEEL",
    "it3-*.dist-info/entry_points.txt",
    "it3-*.dist-info/licenses/LICENSE",
]
FOLDERS_OF_BUILDERS = re.compile(
    rb"(?<![\w.*])/(?:Users|build|builds|home|host|io|opt|private|project|root|src|tmp|work)/[\w./+-]+"
)
LIBRARIES = re.compile(
    r"libit3\.so|lib(torch|torch_cpu|torch_cuda|torch_python|c10|c10_cuda)\.so"
    r"|lib(stdc\+\+|gcc_s|c|m|dl|pthread|rt)\.so\.\d|ld-linux[\w.-]*"
)


def problems_of_names(names: list[str]) -> list[str]:
    """Which files are missing; and which are not known, such as tests, sources and torch's libraries."""
    missing = [pattern for pattern in NEEDED if not any(fnmatch(name, pattern) for name in names)]
    unknown = [name for name in names if not any(fnmatch(name, pattern) for pattern in NEEDED)]
    return [f"{name} is missing" for name in missing] + [f"{name} does not belong there" for name in unknown]


def problems_of_text(name: str, content: bytes) -> list[str]:
    """Which folders of the machine that built it a file names."""
    return [f"{name} names {found.decode()}" for found in sorted(set(FOLDERS_OF_BUILDERS.findall(content)))]


def problems_of_library(name: str, path: Path) -> list[str]:
    """Where the loader looks for libraries, other than beside this one; and what it needs that nothing brings."""
    listed = subprocess.run(["readelf", "--dynamic", path], check=True, capture_output=True, text=True).stdout
    folders = [folder for found in re.findall(r"\(R(?:UN)?PATH\).*\[(.*)\]", listed) for folder in found.split(":")]
    needed = re.findall(r"\(NEEDED\).*\[(.*)\]", listed)
    return [
        *(f"{name} has libraries looked for in {folder}" for folder in folders if not folder.startswith("$ORIGIN/")),
        *(f"{name} needs {library}" for library in needed if not LIBRARIES.fullmatch(library)),
    ]


def problems_of_metadata(metadata: str, build: str) -> list[str]:
    """Whether the torch that is required, and the one in the version's label, are the one that it was built against."""
    fields = HeaderParser().parsestr(metadata)
    release = re.findall(r'^torch_version = "(\d+\.\d+)\.', build, re.MULTILINE)[0]
    required = [text for text in fields.get_all("Requires-Dist", []) if re.fullmatch(r"torch\b[^-;]*", text)]
    label = fields["Version"].partition("+")[2]
    found = []
    if required != [f"torch=={release}.*"]:
        found.append(f"it was built against torch {release} and requires {required}")
    if label and not re.fullmatch(rf"(cpu|cu\d+)\.torch{re.escape(release)}", label):
        found.append(f"it was built against torch {release} and is labeled {label}")
    return found


def problems(wheel: Path) -> list[str]:
    """All that is wrong with a wheel."""
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
        names = [name for name in archive.namelist() if not name.endswith("/")]
        found = problems_of_names(names)
        for name in names:
            if name.endswith((".so", ".cmake", "_build.py")):
                found += problems_of_text(name, archive.read(name))
            if name.endswith(".so") and sys.platform == "linux":
                found += problems_of_library(name, Path(folder, name))
        metadata = "".join(archive.read(name).decode() for name in names if fnmatch(name, "it3-*.dist-info/METADATA"))
        return found or problems_of_metadata(metadata, archive.read("it3/_build.py").decode())


def main(wheels: list[str]) -> int:
    """Print what is wrong with each wheel; the exit status is 1 if anything is, or if there is none."""
    found = [f"{Path(wheel).name}: {problem}" for wheel in wheels for problem in problems(Path(wheel))]
    print("\n".join(found) or f"{len(wheels)} wheels hold what they must, and nothing else")
    return 1 if found or not wheels else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
