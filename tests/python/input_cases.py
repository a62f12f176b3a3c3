"""Models whose input y0 is fed back at, and what adapting them comes to by the formula."""

import copy
from dataclasses import dataclass
from functools import partial
from typing import Any

import it3
import torch
import torch.nn.functional as F
from it3 import IT3Engine
from kinds_of_network import hooked
from torch import Tensor, nn

close = partial(torch.testing.assert_close, rtol=1e-10, atol=1e-10)
STEPS, LR = 3, 1e-2
WAYS = {
    "cut": "cut at the layer, exported by torch.export",
    "whole": "run whole, with a hook on the layer",
    "script": "cut at the layer, a TorchScript module",
    "trace": "cut at the layer, a TorchScript module",
    "program": "cut at the layer, exported by torch.export",
}


class Pixels(nn.Module):
    """Images of 2 + 3 channels to 3 scores a pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(5, 6, 3, padding=1)
        self.last = nn.Conv2d(6, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x).tanh())


class Graph(nn.Module):
    """Nodes of 4 + 2 features, whose neighbours are averaged, to 2 numbers a node."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 8)
        self.last = nn.Linear(8, 2)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        h = self.first(x).tanh()
        h = h + torch.zeros_like(h).index_add(0, edges[1], h[edges[0]]) / 3
        return self.last(h)


class Tokens(nn.Module):
    """Sequences of vectors of 4 + 2 numbers to 2 numbers each."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 8)
        self.last = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x).tanh()
        return self.last(h - h.mean(1, keepdim=True))


@dataclass
class Case:
    model: nn.Module
    inputs: Any  # the first tensor is fed
    target: Tensor
    channels: int
    dim: int = 1

    def feed(self, x: Tensor, y: Tensor) -> Tensor:
        """What the model sees of its input and a signal."""
        y = y.reshape(*y.shape, *[1] * (x.dim() - y.dim())).expand(
            *[
                n if d == self.dim % x.dim() else x.shape[d]
                for d, n in enumerate([*y.shape, *[1] * (x.dim() - y.dim())])
            ]
        )
        return torch.cat([x, y], self.dim)

    def call(self, model: nn.Module, y: Tensor) -> Tensor:
        if isinstance(self.inputs, tuple):
            return model(self.feed(self.inputs[0], y), *self.inputs[1:])
        return model(self.feed(self.inputs, y))


def table() -> Case:
    model = nn.Sequential(nn.Linear(7, 8), nn.Tanh(), nn.Linear(8, 2))
    return Case(model, torch.randn(5, 5), torch.randn(5, 2), 2)


def images() -> Case:
    model = nn.Sequential(nn.Conv2d(5, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))
    model.train()(torch.randn(64, 5, 6, 6))  # statistics of its own
    return Case(model, torch.randn(4, 2, 6, 6), torch.randn(4, 3), 3)


def pixels() -> Case:
    return Case(Pixels(), torch.randn(3, 2, 5, 4), torch.randn(3, 3, 5, 4), 3)


def graph() -> Case:
    return Case(Graph(), (torch.randn(6, 4), torch.randint(6, (2, 9))), torch.randn(6, 2), 2)


def tokens() -> Case:
    return Case(Tokens(), torch.randn(3, 4, 4), torch.randn(3, 4, 2), 2, dim=-1)


CASES = [table, images, pixels, graph, tokens]


def engine_of(case: Case, way: str, **arguments: Any) -> IT3Engine:
    """Make an engine around a copy of a case's model, to be run in one way."""
    model: Any = copy.deepcopy(case.model).eval()
    inputs = case.inputs if isinstance(case.inputs, tuple) else (case.inputs,)
    wide = (case.feed(inputs[0], case.target), *inputs[1:])
    if way == "whole":
        model = hooked(model)
    elif way == "script":
        model = torch.jit.script(model)
    elif way == "trace":
        model = torch.jit.trace(model, wide)
    elif way == "program":
        model = torch.export.export(model, wide)
    options = {"num_steps": STEPS, "lr": LR}
    layout = None if case.dim == 1 else it3.Layout(channel_dim=case.dim)
    return IT3Engine(
        model,
        "input",
        extra_channels=case.channels,
        features_layout=layout,
        optimization_parameters=options,
        **arguments,
    ).eval()


def expected(case: Case, neutral: float | None = None, anchor: str = "self") -> tuple[Tensor, Tensor, list[float]]:
    """Adapt as the formula says, and return y0, y1 and the losses."""
    model = copy.deepcopy(case.model).eval()
    start = copy.deepcopy(model)
    nothing = torch.full_like(case.target, 0.0 if neutral is None else neutral)
    optimizer = torch.optim.Adam(model.parameters(), lr=LR)
    losses = []
    for _ in range(STEPS):
        y0 = case.call(model, nothing)
        y1 = case.call(model if anchor == "self" else start, y0)
        loss = F.mse_loss(y1, y0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    with torch.no_grad():
        y0 = case.call(model, nothing)
        return y0, case.call(model, y0), losses
