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
    **optimizer_options: object,
) -> tuple[Tensor, list[float], nn.Module]:
    """Give the adapted prediction, the loss before each step, and the adapted copy of the model."""
    model = copy.deepcopy(model)
    adapted = [p for name, p in model.named_parameters() if p.requires_grad and parameters(name)]
    optimizer = OPTIMIZERS[optimizer_name](adapted, **{"lr": 1e-2, **optimizer_options})
    losses = []
    for _ in range(num_steps):
        optimizer.zero_grad()
        y0 = model(inputs)
        y1 = second_prediction(model, layer, embedder, combine, inputs, y0)
        loss = distance(y1, y0)
        loss.backward()
        if max_grad_norm is not None:
            nn.utils.clip_grad_norm_(adapted, max_grad_norm)
        optimizer.step()
        losses.append(loss.item())
    with torch.no_grad():
        return model(inputs), losses, model
