"""What is timed: networks, layers, batches and steps."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from networks import UNet, efficientnet_lite0, mlp, mnist_cnn, resnet20, transformer
from titles import title_of
from torch import nn


@dataclass
class Row:
    """One comparison."""

    name: str
    make_model: Callable[[], nn.Module]
    layer: str
    shape: tuple[int, ...]
    steps: tuple[int, ...] = (1, 3, 10)
    per_sample: bool = False

    @property
    def title(self) -> str:
        """The network, the batch and the layer."""
        return title_of(self.name, self.shape[0], self.layer, each_by_itself=self.per_sample)


def torchvision_model(name: str) -> Callable[[], nn.Module]:
    """Build a network of torchvision, with random weights."""

    def make() -> nn.Module:
        import torchvision  # noqa: PLC0415  (only for these rows)

        model: nn.Module = getattr(torchvision.models, name)()
        return model

    return make


CPU = (
    Row("MLP", mlp, "0", (1, 13)),
    Row("MLP", mlp, "0", (256, 13)),
    Row("MNIST CNN", mnist_cnn, "conv1", (1, 1, 28, 28)),
    Row("MNIST CNN", mnist_cnn, "fc2", (1, 1, 28, 28)),
    Row("MNIST CNN", mnist_cnn, "conv1", (256, 1, 28, 28)),
    Row("MNIST CNN", mnist_cnn, "fc2", (256, 1, 28, 28)),
    Row("ResNet-20", resnet20, "layer1", (1, 3, 32, 32)),
    Row("ResNet-20", resnet20, "layer2", (1, 3, 32, 32)),
    Row("ResNet-20", resnet20, "layer3.1", (1, 3, 32, 32)),
    Row("ResNet-20", resnet20, "layer1", (64, 3, 32, 32)),
    Row("ResNet-20", resnet20, "layer2", (64, 3, 32, 32)),
    Row("ResNet-20", resnet20, "layer3.1", (64, 3, 32, 32)),
    Row("U-Net 64²", UNet, "encoder1", (4, 3, 64, 64)),
    Row("Transformer, 32 tokens", transformer, "blocks.1", (16, 32, 8)),
    Row("EfficientNet-lite0", efficientnet_lite0, "blocks.8", (1, 3, 224, 224)),
    Row("EfficientNet-lite0", efficientnet_lite0, "blocks.8", (8, 3, 224, 224)),
    Row("MLP", mlp, "0", (256, 13), (3,), per_sample=True),
    Row("MNIST CNN", mnist_cnn, "conv1", (64, 1, 28, 28), (3,), per_sample=True),
    Row("MNIST CNN", mnist_cnn, "fc2", (64, 1, 28, 28), (3,), per_sample=True),
)

CUDA = (
    Row("MLP", mlp, "0", (1, 13), (1, 3)),
    Row("MNIST CNN", mnist_cnn, "conv1", (1, 1, 28, 28), (1, 3)),
    Row("MNIST CNN", mnist_cnn, "fc2", (1, 1, 28, 28), (1, 3)),
    Row("MNIST CNN", mnist_cnn, "conv1", (256, 1, 28, 28), (3,)),
    Row("ResNet-20", resnet20, "layer2", (64, 3, 32, 32), (3,)),
    Row("Transformer, 32 tokens", transformer, "blocks.1", (16, 32, 8), (3,)),
    Row("ResNet-18 224²", torchvision_model("resnet18"), "layer2", (1, 3, 224, 224), (1,)),
    Row("ResNet-18 224²", torchvision_model("resnet18"), "layer2", (64, 3, 224, 224), (1,)),
    Row("ResNet-50 224²", torchvision_model("resnet50"), "layer2", (64, 3, 224, 224), (1,)),
    Row("MLP", mlp, "0", (4096, 13), (3,), per_sample=True),
    Row("MNIST CNN", mnist_cnn, "conv1", (1024, 1, 28, 28), (3,), per_sample=True),
    Row("ResNet-18 64²", torchvision_model("resnet18"), "layer2", (64, 3, 64, 64), (3,), per_sample=True),
)

CUDA_VARIANTS: dict[str, dict[str, Any]] = {"no graph": {"cuda_graphs": "off"}, "bf16": {"amp": "bf16"}}
"""Options with which the eager engine is timed too."""
