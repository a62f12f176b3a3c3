"""Engines in Lightning: a callback by which Trainer's loops adapt, and a LightningModule that trains an engine."""

from collections.abc import Callable
from typing import Any

import lightning
import torch
from torch import Tensor

from it3 import _C
from it3.engine import IT3Engine
from it3.evaluation.metrics import metric_of, samples_in
from it3.evaluation.rows import UNADAPTED
from it3.support.batches import pair_in
from it3.support.checks import eager
from it3.support.inputs_in_batches import inputs_in_batches
from it3.support.kept import KeptRandomState

_CALLS = ("fit", "validate", "test", "predict")
"""The methods of Trainer, as ``trainer.state.fn`` names them."""
_AMP = {"bf16-mixed": "bf16", "16-mixed": "fp16"}
_LOSS = "loss"
"""What the criterion is logged as, after the name of the stage."""


class Adapt(lightning.Callback):
    """Says in which of Trainer's loops the engines of a LightningModule adapt, and how.

    In eval mode ``prediction, loss = self.engine(inputs)`` adapts. With this callback it does so in the calls of the
    trainer that are named; in all others the engine predicts without adapting, and the loss is 0. Options and weights
    are afterwards as before.

    With ``precision="bf16-mixed"`` or ``"16-mixed"`` engines get the option ``amp`` to match, unless they have one:
    under the trainer's autocast alone, the loss that steps go down would be rounded to half precision too.

    Parameters
    ----------
    *calls
        Of "validate", "test", "predict" and "fit", which stands for the validation inside of ``trainer.fit``. Default:
        the first three, as training is judged, and its checkpoints are chosen, by the network as it is.
    **overrides
        Optimization parameters for these calls, as of :meth:`it3.IT3Engine.adapt`.

    Raises
    ------
    ValueError
        For a call or an option that does not exist; when a loop starts, for a LightningModule without an engine, and
        for a second callback of this class.

    Notes
    -----
    What calls ``engine.adapt()`` instead is given the same options. With ``copy_model=False`` adapted weights are kept
    when a loop ends, until ``engine.reset()``, and checkpoints that are written before hold them.
    """

    def __init__(self, *calls: str, **overrides: Any) -> None:
        for call in calls:
            if call not in _CALLS:
                raise ValueError(f"{call!r} is no call of a Trainer that can adapt; give some of {', '.join(_CALLS)}")
        _C.options_of(_C.overridden({}, overrides))
        self.calls = calls or ("validate", "test", "predict")
        self.overrides = overrides
        self._before: list[tuple[IT3Engine, dict[str, Any]]] = []
        self._is_brought = False

    def setup(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        """Check that one callback alone says how to adapt."""
        if sum(isinstance(each, Adapt) for each in trainer.callbacks) > 1:
            raise ValueError(
                "this Trainer has several callbacks it3.frameworks.lightning.Adapt, of which each would say how to "
                "adapt; give one, with all the calls that shall adapt"
            )

    def on_validation_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Have the engines adapt, or not."""
        self._begin(trainer, pl_module)

    def on_test_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Have the engines adapt, or not."""
        self._begin(trainer, pl_module)

    def on_predict_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Have the engines adapt, or not."""
        self._begin(trainer, pl_module)

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Put their options back."""
        self._end()

    def on_test_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Put their options back."""
        self._end()

    def on_predict_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Put their options back."""
        self._end()

    def on_exception(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, exception: BaseException
    ) -> None:
        """Put their options back."""
        self._end()

    def _begin(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        engines = [each for each in pl_module.modules() if isinstance(each, IT3Engine)]
        if not engines and not self._is_brought:
            raise ValueError(
                f"{type(pl_module).__name__} holds no it3.IT3Engine, so that nothing can adapt; make it an attribute, "
                "as self.engine = it3.IT3Engine(network, layer)"
            )
        adapts = trainer.state.fn in self.calls
        amp = _AMP.get(str(trainer.precision))
        for engine in engines:
            given = engine.optimization_parameters
            options = dict(_C.overridden(given, self.overrides if adapts else UNADAPTED))
            if amp is not None and options.get("amp") is None:
                options["amp"] = amp
            self._before.append((engine, given))
            engine.optimization_parameters = options

    def _end(self) -> None:
        for engine, options in self._before:
            engine.optimization_parameters = options
        self._before = []


class EngineModule(lightning.LightningModule):
    """A LightningModule around an engine: trains its two terms, and validates, tests and predicts.

    It is what :meth:`it3.IT3Engine.fit` and :meth:`it3.IT3Engine.predict` do, for a Trainer. It brings a callback
    :class:`Adapt` along, unless the trainer has one.

    - Training goes down ``criterion(prediction, target) + loss_ttt``, and logs "loss", "loss_criterion" and "loss_ttt".
    - Validation and tests log "val_loss" or "test_loss", the criterion of the prediction, and with a metric, such as
      "accuracy", "val_accuracy" or "test_accuracy". Where the engine adapts they also log "test_loss_gain" and so on:
      by how much adapting made it better, so that what is below 0 is worse than the network as it is. With
      ``copy_model=False`` they do not, as that network is gone after the first batch.
    - Of several loaders each is scored and predicted by itself, as Lightning does.
    - Predictions are a tensor for each batch.

    Parameters
    ----------
    engine
        What to train and adapt.
    criterion
        A function of (prediction, target) that returns the batch's mean.
    optimizer
        A function of the list of parameters that require gradients, which returns what ``configure_optimizers()`` may.
        Default: Adam with a learning rate of 1e-3.
    metric, higher_is_better
        "accuracy", "mse", "mae", or a function of (prediction, target) and what its scores mean, as in
        :func:`it3.evaluate`: of a function of your own more is better, if not given. Scores of whole batches, such as
        F1, are averaged over the batches, which is not the score of all samples.
    has_targets
        Whether batches of ``trainer.predict`` end with targets, as in :meth:`it3.IT3Engine.predict`.
    """

    def __init__(
        self,
        engine: IT3Engine,
        criterion: Callable[[Tensor, Any], Tensor],
        *,
        optimizer: Callable[[list[torch.nn.Parameter]], Any] | None = None,
        metric: str | Callable[[Tensor, Any], Any] | None = None,
        higher_is_better: bool | None = None,
        has_targets: bool | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(engine, IT3Engine):
            raise TypeError(f"engine must be an it3.IT3Engine, not a {type(engine).__name__}")
        self.engine = engine
        self.criterion = criterion
        self.optimizer = optimizer
        self.metric = None if metric is None else metric_of(metric, higher_is_better)
        if self.metric is not None and self.metric.name == _LOSS:
            raise ValueError("metric is a function called 'loss', as which the criterion is logged; call it otherwise")
        self.has_targets = has_targets
        self.given_metric = metric  # so that one of torchmetrics, a module, moves to the device

    def inputs_and_target(self, batch: Any, batch_idx: int) -> tuple[Any, Any]:
        """Take a labeled batch apart.

        Override it for batches that are no pair (inputs, target), and :meth:`predict_step` to predict for such ones.
        """
        return pair_in(batch, batch_idx)

    def forward(self, inputs: Any) -> Tensor:
        """Predict: adapted in eval mode, as far as :class:`Adapt` says so."""
        prediction: Tensor = self.engine(inputs)[0]
        return prediction

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Return the sum of both terms."""
        inputs, target = self.inputs_and_target(batch, batch_idx)
        prediction, loss_ttt = self.engine(inputs, target=target)
        loss_criterion = self.criterion(prediction, target)
        loss: Tensor = loss_criterion + loss_ttt
        losses = {"loss": loss, "loss_criterion": loss_criterion, "loss_ttt": loss_ttt}
        self.log_dict(losses, batch_size=samples_in(prediction, self.engine.prediction_layout))
        return loss

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Log how good the predictions are."""
        self._judge("val", batch, batch_idx)

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Log how good the predictions are."""
        self._judge("test", batch, batch_idx)

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        """Predict for a batch, with or without targets."""
        inputs = next(inputs_in_batches([batch], eager(self.engine.model), self.has_targets, "trainer.predict"))
        prediction: Tensor = self(inputs)
        return prediction

    def configure_optimizers(self) -> Any:
        """Make the optimizer, for the embedder's parameters too, which take their shapes from the first batch."""
        parameters = [each for each in self.parameters() if each.requires_grad]
        return torch.optim.Adam(parameters) if self.optimizer is None else self.optimizer(parameters)

    def configure_callbacks(self) -> list[lightning.Callback]:
        """Bring the callback along, by which training is validated without adapting."""
        if any(isinstance(each, Adapt) for each in self.trainer.callbacks):
            return []
        brought = Adapt()
        brought._is_brought = True  # it stays in the trainer, whose next module may have no engine
        return [brought]

    def _judge(self, stage: str, batch: Any, batch_idx: int) -> None:
        inputs, target = self.inputs_and_target(batch, batch_idx)
        plain: dict[str, tuple[Any, bool]] = {}
        if self._adapts_from_its_start():
            with KeptRandomState():  # so that both predictions draw alike
                plain = self._scores(self.engine.adapt(inputs, **UNADAPTED).prediction, target)
        prediction = self(inputs)
        scores = self._scores(prediction, target)
        logged = {f"{stage}_{name}": score for name, (score, _) in scores.items()}
        for name, (unadapted, higher_is_better) in plain.items():
            gain = scores[name][0] - unadapted
            logged[f"{stage}_{name}_gain"] = gain if higher_is_better else -gain
        self.log_dict(logged, batch_size=samples_in(prediction, self.engine.prediction_layout), sync_dist=True)

    def _adapts_from_its_start(self) -> bool:
        """Whether what a prediction gains can be told: weights that are kept are no longer the network as it was."""
        options = _C.options_of(self.engine.optimization_parameters)
        return bool(options["copy_model"]) and any(options.get(name) != value for name, value in UNADAPTED.items())

    def _scores(self, prediction: Tensor, target: Any) -> dict[str, tuple[Any, bool]]:
        """Return a batch's means by their names, and whether more of each is better."""
        scores: dict[str, tuple[Any, bool]] = {_LOSS: (self.criterion(prediction, target), False)}
        if self.metric is not None:
            total, count = self.metric.sum(prediction, target, self.engine.prediction_layout)
            scores[self.metric.name] = (total / count, self.metric.higher_is_better)
        return scores
