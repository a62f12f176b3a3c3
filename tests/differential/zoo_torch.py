"""The zoo's models of torch's own layers, and graph networks."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from differential import zoo_models as own


@dataclass
class Animal:
    """A model, inputs in float64 and a layer; where they are not the usual ones, where channels and output are.

    `in_dims` are the inputs' for `per_sample`; None where samples cannot be told apart, such as the nodes of a graph.
    `refused` is what it3 has to say of the model, a regular expression; empty where it adapts.
    """

    name: str
    model: Callable[[], nn.Module]
    inputs: Callable[[], Any]
    layer: str = ""
    channel: int = 0
    prediction_channel: int = 0
    output: tuple[Any, ...] | None = None
    in_dims: Any = None
    samples: int = 2
    is_fast: bool = False
    refused: str = ""


def floats(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def tokens(*shape: int, most: int = 9) -> Tensor:
    return torch.randint(1, most, shape, generator=torch.Generator().manual_seed(2))


def of_torch() -> list[Animal]:
    """torch's own layers, and graph networks."""
    series, image = lambda: floats(2, 5, 3), lambda: floats(2, 3, 8, 8)
    edges = torch.tensor([[0, 1, 2, 3, 4, 0], [1, 2, 3, 4, 0, 2]])
    adjacency = (torch.eye(4) + torch.diag(torch.ones(3), 1)).double().expand(2, 4, 4).clone()
    padding = torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
    several = (0, 0)
    made = [
        Animal("lstm", lambda: own.Recurrent(nn.LSTM), series, "embed", in_dims=0),
        Animal("lstm-out", lambda: own.Recurrent(nn.LSTM), series, "rnn", in_dims=0),
        Animal("gru-bidirectional", lambda: own.Recurrent(nn.GRU, True), series, "norm", in_dims=0),
        Animal("rnn", lambda: own.Recurrent(nn.RNN), series, "rnn", in_dims=0),
        Animal("gru-cell", own.CellByCell, series, "inlet", in_dims=0),
        Animal("encoder-mask", own.MaskedEncoder, lambda: (series(), padding), "encoder.layers.0", in_dims=several),
        Animal(
            "encoder-mask-inside",
            own.MaskedEncoder,
            lambda: (series(), padding),
            "encoder.layers.1.linear1",
            in_dims=several,
        ),
        Animal(
            "transformer", own.Translator, lambda: (tokens(2, 5), tokens(2, 4)), "transformer.encoder", in_dims=several
        ),
        Animal("unet", own.UNet, lambda: floats(2, 1, 8, 8), "down2", in_dims=0),
        Animal("pixel-shuffle", own.SuperResolution, image, "body", in_dims=0),
        Animal("volume", own.Volume, lambda: floats(2, 1, 4, 5, 6), "conv", in_dims=0),
        Animal("tcn-weight-norm", own.DilatedCausal, lambda: floats(2, 2, 7), "first", 1, in_dims=0),
        Animal("bag-of-words", own.BagOfWords, lambda: tokens(2, 6), "hidden", in_dims=0),
        Animal(
            "two-towers",
            own.TwoTowers,
            lambda: {"a": floats(2, 4), "b": floats(2, 3)},
            "left",
            in_dims={"a": 0, "b": 0},
        ),
        Animal("experts", own.Experts, lambda: floats(2, 4), "inlet", in_dims=0),
        Animal("fourier-operator", own.Spectral, lambda: floats(2, 2, 8), "lift", 1, 1, in_dims=0),
        Animal("variational", own.Variational, lambda: floats(2, 6), "encoder", in_dims=0),
        Animal("deep-set", own.DeepSet, series, "each", in_dims=0),
        Animal(
            "graph-convolution",
            lambda: own.DenseGraph(False),
            lambda: (floats(2, 4, 3), adjacency),
            "first",
            in_dims=several,
        ),
        Animal(
            "graph-attention",
            lambda: own.DenseGraph(True),
            lambda: (floats(2, 4, 3), adjacency),
            "first",
            in_dims=several,
        ),
        Animal("message-passing", own.EdgeList, lambda: (floats(5, 3), edges, floats(6, 1)), "update"),
        Animal("graph-isomorphism", own.Isomorphism, lambda: {"x": floats(5, 3), "edge_index": edges}, "mlp.0"),
        Animal(
            "tabular",
            own.Tabular,
            lambda: {"numbers": floats(3, 4), "categories": tokens(3, 2, most=4)},
            "body.0",
            in_dims={"numbers": 0, "categories": 0},
            samples=3,
        ),
    ]
    for animal in made:
        animal.is_fast = True
    return made
