"""Samples and predictions in files: .npy, .csv and .parquet."""

import io
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from it3 import _C
from it3.command_line.wrong_usage import WrongUsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    import pandas as pd

Array = NDArray[Any]
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?(\.\d+)?", re.IGNORECASE)
_VALUE = re.compile(r"(unnamed: \d+|[-+]?(nan|inf|infinity)|true|false|<na>|#?n/a|na|null|none)(\.\d+)?", re.IGNORECASE)
"""What is a value without digits. Pandas calls an empty name Unnamed, and puts .1 behind names that are there twice."""
_ENDINGS = (".npy", ".csv", ".parquet")


def check_ending(path: Path) -> None:
    """Raise WrongUsageError for a file of another kind."""
    if path.suffix not in _ENDINGS:
        raise WrongUsageError(f"{path} must end in .npy, .csv or .parquet")


def read_samples(path: Path, *, keeps_integers: bool = False) -> Array:
    """Read an array whose first dimension is the samples; one in .npy is mapped from the disk.

    A .csv file begins with a header line; its columns, and those of a .parquet file, are numbers or truth values, and
    become float32, in their order. What is missing is nan.

    Parameters
    ----------
    path
        The file.
    keeps_integers
        Whether columns, if all are whole numbers, become integers, and else float64.

    Raises
    ------
    WrongUsageError
        For another kind of file, and if there is none.
    ValueError
        For what is damaged, has no samples, or columns that are no numbers.
    """
    check_ending(path)
    if not path.is_file():
        raise WrongUsageError(f"there is no file {path}")
    array = _read_npy(path) if path.suffix == ".npy" else _numbers_of(_read_frame(path), path, keeps_integers)
    if array.ndim == 0 or array.size == 0:
        raise ValueError(f"{path} holds an array of the shape {array.shape}, without samples")
    return array


def tensor_of(array: Array) -> Tensor:
    """Return a copy of an array, in the order of bytes and of elements that torch takes."""
    return torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("="), order="C"))


def write_results(path: Path, results: Array, name: str) -> None:
    """Write results to a file, which appears when it is complete.

    In .csv and .parquet, of which each row is a sample, the column has the name, or where there are several numbers for
    a sample, the columns have it with _0 and so on behind it.

    Raises
    ------
    ValueError
        If a table cannot hold them, as they have more dimensions.
    RuntimeError
        If the file cannot be written.
    """
    content = io.BytesIO()
    if path.suffix == ".npy":
        np.save(content, results, allow_pickle=False)
    else:
        frame = _frame_of(results, path, name)
        if path.suffix == ".csv":
            frame.to_csv(content, index=False)
        else:
            frame.to_parquet(content, index=False)
    with _C.NewFile(str(path)) as file:
        file.write(content.getvalue())


def check_holds(path: Path, dims: int) -> None:
    """Raise ValueError if a file of this kind cannot hold arrays of so many dimensions."""
    if path.suffix != ".npy" and dims not in (1, 2):
        raise ValueError(f"{path} is a table, which cannot hold predictions of {dims} dimensions; write a .npy file")


def _read_npy(path: Path) -> Array:
    try:
        array: Array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(f"{path} is not a .npy file of numbers, or is damaged: {error}") from error
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiub":
        kind = getattr(array, "dtype", type(array).__name__)
        raise ValueError(f"{path} must hold numbers, not {kind}")
    return array


def _read_frame(path: Path) -> "pd.DataFrame":
    pandas = _pandas()
    read: Callable[..., Any] = pandas.read_csv if path.suffix == ".csv" else pandas.read_parquet
    try:
        return read(path)
    except ImportError as error:
        raise ModuleNotFoundError(".parquet files need pyarrow: pip install pyarrow") from error
    except Exception as error:  # of whatever kind damage makes
        first = (str(error).splitlines() or [""])[0]
        raise ValueError(f"{path} is not a {path.suffix} file, or is damaged: {first}") from error


def _numbers_of(frame: "pd.DataFrame", path: Path, keeps_integers: bool) -> Array:
    if frame.empty:
        raise ValueError(f"{path} is a table of {len(frame)} rows and {len(frame.columns)} columns, without samples")
    if path.suffix == ".csv":
        _check_header([str(name) for name in frame.columns], path)
    odd = [name for name, dtype in frame.dtypes.items() if not _is_number(dtype)]
    if odd:
        raise ValueError(
            f"the column {str(odd[0])!r} of {path} holds {frame[odd[0]].dtype}, not numbers; leave it out, or write "
            "its values as numbers"
        )
    dtype: type = np.float64 if keeps_integers else np.float32
    if keeps_integers and all(kind.kind in "iub" for kind in frame.dtypes) and not frame.isna().to_numpy().any():
        dtype = np.int64
    numbers: Array = frame.to_numpy(dtype=dtype, na_value=np.nan)
    return numbers


def _check_header(names: list[str], path: Path) -> None:
    """Raise ValueError where the first line is a sample, which would be lost; pandas itself names columns 0, 1, ...."""
    if names == [str(place) for place in range(len(names))]:
        return
    names = [name.strip() for name in names]
    number = next(filter(_NUMBER.fullmatch, names), None)
    if number is not None or all(map(_VALUE.fullmatch, names)):
        found = names[0] if number is None else number
        raise ValueError(
            f"the first line of {path} must name the columns, but holds {found!r}, as a sample does; put a header "
            "line first"
        )


def _is_number(dtype: Any) -> bool:
    return getattr(dtype, "kind", "O") in "fiub"


def _frame_of(results: Array, path: Path, name: str) -> "pd.DataFrame":
    check_holds(path, results.ndim)
    if results.ndim == 1:
        return _pandas().DataFrame({name: results})
    return _pandas().DataFrame({f"{name}_{i}": column for i, column in enumerate(results.T)})


def _pandas() -> Any:
    try:
        import pandas as pd  # noqa: PLC0415  (only those who use tables need it)
    except ImportError as error:
        raise ModuleNotFoundError(".csv and .parquet files need pandas: pip install pandas") from error
    return pd
