"""TorchScript convolutions adapt in channels_last on the CPU; nobody can tell but by the time it takes."""

import pytest
import torch
from it3 import Embedder, IT3Engine
from torch import Tensor, nn


class ConvNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1, groups=2)
        self.fc = nn.Linear(8 * 36, 5)
        self.scale = nn.Parameter(torch.rand(1, 8, 6, 6))

    def features(self, x: Tensor) -> Tensor:
        return torch.tanh(self.conv2(torch.tanh(self.conv1(x)))) * self.scale


class Viewing(ConvNet):
    def forward(self, x: Tensor) -> Tensor:
        y = self.features(x)
        return self.fc(y.view(y.size(0), -1))


class WrittenView(ConvNet):
    def forward(self, x: Tensor) -> Tensor:
        y = self.features(x) * 1.0
        y.flatten(1).mul_(2)  # is seen in y
        return self.fc(y.reshape(y.size(0), -1))


class AskingForStrides(ConvNet):
    def forward(self, x: Tensor) -> Tensor:
        y = self.features(x)
        if not y.is_contiguous():
            y = y * 2
        return self.fc(y.flatten(1))


class Segmenting(ConvNet):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.ConvTranspose2d(8, 4, 2, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.features(x))


class UsedTwice(ConvNet):
    """The convolution's weight is read otherwise too."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.features(x)
        return self.fc(y.flatten(1)) + self.conv1.weight.view(-1).sum()


KINDS = [Viewing, WrittenView, AskingForStrides, Segmenting, UsedTwice]


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize(
    ("kind", "layout"),
    [(kind, torch.contiguous_format) for kind in KINDS]
    # The others cannot view such features themselves.
    + [(kind, torch.channels_last) for kind in (WrittenView, AskingForStrides, Segmenting)],
)
@pytest.mark.parametrize("layer", ["conv1", "conv2"])
@pytest.mark.parametrize("export", ["script", "trace"])
def test_adapts_as_the_eager_model(kind, layer: str, layout, export: str, device: str) -> None:
    torch.manual_seed(0)
    model = kind().double().eval().to(device)
    x = torch.randn(4, 3, 6, 6, dtype=torch.float64, device=device).to(memory_format=layout)
    eager = IT3Engine(model, layer, optimization_parameters={"num_steps": 3}).eval()
    eager.uncertainty(x)
    script = IT3Engine(torch.jit.script(model) if export == "script" else torch.jit.trace(model, x), layer).eval()
    script.load_state_dict(eager.state_dict())
    expected, actual = eager.adapt(x), script.adapt(x)
    for name in ("prediction", "second", "losses"):
        a, b = getattr(actual, name), getattr(expected, name)
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
        assert a.stride() == b.stride()
    torch.testing.assert_close(actual.state_dict(), expected.state_dict(), rtol=1e-9, atol=1e-9)


def test_functions_of_ones_own_get_what_they_are_written_for() -> None:
    torch.manual_seed(0)
    model = Viewing().double().eval()
    x = torch.randn(4, 3, 6, 6, dtype=torch.float64)

    def embed(prediction: Tensor) -> Tensor:
        return prediction.mean(1)

    def combine(features: Tensor, embedding: Tensor) -> Tensor:
        return (features.view(len(features), -1) * embedding.view(-1, 1)).view(features.shape)

    eager, script = (IT3Engine(m, "conv1", embed, combine).eval() for m in (model, torch.jit.script(model)))
    torch.testing.assert_close(script(x), eager(x), rtol=1e-9, atol=1e-9)


class ViewingEmbedder(Embedder):
    def forward(self, prediction: Tensor, features: Tensor) -> Tensor:
        return super().forward(prediction, features.view(len(features), -1).view(features.shape))


def test_embedders_of_ones_own_get_what_they_are_written_for() -> None:
    torch.manual_seed(0)
    model = Viewing().double().eval()
    x = torch.randn(4, 3, 6, 6, dtype=torch.float64)
    embedder = ViewingEmbedder()
    eager, script = (IT3Engine(m, "conv1", embedder).eval() for m in (model, torch.jit.script(model)))
    torch.testing.assert_close(script(x), eager(x), rtol=1e-9, atol=1e-9)


def test_weights_that_are_kept_stay_in_their_layout() -> None:
    torch.manual_seed(0)
    model = torch.jit.script(Viewing().eval())
    strides = {name: parameter.stride() for name, parameter in model.named_parameters()}
    IT3Engine(model, "conv1", optimization_parameters={"copy_model": False}).eval()(torch.randn(4, 3, 6, 6))
    assert {name: parameter.stride() for name, parameter in model.named_parameters()} == strides
