"""The default embedder: for predictions and features of every rank, layout, resolution, device and dtype."""

import pytest
import torch
from it3 import _C, Embedder, IT3Engine, Layout
from models import make_case
from torch import Tensor, nn


class Tokens(nn.Module):
    def __init__(self, has_vector_output: bool):
        super().__init__()
        self.block = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.head = nn.Linear(8, 3)
        self.has_vector_output = has_vector_output

    def forward(self, x: Tensor) -> Tensor:
        x = self.block(x)
        return self.head(x.mean(1) if self.has_vector_output else x)


@pytest.mark.parametrize("has_vector_output", [True, False])
@pytest.mark.parametrize("layer", ["block", "block.linear1", "block.norm1", "block.dropout1"])
def test_channels_of_token_features_are_last(layer: str, has_vector_output: bool, device: str) -> None:
    torch.manual_seed(0)
    engine = IT3Engine(Tokens(has_vector_output).to(device), layer)
    inputs = torch.randn(4, 11, 8, device=device)
    engine.train()
    engine.model.block.self_attn.dropout = 0.0
    engine(inputs)[1].backward()
    assert engine.embedder.weight1.shape == (16 if layer == "block.linear1" else 8, 3)
    assert engine.embedder.weight1.grad.abs().sum() > 0


def test_groups_by_the_number_of_dimensions_are_the_same_before_and_after_the_first_call() -> None:
    """Weight decay is often left out for what has one dimension, by which biases are meant."""
    case = make_case("mlp")
    engine = IT3Engine(case.model, case.layer)

    def decayed() -> list[str]:
        return [name for name, parameter in engine.named_parameters() if parameter.dim() >= 2]

    before = decayed()
    assert {"embedder.weight1", "embedder.weight2"} <= set(before)
    engine.train()(case.inputs)
    assert decayed() == before
    engine.embedder.clear()
    assert decayed() == before


def test_weights_without_a_shape_can_be_initialized_and_read_from_older_states() -> None:
    embedder = Embedder()
    for parameter in embedder.parameters():
        if parameter.dim() > 1:
            nn.init.xavier_uniform_(parameter)
            nn.init.xavier_normal_(parameter)
    dims = [parameter.dim() for parameter in embedder.parameters()]
    embedder.load_state_dict(dict.fromkeys(embedder.state_dict(), torch.empty(0)))
    assert [parameter.dim() for parameter in embedder.parameters()] == dims
    assert not embedder.is_built


def test_a_forward_of_the_instance_is_called() -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)).double().eval(), torch.randn(5, 4).double()
    embedder = Embedder()
    engine = IT3Engine(model, "0", embedder).eval()
    engine.adapt(x)

    def doubled(prediction: Tensor, features: Tensor) -> Tensor:
        return 2 * Embedder.forward(embedder, prediction, features)

    expected = IT3Engine(model, "0", embedder, lambda f, e: f + 2 * e).eval().adapt(x).prediction
    embedder.forward = doubled
    torch.testing.assert_close(engine.adapt(x).prediction, expected, rtol=0, atol=1e-12)


def test_channel_dimension_can_be_given() -> None:
    class Unknown(nn.Module):
        def __init__(self):
            super().__init__()
            self.mix = nn.Conv1d(6, 6, 1)
            self.head = nn.Conv1d(6, 3, 1)

        def forward(self, x: Tensor) -> Tensor:  # (B, T, 6) -> (B, T, 3)
            return self.head(self.mix(x.mT)).mT

    layouts = {"prediction_layout": Layout(channel_dim=-1), "features_layout": Layout(channel_dim=1)}
    engine = IT3Engine(Unknown(), "mix", Embedder(**layouts))
    engine(torch.randn(2, 11, 6))
    assert engine.embedder.weight1.shape == (6, 3)
    with pytest.raises(ValueError, match=r"prediction of shape \[2, 11, 3\]"):
        engine(torch.randn(2, 11, 6), target=torch.randn(2, 3, 11))


def test_embedding_is_resized_to_features_of_another_resolution(device: str) -> None:
    for size in (8, 10, 17):
        model = nn.Sequential(
            nn.Conv2d(2, 6, 3, stride=2), nn.ReLU(), nn.Conv2d(6, 3, 1), nn.Upsample(size=(size, size))
        ).to(device)
        engine = IT3Engine(model, "0").eval()
        prediction, loss = engine(torch.randn(2, 2, size, size, device=device))
        assert prediction.shape == (2, 3, size, size)
        assert loss > 0


@pytest.mark.parametrize(
    ("prediction", "features"),
    [
        ((4,), (4, 6)),
        ((4,), (4, 6, 5, 5)),
        ((4, 3), (4,)),
        ((3,), (6,)),
        ((4, 3), (4, 7, 6)),
        ((4, 9, 3), (4, 7, 6)),
        ((4, 9, 3), (4, 6)),
        ((4, 3, 8, 8), (4, 6)),
        ((4, 3, 4, 6, 8), (4, 6, 2, 3, 4)),
        ((4, 3), (4, 6, 2, 3, 4)),
        ((1, 3), (7, 6)),
    ],
    ids=str,
)
def test_predictions_of_every_rank_are_embedded(prediction: tuple, features: tuple, device: str) -> None:
    p, f = torch.randn(prediction, device=device), torch.randn(features, device=device)
    embedder = Embedder()
    combined = _C.broadcast_add(f, embedder(p, f), Layout())
    assert combined.shape == f.shape
    assert not torch.equal(combined, f)


@pytest.mark.parametrize(
    ("prediction", "features"),
    [((4, 3, 8, 8), (4, 9, 6)), ((4, 9, 3), (4, 6, 5, 5)), ((2, 3), (4, 6)), ((2, 3, 8, 8), (4, 6, 8, 8))],
    ids=str,
)
def test_shapes_that_do_not_fit_are_both_named(prediction: tuple, features: tuple) -> None:
    with pytest.raises(ValueError, match=r"cannot bring") as error:
        Embedder()(torch.randn(prediction), torch.randn(features))
    assert str(list(prediction)) in str(error.value)
    assert str(list(features)) in str(error.value)


@pytest.mark.parametrize("kind", ["mlp", "segmentation"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_embedder_is_on_the_features_device_and_dtype(kind: str, dtype: torch.dtype, device: str) -> None:
    case = make_case(kind, dtype, device)
    engine = IT3Engine(case.model, case.layer)
    engine(case.inputs)
    for parameter in engine.embedder.parameters():
        assert parameter.device == case.inputs.device
        assert parameter.dtype == dtype
