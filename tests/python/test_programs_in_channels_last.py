"""Compiled convolutions in channels_last, against engines that are not compiled."""

from pathlib import Path

import it3
import pytest
import torch
from compiled_engines import batch, check_alike, close, engines, make_engine, record
from it3.compiling.capture import Captured
from torch import Tensor, nn


class Shuffle(nn.Module):
    """Predicts images, whose channels it shuffles by views."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.last = nn.Conv2d(2, 6, 3, padding=1), nn.Conv2d(6, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        features = torch.relu_(self.layer(x))
        shuffled = features.view(-1, 2, 3, 6, 6).transpose(1, 2).reshape(-1, 6, 6, 6)
        return self.last(shuffled.view(-1, 6, 36).tanh().view(-1, 6, 6, 6))


class InTurn(Shuffle):
    """Gives one convolution what another one gives."""

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.tanh(self.layer(x)))


class WritesToView(Shuffle):
    """Writes to a view of what a convolution gives, which it then reads."""

    def forward(self, x: Tensor) -> Tensor:
        features = self.layer(x)
        rows = features.view(-1, 216)
        rows[:, ::2].mul_(2)
        return self.last(features)


class ReadsView(Shuffle):
    """Reads a view of what a convolution gives, which it has written to since."""

    def forward(self, x: Tensor) -> Tensor:
        features = self.layer(x)
        rows = features.flatten(1)
        features.relu_()
        return self.last(features) * rows.mean(1)[:, None, None, None]


class WritesToCopy(Shuffle):
    """Writes to a copy of what a convolution gives, which would be a view in channels_last."""

    def forward(self, x: Tensor) -> Tensor:
        features = self.layer(x)
        rows = features.permute(0, 2, 3, 1).reshape(-1, 216).relu_()
        return self.last(features) * rows.mean(1)[:, None, None, None]


class WritesBehind(Shuffle):
    """Writes, behind its layer, to what it has a view of from before."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.first(x)
        rows = hidden.flatten(1)
        features = self.layer(x)
        hidden.add_(features.mean())
        return self.last(features) * (rows.mean(1)[:, None, None, None] + hidden.mean())


class ViewedBefore(Shuffle):
    """Has a view of what a convolution gives before its layer, and writes to something else behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        rows = self.first(x).flatten(1)
        features = torch.relu_(self.layer(rows.view(-1, 2, 6, 6)))
        return self.last(features) * rows.mean(1)[:, None, None, None]


class Complex(Shuffle):
    """Takes channels for complex numbers, which have to lie beside one another."""

    def forward(self, x: Tensor) -> Tensor:
        features = torch.tanh(self.layer(x)).permute(0, 2, 3, 1).contiguous()
        numbers = torch.view_as_complex(features.view(-1, 6, 6, 3, 2))
        return self.last(torch.view_as_real(numbers).sin().flatten(-2).permute(0, 3, 1, 2))


class ComplexBefore(Complex):
    """The same before the layer, where it is moved out of the steps."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        numbers = torch.view_as_complex(self.first(x).permute(0, 2, 3, 1).contiguous())
        return self.last(torch.tanh(self.layer(x)) * torch.view_as_real(numbers).prod(-1).unsqueeze(1))


class Strided(Shuffle):
    """Names strides."""

    def forward(self, x: Tensor) -> Tensor:
        features = self.layer(x)
        return self.last(features.as_strided(features.shape, (216, 36, 1, 6)).tanh())


def add_in_rows(features: Tensor, embedding: Tensor) -> Tensor:
    return (features.view(features.shape[0], -1) + embedding.flatten(1).mean(1, keepdim=True).sin()).view(
        features.shape
    )


def are_in_channels_last(captured: Captured) -> list[bool]:
    """Return which of the model's convolutions give their output so; the embedder's have kernels of one pixel."""
    graph = captured.functions["gradients"].graph.graph
    nodes = graph.find_nodes(op="call_function", target=torch.ops.aten.convolution.default)
    own = [node.meta["val"] for node in nodes if node.args[1].meta["val"].shape[-1] == 3]
    assert own
    return [each.is_contiguous(memory_format=torch.channels_last) for each in own]


def test_views(cache: Path, made: list[Captured]) -> None:
    x = batch(1, 2, 6, 6)
    engine, plain = engines(cache, x, Shuffle, {"combine_fn": add_in_rows})
    check_alike(engine, plain, x, batch(1, 2, 6, 6, seed=1))
    close(engine(x)[0].view(-1), plain(x)[0].view(-1))  # as it is in the usual layout
    assert all(are_in_channels_last(made[0]))


def test_a_view_from_before_the_layer_that_stays_as_it_is(cache: Path, made: list[Captured]) -> None:
    x = batch(1, 2, 6, 6)
    engine, plain = engines(cache, x, ViewedBefore, {"prediction_layout": it3.Layout(channel_dim=1)})
    check_alike(engine, plain, x, 5 * batch(1, 2, 6, 6, seed=1))
    assert any(are_in_channels_last(made[0]))


@pytest.mark.parametrize(
    ("model", "in_channels_last"),
    [
        (Shuffle, True),
        (InTurn, True),
        (WritesToView, False),
        (ReadsView, False),
        (WritesToCopy, False),
        (Strided, False),
        (Complex, False),
        (ComplexBefore, False),
    ],
)
def test_where_the_layout_decides(model: type[nn.Module], in_channels_last: bool) -> None:
    engine, x = make_engine(model), 5 * batch(1, 2, 6, 6, seed=1)
    captured = record(engine, x)
    assert all(are_in_channels_last(captured)) == in_channels_last

    def evaluate(name: str) -> tuple[Tensor, ...]:
        function = captured.functions[name]
        return function.graph(*(captured.values[place] for place in function.values))

    loss, prediction, *gradients = evaluate("gradients")
    expected = engine.adapt(x, num_steps=0)
    for first in (prediction, *evaluate("first")):
        close(first, expected.first)
    close(evaluate("both"), (expected.first, expected.second))
    adaptation = engine.adapt(x, num_steps=1, optimizer_name="sgd", lr=1.0)  # which takes gradients off the weights
    close(loss, adaptation.losses[0])
    adapted = adaptation.state_dict()
    close(gradients, [p.detach() - adapted[name] for name, p in engine.model.named_parameters()])


def test_batches_of_any_size(cache: Path) -> None:
    engine, plain = engines(cache, batch(4, 2, 6, 6), Shuffle)
    check_alike(engine, plain, *(batch(samples, 2, 6, 6, seed=1) for samples in (4, 7, 1)))


def test_a_view_from_before_the_layer_that_is_written_behind(cache: Path) -> None:
    with pytest.raises(ValueError, match="shares memory"):
        engines(cache, batch(4, 2, 6, 6), WritesBehind)
