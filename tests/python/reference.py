"""IT3 written as plainly as its formulas, to compare with. Uses nothing of it3."""

import copy
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

TensorFunction = Callable[[Tensor, Tensor], Tensor]

OPTIMIZERS = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "sgd": torch.optim.SGD,
    "rmsprop": torch.optim.RMSprop,
    "adagrad": torch.optim.Adagrad,
}


def embed(prediction: Tensor, features: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> Tensor:
    """The default embedder for vectors and images."""
    if prediction.dim() == 2:
        return F.leaky_relu(F.linear(F.leaky_relu(F.linear(prediction, w1, b1)), w2, b2))
    hidden = F.leaky_relu(F.conv2d(prediction, w1[:, :, None, None], b1))
    embedding = F.leaky_relu(F.conv2d(hidden, w2[:, :, None, None], b2))
    return F.adaptive_avg_pool2d(embedding, features.shape[2:])


def add(features: Tensor, embedding: Tensor) -> Tensor:
    while embedding.dim() < features.dim():
        embedding = embedding.unsqueeze(-1)
    return features + embedding


def second_prediction(
    model: nn.Module, layer: str, embedder: TensorFunction, combine: TensorFunction, inputs: Tensor, signal: Tensor
) -> Tensor:
    """y1 = f(x | signal)."""
    hook = model.get_submodule(layer).register_forward_hook(lambda _, __, out: combine(out, embedder(signal, out)))
    y1 = model(inputs)
    hook.remove()
    return y1


def adapt(
    model: nn.Module,
    layer: str,
    embedder: TensorFunction,
    inputs: Tensor,
    *,
    combine: TensorFunction = add,
    distance: TensorFunction = F.mse_loss,
    optimizer_name: str = "adam",
    num_steps: int = 3,
    max_grad_norm: float | None = None,
    parameters: Callable[[str], bool] = lambda name: True,
    anchor: str = "self",
    ema_decay: float = 0.99,
    neutral: Tensor | None = None,
    rows: Tensor | None = None,
    **optimizer_options: object,
) -> tuple[Tensor, list[float], nn.Module]:
    """Return the adapted prediction, the loss before each step, and the adapted copy of the model.

    `neutral` has the prediction's shape; `rows` are the samples that count.
    """

    def first_prediction() -> Tensor:
        if neutral is None:
            return model(inputs)
        return second_prediction(model, layer, embedder, combine, inputs, neutral)

    model = copy.deepcopy(model)
    other = copy.deepcopy(model).requires_grad_(False)
    adapted = [p for name, p in model.named_parameters() if p.requires_grad and parameters(name)]
    optimizer = OPTIMIZERS[optimizer_name](adapted, **{"lr": 1e-5, **optimizer_options})
    losses = []
    for _ in range(num_steps):
        optimizer.zero_grad()
        y0 = first_prediction()
        y1 = second_prediction(model if anchor == "self" else other, layer, embedder, combine, inputs, y0)
        loss = distance(y1, y0) if rows is None else distance(y1[rows], y0[rows])
        loss.backward()
        if max_grad_norm is not None:
            nn.utils.clip_grad_norm_(adapted, max_grad_norm)
        optimizer.step()
        if anchor == "ema":
            for average, weight in zip(other.parameters(), model.parameters(), strict=True):
                average.data = ema_decay * average.data + (1 - ema_decay) * weight.data
        losses.append(loss.item())
    with torch.no_grad():
        return first_prediction(), losses, model


def adapt_each(
    model: nn.Module, layer: str, embedder: TensorFunction, inputs: Tensor, **options: object
) -> tuple[Tensor, Tensor]:
    """Return the predictions (B, ...) and losses (steps, B) of samples that adapt alone."""
    alone = [adapt(model, layer, embedder, sample, **options)[:2] for sample in inputs.split(1)]
    return torch.cat([prediction for prediction, _ in alone]), torch.tensor(
        [losses for _, losses in alone], dtype=torch.float64
    ).T


def with_statistics(model: nn.Module, statistics: str) -> nn.Module:
    """A copy that normalizes so; it shares nothing."""
    model = copy.deepcopy(model)
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if statistics != "running" and isinstance(child, nn.BatchNorm2d):
                setattr(module, name, OtherBatchNorm(child, prior=0 if statistics == "batch" else 16))
    return model


class OtherBatchNorm(nn.Module):
    """Mixes running and batch statistics; the running ones count for `prior` samples."""

    def __init__(self, norm: nn.modules.batchnorm._BatchNorm, prior: float) -> None:
        super().__init__()
        self.weight, self.bias = norm.weight, norm.bias
        self.running_mean, self.running_var, self.eps, self.prior = norm.running_mean, norm.running_var, norm.eps, prior

    def forward(self, x: Tensor) -> Tensor:
        others = [d for d in range(x.dim()) if d != 1]
        mean, var = x.mean(others), x.var(others, correction=0)
        share = self.prior / (self.prior + len(x))
        mean = share * self.running_mean + (1 - share) * mean
        var = share * self.running_var + (1 - share) * var
        shape = [-1 if d == 1 else 1 for d in range(x.dim())]
        normal = (x - mean.view(shape)) / (var.view(shape) + self.eps).sqrt()
        return normal * self.weight.view(shape) + self.bias.view(shape)
