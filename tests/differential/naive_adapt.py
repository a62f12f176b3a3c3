"""Adapting as the formulas say it: a deep copy, a hook and torch.optim, in float64. Uses nothing of it3."""

import copy
import fnmatch
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from differential.naive import Method, OtherBatchNorm, Refusal

OPTIMIZERS = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "sgd": torch.optim.SGD,
    "rmsprop": torch.optim.RMSprop,
    "adagrad": torch.optim.Adagrad,
}


def normalise_by(model: nn.Module, statistics: str, prior: float) -> None:
    found = False
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.modules.batchnorm._BatchNorm):
                found = True
                setattr(module, name, OtherBatchNorm(child, 0 if statistics == "batch" else prior))
    if not found:
        raise Refusal("parameters (is|has)|no batch normalisation")


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
            raise Refusal("parameters (is|has)|no batch normalisation")
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


def adapt(method: Method, model: nn.Module, inputs: Any, options: dict[str, Any], memory: Memory | None = None) -> Result:
    """Adapt to a batch. Without a memory the model stays as it is."""
    o = {"num_steps": 3, "lr": 1e-4, "optimizer_name": "adam", "prediction": "first", "anchor": "none", **options}
    work = copy.deepcopy(model).eval() if memory is None else memory.model
    statistics = o.get("norm_statistics", "running")
    if statistics != "running" and not any(isinstance(m, OtherBatchNorm) for m in work.modules()):
        normalise_by(work, statistics, o.get("norm_prior", 16.0))
    memory = memory or Memory(work)
    named = dict(work.named_parameters())
    names = selects(work, o.get("parameters", "all")) if o["num_steps"] > 0 else []
    adapted = [named[name] for name in names]
    before_call = copy.deepcopy(work.state_dict())
    if memory.start is None:
        memory.start = {name: named[name].detach().clone() for name in names}
    if memory.average is None:
        memory.average = copy.deepcopy(work).requires_grad_(False)
        memory.average.load_state_dict({**work.state_dict(), **memory.start})
    frozen = copy.deepcopy(work).requires_grad_(False)
    frozen.load_state_dict({**work.state_dict(), **memory.start})
    other = {"none": work, "frozen": frozen, "ema": memory.average}[o["anchor"]]
    if memory.optimizer is None and adapted:
        known = ("betas", "eps", "weight_decay", "momentum", "lr")
        arguments = {k: v for k, v in o.items() if k in known and v is not None}
        memory.optimizer = OPTIMIZERS[o["optimizer_name"]](adapted, **arguments)

    rows = before = None
    if o.get("threshold") is not None:
        with torch.no_grad():
            before = (y0 := method.first(work, inputs)), method.second(work, inputs, y0)
        rows = method.distances(before[1], before[0]) > o["threshold"]
        inputs = _without(inputs, before[0], rows, method)
    losses: list[float] = []
    least, waited = torch.inf, 0
    for _ in range(o["num_steps"] if rows is None or rows.any() else 0):
        memory.optimizer.zero_grad()
        y0 = method.first(work, inputs)
        y1 = method.second(other, inputs, y0)
        loss = method.distance(*(_rows(t, rows, method) for t in (y1, y0)))
        if not loss.isfinite():
            work.load_state_dict(before_call)
            raise Refusal("nan|infinit|not finite")
        if o.get("tolerance") is not None:
            is_better = least == torch.inf or loss.item() < least - o["tolerance"] * abs(least)
            waited = 0 if is_better else waited + 1
            least = min(least, loss.item())
            if waited >= (o.get("patience") or 1):
                break
        if not losses and o.get("recovery_factor") is not None:
            following = loss.item() if memory.course is None else 0.9 * memory.course[0] + 0.1 * loss.item()
            if memory.course is not None and following > o["recovery_factor"] * memory.course[1]:
                reset(memory)
                again = adapt(method, model, inputs, options, memory)
                again.recovered = True
                return again
            memory.course = (following, following if memory.course is None else min(memory.course[1], following))
        loss.backward()
        if o.get("max_grad_norm") is not None:
            nn.utils.clip_grad_norm_(adapted, o["max_grad_norm"])
        memory.optimizer.step()
        with torch.no_grad():
            if o.get("restore_probability") == 1:
                for name, p in zip(names, adapted, strict=True):
                    p.copy_(memory.start[name])
            averages = dict(memory.average.named_parameters())
            for name, p in zip(names, adapted, strict=True):
                averages[name].lerp_(p, 1 - o.get("ema_decay", 0.99))
        losses.append(loss.item())
    with torch.no_grad():
        y0 = method.first(work, inputs)
        y1 = method.second(work, inputs, y0)
    if before is not None and rows is not None:
        y0, y1 = (_merged(a, b, rows, method) for a, b in zip((y0, y1), before, strict=True))
    prediction = {"first": y0, "second": y1, "mean": (y0 + y1) / 2}[o["prediction"]]
    if losses and not prediction.isfinite().all() and (rows is None or rows.all()):
        raise Refusal("not finite")
    state = {name: value.detach().clone() for name, value in work.state_dict().items()}
    return Result(prediction, y0, y1, torch.tensor(losses).double(), method.distances(y1, y0), rows, state)


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


def _without(inputs: Any, prediction: Tensor, rows: Tensor, method: Method) -> Any:
    """Zeros for what is not finite in excluded samples; samples do not mix in the models that get such."""
    if isinstance(inputs, Tensor):
        return inputs.nan_to_num() if inputs.is_floating_point() else inputs
    if isinstance(inputs, Mapping):
        return {k: _without(v, prediction, rows, method) for k, v in inputs.items()}
    if isinstance(inputs, tuple | list):
        return type(inputs)(_without(v, prediction, rows, method) for v in inputs)
    return inputs


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
    buffers = {name: b.clone() for name, b in model.named_buffers()}
    y1 = method.run(model, inputs, target)
    with torch.no_grad():
        for name, b in model.named_buffers():
            b.copy_(buffers[name])
    return y0, to_target(y1, target)
