"""Adapting a data set of Ray Data, batch by batch, in as many processes and on as many machines as Ray has."""

import os
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import ray
import torch
from torch import Tensor

from it3 import _C
from it3.saving.load import load
from it3.support.checks import like_of
from it3.support.devices import device_of

Columns = str | Sequence[str] | Mapping[str, str]
Batch = dict[str, np.ndarray[Any, Any]]


class Adapter:
    """Adapts a saved engine to each batch, for ``dataset.map_batches(Adapter, fn_constructor_kwargs=...)``.

    Each of Ray's workers loads the engine once, onto the GPU that Ray gives it, or onto the CPU. A batch goes on with
    its columns and those of the predictions. Batches do not know of each other: weights are afterwards as before.

    Parameters
    ----------
    file
        What :func:`it3.save` wrote, at a path that every machine of the cluster can read.
    inputs
        The column that the model is called with; a list of columns, for as many positional arguments; or a mapping
        from the names of arguments to columns. A column is an array whose first dimension is that of the rows. Columns
        of floating-point numbers are converted to the model's dtype, others are given as they are.
    prediction
        The column that the predictions are written to.
    uncertainty
        The column that ``Adaptation.uncertainty`` is written to, (B,): how little sure the adapted network is of each
        row. None: it is not written.
    options
        Optimization parameters, over those in the file, as of :meth:`it3.IT3Engine.adapt`. With ``per_sample=True`` a
        row's result does not depend on its batch.

    Raises
    ------
    ValueError
        For ``copy_model=False``, also in the file, as what a worker had learnt would depend on the rows that Ray gave
        it, and end with it; for columns that are missing, would be written over or are ragged; for predictions that
        are not one for each row, in the first dimension.
    RuntimeError
        For a file that cannot be read; if Ray gives a GPU that torch cannot use.
    TypeError
        For options that do not exist, for columns that are no names, and for batches that are not NumPy's.

    Warns
    -----
    UserWarning
        Once a worker, if two batches have fewer rows than the largest one, and rows depend on their batch: Ray ends a
        batch where a block of the data set ends, unless the data set is repartitioned.
    """

    def __init__(
        self,
        file: str | os.PathLike[str],
        inputs: Columns,
        *,
        prediction: str = "prediction",
        uncertainty: str | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        self._names = _names_in(inputs)
        self._inputs, self._prediction, self._uncertainty = inputs, prediction, uncertainty
        if prediction == uncertainty:
            raise ValueError(f"prediction and uncertainty are both to be written to the column {prediction!r}")
        self._engine = load(file, _device())
        given = self._engine.optimization_parameters
        self._engine.optimization_parameters = _C.overridden(given, dict(options)) if options else given
        used = _C.options_of(self._engine.optimization_parameters)
        if not used["copy_model"]:
            raise ValueError(
                "with copy_model=False (online=True) a result depends on all batches before, and Ray gives each worker "
                "others, and again others after one has died; adapt with options={'copy_model': True}, or in one "
                "process by engine.predict()"
            )
        self._sizes = None if used["per_sample"] else _Sizes()

    def __call__(self, batch: Batch) -> Batch:
        """Return a batch with the columns of its predictions.

        Parameters
        ----------
        batch
            Arrays by the names of their columns, as ``batch_format="numpy"``, Ray's default, has them.
        """
        if not isinstance(batch, dict):
            raise TypeError(
                f"a batch is a {type(batch).__module__}.{type(batch).__name__}; leave batch_format of map_batches() at "
                "its default, 'numpy', so that it is a dictionary of arrays"
            )
        new = [name for name in (self._prediction, self._uncertainty) if name is not None]
        if taken := [name for name in new if name in batch]:
            raise ValueError(
                f"the data set has a column {taken[0]!r} already, which would be written over; give another name as "
                "prediction= or uncertainty=, or drop the column"
            )
        inputs = self._arguments(batch)
        rows = len(batch[self._names[0]])
        if self._sizes is not None:
            self._sizes.add(rows)
        adaptation = self._engine.adapt(inputs)
        columns = {self._prediction: adaptation.prediction}
        if self._uncertainty is not None:
            columns[self._uncertainty] = adaptation.uncertainty
        layout = self._engine.prediction_layout
        dimension = layout.batch_of(adaptation.prediction.dim()) if adaptation.prediction.dim() else -1
        if dimension != 0 or len(adaptation.prediction) != rows:
            raise ValueError(
                f"the prediction for a batch of {rows} rows has the shape {tuple(adaptation.prediction.shape)}; a "
                "column needs one prediction a row, in the first dimension"
            )
        return {**batch, **{name: _array(column) for name, column in columns.items()}}

    def _arguments(self, batch: Batch) -> Any:
        """Return what the model is called with."""
        dtype, device = like_of(self._engine.model).dtype, device_of(self._engine.model)
        tensors = {name: _tensor(batch, name, dtype).to(device) for name in self._names}
        if isinstance(self._inputs, str):
            return tensors[self._inputs]
        if isinstance(self._inputs, Mapping):
            return {argument: tensors[name] for argument, name in self._inputs.items()}
        return tuple(tensors[name] for name in self._inputs)


class _Sizes:
    """Tells whether batches are cut where the blocks of the data set end: only its last one should be smaller."""

    def __init__(self) -> None:
        self._largest, self._smaller = 0, 0

    def add(self, rows: int) -> None:
        """Note a batch; warn at the second one that is smaller than the largest."""
        if rows > self._largest:
            self._smaller += self._largest > 0
        else:
            self._smaller += rows < self._largest
        self._largest = max(rows, self._largest)
        if self._smaller == 2:
            warnings.warn(
                f"several batches have fewer rows than others ({rows} and {self._largest}): Ray ends them where blocks "
                "of the data set end, and what a row becomes depends on its batch. For batches that are always the "
                "same call dataset.repartition(target_num_rows_per_block=batch_size, strict=True) before map_batches, "
                "with DataContext.get_current().execution_options.preserve_order = True; or give "
                "options={'per_sample': True}",
                stacklevel=3,
            )
            self._smaller += 1  # so that it is said once


def _names_in(inputs: Columns) -> list[str]:
    """Return the names of columns."""
    if isinstance(inputs, Mapping):
        names = list(inputs.values())
    else:
        names = [inputs] if isinstance(inputs, str) or not isinstance(inputs, Sequence) else list(inputs)
    if not names or not all(isinstance(name, str) for name in names):
        raise TypeError(
            f"inputs must be the name of a column, a list of names, or a mapping from arguments to names, not "
            f"{inputs!r:.80}"
        )
    return names


def _device() -> torch.device:
    """Return the device that Ray gives this worker: it shows a worker no GPUs but its own."""
    if not ray.is_initialized() or not ray.get_gpu_ids():  # which else would start Ray, where a batch is tried by hand
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise RuntimeError(
            "Ray gives this worker a GPU, which torch cannot use; install a torch for CUDA on that machine, or leave "
            "num_gpus of map_batches() away"
        )
    return torch.device("cuda", 0)


def _tensor(batch: Batch, name: str, dtype: torch.dtype) -> Tensor:
    """Return a column as a tensor of its own; floating-point numbers in the model's dtype."""
    if name not in batch:
        raise ValueError(f"the data set has no column {name!r}; its columns are {', '.join(map(repr, batch))}")
    array = batch[name]
    if array.dtype == object:  # as of lists in Parquet
        rows = [np.asarray(row) for row in array]
        array = np.stack(rows) if len({row.shape for row in rows}) == 1 else array
    if array.dtype.kind not in "biuf":
        raise ValueError(
            f"the column {name!r} is an array of {array.dtype}, of which no tensor can be made; each row needs numbers "
            "of the same shape: pad or resize them, and turn missing values into numbers, before"
        )
    tensor = torch.tensor(array)  # a copy: Ray's arrays cannot be written to, which a model may do
    return tensor.to(dtype) if tensor.is_floating_point() else tensor


def _array(tensor: Tensor) -> np.ndarray[Any, Any]:
    """Return a tensor as an array; bfloat16, which NumPy does not have, as float32."""
    tensor = tensor.detach().cpu()
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
