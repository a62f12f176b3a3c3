"""Tables of samples: what is a header line, and which numbers columns become."""

from pathlib import Path

import pandas as pd
import pytest

pytest.importorskip("typer")

from it3.command_line.sample_files import read_samples


@pytest.mark.parametrize(
    "first",
    ["1.5, 2.5", "1.5,", ",1.5", "1.5,nan", "nan, nan", "-inf,inf", "true,true", "1.5,NA", "3,3", " -.5,+2.e-3"],
)
def test_a_first_line_of_values_is_no_header(first: str, tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text(f"{first}\n1,2\n3,4\n")
    with pytest.raises(ValueError, match="put a header line first"):
        read_samples(path)


@pytest.mark.parametrize("first", ["a, b", "a,a", "nan,b", "x1,x2", "e5,v2.0", "information,null_rate", "sample,"])
def test_a_first_line_with_a_name_is_a_header(first: str, tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text(f"{first}\n1,2\n3,4\n")
    assert read_samples(path).tolist() == [[1, 2], [3, 4]]


def test_integers_of_a_table_stay_as_they_are(tmp_path: Path) -> None:
    rows = [[2**53 + 1, 2], [2**24 + 1, -1]]
    frame = pd.DataFrame(rows, columns=["a", "b"])
    frame.to_csv(tmp_path / "x.csv", index=False)
    frame.astype("Int64").to_parquet(tmp_path / "x.parquet")
    for name in ("x.csv", "x.parquet"):
        assert read_samples(tmp_path / name, keeps_integers=True).tolist() == rows
