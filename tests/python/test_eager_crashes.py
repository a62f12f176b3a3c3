"""Uses that crashed, or whose errors told nothing."""

import contextlib
import copy
import warnings
from functools import partial
from pathlib import Path

import pytest
import reference
import torch
from it3 import IT3Engine
from kinds_of_network import NETWORKS
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

close = partial(torch.testing.assert_close, rtol=1e-10, atol=1e-10)
X = torch.randn(5, 4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


class Padded(nn.Module):
    """Its encoder makes nested tensors of padded ones where there are no gradients."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(6, 2, 16, batch_first=True)
        self.encoder, self.fc = nn.TransformerEncoder(layer, 2), nn.Linear(6, 3)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        hidden = self.encoder(x, src_key_padding_mask=mask)
        return self.fc(hidden.masked_fill(mask[..., None], 0).sum(1))


class WithMask(nn.Module):
    def __init__(self, model: nn.Module, mask: Tensor) -> None:
        super().__init__()
        self.model, self.mask = model, mask

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x, self.mask)


@pytest.mark.parametrize("layer", ["encoder.layers.0", "encoder.layers.1", "encoder.layers.0.linear2", "encoder"])
@pytest.mark.filterwarnings("ignore:.*nested tensors is in prototype")
def test_transformers_with_padding(layer: str) -> None:
    mask = torch.arange(4)[None] >= torch.tensor([4, 2, 3, 1, 4])[:, None]
    model = Padded().double().eval()
    engine = IT3Engine(model, layer).eval()
    actual = engine.adapt((X, mask))
    weights = [w.detach() for w in engine.embedder.parameters()]

    def embed(y: Tensor, features: Tensor) -> Tensor:
        return reference.embed(y, features, *weights)[:, None]

    expected, losses, _ = reference.adapt(WithMask(model, mask), f"model.{layer}", embed, X)
    close(actual.losses.tolist(), losses)
    close(actual.prediction, expected)
    assert engine.uncertainty((X, mask)).shape == (5,)
    assert torch.backends.mha.get_fastpath_enabled()


class LooksAtPadding(Padded):
    """Its prediction depends on what the encoder gives at padded places: torch's fast path gives zeros there."""

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return self.fc(self.encoder(x, src_key_padding_mask=mask).mean(1))


@pytest.mark.parametrize("layer", ["encoder.layers.0", "encoder.layers.1.linear2", "encoder", "fc"])
@pytest.mark.filterwarnings("ignore:.*nested tensors is in prototype")
def test_both_predictions_take_one_path_through_attention(layer: str) -> None:
    mask = torch.arange(4)[None] >= torch.tensor([4, 2, 3, 1, 4])[:, None]
    model = LooksAtPadding().double().eval()
    engine = IT3Engine(model, layer).eval()
    distances = engine.uncertainty((X, mask))
    weights = [w.detach() for w in engine.embedder.parameters()]
    y0 = model(X, mask).detach()

    def inject(_: nn.Module, __: object, features: Tensor) -> Tensor:
        embedding = reference.embed(y0, features, *weights)
        return features + (embedding if features.dim() == 2 else embedding[:, None])

    hook = model.get_submodule(layer).register_forward_hook(inject)
    y1 = model(X, mask).detach()
    hook.remove()
    close(engine.adapt((X, mask), num_steps=0).prediction, y0)
    close(distances, (y1 - y0).norm(dim=1))
    loss = engine.adapt((X, mask), num_steps=1, lr=0.0)
    close(loss.losses[0], (y1 - y0).square().mean())
    close(loss.prediction, y0)


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.Module]) -> None:
        super().__init__()
        self.rnn, self.layer, self.fc = kind(6, 8, batch_first=True), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x, _ = self.rnn(x)
        return self.fc(self.layer(x[:, -1]).tanh())


@pytest.mark.filterwarnings("ignore:RNN module weights are not part of single contiguous chunk")
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize("network", NETWORKS)
def test_recurrent_layers_adapt_in_eval_mode(network: str, kind: type[nn.Module], device: str) -> None:
    """cuDNN differentiates them in train mode only."""
    model = Recurrent(kind).double().eval()
    with_cudnn = torch.backends.cudnn.enabled
    engine = IT3Engine(NETWORKS[network](copy.deepcopy(model).to(device)), "layer").eval()
    for _ in range(2):
        actual = engine.adapt(X.to(device))
    weights = [w.detach().cpu() for w in engine.embedder.parameters()]
    expected, losses, _ = reference.adapt(model, "layer", lambda y, f: reference.embed(y, f, *weights), X)
    close(actual.prediction.cpu(), expected)
    close(actual.losses.tolist(), losses)
    assert torch.backends.cudnn.enabled == with_cudnn


class TakesPacked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.layer, self.fc = nn.LSTM(6, 8, batch_first=True), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, packed: PackedSequence, scale: Tensor | None = None) -> Tensor:
        assert isinstance(packed, PackedSequence)
        _, (h, _) = self.lstm(packed)
        return self.fc(self.layer(h[-1]).tanh()) * (1 if scale is None else scale)


@pytest.mark.parametrize("kind", ["alone", "in a tuple", "keyword"])
def test_packed_sequences_stay_whole(kind: str) -> None:
    packed = pack_padded_sequence(X, torch.tensor([4, 2, 3, 1, 4]), batch_first=True, enforce_sorted=False)
    model = TakesPacked().double().eval()
    engine = IT3Engine(model, "layer").eval()
    inputs = {"alone": packed, "in a tuple": (packed, torch.ones(())), "keyword": {"packed": packed}}[kind]
    actual = engine.adapt(inputs)
    weights = [w.detach() for w in engine.embedder.parameters()]
    expected, losses, _ = reference.adapt(model, "layer", lambda y, f: reference.embed(y, f, *weights), packed)
    close(actual.prediction, expected)
    close(actual.losses.tolist(), losses)


@pytest.mark.parametrize("norm", [nn.InstanceNorm1d(4), nn.BatchNorm1d(4, track_running_stats=False)])
def test_normalization_without_running_statistics_is_no_chance(norm: nn.Module) -> None:
    model = nn.Sequential(norm, nn.Flatten(), nn.Linear(24, 8), nn.Tanh(), nn.Linear(8, 3)).double().eval()
    engine = IT3Engine(model, "2").eval()
    engine.adapt(X)
    assert engine.explain(X).why_whole == ""
    weights = [w.detach() for w in engine.embedder.parameters()]
    expected, _, _ = reference.adapt(model, "2", lambda y, f: reference.embed(y, f, *weights), X)
    close(engine.adapt(X).prediction, expected)


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double()


def test_an_engine_around_an_engine() -> None:
    with pytest.raises(TypeError, match=r"model is an IT3Engine"):
        IT3Engine(IT3Engine(mlp(), "0"), "model.0")


def test_an_engine_made_in_inference_mode() -> None:
    model = mlp()
    with torch.inference_mode():
        engine = IT3Engine(model, "0")
        engine.adapt(X[:, 0])
    target = torch.zeros(5, 3, dtype=torch.float64)
    prediction, loss = engine.train()(X[:, 0], target=target)
    (nn.functional.mse_loss(prediction, target) + loss).backward()
    assert all(p.grad is not None for p in engine.parameters())


def test_replicas_are_refused() -> None:
    with pytest.raises(RuntimeError, match=r"cannot be replicated by torch.nn.DataParallel"):
        IT3Engine(mlp(), "0")._replicate_for_data_parallel()  # as torch.nn.parallel.replicate calls it


def test_ddp_around_a_fresh_engine(tmp_path: Path) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        x, target = X[:, 0].float(), torch.zeros(5, 3)
        engine = IT3Engine(mlp().float(), "0")
        with pytest.raises(RuntimeError, match=r"call engine.adapt\(inputs, num_steps=0\)"):
            nn.parallel.DistributedDataParallel(engine)(x, target=target)
        engine(x, target=target)
        alone = copy.deepcopy(engine)
        for module in (nn.parallel.DistributedDataParallel(engine), alone):
            prediction, loss = module(x, target=target)
            (prediction.square().mean() + loss).backward()
        for actual, expected in zip(engine.parameters(), alone.parameters(), strict=True):
            torch.testing.assert_close(actual.grad, expected.grad)
    finally:
        torch.distributed.destroy_process_group()


def test_layers_are_named_or_given() -> None:
    model = mlp()
    assert IT3Engine(model, model[0]).features_layer_name == "0"
    for bad in (None, 0, 1.5, ["0"]):
        with pytest.raises(
            TypeError, match=r"must be the dotted name of a layer, such as 'encoder.0', or the layer itself"
        ):
            IT3Engine(model, bad)
    with pytest.raises(TypeError, match="did you mean '0'"):
        IT3Engine(model, 0)
    with pytest.raises(ValueError, match="a Linear that is not in the model"):
        IT3Engine(model, nn.Linear(2, 2))
    shared = nn.Linear(6, 6)
    with pytest.raises(ValueError, match="under several names, '0', '1'"):
        IT3Engine(nn.Sequential(shared, shared), shared)


@pytest.mark.parametrize("network", NETWORKS)
def test_warnings_may_be_errors(network: str) -> None:
    """Torch's handler of warnings throws as it is destroyed, with the result half returned."""
    model = NETWORKS[network](nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double().eval())
    engine = IT3Engine(model, "0", optimization_parameters={"per_sample": True}).eval()
    x = X[0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(20):
            with contextlib.suppress(UserWarning):
                engine.adapt(x)
        warnings.filterwarnings("ignore", ".*one after another")
        actual = engine.adapt(x)
    expected = [engine.adapt(sample, per_sample=False).prediction for sample in x.split(1)]
    close(actual.prediction, torch.cat(expected))
