"""The kinds of model that the tests adapt, small ones, with the layer to inject at and inputs for them."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


class VectorCNN(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.conv2 = nn.Conv2d(4, 6, 3, stride=2)
        self.fc = nn.Linear(6 * 3 * 3, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.norm(self.conv1(x)))
        x = torch.tanh(self.conv2(x))
        return self.fc(x.flatten(1))


class SegmentationCNN(nn.Module):
    """Predicts at 8 x 8; its encoder has features at 4 x 4."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Conv2d(2, 6, 3, stride=2, padding=1)
        self.decoder = nn.ConvTranspose2d(6, 3, 2, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(torch.tanh(self.encoder(x)))


class ResidualNet(nn.Module):
    """A skip connection crosses the layer."""

    def __init__(self):
        super().__init__()
        self.fc1 = nn.Linear(6, 10)
        self.fc2 = nn.Linear(10, 10)
        self.norm = nn.LayerNorm(10)
        self.fc3 = nn.Linear(10, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.fc1(x))
        return self.fc3(torch.tanh(self.norm(self.fc2(x) + x)))


class BranchesOnValues(nn.Module):
    """Cannot be vectorized over samples, nor recorded on a device."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer(x)
        if bool(x.sum() > 0):
            x = -x
        return self.head(torch.tanh(x))


@dataclass
class Case:
    model: nn.Module
    layer: str
    inputs: Tensor
    target: Tensor

    def to(self, *args: Any) -> "Case":
        return Case(self.model.to(*args), self.layer, self.inputs.to(*args), self.target.to(*args))


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3))


KINDS = ("mlp", "cnn", "segmentation", "residual")


def make_case(kind: str, dtype: torch.dtype = torch.float64, device: str = "cpu", seed: int = 0) -> Case:
    torch.manual_seed(seed)
    if kind == "mlp":
        case = Case(mlp(), "0", torch.randn(7, 6), torch.randn(7, 3))
    elif kind == "cnn":
        case = Case(VectorCNN(), "conv1", torch.randn(5, 1, 8, 8), torch.randn(5, 5))
    elif kind == "segmentation":
        case = Case(SegmentationCNN(), "encoder", torch.randn(3, 2, 8, 8), torch.randn(3, 3, 8, 8))
    else:
        case = Case(ResidualNet(), "fc2", torch.randn(7, 6), torch.randn(7, 2))
    for buffer in case.model.buffers():  # running statistics that make a difference
        if buffer.is_floating_point():
            buffer.uniform_(0.5, 1.5)
    return case.to(device, dtype)
