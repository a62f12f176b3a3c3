"""Models whose tensors share memory, were made in inference mode, or are adapted by several engines."""

import copy
import io
import pickle
from functools import partial
from pathlib import Path

import it3
import pytest
import torch
from it3 import IT3Engine
from it3.engine_siblings import with_settings
from kinds_of_network import NETWORKS, build, hooked, state_of
from models import make_case
from torch import Tensor, nn

close = partial(torch.testing.assert_close, rtol=1e-10, atol=1e-10)


class Shared(nn.Module):
    """y = tanh(layer(x w)) + x b, where b is another view of w, and two buffers that share memory."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(4, 4, dtype=torch.float64))
        self.layer = nn.Identity()
        self.register_buffer("b", self.w.detach().t())
        self.register_buffer("counts", torch.zeros(3, dtype=torch.float64))
        self.register_buffer("count", self.counts[1:2])

    def forward(self, x: Tensor) -> Tensor:
        self.counts.add_(1)
        return torch.tanh(self.layer(x @ self.w)) + x @ self.b + self.count


def embed(y: Tensor) -> Tensor:
    return 0.5 * y


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("anchor", ["self", "frozen"])
def test_buffers_over_a_parameters_memory_follow_it(optimizer: str, anchor: str) -> None:
    torch.manual_seed(0)
    model = hooked(Shared())
    options = {"optimizer_name": optimizer, "num_steps": 3, "lr": 0.05, "anchor": anchor}
    engine = IT3Engine(model, "layer", embed, distance_fn="mse", optimization_parameters=options).eval()
    x = torch.randn(5, 4, dtype=torch.float64)
    before = state_of(model)
    prediction, loss = engine(x)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.b.data_ptr() == model.w.data_ptr()

    # By the formula, in which both are one tensor, the buffer without gradients.
    w = before["w"].clone().requires_grad_()
    steps = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}[optimizer]([w], lr=0.05)
    passes = 0

    def predict(signal: Tensor | None, weight: Tensor, count: int) -> Tensor:
        features = x @ weight if signal is None else x @ weight + 0.5 * signal
        return features.tanh() + x @ weight.detach().t() + count

    for _ in range(3):
        y0 = predict(None, w, passes + 1)
        y1 = predict(y0, w if anchor == "self" else before["w"], passes + 2)
        passes += 2  # a working copy goes on with what its passes wrote
        expected_loss = nn.functional.mse_loss(y1, y0)
        steps.zero_grad()
        expected_loss.backward()
        steps.step()
    close(loss, expected_loss.detach())
    close(prediction, predict(None, w, passes + 1).detach())


class SharedInPart(nn.Module):
    """A row of the parameter, and its transpose, are buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(4, 4, dtype=torch.float64))
        self.layer = nn.Linear(4, 4, dtype=torch.float64)
        self.register_buffer("b", self.w.detach().t())
        self.register_buffer("row", self.w.detach()[1])

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.layer(x @ self.w)) + x @ self.b + self.row


@pytest.mark.parametrize("network", NETWORKS)
def test_copies_share_memory_as_the_model_does(network: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    x = torch.randn(5, 4, dtype=torch.float64)
    options = {"num_steps": 3, "lr": 0.05}
    engine = IT3Engine(NETWORKS[network](SharedInPart()), "layer", None, None, "mse", options).eval()
    adapted = engine.adapt(x)
    assert (adapted.prediction - engine.adapt(x, num_steps=0).prediction).abs().max() > 0.1

    state = adapted.state_dict()
    close(state["b"], state["w"].t())
    close(state["row"], state["w"][1])
    close(adapted.model()(x).detach(), adapted.prediction)
    method = "trace" if network == "hooks" else "script"
    adapted.save(tmp_path / "adapted.pt", x, method)
    close(torch.jit.load(tmp_path / "adapted.pt")(x).detach(), adapted.prediction)

    engine.save(tmp_path / "engine.pt", x, method)
    for _ in range(2):
        close(it3.load(tmp_path / "engine.pt").adapt(x).prediction, adapted.prediction)

    engine.optimization_parameters["copy_model"] = False
    close(with_settings(engine, {}).adapt(x).prediction, adapted.prediction)


def test_adapted_parameters_over_one_memory_are_named() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = nn.Parameter(model[0].weight.detach().t())
    engine = IT3Engine(hooked(model), "0").eval()
    with pytest.raises(ValueError, match=r"'0\.weight' and '1\.weight' share memory, so they cannot both adapt"):
        engine(torch.randn(3, 4))
    engine.adapt(torch.randn(3, 4), parameters=["0.weight"])


@pytest.mark.parametrize("network", ["hooks", "traced"])
def test_a_model_made_in_inference_mode(network: str, tmp_path: Path) -> None:
    with torch.inference_mode():
        model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 2)).eval()
        x = torch.randn(5, 4)
        expected = model(x)
    engine = IT3Engine(NETWORKS[network](model), "0").eval()
    assert torch.equal(engine.adapt(x, num_steps=0).prediction, expected)
    assert engine.uncertainty(x).shape == (5,)
    with pytest.raises(ValueError, match="created in inference mode"):
        engine.adapt(x, num_steps=1)
    assert all(p.requires_grad for p in model.parameters())
    if network == "traced":
        engine.save(tmp_path / "engine.pt", x)
        assert torch.equal(it3.load(tmp_path / "engine.pt").adapt(x, num_steps=0).prediction, expected)


@pytest.mark.parametrize("network", NETWORKS)
def test_engines_online_on_one_model_share_its_start(network: str) -> None:
    case = make_case("mlp")
    options = {"copy_model": False, "num_steps": 1}
    a, _ = build(case, network, optimization_parameters=options)
    b = IT3Engine(a.model, case.layer, a.embedder, optimization_parameters={**options, "parameters": ["0"]}).eval()
    start = state_of(case.model)

    def is_at_start() -> bool:
        return all(torch.equal(value, start[name]) for name, value in case.model.state_dict().items())

    first = a(case.inputs)[0]
    a.reset()
    for engines in [(a, b), (b, a)]:
        a(case.inputs)
        b(case.inputs)
        a(case.inputs)
        assert not is_at_start()
        assert a.drift().distance == b.drift().distance > 0
        for engine in engines:
            engine.reset()
            assert is_at_start()
            assert a.drift().distance == b.drift().distance == 0
    a(case.inputs)
    b.reset()
    assert torch.equal(a(case.inputs)[0], first)  # without the optimizer's memory


def test_a_deep_copy_is_a_model_of_its_own() -> None:
    case = make_case("mlp")
    engine, _ = build(case, "traced", optimization_parameters={"copy_model": False})
    start = state_of(case.model)
    engine(case.inputs)
    adapted = state_of(case.model)
    for twin in (copy.deepcopy(engine), pickle.loads(pickle.dumps(engine))):
        assert twin.drift().distance == engine.drift().distance
        twin.reset()
        assert all(torch.equal(value, start[name]) for name, value in twin.model.state_dict().items())
        assert all(torch.equal(value, adapted[name]) for name, value in case.model.state_dict().items())
    file = io.BytesIO()
    engine.reset()
    torch.save(engine, file)
    assert all(torch.equal(value, start[name]) for name, value in case.model.state_dict().items())
