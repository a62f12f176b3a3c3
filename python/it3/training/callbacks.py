"""Functions of the user's that loops call on their way."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from it3.adaptation import Adaptation


@dataclass(frozen=True)
class TrainingStep:
    """What :meth:`it3.IT3Engine.fit` tells of one optimizer step.

    Attributes
    ----------
    epoch
        From 1.
    batch
        In its epoch, from 0.
    step
        The optimizer steps so far, with this one, over all epochs.
    loss
        That the step went down: ``loss_criterion + loss_ttt``.
    loss_criterion
        Of the prediction y0, by the criterion that was given.
    loss_ttt
        The second term, distance(y1, target).
    lr
        The learning rate of the step, of the optimizer's first group of parameters.
    grad_norm
        The Euclidean norm of all gradients before they were scaled down; None without ``max_grad_norm``.

    Examples
    --------
    >>> it3.TrainingStep(epoch=1, batch=0, step=1, loss=1.5, loss_criterion=1.0, loss_ttt=0.5, lr=1e-3).loss
    1.5
    """

    epoch: int
    batch: int
    step: int
    loss: float
    loss_criterion: float
    loss_ttt: float
    lr: float
    grad_norm: float | None = None


class Callback:
    """What :meth:`it3.IT3Engine.fit` and :meth:`it3.IT3Engine.predict` tell on their way: derive from it.

    Each method does nothing by itself. What one of them raises ends the loop, and comes out of it.

    Examples
    --------
    >>> class Printer(it3.Callback):
    ...     def on_epoch(self, row):
    ...         print("epoch", row["epoch"])
    >>> history = engine.fit([(x, y)], F.mse_loss, epochs=2, callbacks=[Printer()])
    epoch 1
    epoch 2
    """

    def on_step(self, step: TrainingStep) -> None:
        """Be told of an optimizer step of ``fit``."""

    def on_epoch(self, row: Mapping[str, Any]) -> None:
        """Be told of an epoch of ``fit``, by a copy of its row in :attr:`it3.History.rows`."""

    def on_prediction(self, batch: int, adaptation: "Adaptation") -> None:
        """Be told of a batch of ``predict``, counted from 0, which holds device memory as long as it is kept."""

    def on_end(self, error: BaseException | None) -> None:
        """Be told that the loop ends: None, or what it raises."""


class Callbacks:
    """Several callbacks, of which each is told of the end, however it comes.

    Raises
    ------
    TypeError
        For what is no callback.
    """

    def __init__(self, callbacks: Iterable[Callback]) -> None:
        if isinstance(callbacks, Callback) or not isinstance(callbacks, Iterable):
            raise TypeError(f"callbacks must be a list of it3.Callback, not a {type(callbacks).__name__}")
        self.all = list(callbacks)
        for each in self.all:
            if isinstance(each, type) and issubclass(each, Callback):
                raise TypeError(f"callbacks has the class {each.__name__}; give an object of it, {each.__name__}()")
            if not isinstance(each, Callback):
                raise TypeError(
                    f"callbacks has a {type(each).__name__}; each must be an it3.Callback: derive a class from it, "
                    "with the methods that you need, such as on_epoch()"
                )

    def __enter__(self) -> Self:
        """Begin."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Tell of the end. The first error comes out."""
        failures: list[BaseException] = []
        for each in self.all:
            try:
                each.on_end(error)
            except BaseException as raised:
                failures.append(raised)
        if failures and error is None:
            raise failures[0]
        for failure in failures:
            assert error is not None  # or the first would have been raised
            error.add_note(f"on_end() of a callback failed too: {failure!r}")
