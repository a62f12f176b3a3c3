"""Adapting as the formulas say it: a deep copy, a hook and torch.optim, in float64. Uses nothing of it3."""

import copy
import fnmatch
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from differential.naive import Method, OtherBatchNorm, Refusal, copied

OPTIMIZERS = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "sgd": torch.optim.SGD,
    "rmsprop": torch.optim.RMSprop,
    "adagrad": torch.optim.Adagrad,
}

# A loss that overflows names itself as what is not finite; in float32 it may do so at an earlier step than here.
NOT_FINITE = "nan|infinit|not finite"


def normalize_by(model: nn.Module, statistics: str, prior: float) -> None:
    found = False
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.modules.batchnorm._BatchNorm):
                found = True
                setattr(module, name, OtherBatchNorm(child, 0 if statistics == "batch" else prior))
    if not found:
        raise Refusal("parameters (is|has)|no batch normalization")


def selects(model: nn.Module, patterns: list[str] | str) -> list[str]:
    """The names of the parameters that adapt."""
    patterns = [patterns] if isinstance(patterns, str) else patterns
    trainable = [name for name, p in model.named_parameters() if p.requires_grad]
    if not trainable:
        raise Refusal("no trainable parameters")

    def matches(name: str, pattern: str) -> bool:
        if pattern == "norm":
            return "Norm" in type(model.get_submodule(name.rpartition(".")[0])).__name__
        parts = name.split(".")
        around = [".".join(parts[:i]) for i in range(1, len(parts) + 1)]
        return pattern == "all" or any(fnmatch.fnmatchcase(n, pattern) for n in around)

    for pattern in patterns:
        if not any(matches(name, pattern) for name in trainable):
            raise Refusal("parameters (is|has)|no batch normalization")
    return [name for name in trainable if any(matches(name, pattern) for pattern in patterns)]


@dataclass
class Result:
    """As it3.Adaptation. `state` is the adapted model's state dict."""

    prediction: Tensor
    first: Tensor
    second: Tensor
    losses: Tensor
    uncertainty: Tensor
    adapted_samples: Tensor | None = None
    state: dict[str, Tensor] = field(default_factory=dict)
    recovered: bool = False


@dataclass
class Memory:
    """What calls with copy_model=False keep; the model is the one that adapts."""

    model: nn.Module
    start: dict[str, Tensor] | None = None
    optimizer: Any = None
    average: nn.Module | None = None
    course: tuple[float, float] | None = None


DEFAULTS: dict[str, Any] = {
    "num_steps": 3,
    "lr": 1e-5,
    "optimizer_name": "adam",
    "prediction": "first",
    "anchor": "self",
    "norm_statistics": "running",
    "norm_prior": 16.0,
    "parameters": "all",
    "ema_decay": 0.99,
    "patience": 1,
}


class Adapting:
    """One call on one batch."""

    def __init__(self, method: Method, memory: Memory, inputs: Any, options: dict[str, Any]) -> None:
        self.method, self.memory, self.inputs, self.options = method, memory, inputs, {**DEFAULTS, **options}
        self.model, o = memory.model, self.options
        if o["norm_statistics"] != "running" and not any(isinstance(m, OtherBatchNorm) for m in self.model.modules()):
            normalize_by(self.model, o["norm_statistics"], o["norm_prior"])
        named = dict(self.model.named_parameters())
        self.names = selects(self.model, o["parameters"]) if o["num_steps"] > 0 else []
        self.adapted = [named[name] for name in self.names]
        if memory.start is None:
            memory.start = {name: named[name].detach().clone() for name in self.names}
        self.anchor = self.model if o["anchor"] == "self" else self._anchor()
        if memory.optimizer is None and self.adapted:
            known = ("betas", "eps", "weight_decay", "momentum", "lr")
            arguments = {k: v for k, v in o.items() if k in known and v is not None}
            memory.optimizer = OPTIMIZERS[o["optimizer_name"]](self.adapted, **arguments)
        self.losses: list[float] = []
        self.size = 0
        self.least, self.waited = torch.inf, 0

    def _anchor(self) -> nn.Module:
        """The network that makes y1: that of the start, or the moving average."""
        start = copied(self.model).requires_grad_(False)
        with torch.no_grad():
            for name, value in (self.memory.start or {}).items():
                start.get_parameter(name).copy_(value)
        if self.options["anchor"] == "frozen":
            return start
        self.memory.average = self.memory.average or start
        return self.memory.average

    def answer(self) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            y0 = self.method.first(self.model, self.inputs)
            return y0, self.method.second(self.model, self.inputs, y0)

    def loss(self, rows: Tensor | None) -> Tensor:
        self.memory.optimizer.zero_grad()
        y0 = self.method.first(self.model, self.inputs)
        self.size = y0.numel()
        anchor = self.anchor if self.anchor is self.model else copied(self.anchor)  # which forward() may write to
        y1 = self.method.second(anchor, self.inputs, y0)
        return self.method.distance(*(_rows(t, rows, self.method) for t in (y1, y0)))

    def is_over(self, loss: float) -> bool:
        """Whether the loss has not fallen by enough for long enough."""
        tolerance = self.options.get("tolerance")
        if tolerance is None:
            return False
        is_better = self.least == torch.inf or loss < self.least - tolerance * abs(self.least)
        self.waited = 0 if is_better else self.waited + 1
        self.least = min(self.least, loss)
        return self.waited >= self.options["patience"]

    def has_collapsed(self, loss: float) -> bool:
        """Whether the moving average of the first losses is too far above its least value."""
        factor, course = self.options.get("recovery_factor"), self.memory.course
        if factor is None or self.losses:
            return False
        average = loss if course is None else 0.9 * course[0] + 0.1 * loss
        if course is not None and average > factor * course[1]:
            return True
        self.memory.course = (average, average if course is None else min(course[1], average))
        return False

    def step(self, loss: Tensor) -> None:
        if loss.requires_grad:
            loss.backward()
        if all(p.grad is None for p in self.adapted):
            raise Refusal("does not depend on any parameter")
        o, memory = self.options, self.memory
        if o.get("max_grad_norm") is not None:
            nn.utils.clip_grad_norm_(self.adapted, o["max_grad_norm"])
        memory.optimizer.step()
        averages = dict(memory.average.named_parameters()) if o["anchor"] == "ema" and memory.average else {}
        with torch.no_grad():
            for name, p in zip(self.names, self.adapted, strict=True):
                if o.get("restore_probability") == 1 and memory.start is not None:
                    p.copy_(memory.start[name])
                if averages:
                    averages[name].lerp_(p, 1 - o["ema_decay"])
        self.losses.append(loss.item())


def adapt(
    method: Method, model: nn.Module, inputs: Any, options: dict[str, Any], memory: Memory | None = None
) -> Result:
    """Adapt to a batch. Without a memory the model stays as it is."""
    kept = memory or Memory(copied(model).eval())
    call = Adapting(method, kept, inputs, options)
    before_call = copy.deepcopy(kept.model.state_dict())
    rows = before = None
    if options.get("threshold") is not None:
        before = call.answer()
        rows = method.distances(before[1], before[0]) > options["threshold"]
        if method.in_dims is not None:  # a sample with inputs that are not finite may have a finite prediction
            rows &= torch.tensor([is_finite(sample_of(inputs, method.in_dims, i)) for i in range(len(rows))]).bool()
        call.inputs = finite(inputs)
    for _ in range(call.options["num_steps"] if rows is None or rows.any() else 0):
        loss = call.loss(rows)
        if not call.size:
            break  # an empty batch has no loss
        if not loss.isfinite():
            kept.model.load_state_dict(before_call)
            raise Refusal(NOT_FINITE)
        if call.is_over(loss.item()):
            break
        if call.has_collapsed(loss.item()):
            reset(kept)
            again = adapt(method, model, inputs, options, kept)
            again.recovered = True
            return again
        call.step(loss)
    y0, y1 = call.answer()
    if before is not None and rows is not None:
        y0, y1 = (_merged(a, b, rows, method) for a, b in zip((y0, y1), before, strict=True))
    prediction = {"first": y0, "second": y1, "mean": (y0 + y1) / 2}[call.options["prediction"]]
    if call.losses and not prediction.isfinite().all() and rows is None:
        raise Refusal(NOT_FINITE)
    memory_of = {p.untyped_storage().data_ptr() for p in call.adapted}
    state = {
        name: value.detach().clone()
        for name, value in kept.model.state_dict().items()
        if value.untyped_storage().data_ptr() in memory_of  # also of what lies over the memory of adapted ones
    }
    # What forward() wrote is not kept: no tensor moves but those that adapt, and none if no step was taken.
    kept.model.load_state_dict(before_call)
    if call.losses:
        kept.model.load_state_dict(state, strict=False)
    return Result(
        prediction, y0, y1, torch.tensor(call.losses, dtype=torch.float64), method.distances(y1, y0), rows, state
    )


def reset(memory: Memory) -> None:
    """Back to the start."""
    with torch.no_grad():
        for name, value in (memory.start or {}).items():
            memory.model.get_parameter(name).copy_(value)
    memory.start = memory.optimizer = memory.average = memory.course = None


def _shaped(rows: Tensor, t: Tensor, batch: int) -> Tensor:
    return rows.view([-1 if d == batch % t.dim() else 1 for d in range(t.dim())])


def _rows(t: Tensor, rows: Tensor | None, method: Method) -> Tensor:
    if rows is None:
        return t
    batch = method.prediction.batch if t.dim() > 1 else 0
    return t.index_select(batch, rows.nonzero().flatten())


def _merged(after: Tensor, before: Tensor, rows: Tensor, method: Method) -> Tensor:
    return torch.where(_shaped(rows, after, method.prediction.batch if after.dim() > 1 else 0), after, before)


def finite(inputs: Any) -> Any:
    """Zeros for what is not finite, in samples that are excluded; they do not mix in the models that get such."""
    if isinstance(inputs, Tensor):
        return inputs.nan_to_num() if inputs.is_floating_point() else inputs
    if isinstance(inputs, Mapping):
        return {k: finite(v) for k, v in inputs.items()}
    return type(inputs)(map(finite, inputs)) if isinstance(inputs, tuple | list) else inputs


def is_finite(inputs: Any) -> bool:
    if isinstance(inputs, Tensor):
        return bool(inputs.isfinite().all())
    values = inputs.values() if isinstance(inputs, Mapping) else inputs if isinstance(inputs, tuple | list) else ()
    return all(map(is_finite, values))


def sample_of(inputs: Any, in_dims: Any, index: int) -> Any:
    """One sample, as a batch of one; None in in_dims is for what all samples share."""
    if isinstance(inputs, Mapping):
        return {k: sample_of(v, in_dims[k], index) for k, v in inputs.items()}
    if isinstance(inputs, tuple | list):
        return type(inputs)(sample_of(v, d, index) for v, d in zip(inputs, in_dims, strict=True))
    return inputs if in_dims is None else inputs.narrow(in_dims, index, 1)


def adapt_each(
    method: Method, model: nn.Module, inputs: Any, in_dims: Any, count: int, options: dict[str, Any]
) -> Result:
    """Each sample as if it were alone; losses are (steps, B), the last of each repeated."""
    alone = [adapt(method, model, sample_of(inputs, in_dims, i), options) for i in range(count)]
    batch = method.prediction.batch if alone[0].first.dim() > 1 else 0
    steps = max(len(a.losses) for a in alone)
    columns = []
    for a in alone:
        last = a.losses[-1:] if len(a.losses) else torch.zeros(1).double()
        columns.append(torch.cat([a.losses, last.expand(steps - len(a.losses))]))
    rows = [a.adapted_samples for a in alone]
    return Result(
        *(torch.cat([getattr(a, name) for a in alone], batch) for name in ("prediction", "first", "second")),
        losses=torch.stack(columns, 1),
        uncertainty=torch.cat([a.uncertainty for a in alone]),
        adapted_samples=None if rows[0] is None else torch.cat([r for r in rows if r is not None]),
    )


def training_losses(
    method: Method, model: nn.Module, inputs: Any, target: Tensor, to_target: Callable[[Tensor, Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """(prediction, loss_ttt) with their graphs; the running statistics are those of the first pass."""
    y0 = method.first(model, inputs)
    held = [(module._buffers, dict(module._buffers)) for module in model.modules()]
    for buffers, own in held:  # the graph of the first pass reads its own
        buffers.update({name: b if b is None else b.clone() for name, b in own.items()})
    y1 = method.run(model, inputs, target)
    for buffers, own in held:
        buffers.update(own)
    return y0, to_target(y1, target)
