"""Loops over batches, as methods of the engine."""

import os
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Literal, cast, overload

from torch import Tensor

from it3.engine_attributes import EngineAttributes

if TYPE_CHECKING:
    import numpy as np

    from it3.engine import IT3Engine
    from it3.support.batches import Loader
    from it3.training.callbacks import Callback
    from it3.training.history import History
    from it3.training.optimizing import GivenOptimizer, GivenScheduler


class EngineLoops(EngineAttributes):
    """The base of :class:`it3.IT3Engine` with what goes over many batches."""

    def fit(
        self,
        loader: "Loader",
        criterion: Callable[[Tensor, Any], Tensor],
        *,
        epochs: int = 1,
        optimizer: "GivenOptimizer | None" = None,
        scheduler: "GivenScheduler | None" = None,
        scheduler_interval: Literal["epoch", "batch"] | None = None,
        validation: "Loader | None" = None,
        metric: str | Callable[[Tensor, Any], Any] | None = None,
        callbacks: "Iterable[Callback]" = (),
        progress: bool = False,
        max_grad_norm: float | None = None,
        checkpoint: str | os.PathLike[str] | None = None,
    ) -> "History":
        """Train model and embedder together, by ``criterion(prediction, target) + loss_ttt``.

        Each batch is a step: ``prediction, loss_ttt = engine(inputs, target=target)`` in train mode, and the gradients
        of the sum. Afterwards every module is in the mode, train or eval, in which it was, and ``.grad`` holds the
        gradients of the last step. All modules are put into train mode at the start of each epoch, as by
        ``engine.train()``.

        Parameters
        ----------
        loader
            Batches (inputs, target), such as a DataLoader or a list, which are gone through once an epoch; or a
            function of the epoch's number, from 1, that returns them. Inputs are what the model is called with; several
            are a tuple or a mapping in the pair's first place. The target is a tensor that fits the engine, or None,
            for a criterion that needs none. Tensors are moved to the device of the model's first parameter.
        criterion
            A function of (prediction, target) that returns a scalar, such as ``torch.nn.functional.cross_entropy``.
        epochs
            How often the batches are gone through, from 1.
        optimizer
            A torch.optim.Optimizer over all of the engine's parameters that require gradients, or a function of the
            list of its parameters that makes one. Default: Adam with a learning rate of 1e-3.
        scheduler
            Of the learning rate: a torch.optim.lr_scheduler.LRScheduler of that optimizer, or a function of the
            optimizer that makes one. It is stepped once an epoch, after the validation, as torch's documentation does;
            a ReduceLROnPlateau with the validation score, or without one with the epoch's loss; OneCycleLR and
            CyclicLR, whose lengths are counted in batches, once a batch.
        scheduler_interval
            When the scheduler is stepped: "epoch", or "batch", as for a warm-up of so many steps. None: as said.
        validation, metric
            Batches like those of `loader`, which are scored after each epoch without adaptation (``num_steps=0``), in
            eval mode, by the mean over samples of "accuracy", "mse" or "mae", or of a function, as in
            :func:`it3.evaluate`. Random generators, those of a DataLoader too, are afterwards as before, so that
            validation does not change training.
        callbacks
            Objects of classes derived from :class:`it3.Callback`, such as :class:`it3.loggers.TensorBoard`, which are
            told of each step and each epoch.
        progress
            Whether to tell how far it is, on the standard error: by a bar of tqdm in terminals and notebooks, where
            tqdm is installed, else by a line an epoch.
        max_grad_norm
            The gradients of each step are scaled down to this Euclidean norm over all of the optimizer's parameters.
            None: they are not.
        checkpoint
            A file that is written after each epoch, complete or not at all, with weights, optimizer, scheduler, the
            history, and the random states of torch, Python, NumPy and of DataLoaders with generators of their own. A
            call with the same path and arguments goes on with the epoch that follows, and gives what an uninterrupted
            one would have given, bit for bit on the same machine where torch computes deterministically, if nothing
            else keeps a state: loaders, criterion and callbacks of your own are not in the file. More `epochs` than
            before train on, with the same settings: a scheduler that is made for so many epochs, such as
            ``CosineAnnealingLR(optimizer, T_max=epochs)``, is another one for more of them, and is refused.

        Returns
        -------
        History
            A row an epoch, which ``print()`` shows as a table.

        Raises
        ------
        ValueError
            For a loader that gives no batches, or is used up after one of several epochs; for an optimizer that lacks
            trainable parameters of the engine; for schedulers that do not fit; for a criterion that gives no scalar
            or has no gradient; for a checkpoint of another training or a damaged one; for losses or weights that are
            not finite, with epoch and batch.
        TypeError
            For what is no loader, criterion, optimizer, scheduler or callback.
        RuntimeError
            If the checkpoint cannot be written, as on a full disk; the one of before stays. If another process is
            training into it, which CHECKPOINT.lock beside it tells.

        Examples
        --------
        >>> batches = [(x[:16], y[:16]), (x[16:], y[16:])]
        >>> history = engine.fit(batches, F.mse_loss, epochs=3, validation=[(x, y)], metric="mse")
        >>> [row["epoch"] for row in history.rows]
        [1, 2, 3]
        >>> history = engine.fit(batches, F.mse_loss, optimizer=lambda parameters: torch.optim.SGD(parameters, lr=1e-3))
        """
        from it3.training.fit import fit  # noqa: PLC0415  (which imports this)

        return fit(
            cast("IT3Engine", self),
            loader,
            criterion,
            epochs=epochs,
            optimizer=optimizer,
            scheduler=scheduler,
            scheduler_interval=scheduler_interval,
            validation=validation,
            metric=metric,
            callbacks=callbacks,
            progress=progress,
            max_grad_norm=max_grad_norm,
            checkpoint=checkpoint,
        )

    @overload
    def predict(
        self,
        loader: Iterable[Any],
        *,
        has_targets: bool | None = None,
        progress: bool = False,
        path: None = None,
        callbacks: "Iterable[Callback]" = (),
        **overrides: Any,
    ) -> Tensor: ...

    @overload
    def predict(
        self,
        loader: Iterable[Any],
        *,
        has_targets: bool | None = None,
        progress: bool = False,
        path: str | os.PathLike[str],
        callbacks: "Iterable[Callback]" = (),
        **overrides: Any,
    ) -> "np.memmap[Any, Any]": ...

    def predict(
        self,
        loader: Iterable[Any],
        *,
        has_targets: bool | None = None,
        progress: bool = False,
        path: str | os.PathLike[str] | None = None,
        callbacks: "Iterable[Callback]" = (),
        **overrides: Any,
    ) -> "Tensor | np.memmap[Any, Any]":
        """Adapt to each batch in turn, and return the predictions for all samples.

        Each is what :meth:`adapt` gives for the batch in eval mode, in which all modules, the embedder and functions of
        your own too, are for the time of the call. No more than a batch is on the device. With ``copy_model=False``
        weights are kept from batch to batch, and when the call ends.

        Parameters
        ----------
        loader
            Batches, such as a DataLoader's, in the order of the predictions: inputs, or tuples or lists of inputs and
            targets. Tensors are moved to the device of the model's first parameter.
        has_targets
            Whether the last item of each batch is the targets, which are left out; None where that shows. See
            :meth:`calibrate`.
        progress
            Whether to tell how far it is, as in :meth:`fit`.
        path
            A .npy file, to which the predictions are written as they come, for more than fits into memory. Until it is
            complete they are in PATH.partial, and PATH.resume notes what is done. After a kill or an error the same
            call goes on there, and gives what an uninterrupted one would have given: it goes through the loader from
            the start, and compares the inputs that were predicted by a hash. With ``copy_model=False``, where it
            would need the weights at which the other ended, it does not go on. bfloat16, which NumPy does not have,
            becomes float32. Inputs must be tensors, arrays, numbers and texts, in tuples, lists and mappings.
        callbacks
            Objects of classes derived from :class:`it3.Callback`, which are told of each batch that is adapted to.
        **overrides
            Optimization parameters for this call, as of :meth:`adapt`.

        Returns
        -------
        Tensor or numpy.memmap
            The predictions on the CPU, in the shape of a prediction with all samples in its dimension of samples; with
            `path` the file's content, mapped into memory and not to be written to.

        Raises
        ------
        ValueError
            If there are no batches; for predictions that cannot be put together; for a batch of two tensors where the
            model can take two inputs; and, with `path`, for samples that are not in the first dimension, for an engine
            whose embedder has no weights yet, for inputs that cannot be compared, and for what was begun with another
            engine, options or inputs.
        TypeError
            For what are no batches or callbacks, and for unknown options.
        RuntimeError, OSError
            If `path` cannot be written, as on a full disk, where the same call goes on once it can; and if another
            process is writing there.

        Notes
        -----
        Threads may share an engine that is in eval mode already, by ``engine.eval()``: else one of them puts modes back
        while another predicts.

        Examples
        --------
        >>> engine.predict([x[:20], x[20:]], num_steps=2, threshold=None).shape
        torch.Size([32, 1])
        >>> engine.predict([(x, y)], path="predictions.npy").shape
        (32, 1)
        """
        from it3.training.predict import predict  # noqa: PLC0415  (which imports this)

        return predict(
            cast("IT3Engine", self),
            loader,
            has_targets=has_targets,
            path=path,
            callbacks=callbacks,
            progress=progress,
            overrides=overrides,
        )
