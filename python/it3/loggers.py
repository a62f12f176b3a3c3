"""Callbacks that write down what loops tell: for TensorBoard, and for MLflow."""

import math
import os
import time
from collections.abc import Mapping
from typing import Any

from it3.adaptation import Adaptation
from it3.training.callbacks import Callback, TrainingStep

_ENTRIES = 1000
"""What MLflow takes at once."""
_DEFAULT_EXPERIMENT = "0"
"""The id of MLflow's."""


class _Logger(Callback):
    """Turns what it is told of into numbers, which are written for a step by a name.

    Of each optimizer step "step/loss", "step/loss_criterion", "step/loss_ttt", "step/lr" and, with ``max_grad_norm``,
    "step/grad_norm", by the number of the step; of each epoch "epoch/loss", "epoch/score" and so on, by its number; of
    each batch of predictions "prediction/steps", "prediction/uncertainty", the mean over its samples,
    "prediction/first_loss" and "prediction/last_loss", where it took steps, of the samples that adapted, and
    "prediction/adapted_share", where there is a threshold, by the batch's number, from 0.
    """

    def write(self, values: Mapping[str, float], step: int) -> None:
        """Write numbers down."""
        raise NotImplementedError

    def on_step(self, step: TrainingStep) -> None:
        """Write an optimizer step down."""
        names = ("loss", "loss_criterion", "loss_ttt", "lr", "grad_norm")
        values = {f"step/{name}": getattr(step, name) for name in names}
        self.write({name: value for name, value in values.items() if value is not None}, step.step)

    def on_epoch(self, row: Mapping[str, Any]) -> None:
        """Write an epoch down, without what is nan."""
        values = {f"epoch/{name}": value for name, value in row.items() if name != "epoch" and not math.isnan(value)}
        self.write(values, row["epoch"])

    def on_prediction(self, batch: int, adaptation: Adaptation) -> None:
        """Write down what adapting to a batch came to."""
        values = {"steps": float(adaptation.steps), "uncertainty": float(adaptation.uncertainty.double().mean())}
        if adaptation.steps:
            losses = adaptation._mean_losses()
            values["first_loss"], values["last_loss"] = float(losses[0]), float(losses[-1])
        if adaptation.adapted_samples is not None:
            values["adapted_share"] = float(adaptation.adapted_samples.double().mean())
        self.write({f"prediction/{name}": value for name, value in values.items()}, batch)


class TensorBoard(_Logger):
    """Writes losses, scores and what adapting came to for TensorBoard, which ``tensorboard --logdir`` shows.

    Parameters
    ----------
    log_dir
        The folder, which is made. What is in it stays.

    Raises
    ------
    ModuleNotFoundError
        Without the package tensorboard.

    Examples
    --------
    >>> logger = it3.loggers.TensorBoard("runs/first")
    >>> history = engine.fit([(x, y)], F.mse_loss, callbacks=[logger])
    >>> predictions = engine.predict([x], callbacks=[logger])
    """

    def __init__(self, log_dir: str | os.PathLike[str]) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415  (which is not needed elsewhere)
        except ImportError as error:
            raise ModuleNotFoundError(
                "it3.loggers.TensorBoard needs TensorBoard: pip install tensorboard, or it3[log]"
            ) from error
        self._make, self._log_dir = SummaryWriter, os.fspath(log_dir)
        self._writer: Any = None

    def write(self, values: Mapping[str, float], step: int) -> None:
        """Write numbers down."""
        if self._writer is None:
            self._writer = self._make(self._log_dir)
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def on_epoch(self, row: Mapping[str, Any]) -> None:
        """Write an epoch down, and have it shown."""
        super().on_epoch(row)
        self._writer.flush()

    def on_end(self, error: BaseException | None) -> None:
        """Close the file; another loop begins another one."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None


class MLflow(_Logger):
    """Writes losses, scores and what adapting came to into a run of MLflow's.

    It is the run that is active when the loop begins to tell, which stays active; else one of its own a loop, which
    ends with the loop: as finished, failed, or, by Ctrl-C, killed.

    Parameters
    ----------
    experiment
        The name of the experiment of runs of its own, which is made if it is not there. None: the one that MLflow calls
        "Default"; what ``mlflow.set_experiment()`` or ``MLFLOW_EXPERIMENT_NAME`` says is not looked at.
    run_name
        Of runs of its own. None: MLflow chooses.
    tracking_uri
        Where runs of its own are written: a server, or, with the whole of MLflow (pip install mlflow), a database.
        None: as MLflow is set.

    Raises
    ------
    ModuleNotFoundError
        Without the package mlflow.

    Examples
    --------
    >>> logger = it3.loggers.MLflow("faces", tracking_uri="http://localhost:5000")  # doctest: +SKIP
    >>> history = engine.fit([(x, y)], F.mse_loss, callbacks=[logger])  # doctest: +SKIP
    """

    def __init__(
        self, experiment: str | None = None, run_name: str | None = None, tracking_uri: str | None = None
    ) -> None:
        try:
            import mlflow  # noqa: PLC0415  (which is not needed elsewhere)
        except ImportError as error:
            raise ModuleNotFoundError(
                "it3.loggers.MLflow needs MLflow: pip install mlflow-skinny, or it3[log]"
            ) from error
        self._mlflow = mlflow
        self._experiment, self._run_name, self._tracking_uri = experiment, run_name, tracking_uri
        self._client: Any = None
        self._run_id = ""
        self._is_own = False
        self._waiting: list[Any] = []

    def write(self, values: Mapping[str, float], step: int) -> None:
        """Keep numbers until there are enough for one request, or an epoch ends."""
        now = int(1000 * time.time())
        self._waiting += [self._mlflow.entities.Metric(name, value, now, step) for name, value in values.items()]
        if len(self._waiting) >= _ENTRIES:
            self._send()

    def on_epoch(self, row: Mapping[str, Any]) -> None:
        """Write an epoch down, and have it shown."""
        super().on_epoch(row)
        self._send()

    def on_end(self, error: BaseException | None) -> None:
        """Write what is left, and end a run of its own."""
        status = "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED"
        try:
            self._send()
            if error is None:
                status = "FINISHED"
        finally:
            client, run_id, self._client, self._run_id, self._waiting = self._client, self._run_id, None, "", []
            if client is not None and self._is_own:
                client.set_terminated(run_id, status)

    def _send(self) -> None:
        if not self._waiting:
            return
        if self._client is None:
            self._begin()
        for start in range(0, len(self._waiting), _ENTRIES):
            self._client.log_batch(self._run_id, self._waiting[start : start + _ENTRIES])
        self._waiting = []

    def _begin(self) -> None:
        active = self._mlflow.active_run()
        self._is_own = active is None
        client = self._mlflow.MlflowClient(self._tracking_uri if self._is_own else None)
        self._run_id = self._new_run(client) if active is None else active.info.run_id
        self._client = client

    def _new_run(self, client: Any) -> str:
        experiment = _DEFAULT_EXPERIMENT
        if self._experiment is not None:
            found = client.get_experiment_by_name(self._experiment)
            experiment = client.create_experiment(self._experiment) if found is None else found.experiment_id
        return str(client.create_run(experiment, run_name=self._run_name).info.run_id)
