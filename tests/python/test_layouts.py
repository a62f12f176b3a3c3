"""Where features and predictions have their channels and samples: told by the layers, checked by passes."""

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from it3 import Embedder, IT3Engine, Layout
from torch import Tensor, nn


def dims(engine: IT3Engine, inputs: object, features_rank: int, prediction_rank: int) -> tuple[int, int, int, int]:
    """Return the dimensions of the features' channels and samples, and of the prediction's, after a call."""
    engine.uncertainty(inputs)
    found = []
    ranks = ((engine.features_layout, features_rank), (engine.prediction_layout, prediction_rank))
    for layout, rank in ranks:
        channel = layout.channel_dim
        if channel is None:  # of tensors without places
            assert rank < 3
            channel = -1
        found += [channel % rank, layout.batch_dim if rank > 2 else 0]
    return tuple(found)


class Apply(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor], *modules: nn.Module):
        super().__init__()
        self.function = function
        self.parts = nn.Sequential(*modules)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.parts(x))


class LayerNorm2d(nn.LayerNorm):
    """As in torchvision and timm: of the channels of images."""

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x.permute(0, 2, 3, 1), self.normalized_shape, self.weight, self.bias).permute(0, 3, 1, 2)


class Permute(nn.Module):
    def __init__(self, *order: int):
        super().__init__()
        self.order = order

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(self.order)


class ConvNeXtBlock(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.block = nn.Sequential(
            nn.Conv2d(channels, channels, 7, padding=3, groups=channels),
            Permute(0, 2, 3, 1),
            nn.LayerNorm(channels),
            nn.Linear(channels, 4 * channels),
            nn.GELU(),
            nn.Linear(4 * channels, channels),
            Permute(0, 3, 1, 2),
        )
        self.layer_scale = nn.Parameter(torch.ones(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layer_scale * self.block(x)


def convnext(channels: int) -> nn.Sequential:
    stem = nn.Sequential(nn.Conv2d(3, channels, 4, 4), LayerNorm2d(channels))
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), LayerNorm2d(channels), nn.Flatten(), nn.Linear(channels, 5))
    return nn.Sequential(stem, nn.Sequential(ConvNeXtBlock(channels), ConvNeXtBlock(channels)), head)


@pytest.mark.parametrize("layer", ["0", "0.1", "1", "1.0", "1.0.block", "1.0.block.6", "1.0.block.5"])
@pytest.mark.parametrize(("channels", "size"), [(4, 24), (6, 24), (24, 24)])  # channels, places: 4, 6; 6, 6; 24, 6
def test_convnext(layer: str, channels: int, size: int) -> None:
    engine = IT3Engine(convnext(channels), layer)
    channel = 3 if layer == "1.0.block.5" else 1
    assert dims(engine, torch.randn(2, 3, size, size), 4, 2) == (channel, 0, 1, 0)
    assert engine.embedder.weight1.shape == (channels, 5)


class SwinBlock(nn.Module):
    """Images with channels last; windows of 2 x 2."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.mlp = nn.Sequential(nn.Linear(channels, 2 * channels), nn.GELU(), nn.Linear(2 * channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        b, h, w, c = x.shape
        windows = self.norm(x).view(b, h // 2, 2, w // 2, 2, c).transpose(2, 3).reshape(-1, 4, c)
        q, k, v = self.qkv(windows).chunk(3, -1)
        y = F.scaled_dot_product_attention(q, k, v)
        y = y.view(b, h // 2, w // 2, 2, 2, c).transpose(2, 3).reshape(b, h, w, c)
        return x + self.mlp(x + y)


@pytest.mark.parametrize("size", [16, 32])
def test_swin(size: int) -> None:
    patches = nn.Sequential(nn.Conv2d(3, 8, 4, 4), Permute(0, 2, 3, 1), nn.LayerNorm(8))
    head = Apply(lambda x: x.mean((1, 2)), nn.LayerNorm(8), nn.Linear(8, 5))
    model = nn.Sequential(patches, SwinBlock(8), Permute(0, 3, 1, 2), nn.Identity(), Permute(0, 2, 3, 1), head)
    x = torch.randn(2, 3, size, size)
    for layer, channel in (("0", 3), ("1", 3), ("1.norm", 3), ("2", 1), ("3", 1), ("4", 3)):
        engine = IT3Engine(model, layer)
        assert dims(engine, x, 4, 2) == (channel, 0, 1, 0), layer
        assert engine.embedder.weight1.shape == (8, 5)


class GridAttention(nn.Module):
    """As in MaxViT: for images of one size, whose grid is made when the layer is."""

    def __init__(self, channels: int, size: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm = nn.LayerNorm(channels)
        self.proj = nn.Linear(channels, channels)
        self.mlp = nn.Linear(channels, channels)
        self.position = nn.Parameter(torch.randn(size * size, channels))
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        assert x.shape[2:] == (self.size, self.size)
        tokens = self.norm(self.conv(x).flatten(2).mT) + self.position
        tokens = tokens + self.proj(F.scaled_dot_product_attention(tokens, tokens, tokens))
        return self.mlp(tokens).mT.unflatten(2, (self.size, self.size))


def test_maxvit() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1), GridAttention(8, 6), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert dims(IT3Engine(model, "1"), torch.randn(2, 3, 6, 6), 4, 2) == (1, 0, 1, 0)
    assert dims(IT3Engine(model, "1.norm"), torch.randn(2, 3, 6, 6), 3, 2) == (2, 0, 1, 0)


class MixerBlock(nn.Module):
    def __init__(self, tokens: int, channels: int):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.mix = Apply(lambda x: x.mT, Permute(0, 2, 1), nn.Linear(tokens, 7), nn.GELU(), nn.Linear(7, tokens))
        self.mlp = nn.Sequential(nn.Linear(channels, 9), nn.GELU(), nn.Linear(9, channels))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.mix(self.norm1(x))
        return x + self.mlp(self.norm2(x))


def test_mixer() -> None:
    model = nn.Sequential(nn.Linear(3, 8), MixerBlock(6, 8), nn.Linear(8, 4))
    x = torch.randn(2, 6, 3)
    assert dims(IT3Engine(model, "1"), x, 3, 3) == (2, 0, 2, 0)
    assert dims(IT3Engine(model, "1.mlp"), x, 3, 3) == (2, 0, 2, 0)
    # Both tokens and channels are as many as some layer says, and neither number can change.
    with pytest.raises(ValueError, match=r"features of layer '1.mix', shape \[2, 6, 8\], holds the channels.*give fea"):
        IT3Engine(model, "1.mix").uncertainty(x)
    given = Embedder(features_layout=Layout(channel_dim=2))
    assert dims(IT3Engine(model, "1.mix", given), x, 3, 3) == (2, 0, 2, 0)


@pytest.mark.parametrize("length", [5, 8])
def test_convolutions_of_every_rank_and_what_is_made_of_them(length: int) -> None:
    for rank, conv in ((1, nn.Conv1d), (2, nn.Conv2d), (3, nn.Conv3d)):
        model = nn.Sequential(conv(2, 8, 1), nn.ReLU(), conv(8, 3, 1))
        assert dims(IT3Engine(model, "1"), torch.randn(4, 2, *[length] * rank), rank + 2, rank + 2) == (1, 0, 1, 0)
    # As many places as channels, and a transposition that no layer tells of.
    turned = Apply(lambda x: x.mT, nn.Conv1d(2, 8, 1))
    model = nn.Sequential(turned, nn.Linear(8, 3))
    assert dims(IT3Engine(model, "0"), torch.randn(4, 2, length), 3, 3) == (2, 0, 2, 0)
    model = Apply(lambda x: x.mT, nn.Linear(2, 8), nn.Linear(8, length))
    assert dims(IT3Engine(model, "parts.0"), torch.randn(4, length, 2), 3, 3) == (2, 0, 1, 0)


class Raw(nn.Module):
    """Layers of the user's own: no kind tells anything."""

    def __init__(self, channels: int):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, channels))

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x @ self.weight)


@pytest.mark.parametrize("shape", [(4, 5, 3), (4, 8, 3), (2, 5, 6, 3), (8, 8, 8, 3), (1, 4, 4, 3)], ids=str)
def test_channels_last_without_a_known_layer(shape: tuple[int, ...]) -> None:
    model = nn.Sequential(Raw(8), Apply(lambda x: x[..., :2] * 2), nn.Identity())
    rank = len(shape)
    assert dims(IT3Engine(model, "0"), torch.randn(shape), rank, rank) == (rank - 1, 0, rank - 1, 0)


def test_layers_registered_in_another_order() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(6, 4)
            self.body = nn.Linear(3, 6)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(torch.tanh(self.body(x))).mT  # (B, 4, T)

    for length in (4, 5, 6):
        assert dims(IT3Engine(Model(), "body"), torch.randn(2, length, 3), 3, 3) == (2, 0, 1, 0)


class Recurrent(nn.Module):
    def __init__(self, batch_first: bool, given: bool, back: bool):
        super().__init__()
        self.rnn = nn.LSTM(4, 8, batch_first=batch_first)
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, 2)
        self.given, self.back = given, back

    def forward(self, x: Tensor) -> Tensor:
        h = self.rnn(x if self.given else x.transpose(0, 1))[0]
        y = self.head(self.norm(h))
        return y.transpose(0, 1) if self.back else y


@pytest.mark.parametrize("shape", [(6, 3, 4), (3, 6, 4), (3, 3, 4), (2, 1, 4), (1, 2, 4)], ids=str)
def test_samples_of_recurrent_layers(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape)
    assert dims(IT3Engine(Recurrent(False, True, False), "rnn"), x, 3, 3) == (2, 1, 2, 1)
    assert dims(IT3Engine(Recurrent(False, True, False), "norm"), x, 3, 3) == (2, 1, 2, 1)
    assert dims(IT3Engine(Recurrent(False, True, True), "rnn"), x, 3, 3) == (2, 1, 2, 0)
    assert dims(IT3Engine(Recurrent(False, False, False), "norm"), x, 3, 3) == (2, 1, 2, 1)
    assert dims(IT3Engine(Recurrent(False, False, True), "rnn"), x, 3, 3) == (2, 1, 2, 0)
    assert dims(IT3Engine(Recurrent(True, True, False), "rnn"), x, 3, 3) == (2, 0, 2, 0)
    assert dims(IT3Engine(Recurrent(True, True, True), "rnn"), x, 3, 3) == (2, 0, 2, 1)


@pytest.mark.parametrize("batch_first", [True, False])
def test_samples_of_attention(batch_first: bool) -> None:
    block = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=batch_first)
    model = nn.Sequential(block, nn.Linear(8, 3))
    batch = 0 if batch_first else 1
    for layer in ("0", "0.norm2", "0.linear2", "0.activation", "1"):
        if layer != "0.activation":
            assert dims(IT3Engine(model, layer), torch.randn(4, 5, 8), 3, 3) == (2, batch, 2, batch), layer


def test_samples_of_a_loop_over_cells() -> None:
    class Loop(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.head = nn.LSTMCell(4, 8), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            state, outputs = None, []
            for step in x:
                state = self.cell(step, state)
                outputs.append(state[0])
            return self.head(torch.stack(outputs))

    assert dims(IT3Engine(Loop(), "head"), torch.randn(6, 3, 4), 3, 3) == (2, 1, 2, 1)


def test_what_has_no_channels_is_an_error_that_tells_what_to_give() -> None:
    class Pairs(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Linear(3, 8)

        def forward(self, x: Tensor) -> Tensor:
            x = self.embed(x)
            return x @ x.mT

    x = torch.randn(2, 5, 3)
    engine = IT3Engine(Pairs(), "embed")
    for call in (engine.uncertainty, engine.adapt, engine.train(), engine.explain):
        with pytest.raises(ValueError, match=r"dimension of the prediction, shape \[2, 5, 5\].*prediction_layout=it3"):
            call(x)
    given = Embedder(prediction_layout=Layout(channel_dim=2))
    assert dims(IT3Engine(Pairs(), "embed", given), x, 3, 3) == (2, 0, 2, 0)
    own = IT3Engine(Pairs(), "embed", lambda y: y.mean((1, 2))[:, None, None])  # needs no layout
    own.uncertainty(x)


def test_given_layouts_are_checked() -> None:
    model = nn.Sequential(nn.Linear(3, 8), nn.Linear(8, 2))
    for layout, error, message in (
        (Layout(channel_dim=3), IndexError, r"has channel_dim=3 and .*'0', of shape .* only has the dimensions"),
        (Layout(channel_dim=-1, batch_dim=4), IndexError, r"batch_dim=4, but the features"),
        (Layout(channel_dim=0), ValueError, r"one dimension for both the channels and the samples of the features"),
    ):
        with pytest.raises(error, match=message):
            IT3Engine(model, "0", Embedder(features_layout=layout)).uncertainty(torch.randn(2, 5, 3))


@pytest.mark.parametrize("export", [torch.jit.script, lambda model: torch.jit.trace(model, torch.randn(2, 3, 24, 24))])
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_torchscript_as_eager(export: Callable[[nn.Module], nn.Module]) -> None:
    block = nn.Sequential(
        nn.Conv2d(6, 6, 1), nn.Flatten(2), nn.Unflatten(2, (6, 6)), nn.ReLU(), nn.Conv2d(6, 5, 1), nn.Softmax(1)
    )
    model = nn.Sequential(nn.Conv2d(3, 6, 4, 4), block)
    script = export(model.eval())
    for layer in ("0", "1.0", "1.2", "1.3", "1"):
        eager, exported = IT3Engine(model, layer), IT3Engine(script, layer)
        x = torch.randn(2, 3, 24, 24)
        assert dims(eager, x, 4, 4) == dims(exported, x, 4, 4) == (1, 0, 1, 0), layer


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_samples_of_torchscript() -> None:
    for batch_first, batch in ((True, 0), (False, 1)):
        model = torch.jit.script(Recurrent(batch_first, True, False))
        assert dims(IT3Engine(model, "norm"), torch.randn(5, 3, 4), 3, 3) == (2, batch, 2, batch)


def test_nobody_notices_the_passes() -> None:
    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.turn = nn.BatchNorm2d(3), Apply(lambda x: x.permute(0, 2, 3, 1), nn.Conv2d(3, 6, 1))
            self.head = nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = self.turn(self.norm(x.mul_(0.5) + torch.rand(())))
            return self.head(F.dropout(x, 0.5, self.training).mean((1, 2)))

    for is_training in (True, False):
        model = Noisy()
        model.turn.train(is_training)
        engine = IT3Engine(model, "turn").train(is_training)
        before = copy.deepcopy(model.state_dict())
        flags = [module.training for module in model.modules()]
        x = torch.randn(2, 3, 5, 5)
        values, state = x.clone(), torch.get_rng_state()
        engine._setup_for(x)
        assert engine.features_layout.channel_dim == -1
        assert torch.equal(x, values)
        assert torch.equal(torch.get_rng_state(), state)
        torch.testing.assert_close(dict(model.state_dict()), dict(before), rtol=0, atol=0)
        assert [module.training for module in model.modules()] == flags


def test_explain_tells() -> None:
    engine = IT3Engine(convnext(12), "1")
    explanation = engine.explain(torch.randn(4, 3, 40, 40))
    assert str(explanation.features) == "(4, 12, 10, 10), channels in dimension 1 (12), samples in dimension 0"
    assert str(explanation.prediction) == "(4, 5), channels in dimension 1 (5), samples in dimension 0"


def test_another_embedder_or_layer_is_settled_anew() -> None:
    model = nn.Sequential(nn.Conv2d(3, 6, 1), Permute(0, 2, 3, 1), nn.Linear(6, 5))
    x = torch.randn(2, 3, 4, 4)
    engine = IT3Engine(model, "0")
    assert dims(engine, x, 4, 4) == (1, 0, 3, 0)
    assert dims(pickle.loads(pickle.dumps(engine)), x, 4, 4) == (1, 0, 3, 0)
    engine.features_layer_name, engine.embedder = "1", Embedder()
    assert dims(engine, x, 4, 4) == (3, 0, 3, 0)
    engine.embedder = Embedder(features_layout=Layout(channel_dim=2))
    assert dims(engine, x, 4, 4) == (2, 0, 3, 0)


class TwoOpenDimensions(nn.Module):
    """(B, 4) to (B, 5, 7), by no layer that tells which of the two are the classes."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 8)
        self.p, self.q = nn.Parameter(torch.randn(2, 5)), nn.Parameter(torch.randn(4, 7))

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("bij,ik,jl->bkl", self.layer(x).tanh().view(-1, 2, 4), self.p, self.q)


@pytest.mark.parametrize("distance", ["kl", "cosine"])
@pytest.mark.parametrize("feedback", ["auto", "prediction"])
def test_distances_between_classes_need_them_whatever_is_fed_back(distance: str, feedback: str) -> None:
    embed = nn.Sequential(nn.Flatten(), nn.Linear(35, 8))
    engine = IT3Engine(TwoOpenDimensions(), "layer", embed, distance_fn=distance, feedback=feedback).eval()
    with pytest.raises(ValueError, match="it is not clear which dimension of the prediction"):
        engine.adapt(torch.randn(6, 4))


@pytest.mark.parametrize("change", ["distance_fn", "feedback", "learned"])
def test_classes_that_are_needed_later_are_asked_for(change: str) -> None:
    torch.manual_seed(0)
    engine = IT3Engine(TwoOpenDimensions(), "layer", lambda y: y.sum((1, 2))[:, None].expand(-1, 8)).eval()
    x = torch.randn(6, 4)
    engine.adapt(x)
    if change == "distance_fn":
        engine.distance_fn = "kl"
    elif change == "feedback":
        engine.feedback = "probabilities"
    else:
        engine.train()(x, target=torch.randint(0, 7, (6, 5)))
        engine.eval()
    with pytest.raises(ValueError, match="it is not clear which dimension of the prediction"):
        engine.adapt(x)
