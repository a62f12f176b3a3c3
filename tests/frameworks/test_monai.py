"""Adapting by MONAI's sliding windows, beside loops over windows written out by hand."""

import copy
from collections.abc import Callable

import it3
import pytest
import torch
from it3.frameworks.monai import AdaptingInferer
from monai.data import MetaTensor
from monai.inferers import SimpleInferer, SlidingWindowInferer
from monai.networks.nets import UNet
from torch import Tensor, nn
from torch.nn import functional as F

OPTIONS = {"num_steps": 2, "lr": 1e-2}
STARTS = (0, 4, 8)
"""Of windows of 8 that overlap by half, in 16."""
WINDOWS = SlidingWindowInferer((8, 8, 8), sw_batch_size=2, overlap=0.5)


@pytest.fixture(scope="module")
def trained() -> it3.IT3Engine:
    torch.manual_seed(0)
    network = UNet(spatial_dims=3, in_channels=1, out_channels=2, channels=(4, 8), strides=(2,), norm="batch").double()
    engine = it3.IT3Engine(network, "model.0", distance_fn="js", optimization_parameters=OPTIONS)
    volumes = torch.randn(4, 1, 8, 8, 8).double()
    engine.fit([(volumes, (volumes[:, 0] > 0).long())] * 3, F.cross_entropy)
    return engine.eval()


@pytest.fixture
def engine(trained: it3.IT3Engine) -> it3.IT3Engine:
    return copy.deepcopy(trained)


@pytest.fixture
def volume() -> Tensor:
    torch.manual_seed(1)
    return torch.randn(1, 1, 16, 8, 8).double()


def stitched(volume: Tensor, predict: Callable[[list[Tensor]], list[Tensor]]) -> Tensor:
    """Predict the three windows of a volume, and take the mean where they overlap."""
    total, count = torch.zeros(1, 2, 16, 8, 8).double(), torch.zeros(16, 1, 1)
    predictions = predict([volume[:, :, start : start + 8] for start in STARTS])
    for start, prediction in zip(STARTS, predictions, strict=True):
        total[:, :, start : start + 8] += prediction
        count[start : start + 8] += 1
    return total / count


def each_alone(engine: it3.IT3Engine) -> Callable[[list[Tensor]], list[Tensor]]:
    return lambda windows: [engine.adapt(window).prediction for window in windows]


def two_at_a_time(engine: it3.IT3Engine) -> Callable[[list[Tensor]], list[Tensor]]:
    def predict(windows: list[Tensor]) -> list[Tensor]:
        first, second, third = windows
        together = engine.adapt(torch.cat([first, second])).prediction
        return [together[:1], together[1:], engine.adapt(third).prediction]

    return predict


def as_a_volume(engine: it3.IT3Engine) -> Callable[[list[Tensor]], list[Tensor]]:
    """Adapt by torch's Adam to two windows and to the third, and predict with the network that comes of it."""

    def predict(windows: list[Tensor]) -> list[Tensor]:
        other = copy.deepcopy(engine)
        network: nn.Module = other.model
        optimizer = torch.optim.Adam(network.parameters(), lr=OPTIONS["lr"])
        for batch in (torch.cat(windows[:2]), windows[2]):
            for _ in range(OPTIONS["num_steps"]):
                loss = loss_of(other, batch)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        return [network(window).detach() for window in windows]

    return predict


def loss_of(engine: it3.IT3Engine, x: Tensor) -> Tensor:
    """The Jensen-Shannon divergence of the two predictions, softmax(y0) being fed back at the first layer."""
    y0 = engine.model(x)
    e = engine.embedder
    hidden = F.leaky_relu(F.conv3d(y0.softmax(1), e.weight1[:, :, None, None, None], e.bias1))
    embedding = F.leaky_relu(F.conv3d(hidden, e.weight2[:, :, None, None, None], e.bias2))
    layer = engine.model.get_submodule("model.0")
    handle = layer.register_forward_hook(lambda _m, _i, h: h + F.adaptive_avg_pool3d(embedding, h.shape[2:]))
    y1 = engine.model(x)
    handle.remove()
    p, q = y1.log_softmax(1), y0.log_softmax(1)
    middle = ((p.exp() + q.exp()) / 2).log()
    return ((p.exp() * (p - middle)).sum(1) + (q.exp() * (q - middle)).sum(1)).mean() / 2


BY_HAND = {"window": each_alone, "batch": two_at_a_time, "volume": as_a_volume}


@pytest.mark.parametrize("adapt_to", BY_HAND)
def test_agrees_with_a_loop_by_hand(adapt_to: str, engine: it3.IT3Engine, volume: Tensor) -> None:
    before = copy.deepcopy(engine.state_dict())
    expected = stitched(volume, BY_HAND[adapt_to](engine))
    actual = AdaptingInferer(WINDOWS, adapt_to)(volume, engine)
    torch.testing.assert_close(actual, expected, rtol=1e-6, atol=1e-8)
    plain = WINDOWS(volume, engine.model).detach()
    assert (expected - plain).abs().max() > 1e-3
    assert all(
        torch.equal(value, before[name]) for name, value in engine.state_dict().items() if torch.is_tensor(value)
    )


def test_the_scopes_differ(engine: it3.IT3Engine, volume: Tensor) -> None:
    window, batch, whole = (AdaptingInferer(WINDOWS, scope)(volume, engine) for scope in BY_HAND)
    for one, other in ((window, batch), (window, whole), (batch, whole)):
        assert (one - other).abs().max() > 1e-4


def test_no_steps_are_the_inferer_of_monai(engine: it3.IT3Engine, volume: Tensor) -> None:
    for scope in BY_HAND:
        actual = AdaptingInferer(WINDOWS, scope, num_steps=0)(volume, engine)
        torch.testing.assert_close(actual, WINDOWS(volume, engine.model).detach())


def test_volumes_of_a_call_do_not_see_one_another(engine: it3.IT3Engine, volume: Tensor) -> None:
    inferer = AdaptingInferer(WINDOWS, "volume")
    two = torch.cat([volume, volume + 1])
    with torch.no_grad():
        together = inferer(two, engine)
    torch.testing.assert_close(together, torch.cat([inferer(each, engine) for each in two.split(1)]))


def test_meta_tensors_keep_what_they_know(engine: it3.IT3Engine, volume: Tensor) -> None:
    affine = torch.diag(torch.tensor([2.0, 2, 3, 1])).double()
    for scope in BY_HAND:
        inferer = AdaptingInferer(WINDOWS, scope)
        predicted = inferer(MetaTensor(volume, affine=affine), engine)
        assert torch.equal(predicted.affine, affine)
        torch.testing.assert_close(predicted.as_tensor(), inferer(volume, engine).float())  # which MONAI makes of it


def test_other_inferers_and_options(engine: it3.IT3Engine, volume: Tensor) -> None:
    options = {"anchor": "frozen", "optimizer_name": "sgd", "lr": 0.1}
    predicted = AdaptingInferer(SimpleInferer(), "volume", **options)(volume, engine)
    torch.testing.assert_close(predicted, engine.adapt(volume, **options).prediction)


def test_the_weights_are_back_after_an_error(engine: it3.IT3Engine, volume: Tensor) -> None:
    before = copy.deepcopy(engine.model.state_dict())
    volume[..., 8:, :, :] = torch.nan  # which the second batch of windows sees
    with pytest.raises(ValueError, match="not finite"):
        AdaptingInferer(WINDOWS, "volume")(volume, engine)
    assert all(torch.equal(value, before[name]) for name, value in engine.model.state_dict().items())


def test_an_engine_with_weights_of_its_own_stream(engine: it3.IT3Engine, volume: Tensor) -> None:
    engine.adapt(volume, online=True)
    kept = copy.deepcopy(engine.model.state_dict())
    with pytest.raises(ValueError, match=r"has kept adapted weights.*engine\.reset\(\)"):
        AdaptingInferer(WINDOWS, "volume")(volume, engine)
    AdaptingInferer(WINDOWS, "window")(volume, engine)
    assert all(torch.equal(value, kept[name]) for name, value in engine.model.state_dict().items())


def test_wrong_uses(engine: it3.IT3Engine, volume: Tensor) -> None:
    with pytest.raises(ValueError, match="adapt_to must be one of 'window', 'batch', 'volume', not 'patch'"):
        AdaptingInferer(WINDOWS, "patch")
    with pytest.raises(TypeError, match="windows must be an inferer of MONAI"):
        AdaptingInferer((8, 8, 8))
    with pytest.raises(ValueError, match="per_sample cannot be given, as adapt_to='window' decides it"):
        AdaptingInferer(WINDOWS, per_sample=True)
    with pytest.raises(TypeError, match=r"network must be an it3\.IT3Engine, which adapts, not a UNet"):
        AdaptingInferer(WINDOWS)(volume, engine.model)
    with pytest.raises(ValueError, match="no option is called 'num_step'; did you mean 'num_steps'"):
        AdaptingInferer(WINDOWS, num_step=1)
