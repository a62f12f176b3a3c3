"""The loop that trains a model together with its embedder."""

import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from it3.evaluation.metrics import Metric, NotFiniteError, metric_of, samples_in
from it3.evaluation.rows import UNADAPTED
from it3.support.batches import Loader, check_loader, pair_in
from it3.support.checks import check_count, eager
from it3.support.devices import device_of, on_device
from it3.support.identity import identity_of, text_of
from it3.support.kept import KeptModes, KeptRandomState
from it3.support.notes import noted
from it3.support.progress import Progress, length_of
from it3.training.callbacks import Callback, Callbacks, TrainingStep
from it3.training.checkpoint import TrainingCheckpoint, generators_of
from it3.training.history import History
from it3.training.optimizing import GivenOptimizer, GivenScheduler, Interval, Stepper

if TYPE_CHECKING:
    from it3.engine import IT3Engine

Criterion = Callable[[Tensor, Any], Tensor]


def fit(
    engine: "IT3Engine",
    loader: Loader,
    criterion: Criterion,
    *,
    epochs: int,
    optimizer: GivenOptimizer | None = None,
    scheduler: GivenScheduler | None = None,
    scheduler_interval: Interval | None = None,
    validation: Loader | None = None,
    metric: str | Callable[[Tensor, Any], Any] | None = None,
    callbacks: Iterable[Callback] = (),
    progress: bool = False,
    max_grad_norm: float | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    identity: Mapping[str, str] | None = None,
) -> History:
    """Train; see :meth:`it3.IT3Engine.fit`.

    Parameters
    ----------
    identity
        What else must be as it was for a training to go on from its checkpoint, by names: for callers of this package.
    """
    check_count("epochs", epochs, 1)
    if not callable(criterion):
        raise TypeError(f"criterion must be a function of (prediction, target), not {criterion!r:.80}")
    check_repeats(loader, epochs, "loader")
    judge = _judge_of(engine, validation, metric, epochs)
    told = Callbacks(callbacks)
    direction = False if judge is None else judge.direction
    stepper = Stepper(engine, optimizer, scheduler, scheduler_interval, max_grad_norm, direction)
    history = History("" if judge is None else judge.metric.name, None if judge is None else judge.direction)
    bar = Progress(progress)
    training = _Training(engine, loader, criterion, stepper, told, bar)
    file = None
    if checkpoint is not None:
        facts = _identity(engine, loader, criterion, history.metric) | dict(identity or {})
        file = TrainingCheckpoint(checkpoint, engine, stepper, [loader, validation], facts)
    with file or nullcontext(), KeptModes(engine), torch.inference_mode(False), torch.enable_grad(), told, bar:
        saved = None if file is None else file.read(epochs)
        if saved is not None:
            history.rows, training.steps = saved["rows"], saved["steps"]
        for epoch in range(len(history.rows) + 1, epochs + 1):
            row = training.run(epoch, f"epoch {epoch} of {epochs}", judge)
            history.rows.append(row)
            try:
                for callback in told.all:
                    callback.on_epoch(dict(row))
            finally:  # also where one of them ends the training; after them, as they may draw or change what is written
                if file is not None:
                    file.write(history.rows, training.steps)
    return history


class _Training:
    """What of a training goes on from epoch to epoch."""

    def __init__(
        self,
        engine: "IT3Engine",
        loader: Loader,
        criterion: Criterion,
        stepper: Stepper,
        told: Callbacks,
        progress: Progress,
    ) -> None:
        self._engine, self._loader, self._criterion = engine, loader, criterion
        self._stepper, self._told, self._progress = stepper, told, progress
        self.steps = 0
        self._lr = math.nan  # of the last step

    def run(self, epoch: int, name: str, judge: "_Judge | None") -> dict[str, Any]:
        """Train for an epoch, and return its row."""
        start = time.perf_counter()
        self._engine.train()
        sums, samples = [0.0, 0.0, 0.0], 0
        self._progress.begin(name, length_of(self._loader))
        for place, (inputs, target) in enumerate(pairs_of(self._loader, epoch, "loader")):
            losses, count = self._step(inputs, target, epoch, place)
            sums = [total + count * loss for total, loss in zip(sums, losses, strict=True)]
            samples += count
            self._progress.count(f"loss {losses[0]:.4g}")
        self._check_weights(epoch)
        means = [total / samples for total in sums]
        score = math.nan if judge is None else judge.score(epoch)
        self._stepper.end_epoch(means[0] if judge is None else score)
        seconds = time.perf_counter() - start
        said = "" if judge is None else f", validation {judge.metric.name} {score:.4g}"
        self._progress.end(f"loss {means[0]:.4g}{said}, {seconds:.1f} s")
        return {
            "epoch": epoch,
            "loss": means[0],
            "loss_criterion": means[1],
            "loss_ttt": means[2],
            "score": score,
            "lr": self._lr,
            "seconds": seconds,
        }

    def _step(self, inputs: Any, target: Any, epoch: int, place: int) -> tuple[list[float], int]:
        """Take an optimizer step, and return the three losses, and the number of samples."""
        if target is not None and not isinstance(target, Tensor):
            raise TypeError(
                f"batch {place}: the target must be a tensor, as the engine feeds it back, or None, not a "
                f"{type(target).__name__}"
            )
        device = device_of(self._engine.model)
        inputs, target = on_device(inputs, device), on_device(target, device)
        where = f"epoch {epoch}, batch {place} (counted from 0)"
        with noted(f"in {where}"):
            prediction, loss_ttt = self._engine(inputs, target=target)
            self._stepper.ready()
            loss_criterion = _checked(self._criterion(prediction, target), prediction)
        loss = loss_criterion + loss_ttt
        three = torch.stack([each.detach().to(loss.dtype) for each in (loss, loss_criterion, loss_ttt)])
        losses: list[float] = three.tolist()
        if not all(map(math.isfinite, losses)):
            raise NotFiniteError(
                f"the loss of {where} is not finite: {losses[1]:.4g} of the "
                f"criterion and loss_ttt {losses[2]:.4g}. The weights are those of before this batch; check its inputs "
                "and targets, lower the learning rate, or give max_grad_norm"
            )
        self._lr = self._stepper.lr
        norm = self._stepper.step(loss, where)
        self.steps += 1
        step = TrainingStep(epoch, place, self.steps, losses[0], losses[1], losses[2], self._lr, norm)
        for callback in self._told.all:
            callback.on_step(step)
        return losses, samples_in(prediction, self._engine.prediction_layout)

    def _check_weights(self, epoch: int) -> None:
        """Raise for weights that a last step has made infinite, which no loss has shown yet."""
        named = [(name, each) for name, each in self._engine.named_parameters() if each.requires_grad]
        bad = [name for name, parameter in named if not bool(parameter.detach().isfinite().all())]
        if bad:
            raise NotFiniteError(
                f"after epoch {epoch} the weights {', '.join(map(repr, bad[:6]))} are not finite, though the losses "
                "were: gradients were not; lower the learning rate, or give max_grad_norm"
            )


class _Judge:
    """Scores the model without adaptation on validation data, and changes nothing else."""

    def __init__(self, engine: "IT3Engine", loader: Loader, metric: Metric, direction: bool | None) -> None:
        self._engine, self._loader = engine, loader
        self.metric, self.direction = metric, direction

    def score(self, epoch: int) -> float:
        """Return the mean score of the samples."""
        total, samples = 0.0, 0
        device = device_of(self._engine.model)
        with KeptRandomState(), KeptModes(self._engine):
            self._engine.eval()
            batches = self._loader(epoch) if callable(self._loader) else self._loader
            with KeptRandomState(generators_of(batches)):  # which the training's loader may share
                for inputs, targets in pairs_of(batches, epoch, "validation"):
                    prediction = self._engine.adapt(on_device(inputs, device), **UNADAPTED).prediction
                    of_batch, count = self.metric.sum(prediction, targets, self._engine.prediction_layout)
                    total, samples = total + of_batch, samples + count
        return total / samples


def _judge_of(
    engine: "IT3Engine", loader: Loader | None, metric: str | Callable[[Tensor, Any], Any] | None, epochs: int
) -> _Judge | None:
    if (loader is None) != (metric is None):
        given, missing = ("metric", "validation") if loader is None else ("validation", "metric")
        raise ValueError(
            f"{given} is given without {missing}; give validation=, batches (inputs, targets), and metric=, such as "
            "'accuracy', together"
        )
    if loader is None or metric is None:
        return None
    check_repeats(loader, epochs, "validation")
    measure = metric_of(metric, None)
    return _Judge(engine, loader, measure, measure.higher_is_better if isinstance(metric, str) else None)


def check_repeats(loader: Loader, epochs: int, name: str) -> None:
    """Check that a loader gives batches once an epoch.

    Raises
    ------
    ValueError, TypeError
        For what gives no batches, or gives them once only.
    """
    check_loader(loader, name)
    if isinstance(loader, Iterator) and epochs > 1:
        raise ValueError(
            f"{name} is an iterator or generator, which is used up after the first of {epochs} epochs; give a list, a "
            "DataLoader, or a function of the epoch's number that returns the batches"
        )


def pairs_of(loader: Loader, epoch: int, name: str) -> Iterator[tuple[Any, Any]]:
    """Give the batches of an epoch.

    Raises
    ------
    ValueError
        If there are none, and for a batch that is no pair of inputs and targets.
    """
    place = -1
    for place, batch in enumerate(loader(epoch) if callable(loader) else loader):
        yield pair_in(batch, place)
    if place < 0:
        raise ValueError(
            f"{name} gave no batches in epoch {epoch}; an iterator is used up after one epoch: give a list, a "
            "DataLoader that is not empty, or a function of the epoch's number that returns the batches"
        )


def _checked(loss: object, prediction: Tensor) -> Tensor:
    """Return what a criterion gave as a scalar. Raises ValueError or TypeError for what no step can go down."""
    if not isinstance(loss, Tensor):
        raise TypeError(f"criterion must return a tensor, a scalar, not a {type(loss).__name__}")
    if loss.numel() != 1:
        raise ValueError(
            f"criterion must return one number for the batch, a scalar, not a tensor of shape {tuple(loss.shape)}; "
            "return its mean"
        )
    if prediction.requires_grad and not loss.requires_grad:
        raise ValueError(
            "what criterion returned has no gradient by the prediction, so that the model would not learn from it; "
            "compute it by differentiable operations of torch, without detach(), item() or argmax()"
        )
    return loss.reshape(())


def _identity(engine: "IT3Engine", loader: Loader, criterion: Criterion, metric: str) -> dict[str, str]:
    """Write what trainings have to have in common for one to go on with the other."""
    return {
        "the model": type(eager(engine.model)).__qualname__,
        "the embedder": type(eager(engine.embedder)).__qualname__,
        **identity_of(engine),
        "training_recipe": repr(engine.training_recipe),
        "criterion": text_of(criterion),
        "metric": metric,
        "the number of batches": str(length_of(loader)),
    }
