"""What the benchmarks compare: equal models, each in its own copy, adapted by it3, by torch-ttt and by hand."""

import copy
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from it3 import IT3Engine
from networks import TOKEN_WIDTH, halves
from torch import Tensor, nn
from torch.nn import functional as F

# torch-ttt can only be imported with stand-ins, which the tests have.
sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "python"))
from torch_ttt_reference import TorchTTTEngine

Call = Callable[[Tensor], object]


def make_engines(model: nn.Module, layer: str, inputs: Tensor, steps: int, lr: float = 1e-3) -> dict[str, nn.Module]:
    """Return the engines in eval mode, each with its own copy of the model and its own default embedder, equal ones."""
    options: dict[str, Any] = {"num_steps": steps, "lr": lr}
    embedder, combine = None, None
    with torch.no_grad():
        prediction = model(inputs)
    if prediction.dim() == 3:  # tokens, for which torch-ttt has no embedder by default: it gets one like ours
        linear = (nn.Linear(prediction.shape[-1], TOKEN_WIDTH), nn.Linear(TOKEN_WIDTH, TOKEN_WIDTH))
        embedder = nn.Sequential(linear[0], nn.LeakyReLU(), linear[1], nn.LeakyReLU()).to(inputs.device)
        combine = torch.add
    theirs = TorchTTTEngine(
        copy.deepcopy(model), layer, embedder, combine, optimization_parameters=dict(options)
    ).train()
    theirs.model.eval()
    theirs(inputs)  # builds its embedder
    theirs.embeder.to(inputs.device)
    ours = IT3Engine(model, layer, optimization_parameters=dict(options))
    ours.load_state_dict(theirs.state_dict())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated
        exported = to_torchscript(copy.deepcopy(model).eval(), inputs)
        script = IT3Engine(exported, layer, optimization_parameters=dict(options))
    script.load_state_dict(ours.state_dict())
    return {"it3": ours.eval(), "it3, TorchScript": script.eval(), "torch-ttt": theirs.eval()}


def to_torchscript(model: nn.Module, inputs: Tensor) -> nn.Module:
    """Compile a model, or record it where the compiler does not take its source."""
    try:
        exported: nn.Module = torch.jit.script(model)
    except RuntimeError:
        exported = torch.jit.trace(model, inputs)
    return exported


class Floor:
    """The passes that IT3 needs, written by hand for one network, without any engine: the head once, the tail twice."""

    def __init__(self, engine: IT3Engine, steps: int, lr: float = 1e-3) -> None:
        model = copy.deepcopy(engine.model)
        self.head, self.tail = halves(model, engine.features_layer_name)
        self.weights: list[Tensor] = list(model.parameters())
        self.start = [p.detach().clone() for p in self.weights]
        self.embedder = [p.detach() for p in engine.embedder.parameters()]
        self.steps, self.lr = steps, lr

    def embed(self, y: Tensor, features: Tensor) -> Tensor:
        """Return the default embedding of a prediction."""
        w1, b1, w2, b2 = self.embedder
        if y.dim() == 4:
            hidden = F.leaky_relu(F.conv2d(y, w1[:, :, None, None], b1))
            embedding = F.leaky_relu(F.conv2d(hidden, w2[:, :, None, None], b2))
            return F.adaptive_avg_pool2d(embedding, (features.shape[2], features.shape[3]))
        embedding = F.leaky_relu(F.linear(F.leaky_relu(F.linear(y, w1, b1)), w2, b2))
        return embedding[:, :, None, None] if features.dim() == 4 else embedding

    def __call__(self, x: Tensor) -> Tensor:
        """Adapt."""
        momentum, squares = ([torch.zeros_like(w) for w in self.weights] for _ in range(2))
        step = torch.zeros((), device=x.device)
        for _ in range(self.steps):
            features = self.head(x)
            y0 = self.tail(features)
            y1 = self.tail(features + self.embed(y0, features))
            gradients = torch.autograd.grad(F.mse_loss(y1, y0), self.weights)
            with torch.no_grad():
                step += 1
                torch._fused_adam_(
                    self.weights, gradients, momentum, squares, [], [step] * len(self.weights), lr=self.lr,
                    beta1=0.9, beta2=0.999, weight_decay=0.0, eps=1e-8, amsgrad=False, maximize=False,
                )  # fmt: skip
        with torch.no_grad():
            prediction = self.tail(self.head(x))
            torch._foreach_copy_(self.weights, self.start)
        return prediction


def loop(engine: Call, samples: int) -> Call:
    """Adapt some samples one after another, which stand for all."""
    return lambda inputs: [engine(sample) for sample in inputs[:samples].split(1)]
