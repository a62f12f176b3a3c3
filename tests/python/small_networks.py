"""A small network, inputs for it, and an embedder that has its shape."""

import torch
from it3 import Embedder
from torch import nn

X = torch.randn(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)).double().eval()


def shaped_embedder(seed: int = 0) -> Embedder:
    torch.manual_seed(seed)
    embedder = Embedder().double()
    embedder(torch.randn(5, 3).double(), torch.randn(5, 8).double())
    return embedder
