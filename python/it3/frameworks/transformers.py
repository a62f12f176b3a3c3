"""Engines in transformers: a Trainer that trains the two terms of one, and adapts where it evaluates and predicts."""

import inspect
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import transformers
from torch import Tensor, nn
from transformers.utils.generic import find_labels

from it3.engine import IT3Engine
from it3.evaluation.rows import UNADAPTED
from it3.frameworks.users_model import users_model
from it3.support.checks import eager

EMBEDDER_FILE = "it3.safetensors"
"""The file beside a model's own, with what an engine has beside the model."""
_OF_MODEL = "model."
"""How the names of a model's weights begin in an engine's state dict."""
_OF_COMPILED = "_orig_mod."
"""How they go on where the model is one that torch.compile has wrapped."""
_REFUSED = {
    "model": "it trains the engine's model, engine.model",
    "model_init": "it trains one engine",
    "compute_loss_func": "give criterion, a function of (prediction, labels), instead",
}
_REFUSED_SETTINGS = {
    "label_smoothing_factor": "smooth in criterion, such as torch.nn.CrossEntropyLoss(label_smoothing=0.1)",
    "neftune_noise_alpha": "it would disturb one of the two predictions that are compared",
    "torch_compile": "an engine runs the model without it; it3.compile(engine, inputs) makes adapting faster",
    "gradient_checkpointing": "an engine keeps features for both of its terms",
    "activation_checkpointing": "an engine keeps features for both of its terms",
    "deepspeed": "an engine needs the whole weights in each process",
    "fsdp": "an engine needs the whole weights in each process",
}


class EngineTrainer(transformers.Trainer):
    """A Trainer for an engine around a model that is called by keywords.

    - ``train()`` goes down ``criterion(prediction, labels) + loss_ttt``, and logs both beside their sum.
    - ``evaluate()`` and ``predict()`` adapt to each batch, by the engine's ``optimization_parameters``; the model is
      afterwards as before. Evaluations inside of ``train()`` do not adapt, so that checkpoints are chosen by the model
      as it is.
    - ``save_model()`` and checkpoints write the model by its ``save_pretrained()``, and beside it what the engine adds,
      which :func:`load_embedder` reads.

    With ``bf16`` or ``fp16`` of the arguments the engine gets the option ``amp`` to match where it adapts, unless it
    has one.

    Parameters
    ----------
    engine
        What to train and adapt. Its model is called by the batch's entries but the labels.
    args
        The :class:`transformers.TrainingArguments`.
    criterion
        A function of (prediction, labels) that returns the batch's mean.
    **arguments
        Others of :class:`transformers.Trainer`, such as ``train_dataset``.

    Raises
    ------
    ValueError
        For settings that an engine cannot follow, for several GPUs in one process, and for batches without labels where
        they are needed.

    Notes
    -----
    Labels are the batch's entry that ``args.label_names`` names; without it the one of the model's class, which is
    mostly "labels". They go to the engine as the target, so they are class indices or have the prediction's shape.
    """

    model: Any
    _signature_columns: list[str] | None

    def __init__(
        self,
        engine: IT3Engine,
        args: transformers.TrainingArguments | None = None,
        *,
        criterion: Callable[[Tensor, Any], Tensor],
        **arguments: Any,
    ) -> None:
        if not isinstance(engine, IT3Engine):
            raise TypeError(f"engine must be an it3.IT3Engine, not a {type(engine).__name__}")
        for name, instead in _REFUSED.items():
            if arguments.get(name) is not None:
                raise ValueError(f"EngineTrainer takes no {name}: {instead}")
        for name, instead in _REFUSED_SETTINGS.items():
            if getattr(args, name, None):
                raise ValueError(f"EngineTrainer takes no {name}: {instead}")
        super().__init__(engine, args, **arguments)
        if self.args.n_gpu > 1:
            raise ValueError(
                f"this process sees {self.args.n_gpu} GPUs, over which a Trainer would spread copies of the engine; "
                "start a process for each by torchrun, or show it one by CUDA_VISIBLE_DEVICES"
            )
        self.engine = engine
        self.criterion = criterion
        names = self.args.label_names or find_labels(type(users_model(engine))) or ["labels"]
        if len(names) != 1:
            raise ValueError(
                f"an engine is trained with one target, but the labels are {', '.join(names)}; name one by "
                "TrainingArguments(label_names=[...])"
            )
        self.label_names = names
        self._sums: dict[str, Tensor] = {}
        self._batches = 0

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Train; see :meth:`transformers.Trainer.train`."""
        self._sums, self._batches = {}, 0
        try:
            return super().train(*args, **kwargs)
        finally:
            self.is_in_train = False  # also after an error, else later predictions would not be adapted
            self._leave_autocast()

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
        """Evaluate or predict; see :meth:`transformers.Trainer.evaluation_loop`."""
        try:
            return super().evaluation_loop(*args, **kwargs)
        finally:
            if not self.is_in_train:
                self._leave_autocast()

    def _leave_autocast(self) -> None:
        """Take away what accelerate puts around the engine's forward(), else its user would get half precision too."""
        self.accelerator.unwrap_model(self.model, keep_fp32_wrapper=False)
        for left in ("forward", "_is_accelerate_prepared"):  # by which the next training would go without autocast
            vars(self.engine).pop(left, None)
        self.model_wrapped = self.engine

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Mapping[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Return the sum of both terms of the training loss, as a mean over the batch."""
        inputs, labels = self._apart(inputs)
        if labels is None:
            raise ValueError(
                f"a batch has no {self.label_names[0]!r}, only {', '.join(map(repr, inputs))}; say by "
                "TrainingArguments(label_names=[...]) what its labels are called"
            )
        prediction, loss_ttt = model(inputs, target=labels)
        loss_criterion = self.criterion(prediction, labels)
        for name, value in (("loss_criterion", loss_criterion), ("loss_ttt", loss_ttt)):
            self._sums[name] = self._sums.get(name, 0) + value.detach().float()
        self._batches += 1
        loss = loss_criterion + loss_ttt
        return (loss, {"logits": prediction}) if return_outputs else loss

    def prediction_step(
        self,
        model: nn.Module,
        inputs: Mapping[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Return the criterion, the prediction, and the labels of a batch: adapted, but for inside of training."""
        inputs, labels = self._apart(self._prepare_inputs(inputs))
        options = self.engine.optimization_parameters
        overrides = dict(UNADAPTED) if self.is_in_train else {}
        if options.get("amp") is None and (self.args.bf16 or self.args.fp16):
            overrides["amp"] = "bf16" if self.args.bf16 else "fp16"
        prediction = self.engine.adapt(inputs, **overrides).prediction
        with torch.no_grad():
            loss = None if labels is None else self.criterion(prediction, labels).detach()
        return (loss, None, None) if prediction_loss_only else (loss, prediction, labels)

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Log, and beside the training loss its two terms, as means over the batches since it was logged last."""
        if "loss" in logs and self._batches:
            means = {name: total / self._batches for name, total in self._sums.items()}
            logs = logs | {name: float(self.accelerator.reduce(mean, "mean")) for name, mean in means.items()}
            self._sums, self._batches = {}, 0
        super().log(logs, *args, **kwargs)

    def _apart(self, inputs: Mapping[str, Any]) -> tuple[dict[str, Any], Any]:
        """Return what the model is called with, and the labels, or None."""
        inputs = dict(inputs)
        labels = inputs.pop(self.label_names[0], None)
        return inputs, labels

    def _set_signature_columns_if_needed(self) -> None:
        """Keep a data set's columns that the model takes, rather than those that the engine does."""
        if self._signature_columns is None:
            named = inspect.signature(users_model(self.engine).forward).parameters
            self._signature_columns = [*named, *{"label", "label_ids", *self.label_names}]

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Write a card of the model; see :meth:`transformers.Trainer.create_model_card`."""
        with self._as_the_network():
            super().create_model_card(*args, **kwargs)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        if not self._is_of_transformers():
            super()._save(output_dir, state_dict)
            return
        state = self.engine.state_dict() if state_dict is None else state_dict
        with self._as_the_network():
            own = {
                name.removeprefix(_OF_MODEL).removeprefix(_OF_COMPILED): value
                for name, value in state.items()
                if name.startswith(_OF_MODEL)
            }
            super()._save(output_dir, own)
        if self.args.should_save:
            beside = {name: value.contiguous() for name, value in state.items() if not name.startswith(_OF_MODEL)}
            safetensors.torch.save_file(beside, Path(output_dir or self.args.output_dir) / EMBEDDER_FILE)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        if not self._is_of_transformers():
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            return
        load_embedder(self.engine, resume_from_checkpoint)
        with self._as_the_network():
            super()._load_from_checkpoint(resume_from_checkpoint)

    def _load_best_model(self) -> None:
        folder = self.state.best_model_checkpoint
        if not (Path(folder) / EMBEDDER_FILE).exists():
            super()._load_best_model()
            return
        with self._as_the_network():
            super()._load_best_model()
        load_embedder(self.engine, folder)

    def _is_of_transformers(self) -> bool:
        return isinstance(eager(self.engine.model), transformers.PreTrainedModel)

    @contextmanager
    def _as_the_network(self) -> Iterator[None]:
        """Have the model in the engine be the Trainer's for a while: transformers knows how to write and read it."""
        self.model = eager(self.engine.model)
        try:
            yield
        finally:
            self.model = self.engine


def load_embedder(engine: IT3Engine, folder: str | os.PathLike[str]) -> None:
    """Read what :class:`EngineTrainer` wrote of an engine beside its model, whose own weights stay as they are.

    Parameters
    ----------
    engine
        One around the model that ``from_pretrained(folder)`` gives.
    folder
        What ``save_model()`` wrote, or a checkpoint.

    Raises
    ------
    ValueError
        If there is no such file, or it is of an engine with another embedder.
    """
    path = Path(folder) / EMBEDDER_FILE
    if not path.exists():
        raise ValueError(
            f"{folder} has no {EMBEDDER_FILE}, in which an EngineTrainer writes the embedder; give the folder that its "
            "save_model() or a checkpoint wrote, with a model of transformers"
        )
    result = engine.load_state_dict(safetensors.torch.load_file(path), strict=False)
    missing = [name for name in result.missing_keys if not name.startswith(_OF_MODEL)]
    if missing or result.unexpected_keys:
        raise ValueError(
            f"{path} is of an engine with another embedder: "
            f"missing {missing or 'nothing'}, unexpected {result.unexpected_keys or 'nothing'}"
        )
