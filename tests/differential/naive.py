"""The two predictions and the distances of IT3 as their formulas say them. Uses nothing of it3."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Path = tuple[str | int, ...]


class Refusal(Exception):  # noqa: N818  (it is what is right, not an error)
    """The library has to raise a ValueError here, whose text matches this one, a regular expression."""


def at_path(value: Any, path: Path) -> Any:
    for key in path:
        value = value[key]
    return value


def with_tensor(value: Any, path: Path, tensor: Tensor) -> Any:
    """The same containers with another tensor at this place."""
    if not path:
        return tensor
    first, *rest = path
    if isinstance(value, Mapping):
        return {**value, first: with_tensor(value[first], tuple(rest), tensor)}
    items = [with_tensor(v, tuple(rest), tensor) if i == first else v for i, v in enumerate(value)]
    return items if isinstance(value, list) else tuple(items)


def first_path(value: Any) -> Path | None:
    """Where the first tensor is."""
    if isinstance(value, Tensor):
        return ()
    items = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, tuple | list) else ()
    for key, item in items:
        path = first_path(item)
        if path is not None:
            return (key, *path)
    return None


def copied(model: nn.Module) -> nn.Module:
    """A deep copy in which tensors share memory as they do in the model; torch's own parts parameters from views."""
    twin = copy.deepcopy(model)
    whole: dict[int, Tensor] = {}
    for own, other in zip(tensors_of(model), tensors_of(twin), strict=True):
        if not own.is_contiguous() or own.untyped_storage().data_ptr() in whole:
            base = whole.get(own.untyped_storage().data_ptr())
            if base is not None:
                other.data = base.data.as_strided(own.shape, own.stride(), own.storage_offset())
        elif own.numel() * own.element_size() == own.untyped_storage().nbytes():
            whole[own.untyped_storage().data_ptr()] = other
    return twin


def tensors_of(model: nn.Module) -> list[Tensor]:
    return [*model.parameters(), *model.buffers()]


def to_double(value: Any) -> Any:
    """A private copy of inputs, detached, floating-point tensors in float64."""
    if isinstance(value, Tensor):
        value = value.detach().clone()
        return value.double() if value.is_floating_point() else value
    if isinstance(value, Mapping):
        return {k: to_double(v) for k, v in value.items()}
    return type(value)(map(to_double, value)) if isinstance(value, tuple | list) else value


@dataclass
class Layout:
    """Where the channels and the samples are."""

    channel: int
    batch: int

    def outwards(self, t: Tensor) -> Tensor:
        """(B, C, places...)."""
        return t.reshape(-1, 1) if t.dim() < 2 else t.movedim((self.batch, self.channel), (0, 1))

    def back(self, t: Tensor) -> Tensor:
        return t.movedim((0, 1), (self.batch, self.channel))

    def classes(self, t: Tensor) -> int:
        return self.channel % t.dim() if t.dim() > 1 else 0


@dataclass
class Embed:
    """A two-layer perceptron over channels, at each place."""

    weights: list[Tensor]
    prediction: Layout
    features: Layout

    def __call__(self, signal: Tensor, features: Tensor) -> Tensor:
        source, target = self.prediction.outwards(signal), self.features.outwards(features)
        w1, b1, w2, b2 = self.weights
        last = source.movedim(1, -1)
        embedding = F.leaky_relu(F.linear(F.leaky_relu(F.linear(last, w1, b1)), w2, b2)).movedim(-1, 1)
        if source.dim() > 2 and target.dim() == 2:
            embedding = embedding.flatten(2).mean(2)
        if embedding.dim() == 2:
            embedding = embedding.reshape(*embedding.shape, *[1] * (target.dim() - 2))
        elif embedding.dim() != target.dim():
            raise Refusal("cannot bring a prediction of shape")
        elif embedding.shape[2:] != target.shape[2:]:
            pool = {1: F.adaptive_avg_pool1d, 2: F.adaptive_avg_pool2d, 3: F.adaptive_avg_pool3d}
            embedding = pool[target.dim() - 2](embedding, target.shape[2:])
        return self.features.back(embedding) if features.dim() > 1 else embedding.reshape(features.shape)


def distance_by_name(name: str, classes: Callable[[Tensor], int], is_target: bool = False) -> Any:
    """distance(y1, y0), or of y1 from a target, which is probabilities."""

    def of(y1: Tensor, y0: Tensor) -> Tensor:
        if name in ("mse", "l1"):
            return F.mse_loss(y1, y0) if name == "mse" else F.l1_loss(y1, y0)
        d = classes(y1)
        if y1.dim() < 2 or y1.shape[d] == 1:
            raise Refusal("one (class|channel)")
        if name == "cosine":
            return 1 - F.cosine_similarity(y1, y0, dim=d).mean()
        q, p = y1.softmax(d), y0 if is_target else y0.softmax(d)
        log_q = y1.log_softmax(d)
        if name == "cross_entropy":
            return -(p * log_q).sum(d).mean()
        # By logarithms, as the gradient of p log p is not finite where a probability is so small that it is 0.
        p_log_p = torch.xlogy(p, p) if is_target else p * y0.log_softmax(d)
        if name == "kl":
            return (p_log_p - p * log_q).sum(d).mean()
        m = (p + q) / 2
        return (p_log_p + q * log_q - (p + q) * m.clamp_min(1e-300).log()).sum(d).mean() / 2

    return of


@dataclass
class Method:
    """How a network is adapted; it holds no weights of the network."""

    layer: str
    embed: Callable[[Tensor, Tensor], Tensor]
    combine: Callable[[Tensor, Tensor], Tensor]
    distance: Callable[[Tensor, Tensor], Tensor]
    prediction: Layout
    output: Path = ()
    layer_output: Path | None = None
    neutral: float | None = None
    feeds_probabilities: bool = False
    in_dims: Any = None

    def run(self, model: nn.Module, inputs: Any, signal: Tensor | None = None) -> Tensor:
        """f(x), or f(x | signal), on a copy of the inputs, which forward() may write to."""
        inputs = to_double(inputs)
        calls = []

        def inject(_: nn.Module, __: Any, out: Any) -> Any:
            calls.append(1)
            path = first_path(out) if self.layer_output is None else self.layer_output
            features = at_path(out, path or ())
            own = features.clone()  # functions may write to what they are given
            return with_tensor(out, path or (), self.combine(own, self.embed(signal, own)))

        hook = None if signal is None else model.get_submodule(self.layer).register_forward_hook(inject)
        try:
            out = call(model, inputs)
        finally:
            if hook is not None:
                hook.remove()
        if signal is not None and not calls:
            raise Refusal("was not called")
        return at_path(out, self.output)

    def first(self, model: nn.Module, inputs: Any) -> Tensor:
        if self.neutral is None:
            return self.run(model, inputs)
        with torch.no_grad():
            shape_of = self.run(copied(model), inputs)
        return self.run(model, inputs, torch.full_like(shape_of, self.neutral))

    def second(self, model: nn.Module, inputs: Any, y0: Tensor) -> Tensor:
        if not self.feeds_probabilities:
            return self.run(model, inputs, y0)
        classes = self.prediction.classes(y0)
        if y0.dim() < 2 or y0.shape[classes] == 1:
            raise Refusal("one (class|channel)")
        return self.run(model, inputs, y0.softmax(classes))

    def distances(self, y1: Tensor, y0: Tensor) -> Tensor:
        """The Euclidean distance of each sample, (B,), of probabilities where these are fed back."""
        if self.feeds_probabilities:
            classes = self.prediction.classes(y0)
            finite = y0.isfinite() & y1.isfinite()
            y0, y1 = (y.softmax(classes).where(finite, torch.nan) for y in (y0, y1))
        difference = (y1 - y0).movedim(self.prediction.batch, 0) if y1.dim() > 1 else (y1 - y0)
        return (
            difference.reshape(len(difference), difference[:1].numel()).norm(dim=1)
            if len(difference)
            else difference.new_empty(0)
        )

    def uncertainty(self, model: nn.Module, inputs: Any) -> Tensor:
        model = copied(model).eval()
        with torch.no_grad():
            y0 = self.first(model, inputs)
            return self.distances(self.second(model, inputs, y0), y0)


def reaches(method: Method, model: nn.Module, inputs: Any) -> bool:
    """Whether what is injected reaches the prediction, by gradients or, where those are cut off, by values."""
    injected: list[Tensor] = []

    def combine(features: Tensor, embedding: Tensor) -> Tensor:
        injected.append(method.combine(features.detach(), embedding.detach()).detach().requires_grad_())
        return injected[-1].clone()

    watched = replace(method, combine=combine)
    model = copied(model)
    with torch.no_grad():
        y0 = method.first(model, inputs)
    y1 = watched.second(model, inputs, y0)
    found: tuple[Tensor | None, ...] = (None,)
    if y1.requires_grad and injected:
        found = torch.autograd.grad(y1.sum(), injected, allow_unused=True)
    return any(g is not None for g in found) or not torch.equal(y1, y0)


def call(model: nn.Module, inputs: Any) -> Any:
    """Without attention's fast path, which gives zeros at padded places, and nested tensors, which no hook can use."""
    was_enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        if isinstance(inputs, Mapping):
            return model(**inputs)
        return model(*inputs) if isinstance(inputs, tuple | list) else model(inputs)
    finally:
        torch.backends.mha.set_fastpath_enabled(was_enabled)


class OtherBatchNorm(nn.Module):
    """Mixes running and batch statistics; the running ones count for `prior` samples."""

    def __init__(self, norm: nn.modules.batchnorm._BatchNorm, prior: float) -> None:
        super().__init__()
        self.weight, self.bias, self.eps, self.prior = norm.weight, norm.bias, norm.eps, prior
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            self.register_buffer(name, getattr(norm, name))

    def forward(self, x: Tensor) -> Tensor:
        others = [d for d in range(x.dim()) if d != 1]
        share = self.prior / (self.prior + len(x)) if len(x) else 1.0
        if x.numel() == x.shape[1]:  # one value a channel has no variance
            share = 1.0
        mean = share * self.running_mean + (1 - share) * x.mean(others)
        var = share * self.running_var + (1 - share) * x.var(others, correction=0)
        shape = [-1 if d == 1 else 1 for d in range(x.dim())]
        normal = (x - mean.view(shape)) / (var.view(shape) + self.eps).sqrt()
        return normal * self.weight.view(shape) + self.bias.view(shape)
