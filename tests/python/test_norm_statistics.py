"""Batch normalization by the running statistics, those of the batch, or a blend of both."""

import copy
from functools import partial

import pytest
import reference
import torch
import torch.nn.functional as F
from it3 import IT3Engine
from kinds_of_network import NETWORKS, build, state_of
from models import VectorCNN, make_case
from torch import Tensor, nn

close = partial(torch.testing.assert_close, rtol=1e-10, atol=1e-10)
WAYS = [
    ({"norm_statistics": "batch"}, 0),
    ({"norm_statistics": "blend"}, 16),
    ({"norm_statistics": "blend", "norm_prior": 3}, 3),
]


def with_other_norm(model: VectorCNN, prior: float) -> VectorCNN:
    model = copy.copy(model)
    model._modules = {**model._modules, "norm": reference.OtherBatchNorm(model.norm, prior)}
    return model


@pytest.mark.parametrize("anchor", ["self", "frozen"])
@pytest.mark.parametrize(("options", "prior"), WAYS)
@pytest.mark.parametrize("network", NETWORKS)
def test_agrees_with_the_formula(network: str, options: dict, prior: float, anchor: str, device: str) -> None:
    case = make_case("cnn", device=device)
    engine, embed = build(case, network, optimization_parameters={**options, "anchor": anchor})
    before = state_of(case.model)
    other = with_other_norm(case.model, prior)
    for steps in (0, 3):
        expected, losses, _ = reference.adapt(other, case.layer, embed, case.inputs, num_steps=steps, anchor=anchor)
        adaptation = engine.adapt(case.inputs, num_steps=steps)
        close(adaptation.prediction, expected)
        close(adaptation.losses.tolist(), losses)
    with torch.no_grad():
        y0 = other(case.inputs)
        y1 = reference.second_prediction(other, case.layer, embed, reference.add, case.inputs, y0)
    close(engine.uncertainty(case.inputs), (y1 - y0).norm(dim=1))
    assert all(torch.equal(value, before[name]) for name, value in case.model.state_dict().items())
    assert not any(module.training for module in case.model.modules())


class Tabular(nn.Module):
    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.fc1, self.norm, self.drop, self.fc2 = nn.Linear(3, 6), norm, nn.Dropout(0.5), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.drop(torch.tanh(self.norm(self.fc1(x)))))


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize(("options", "prior"), WAYS)
def test_a_batch_of_one(network: str, options: dict, prior: float) -> None:
    """One value a channel has no variance: the running statistics count alone. A picture has enough values."""
    torch.manual_seed(0)
    model = Tabular(nn.BatchNorm1d(6)).double().eval()
    engine = IT3Engine(NETWORKS[network](model), "fc1", optimization_parameters=options).eval()
    x = torch.randn(1, 3, dtype=torch.float64)
    close(engine.adapt(x).prediction, engine.adapt(x, norm_statistics="running", norm_prior=None).prediction)
    case = make_case("cnn")
    engine, _ = build(case, network, optimization_parameters={"num_steps": 0, **options})
    close(engine(case.inputs[:1])[0], with_other_norm(case.model, prior)(case.inputs[:1]).detach())


@pytest.mark.parametrize("network", NETWORKS)
def test_dropout_stays_off(network: str) -> None:
    torch.manual_seed(0)
    model = Tabular(nn.BatchNorm1d(6)).double().eval()
    engine = IT3Engine(NETWORKS[network](model), "fc1", optimization_parameters={"norm_statistics": "batch"}).eval()
    x = torch.randn(5, 3, dtype=torch.float64)
    assert torch.equal(engine.adapt(x).prediction, engine.adapt(x).prediction)


class FusedBatchNorm(nn.BatchNorm1d):
    """Does more in its forward than to normalize, as the layers of some libraries do."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, self.training))


@pytest.mark.parametrize("norm", [nn.SyncBatchNorm, nn.LazyBatchNorm1d, FusedBatchNorm])
def test_layers_of_other_classes(norm: type[nn.Module]) -> None:
    torch.manual_seed(0)
    model = Tabular(norm() if norm is nn.LazyBatchNorm1d else norm(6)).eval()
    x = torch.randn(5, 3)
    model(x)
    engine = IT3Engine(model, "fc1", optimization_parameters={"num_steps": 0, "norm_statistics": "batch"}).eval()
    hidden = model.fc1(x)
    normal = (hidden - hidden.mean(0)) / (hidden.var(0, correction=0) + 1e-5).sqrt()
    if norm is FusedBatchNorm:
        normal = normal.relu()
    torch.testing.assert_close(engine(x)[0], model.fc2(normal.tanh()).detach())


@pytest.mark.parametrize("network", NETWORKS)
def test_channels_last_and_three_dimensions(network: str) -> None:
    torch.manual_seed(0)
    volume = nn.Sequential(nn.Conv3d(2, 4, 3), nn.BatchNorm3d(4), nn.Flatten(1), nn.LazyLinear(2)).eval()
    x = torch.randn(3, 2, 5, 5, 5)
    volume(x)
    for model, inputs in (
        (volume, x),
        (VectorCNN().eval(), torch.randn(4, 1, 8, 8).to(memory_format=torch.channels_last)),
    ):
        layer = "0" if model is volume else "conv1"
        engine = IT3Engine(NETWORKS[network](model), layer, optimization_parameters={"norm_statistics": "blend"}).eval()
        norm = next(m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm))
        values = (model[0] if model is volume else model.conv1)(inputs).detach()
        other = reference.OtherBatchNorm(norm, 16)
        handle = norm.register_forward_hook(lambda _, args, __, other=other: other(args[0]))
        expected = model(inputs).detach()
        handle.remove()
        torch.testing.assert_close(engine.adapt(inputs, num_steps=0).prediction, expected)
        assert values.dim() in (4, 5)


@pytest.mark.parametrize("network", NETWORKS)
def test_models_without_batch_normalization(network: str) -> None:
    case = make_case("residual")  # layer normalization
    engine, _ = build(case, network)
    for name in ("batch", "blend"):
        with pytest.raises(ValueError, match="no batch normalization with running statistics"):
            engine.adapt(case.inputs, norm_statistics=name)
