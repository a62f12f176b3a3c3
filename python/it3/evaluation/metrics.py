"""Scores of predictions."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from it3 import _C

ANY_LAYOUT = _C.Layout()


class NotFiniteError(ValueError):
    """A prediction or score is not finite, which is neither good nor bad."""


@dataclass(frozen=True)
class Metric:
    """Scores of the samples, (B,), or of the whole batch, a scalar, for a prediction and targets."""

    name: str
    of: Callable[[Tensor, Any, _C.Layout], Any]
    higher_is_better: bool

    @property
    def is_accuracy(self) -> bool:
        """Whether it is this module's :func:`accuracy`, rather than a function that may be called so too."""
        return self.of is accuracy

    def scores(self, prediction: Tensor, targets: Any, layout: _C.Layout = ANY_LAYOUT) -> tuple[Tensor, int]:
        """Return the samples' scores, (B,), or the batch's, a scalar, in double precision; and how many samples.

        Parameters
        ----------
        prediction
            What the model predicts for a batch.
        targets
            What is right. Tensors in it are brought to the prediction's device.
        layout
            Where the prediction's samples and classes are.

        Raises
        ------
        ValueError, TypeError
            For shapes and dtypes that do not fit.
        NotFiniteError
            For scores that are not finite.
        """
        samples = samples_in(prediction, layout)
        to_device = lambda leaf: leaf.to(prediction.device) if isinstance(leaf, Tensor) else leaf  # noqa: E731
        given = self.of(prediction, pytree.tree_map(to_device, targets), layout)
        try:
            scores = torch.as_tensor(given).detach()
        except (TypeError, ValueError, RuntimeError) as error:
            raise TypeError(f"the metric {self.name!r} must return a tensor or number, not {given!r:.80}") from error
        if scores.is_complex() or (scores.dim() > 0 and scores.shape != (samples,)):
            raise ValueError(
                f"the metric {self.name!r} must give a real score for each sample, of shape ({samples},), or one for "
                f"the batch, a scalar; it gave {_described(scores)} for a prediction of shape {tuple(prediction.shape)}"
                + (f" and targets of shape {tuple(targets.shape)}" if isinstance(targets, Tensor) else "")
            )
        scores = scores.double()
        if not bool(scores.isfinite().all()):
            bad = (~scores.isfinite()).nonzero().flatten().tolist()
            where = f" for samples {_listed(bad)} of the batch" if scores.dim() else ""
            raise NotFiniteError(f"{self.name} is not finite{where}, so it cannot be averaged")
        return scores, samples

    def sum(self, prediction: Tensor, targets: Any, layout: _C.Layout = ANY_LAYOUT) -> tuple[float, int]:
        """Return the sum of the samples' scores, and how many samples there are; see :meth:`scores`."""
        scores, samples = self.scores(prediction, targets, layout)
        return float(scores * samples) if scores.dim() == 0 else float(scores.sum()), samples


def accuracy(prediction: Tensor, targets: Tensor, layout: _C.Layout = ANY_LAYOUT) -> Tensor:
    """Return the share of right classes over all positions, (B,).

    Parameters
    ----------
    prediction
        Scores of at least two classes, such as (B, C), (B, C, H, W) or (B, T, C), of which the greatest counts.
    targets
        Class indices from 0, without the dimension of the classes, or with 1 there; or scores, such as one-hot ones, of
        the prediction's shape.
    layout
        Where the prediction's samples and classes are; by default, classes are last in up to three dimensions, else in
        dimension 1.

    Raises
    ------
    ValueError
        For shapes that do not fit, and for targets that are no such indices.
    NotFiniteError
        Where no score of a class is the greatest.
    """
    return _means_of_samples(right_classes(prediction, targets, layout), layout)


def right_classes(prediction: Tensor, targets: Tensor, layout: _C.Layout = ANY_LAYOUT) -> Tensor:
    """Return where the greatest score is that of the right class, in the prediction's shape with 1 class.

    See :func:`accuracy`.
    """
    dim = class_dim(prediction, layout)
    found = prediction.argmax(dim, keepdim=True)
    _check_finite("accuracy", prediction.amax(dim, keepdim=True), "prediction", layout)
    return found == classes_of(prediction, targets, layout)


def classes_of(prediction: Tensor, targets: Tensor, layout: _C.Layout = ANY_LAYOUT) -> Tensor:
    """Return the right classes as integers, in the prediction's shape with 1 class.

    See :func:`accuracy`.
    """
    _check_tensor("accuracy", targets)
    dim = class_dim(prediction, layout)
    one = list(prediction.shape)
    classes, one[dim] = one[dim], 1
    if targets.shape == prediction.shape:
        _check_finite("accuracy", targets.amax(dim, keepdim=True), "targets", layout)
        return targets.argmax(dim, keepdim=True)
    without = (*prediction.shape[:dim], *prediction.shape[dim + 1 :])
    if tuple(targets.shape) not in (without, tuple(one)):
        raise ValueError(
            f"accuracy: targets of shape {tuple(targets.shape)} do not fit a prediction of shape "
            f"{tuple(prediction.shape)} with classes in dimension {dim}: they must be class indices of shape "
            f"{without}, or scores of the prediction's shape. If the classes are elsewhere, make the engine with "
            "prediction_layout=it3.Layout(channel_dim=...)"
        )
    return class_indices(targets, classes).reshape(one)


def mse(prediction: Tensor, targets: Tensor, layout: _C.Layout = ANY_LAYOUT) -> Tensor:
    """Return the mean squared error of each sample, (B,), for targets of the prediction's shape but for sizes of 1."""
    return _means_of_samples(_distances("mse", prediction, targets, layout).square(), layout)


def mae(prediction: Tensor, targets: Tensor, layout: _C.Layout = ANY_LAYOUT) -> Tensor:
    """Return the mean absolute error of each sample, (B,), for targets of the prediction's shape but for sizes of 1."""
    return _means_of_samples(_distances("mae", prediction, targets, layout), layout)


def samples_in(prediction: Tensor, layout: _C.Layout) -> int:
    """Return how many samples a prediction has; a scalar is one for the whole batch."""
    return prediction.shape[layout.batch_of(prediction.dim())] if prediction.dim() else 1


def class_dim(prediction: Tensor, layout: _C.Layout) -> int:
    """Return the dimension of a prediction's classes, of which accuracy needs two at least.

    Raises
    ------
    ValueError
        If there is none.
    """
    shape = tuple(prediction.shape)
    needed = f"accuracy needs scores of two classes or more, such as (B, C), not a prediction of shape {shape}"
    if prediction.dim() < 2 or prediction.is_complex():
        raise ValueError(f"{needed}; for one score per sample give a metric of your own")
    dim = layout.channel_of(prediction.dim())
    if dim == layout.batch_of(prediction.dim()):
        raise ValueError(
            f"{needed}, of which dimension {dim} is said to hold both the samples and the classes; make the engine "
            "with another prediction_layout"
        )
    if shape[dim] < 2:
        raise ValueError(
            f"{needed}, with classes in dimension {dim}; for one score per sample give a metric of your own"
        )
    return dim


def class_indices(targets: Tensor, classes: int) -> Tensor:
    """Return targets as integers. Raises ValueError unless they are class indices."""
    if targets.is_complex():
        raise ValueError("accuracy: targets must be class indices, not complex numbers")
    indices = targets.long()
    if targets.is_floating_point() and not bool((indices == targets).all()):
        raise ValueError("accuracy: targets must be class indices; these are floats that are not whole")
    if indices.numel() and not (int(indices.min()) >= 0 and int(indices.max()) < classes):
        wrong = indices[(indices < 0) | (indices >= classes)][0].item()
        raise ValueError(
            f"accuracy: targets hold the class {wrong}, but the prediction has {classes} classes, 0 to {classes - 1}; "
            "to leave such positions out, give a metric of your own"
        )
    return indices


def _distances(name: str, prediction: Tensor, targets: Tensor, layout: _C.Layout) -> Tensor:
    """Return the absolute differences, in double precision and in the prediction's shape."""
    _check_tensor(name, targets)
    if not have_like_shapes(prediction, targets, layout):
        raise ValueError(
            f"{name}: targets of shape {tuple(targets.shape)} do not fit a prediction of shape "
            f"{tuple(prediction.shape)}; they must have the same shape, apart from dimensions of size 1"
        )
    is_complex = prediction.is_complex() or targets.is_complex()
    dtype = torch.complex128 if is_complex else torch.double
    _check_finite(name, prediction, "prediction", layout)
    right = targets.to(dtype).reshape(prediction.shape)
    _check_finite(name, right, "targets", layout)
    return (prediction.to(dtype) - right).abs()


def have_like_shapes(prediction: Tensor, targets: Tensor, layout: _C.Layout = ANY_LAYOUT) -> bool:
    """Return whether targets have a prediction's shape, apart from dimensions of size 1.

    Other sizes than 1 are in one order: a reshape changes nothing but how many sizes of 1 there are.
    """
    a, b = tuple(prediction.shape), tuple(targets.shape)
    is_batch_first = layout.batch_of(prediction.dim()) == 0
    like = [size for size in a if size != 1] == [size for size in b if size != 1]
    return like and not (is_batch_first and a[:1] != b[:1])


def _check_tensor(name: str, targets: object) -> None:
    if not isinstance(targets, Tensor):
        raise TypeError(f"{name}: targets must be a tensor, not a {type(targets).__name__}")


def _check_finite(name: str, values: Tensor, what: str, layout: _C.Layout) -> None:
    finite = values.isfinite()
    if bool(finite.all()):
        return
    bad = (~_by_sample(finite, layout).all(1)).nonzero().flatten().tolist()
    raise NotFiniteError(
        f"{name}: the {what} is not finite for samples {_listed(bad)} of the batch, so it cannot be scored; check the "
        "inputs, or lower lr"
    )


def _by_sample(values: Tensor, layout: _C.Layout) -> Tensor:
    """Return (B, N) for values in a prediction's shape."""
    if values.dim() == 0:
        return values.reshape(1, 1)
    samples = values.movedim(layout.batch_of(values.dim()), 0)
    return samples.reshape(len(samples), -1)


def _means_of_samples(values: Tensor, layout: _C.Layout) -> Tensor:
    return _by_sample(values, layout).double().mean(1)


def _described(scores: Tensor) -> str:
    return f"{'complex ' if scores.is_complex() else ''}scores of shape {tuple(scores.shape)}"


def _listed(numbers: list[int]) -> str:
    shown = ", ".join(map(str, numbers[:10]))
    return f"{shown}, ... ({len(numbers)} in all)" if len(numbers) > 10 else shown


_METRICS = {
    "accuracy": Metric("accuracy", accuracy, higher_is_better=True),
    "mse": Metric("mse", mse, higher_is_better=False),
    "mae": Metric("mae", mae, higher_is_better=False),
}


def metric_of(metric: str | Callable[[Tensor, Any], Any], higher_is_better: bool | None = None) -> Metric:
    """Return a metric by its name, or make one of a function.

    Raises
    ------
    ValueError, TypeError
        For an unknown name, for what is no function, and for a direction that contradicts a name's.
    """
    if isinstance(metric, str):
        if metric not in _METRICS:
            raise ValueError(f"metric must be one of {', '.join(_METRICS)}, or a function, not {metric!r}")
        known = _METRICS[metric]
        if higher_is_better not in (None, known.higher_is_better):
            better = "higher" if known.higher_is_better else "lower"
            raise ValueError(f"of {metric}, {better} is better; leave out higher_is_better={higher_is_better}")
        return known
    if not callable(metric):
        raise TypeError(f"metric must be one of {', '.join(_METRICS)}, or a function, not {metric!r}")
    name = getattr(metric, "__name__", type(metric).__name__)

    def of(prediction: Tensor, targets: Any, _layout: _C.Layout) -> Any:
        return metric(prediction, targets)

    return Metric(name if name.isidentifier() else "metric", of, higher_is_better is not False)
