"""Check that the folders of csrc/src include, and those of python/it3 import, from the top down only.

See docs/architecture.md.
"""

import ast
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).parent.parent
FLOORS = (
    {"engine"},
    {"adapt"},
    {"exported"},
    {"files"},
    {"cuda_graphs", "torch_nn", "torchscript"},
    {"method"},
    {"autograd", "network"},
    {"support"},
)
# Public headers without a source file of their name; those of no room are for all.
HEADERS = {
    "export": None,
    "it3": None,
    "exported_graph": "exported",
    "graphs": "cuda_graphs",
    "method": "method",
    "network": "network",
}

# Folders of python/it3, and modules that lie in none; `engine` stands for engine.py and the files named after it.
PYTHON_FLOORS = (
    {"__main__"},
    {"command_line"},
    {"frameworks", "loggers", "plots", "recipes", "searching"},
    {"layer_choice", "saving", "training"},
    {"compiling", "evaluation"},
    {"engine"},
    {"adaptation"},
    {"cutting"},
    {"input_layer"},
    {"embedder", "options", "paths", "torch_ttt_checkpoints"},
    {"support"},
)
# Of no room: the package, which imports for all, and what is made with the core.
PYTHON_FOR_ALL = {"__init__", "_C", "_build", "_torch_check"}


def main() -> int:
    """Print the includes and imports that go upwards, or from room to room of a floor."""
    wrong = [*wrong_includes(), *wrong_imports()]
    print("\n".join(wrong), end="\n" if wrong else "")
    return 1 if wrong else 0


def wrong_includes() -> Iterator[str]:
    """Return what is wrong in the core."""
    core = ROOT / "csrc"
    sources = sorted((core / "src").rglob("*.[ch]*"))
    headers = sorted((core / "include").rglob("*.h"))
    rooms = {path.stem: path.parent.name for path in sources} | HEADERS
    floor = floors(FLOORS)
    yield from (f"{path.relative_to(core)} lies in no room" for path in sources if path.parent.name not in floor)
    for path in (*sources, *headers):
        room = rooms[path.stem]
        for name in re.findall(r'#include [<"](?:it3/)?(?:\w+/)?(\w+)\.h[>"]', path.read_text()):
            other = rooms.get(name)
            if None not in (room, other) and room != other and floor[room] >= floor[other]:
                yield f"{path.relative_to(core)} ({room}) includes {name}.h ({other})"


def wrong_imports() -> Iterator[str]:
    """Return what is wrong in the Python package."""
    package = ROOT / "python" / "it3"
    floor = floors(PYTHON_FLOORS)
    for path in sorted(package.rglob("*.py")):
        room = python_room(path.relative_to(package).with_suffix("").parts[0])
        if room in PYTHON_FOR_ALL:
            continue
        if room not in floor:
            yield f"python/it3/{path.relative_to(package)} lies in no room"
            continue
        for name in imported_modules(path):
            other = python_room(name.split(".")[0])
            if other not in (room, *PYTHON_FOR_ALL) and floor[room] >= floor.get(other, -1):
                yield f"python/it3/{path.relative_to(package)} ({room}) imports it3.{name} ({other})"


def imported_modules(path: Path) -> Iterator[str]:
    """Return the modules of it3 that a file imports when it is loaded: not those in functions, and of types alone."""
    for statement in ast.parse(path.read_text()).body:
        if isinstance(statement, ast.ImportFrom) and statement.module == "it3":
            yield from (alias.name for alias in statement.names)
        elif isinstance(statement, ast.ImportFrom) and (statement.module or "").startswith("it3."):
            yield (statement.module or "").removeprefix("it3.")
        elif isinstance(statement, ast.Import):
            yield from (alias.name.removeprefix("it3.") for alias in statement.names if alias.name.startswith("it3."))


def python_room(name: str) -> str:
    """Return the room of a folder or module of the package."""
    return "engine" if name.startswith("engine_") else name


def floors(rooms: Sequence[set[str]]) -> dict[str, int]:
    """Return the number of each room's floor, from the top."""
    return {room: number for number, rooms_of in enumerate(rooms) for room in rooms_of}


if __name__ == "__main__":
    sys.exit(main())
