"""Draw the documentation's pictures again, of all studies and of all timings, from docs/measurements without a run."""

import subprocess
import sys
from pathlib import Path

from study_picture import draw
from study_record import RECORDS, read

ROOT = Path(__file__).parent.parent


def main() -> None:
    """Draw all."""
    for path in sorted(RECORDS.glob("*.json")):
        draw(read(path), ROOT / "docs" / "pictures" / f"{path.stem}.png")
    # A process of its own, as its modules lie in another folder.
    subprocess.run([sys.executable, ROOT / "benchmarks" / "report.py"], check=True)


if __name__ == "__main__":
    main()
