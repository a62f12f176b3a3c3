"""Check that the folders of csrc/src include one another from the top down only; see docs/architecture.md."""

import re
import sys
from pathlib import Path

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


def main() -> int:
    """Print the includes that go upwards, or from room to room of a floor."""
    core = Path(__file__).parent.parent / "csrc"
    sources = sorted((core / "src").rglob("*.[ch]*"))
    headers = sorted((core / "include").rglob("*.h"))
    rooms = {path.stem: path.parent.name for path in sources} | HEADERS
    floor = {room: number for number, rooms_of in enumerate(FLOORS) for room in rooms_of}
    wrong = [f"{path.relative_to(core)} lies in no room" for path in sources if path.parent.name not in floor]
    for path in (*sources, *headers):
        room = rooms[path.stem]
        for name in re.findall(r'#include [<"](?:it3/)?(?:\w+/)?(\w+)\.h[>"]', path.read_text()):
            other = rooms.get(name)
            if None not in (room, other) and room != other and floor[room] >= floor[other]:
                wrong.append(f"{path.relative_to(core)} ({room}) includes {name}.h ({other})")
    print("\n".join(wrong), end="\n" if wrong else "")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
