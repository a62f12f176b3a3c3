"""With per_sample, each sample adapts as if it were alone, in float64 to 1e-9; a loop is the reference."""

import warnings
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from it3 import IT3Engine
from kinds_of_network import NETWORKS, build, state_of
from models import KINDS, BranchesOnValues, make_case
from torch import Tensor, nn

close = partial(torch.testing.assert_close, rtol=1e-8, atol=1e-9)
OPTIONS = [
    {},
    {"chunk_size": 2},
    {"num_steps": 0},
    {"optimizer_name": "sgd", "momentum": 0.9, "lr": 0.1, "max_grad_norm": 0.01},
    {"optimizer_name": "rmsprop", "lr": 1e-3},
    {"parameters": ["*bias"], "prediction": "mean"},
    {"anchor": "frozen", "prediction": "second"},
    {"anchor": "ema", "ema_decay": 0.5},
    {"restore_probability": 1.0},
]
ALONE_ONLY = ("chunk_size",)


def loop(engine: IT3Engine, inputs: Tensor, **options: object) -> dict[str, Tensor]:
    alone = {name: value for name, value in options.items() if name not in ALONE_ONLY}
    each = [engine.adapt(sample, **alone) for sample in inputs.split(1)]
    return {
        **{name: torch.cat([getattr(a, name) for a in each]) for name in ("prediction", "first", "second")},
        "losses": torch.stack([a.losses for a in each], 1),
    }


def agrees(engine: IT3Engine, inputs: Tensor, **options: object) -> None:
    expected = loop(engine, inputs, **options)
    actual = engine.adapt(inputs, per_sample=True, **options)
    for name, value in expected.items():
        close(getattr(actual, name), value)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("network", ["traced", "script"])
@pytest.mark.parametrize("kind", KINDS)
def test_agrees_with_a_loop(kind: str, network: str, options: dict, device: str) -> None:
    case = make_case(kind, device=device)
    engine, _ = build(case, network)
    before = state_of(case.model)
    agrees(engine, case.inputs, **options)
    assert all(torch.equal(value, before[name]) for name, value in case.model.state_dict().items())


class OverTokens(nn.Module):
    """Linear layers on several rows a sample, on one, and on none: a vector without a batch."""

    def __init__(self) -> None:
        super().__init__()
        self.each, self.gate, self.last = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        tokens = torch.tanh(self.each(x))
        gate = torch.sigmoid(self.gate(tokens.mean((0, 1))))
        return self.last((tokens * gate).sum(1))


@pytest.mark.parametrize("network", ["traced", "script"])
def test_linear_layers_on_any_number_of_rows(network: str, device: str) -> None:
    torch.manual_seed(0)
    model = OverTokens().double().to(device).eval()
    inputs = torch.randn(5, 7, 4, dtype=torch.float64, device=device)
    engine = IT3Engine(NETWORKS[network](model), "each").eval()
    engine.is_trained = True  # nor shall it warn of that
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a loop over the samples would warn
        engine.adapt(inputs, per_sample=True)
    agrees(engine, inputs)
    agrees(engine, inputs, optimizer_name="sgd", lr=0.1)


@pytest.mark.parametrize("network", ["traced", "script"])
def test_a_new_embedder_takes_its_shape(network: str) -> None:
    case = make_case("cnn")
    engine = IT3Engine(NETWORKS[network](case.model.eval()), case.layer).eval()
    engine.adapt(case.inputs, per_sample=True)
    assert engine.embedder.weight1.shape == (4, 5)
    agrees(engine, case.inputs)


@pytest.mark.parametrize("distance", ["l1", "cross_entropy", "kl", "js", "cosine", F.smooth_l1_loss])
def test_distances(distance: object) -> None:
    case = make_case("mlp")
    engine, _ = build(case, "traced", distance_fn=distance)
    agrees(engine, case.inputs, lr=1e-3)


def test_functions_of_the_user() -> None:
    case = make_case("mlp")
    embedder = nn.Sequential(nn.Linear(3, 8), nn.Tanh()).double()
    engine = IT3Engine(
        case.model.eval(),
        case.layer,
        embedder,
        combine_fn=lambda features, embedding: features * (1 + embedding),
        distance_fn=lambda y1, y0: (y1 - y0).square().sum(),
    ).eval()
    agrees(engine, case.inputs)


@pytest.mark.parametrize("neutral", [-3.0, torch.tensor([-3.0, 4.0, 5.0])])
def test_neutral_signals(neutral: object) -> None:
    case = make_case("mlp")
    engine, _ = build(case, "traced", neutral=neutral)
    agrees(engine, case.inputs)


@pytest.mark.parametrize("statistics", ["batch", "blend"])
@pytest.mark.parametrize("network", ["traced", "script"])
def test_statistics_are_those_of_one_sample(network: str, statistics: str) -> None:
    case = make_case("cnn")
    engine, _ = build(case, network)
    agrees(engine, case.inputs, norm_statistics=statistics)


def test_threshold_and_tolerance() -> None:
    case = make_case("mlp")
    engine, _ = build(case, "traced")
    inputs = case.inputs
    ordered = engine.uncertainty(inputs).sort().values
    middle = len(ordered) // 2
    threshold = float(ordered[middle - 1 : middle + 1].mean())  # rounding may decide about a sample on the threshold
    for more in ({"threshold": threshold}, {"tolerance": 0.3, "num_steps": 20}, {"threshold": 1e9}):
        options = {"lr": 1e-2, **more}
        each = [engine.adapt(sample, **options) for sample in inputs.split(1)]
        actual = engine.adapt(inputs, per_sample=True, **options)
        close(actual.prediction, torch.cat([a.prediction for a in each]))
        steps = [a.steps for a in each]
        assert actual.steps == max(steps)
        for i, a in enumerate(each):  # the last is repeated; 0 for those that never adapt
            last = a.losses[-1:] if a.steps else a.losses.new_zeros(1)
            close(actual.losses[:, i], torch.cat([a.losses, last.expand(actual.steps - a.steps)]))
        if "tolerance" in options:
            assert len(set(steps)) > 1
        else:
            assert torch.equal(actual.adapted_samples, torch.cat([a.adapted_samples for a in each]))


class WithGrid(nn.Module):
    """Its second input is the same for all samples."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor, grid: Tensor, scale: float = 1.0) -> tuple[Tensor, Tensor]:
        y = self.head(torch.tanh(self.layer(x * scale) + grid))
        return y, y.sum()


def test_inputs_that_all_samples_share() -> None:
    torch.manual_seed(0)
    x, grid = torch.randn(5, 6, dtype=torch.float64), torch.randn(8, dtype=torch.float64)
    engine = IT3Engine(WithGrid().double(), "layer", output=0).eval()
    actual = engine.adapt({"x": x, "grid": grid, "scale": 0.5}, per_sample=True)
    alone = [engine.adapt((sample, grid, 0.5)) for sample in x.split(1)]
    close(actual.prediction, torch.cat([a.prediction for a in alone]))


def test_in_eval_mode_the_loss_is_one_for_each() -> None:
    case = make_case("mlp")
    engine, _ = build(case, "traced", optimization_parameters={"per_sample": True})
    prediction, loss = engine(case.inputs)
    adaptation = engine.adapt(case.inputs)
    close(prediction, adaptation.prediction)
    close(loss, adaptation.losses[-1])
    with pytest.raises(ValueError, match="each sample has adapted weights of its own"):
        adaptation.state_dict()
    assert engine(case.inputs[:0])[0].shape == (0, 3)


def test_what_cannot_run_together_runs_in_turn() -> None:
    case = make_case("cnn")
    hooked, _ = build(case, "hooks")
    branches = IT3Engine(torch.jit.script(BranchesOnValues().double()), "layer").eval()
    x = torch.randn(7, 6, dtype=torch.float64)
    for engine, inputs in ((hooked, case.inputs), (branches, x)):
        expected = loop(engine, inputs)
        with pytest.warns(UserWarning, match="the samples adapt one after another") as caught:
            actual = engine.adapt(inputs, per_sample=True)
        assert len(caught) == 1
        for name, value in expected.items():
            close(getattr(actual, name), value, rtol=0, atol=0)


class AlwaysDrops(nn.Module):
    """Whatever its mode."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.dropout(x, 0.5, training=True)


def test_dropout_draws_for_each() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), AlwaysDrops(), nn.Linear(8, 3)).double()
    engine = IT3Engine(torch.jit.script(model), "0").eval()
    prediction = engine.adapt(torch.ones(8, 6, dtype=torch.float64), per_sample=True).prediction
    assert len({tuple(p.tolist()) for p in prediction}) > 1


def test_errors() -> None:
    case = make_case("mlp")
    engine, _ = build(case, "traced")
    with pytest.raises(ValueError, match="per_sample is for copy_model=True, but copy_model is False"):
        engine.adapt(case.inputs, per_sample=True, copy_model=False)
    with pytest.raises(ValueError, match="chunk_size is for per_sample=True"):
        engine.adapt(case.inputs, chunk_size=4)
    with pytest.raises(ValueError, match="chunk_size must be a whole number, 1 or more, or None, not 0"):
        engine.adapt(case.inputs, per_sample=True, chunk_size=0)
    with pytest.raises(TypeError, match="per_sample must be True or False, not 1"):
        engine.adapt(case.inputs, per_sample=1)
    inputs = case.inputs.clone()
    inputs[3] = torch.nan
    with pytest.raises(ValueError, match="the loss of sample 3 at step 1 of 3 is nan"):
        engine.adapt(inputs, per_sample=True)
    with pytest.raises(ValueError, match="distance_fn must return a scalar, not a tensor of shape \\[1, 3\\]"):
        IT3Engine(case.model, case.layer, distance_fn=torch.sub).eval().adapt(case.inputs, per_sample=True)
