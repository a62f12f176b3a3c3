"""The optimizer and the scheduler of a training loop: made, checked and stepped."""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CyclicLR, LRScheduler, OneCycleLR, ReduceLROnPlateau

from it3.evaluation.metrics import NotFiniteError
from it3.support.identity import text_of

if TYPE_CHECKING:
    from it3.engine import IT3Engine

GivenOptimizer = Optimizer | Callable[[list[nn.Parameter]], Optimizer]
GivenScheduler = LRScheduler | Callable[[Optimizer], LRScheduler]
Interval = Literal["epoch", "batch"]
_CHANGED_BY_SCHEDULERS = {"lr", "momentum", "betas"}
_COUNTED_BY_SCHEDULERS = {
    *("last_epoch", "_step_count", "_last_lr", "_is_initial", "_get_lr_called_within_step"),
    *("best", "num_bad_epochs", "cooldown_counter"),  # of ReduceLROnPlateau
    *("T_cur", "T_i"),  # of CosineAnnealingWarmRestarts
}
"""What schedulers write into their own state as they are stepped; the rest are their settings."""


class Stepper:
    """Takes the optimizer steps for an engine; see :meth:`it3.IT3Engine.fit`.

    Parameters
    ----------
    engine
        The optimizer is made at once if all its parameters have their shapes, else by :meth:`ready`.
    optimizer, scheduler, scheduler_interval, max_grad_norm
        As ``fit`` is given them.
    higher_is_better
        Of what a ReduceLROnPlateau is stepped with; None if nobody knows.

    Raises
    ------
    ValueError, TypeError
        For what is no optimizer, scheduler, interval or norm, and for those that do not fit one another or the engine.
    """

    optimizer: Optimizer
    scheduler: LRScheduler | None
    #: What both were made with, as far as no scheduler changes it.
    identity: dict[str, str]

    def __init__(
        self,
        engine: "IT3Engine",
        optimizer: GivenOptimizer | None,
        scheduler: GivenScheduler | None,
        scheduler_interval: Interval | None,
        max_grad_norm: float | None,
        higher_is_better: bool | None,
    ) -> None:
        _check_kinds(optimizer, scheduler, scheduler_interval)
        if max_grad_norm is not None and not (_is_number(max_grad_norm) and 0 < max_grad_norm < math.inf):
            raise ValueError(f"max_grad_norm must be a number above 0, or None, not {max_grad_norm!r}")
        self._engine = engine
        self._given = optimizer, scheduler
        self._interval = scheduler_interval
        self._max_grad_norm = max_grad_norm
        self._higher_is_better = higher_is_better
        self.is_made = False
        if isinstance(optimizer, Optimizer) or _has_shapes(engine):
            self.make()

    def make(self) -> None:
        """Make optimizer and scheduler, anew where they were given as functions."""
        optimizer, scheduler = self._given
        if isinstance(optimizer, Optimizer):
            self.optimizer = optimizer
        else:
            parameters = list(self._engine.parameters())
            self.optimizer = torch.optim.Adam(parameters, lr=1e-3) if optimizer is None else optimizer(parameters)
        _check_optimizer(self.optimizer, self._engine)
        if scheduler is None or isinstance(scheduler, LRScheduler):
            self.scheduler = scheduler
        else:
            self.scheduler = scheduler(self.optimizer)
        if self.scheduler is not None:
            self._check_scheduler(self.scheduler)
            for group in self.optimizer.param_groups:  # as all schedulers but ReduceLROnPlateau note it
                group.setdefault("initial_lr", group["lr"])
        self.identity = self._identity()
        self.is_made = True

    def ready(self) -> None:
        """Make optimizer and scheduler if that had to wait for the first pass, which gives parameters their shapes.

        Raises
        ------
        ValueError
            For an optimizer that lacks what the first pass has made, or that shaped its state before.
        """
        if not self.is_made:
            self.make()
        _check_is_complete(self.optimizer, self._engine)
        for parameter, state in self.optimizer.state.items():
            sizes = [value.numel() for value in state.values() if isinstance(value, Tensor) and value.dim()]
            if 0 in sizes and parameter.numel():
                raise ValueError(
                    f"the optimizer, a {type(self.optimizer).__name__}, shaped its state when it was made, before the "
                    "embedder or model had the shapes that the first batch gives them; give a function that makes it, "
                    f"such as optimizer=lambda parameters: torch.optim.{type(self.optimizer).__name__}(parameters)"
                )

    @property
    def lr(self) -> float:
        """The learning rate of the first group of parameters."""
        return float(self.optimizer.param_groups[0]["lr"])

    def step(self, loss: Tensor, where: str) -> float | None:
        """Go down a loss, and return the norm of the gradients if they may be scaled.

        Raises
        ------
        NotFiniteError
            If that is not finite, which says where; the weights stay.
        """
        self.optimizer.zero_grad()
        loss.backward()
        norm = None
        if self._max_grad_norm is not None:
            stepped = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
            norm = float(nn.utils.clip_grad_norm_(stepped, self._max_grad_norm))
            if not math.isfinite(norm):
                raise NotFiniteError(
                    f"the gradients of {where} are not finite, though its loss is, so that no scaling helps; the "
                    "weights are those of before this batch. Check its inputs and targets, and the loss's slope"
                )
        self.optimizer.step()
        if self.scheduler is not None and self._steps_by_batch(self.scheduler):
            self.scheduler.step()
        return norm

    def end_epoch(self, value: float) -> None:
        """Step a scheduler that goes by epochs; one that looks for a plateau looks at the value."""
        if isinstance(self.scheduler, ReduceLROnPlateau):
            self.scheduler.step(value)
        elif self.scheduler is not None and not self._steps_by_batch(self.scheduler):
            self.scheduler.step()

    def state_dict(self) -> dict[str, Any]:
        """Return the state of both."""
        scheduler = None if self.scheduler is None else self.scheduler.state_dict()
        return {"optimizer": self.optimizer.state_dict(), "scheduler": scheduler}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take the state of both."""
        self.optimizer.load_state_dict(state["optimizer"])
        if self.scheduler is not None:
            self.scheduler.load_state_dict(state["scheduler"])

    def _identity(self) -> dict[str, str]:
        changed = set() if self.scheduler is None else _CHANGED_BY_SCHEDULERS
        facts = {"optimizer": type(self.optimizer).__name__, "max_grad_norm": str(self._max_grad_norm)}
        for place, group in enumerate(self.optimizer.param_groups):
            of = "" if len(self.optimizer.param_groups) == 1 else f" of group {place}"
            facts |= {
                f"the optimizer's {name}{of}": text_of(value)
                for name, value in group.items()
                if name != "params" and name not in changed
            }
        scheduler = "None" if self.scheduler is None else type(self.scheduler).__name__
        facts |= {"scheduler": scheduler, "scheduler_interval": str(self._interval)}
        settings = {} if self.scheduler is None else _settings_of(self.scheduler)
        return facts | {f"the scheduler's {name}": text_of(value) for name, value in settings.items()}

    def _steps_by_batch(self, scheduler: LRScheduler) -> bool:
        if self._interval is None:
            return isinstance(scheduler, OneCycleLR | CyclicLR)
        return self._interval == "batch"

    def _check_scheduler(self, scheduler: object) -> None:
        if not isinstance(scheduler, LRScheduler):
            raise TypeError(
                f"scheduler returned a {type(scheduler).__name__}; it must return a "
                "torch.optim.lr_scheduler.LRScheduler"
            )
        if getattr(scheduler, "optimizer", self.optimizer) is not self.optimizer:
            raise ValueError(
                "scheduler is that of another optimizer, so it would change nothing here; give that optimizer too, or "
                "give a function that makes the scheduler: scheduler=lambda optimizer: ..."
            )
        if not isinstance(scheduler, ReduceLROnPlateau):
            return
        if self._interval == "batch":
            raise ValueError("a ReduceLROnPlateau is stepped once an epoch; leave out scheduler_interval='batch'")
        mode = {True: "max", False: "min", None: scheduler.mode}[self._higher_is_better]
        if scheduler.mode != mode:
            what = "score" if self._higher_is_better else "score, or without validation the loss,"
            better = "higher" if self._higher_is_better else "lower"
            raise ValueError(
                f"the ReduceLROnPlateau has mode={scheduler.mode!r}, but of the {what} that it is stepped with "
                f"{better} is better; make it with mode={mode!r}"
            )


def _settings_of(scheduler: LRScheduler) -> dict[str, Any]:
    """Return what a scheduler was made with, as far as its state tells it, and its functions."""

    def without_counts(value: Any) -> Any:
        if isinstance(value, list):
            return [without_counts(each) for each in value]
        if not isinstance(value, dict):
            return value
        return {name: without_counts(each) for name, each in value.items() if name not in _COUNTED_BY_SCHEDULERS}

    settings: dict[str, Any] = without_counts(scheduler.state_dict())
    parts = getattr(scheduler, "_schedulers", [scheduler])  # of a SequentialLR or ChainedScheduler
    functions = [
        *(function for part in parts for function in getattr(part, "lr_lambdas", [])),
        *(part._scale_fn_custom for part in parts if getattr(part, "_scale_fn_custom", None)),  # of a CyclicLR
    ]
    return settings | ({"functions": functions} if functions else {})


def _check_kinds(optimizer: object, scheduler: object, interval: object) -> None:
    if optimizer is not None and not isinstance(optimizer, Optimizer) and not callable(optimizer):
        raise TypeError(
            "optimizer must be a torch.optim.Optimizer over engine.parameters(), a function of the parameters that "
            f"makes one, or None, not {optimizer!r:.80}"
        )
    if scheduler is not None and not isinstance(scheduler, LRScheduler) and not callable(scheduler):
        raise TypeError(
            "scheduler must be a torch.optim.lr_scheduler.LRScheduler, a function of the optimizer that makes one, or "
            f"None, not {scheduler!r:.80}"
        )
    if interval not in (None, "epoch", "batch"):
        raise ValueError(f"scheduler_interval must be 'epoch', 'batch' or None, not {interval!r}")
    if interval is not None and scheduler is None:
        raise ValueError(f"scheduler_interval={interval!r} is about a scheduler, and there is none; leave it out")


def _check_optimizer(optimizer: object, engine: "IT3Engine") -> None:
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"optimizer returned a {type(optimizer).__name__}; it must return a torch.optim.Optimizer")
    if isinstance(optimizer, torch.optim.LBFGS):
        raise ValueError(
            "LBFGS evaluates the loss several times a step, which fit() does not; give another optimizer, or write the "
            "loop yourself"
        )
    _check_is_complete(optimizer, engine)


def _check_is_complete(optimizer: Optimizer, engine: "IT3Engine") -> None:
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    trainable = {name: parameter for name, parameter in engine.named_parameters() if parameter.requires_grad}
    missing = [name for name, parameter in trainable.items() if id(parameter) not in held]
    if not trainable:
        raise ValueError("no parameter of the engine requires gradients, so there is nothing to train")
    if missing:
        shown = ", ".join(map(repr, missing[:6])) + (", ..." if len(missing) > 6 else "")
        raise ValueError(
            f"the optimizer lacks {len(missing)} of the engine's {len(trainable)} trainable parameters, which would "
            f"stay as they are: {shown}. Make it with engine.parameters(), or call requires_grad_(False) of what shall "
            "not be trained"
        )


def _has_shapes(engine: "IT3Engine") -> bool:
    return all(not nn.parameter.is_lazy(parameter) and parameter.numel() for parameter in engine.parameters())


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
