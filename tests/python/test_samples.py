"""Which samples a batch has, which of them count, and what the others share."""

import inspect
import math
from functools import partial
from pathlib import Path

import it3
import pytest
import reference
import torch
from it3 import IT3Engine, Layout
from kinds_of_network import NETWORKS, build, state_of
from models import make_case
from torch import Tensor, nn

close = partial(torch.testing.assert_close, rtol=1e-8, atol=1e-10)


class Prototypes(nn.Module):
    """Scores samples by what all of them share."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 5)

    def forward(self, x: Tensor, prototypes: Tensor) -> Tensor:
        return torch.tanh(self.layer(x)) @ prototypes.T


class Sequence(nn.Module):
    """(T, B, 4) to (T, B, 2): the batch is in dimension 1."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(4, 8)
        self.fc = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.lstm(x)[0])


def engine_of(model: nn.Module, layer: str, *inputs: Tensor, **arguments) -> IT3Engine:
    torch.manual_seed(0)
    engine = IT3Engine(model.double(), layer, optimization_parameters={"lr": 1e-2}, **arguments).eval()
    names = list(inspect.signature(model.forward).parameters)
    are_keywords = isinstance(arguments.get("in_dims"), dict)
    engine.uncertainty(dict(zip(names, inputs, strict=True)) if are_keywords else inputs)
    return engine


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_samples_that_are_not_finite_are_named(network: str, value: float) -> None:
    case = make_case("mlp")
    engine, _ = build(case, network)
    before = state_of(case.model)
    case.inputs[1, 0] = case.inputs[4, 2] = value
    with pytest.raises(ValueError, match=r"is nan, as the (predictions|inputs) for samples 1, 4 are not finite"):
        engine.adapt(case.inputs)
    close(state_of(case.model), before, rtol=0, atol=0)


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.filterwarnings("ignore:per_sample. the samples adapt one after another")
def test_samples_that_are_not_finite_do_not_reach_the_others(network: str, per_sample: bool) -> None:
    case = make_case("mlp")
    engine, embed = build(case, network)
    x = case.inputs.clone()
    x[1, 0] = math.nan
    options = {"num_steps": 2, "lr": 1e-2}
    adaptation = engine.adapt(x, threshold=0.0, per_sample=per_sample, **options)
    others = [0, 2, 3, 4, 5, 6]
    assert adaptation.adapted_samples.nonzero().flatten().tolist() == others
    if per_sample:
        expected, losses = reference.adapt_each(case.model, case.layer, embed, case.inputs[others], **options)
        close(adaptation.losses[:, others], losses)
    else:
        expected, losses, model = reference.adapt(case.model, case.layer, embed, case.inputs[others], **options)
        close(adaptation.losses, torch.tensor(losses, dtype=torch.float64))
        close(adaptation.state_dict(), model.state_dict())
    close(adaptation.prediction[others], expected)
    assert adaptation.prediction[1].isnan().all()


class Masked(nn.Module):
    """(B, 2 T, 4) to (B, 2): attention over the first T places, with an additive mask, (B, T) or (T,)."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 5)
        self.fc = nn.Linear(5, 2)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        h = torch.tanh(self.layer(x[:, : x.shape[1] // 2]))
        weights = (h.sum(-1) + mask).softmax(-1)
        return self.fc((weights.unsqueeze(-1) * h).sum(1))


# Of a slice up to the size of another input, torch 2.11 exports a check of values, so that the model runs whole.
@pytest.mark.filterwarnings("ignore:per_sample")
@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("is_shared", [False, True])
def test_samples_are_left_out_for_nan_anywhere_but_not_for_masks(per_sample: bool, is_shared: bool) -> None:
    """Also for a NaN that the model does not look at: nothing tells how far it would come."""
    torch.manual_seed(1)
    x, mask = torch.randn(4, 6, 4).double(), torch.zeros(4, 3).double()
    mask[:, 1] = -math.inf
    inputs = [x, mask[0] if is_shared else mask]
    engine = engine_of(Masked(), "layer", *inputs, in_dims=(0, None if is_shared else 0))
    assert engine.adapt(inputs, threshold=0.0, per_sample=per_sample).adapted_samples.all()
    x[2, 5, 0] = math.nan
    adaptation = engine.adapt(inputs, threshold=0.0, per_sample=per_sample)
    assert adaptation.adapted_samples.tolist() == [True, True, False, True]
    assert adaptation.prediction.isfinite().all()
    assert not per_sample or not adaptation.losses[:, 2].any()


def test_weights_that_are_not_finite_are_not_kept() -> None:
    case = make_case("mlp")
    engine, _ = build(case, "traced")
    before = state_of(case.model)
    for options in ({"copy_model": False}, {"copy_model": False, "recovery_factor": 1.5}):
        x = case.inputs.clone()
        x[2] = math.nan
        with pytest.raises(ValueError, match="sample 2"):
            engine.adapt(x, **options)
        close(state_of(case.model), before, rtol=0, atol=0)


def test_a_failed_recovery_leaves_what_was_adapted() -> None:
    case = make_case("mlp")
    engine, _ = build(case, "traced", optimization_parameters={"copy_model": False, "recovery_factor": 1.5, "lr": 1e-2})
    engine(case.inputs)
    before, drift = state_of(case.model), engine.drift().distance
    assert drift > 0
    with pytest.raises(ValueError, match="not finite"):
        engine(case.inputs * math.nan)
    close(state_of(case.model), before, rtol=0, atol=0)
    assert engine.drift().distance == drift
    engine.reset()
    assert engine.drift().distance == 0


def test_an_empty_batch_changes_nothing() -> None:
    case = make_case("mlp")
    options = {"copy_model": False, "recovery_factor": 1.5, "lr": 1e-2}
    engine, _ = build(case, "traced", optimization_parameters=options)
    other, _ = build(make_case("mlp"), "traced", optimization_parameters=options)
    other.load_state_dict(engine.state_dict())
    engine(case.inputs)
    other(case.inputs)
    empty = engine.adapt(case.inputs[:0])
    assert empty.prediction.shape == (0, 3)
    assert empty.losses.shape == (0,)
    assert engine.uncertainty(case.inputs[:0]).shape == (0,)
    assert engine.adapt(case.inputs[:0], copy_model=True, per_sample=True).losses.shape == (0, 0)
    for batch in (case.inputs, 100 * case.inputs):
        ours, theirs = engine.adapt(batch), other.adapt(batch)
        close(ours.prediction, theirs.prediction, rtol=0, atol=0)
        assert ours.recovered == theirs.recovered


def test_calibration_names_samples_that_are_not_finite() -> None:
    case = make_case("mlp")
    engine, _ = build(case, "traced")
    x = case.inputs.clone()
    x[3, 1] = math.nan
    with pytest.raises(ValueError, match=r"not finite for sample 10, counted from 0 over all batches"):
        engine.calibrate([case.inputs, x])
    assert "threshold" not in engine.optimization_parameters


def test_equal_sizes_are_not_taken_for_samples() -> None:
    x, prototypes = torch.randn(4, 6).double(), torch.randn(4, 5).double()
    engine = engine_of(Prototypes(), "layer", x, prototypes)
    with pytest.raises(ValueError, match=r"it is not clear whether a tensor of shape \[4, 5\].* give in_dims"):
        engine.adapt((x, prototypes), per_sample=True)


@pytest.mark.parametrize("in_dims", [(0, None), [0, None], {"x": 0, "prototypes": None}])
def test_what_samples_share_is_told_by_in_dims(in_dims: object) -> None:
    x, prototypes = torch.randn(4, 6).double(), torch.randn(4, 5).double()
    engine = engine_of(Prototypes(), "layer", x, prototypes, in_dims=in_dims)
    inputs = {"x": x, "prototypes": prototypes} if isinstance(in_dims, dict) else (x, prototypes)
    together = engine.adapt(inputs, per_sample=True)
    for i in range(4):
        one = {"x": x[[i]], "prototypes": prototypes} if isinstance(in_dims, dict) else (x[[i]], prototypes)
        close(together.prediction[[i]], engine.adapt(one).prediction)
    assert together.losses.shape == (3, 4)


@pytest.mark.parametrize("in_dims", [(0, None), {"x": 0, "prototypes": None}])
def test_in_dims_are_saved_as_they_were_given(in_dims: object, tmp_path: Path) -> None:
    x, prototypes = torch.randn(4, 6).double(), torch.randn(4, 5).double()
    engine = engine_of(Prototypes(), "layer", x, prototypes, in_dims=in_dims)
    inputs = {"x": x, "prototypes": prototypes} if isinstance(in_dims, dict) else (x, prototypes)
    engine.save(tmp_path / "engine.pt", inputs)
    loaded = it3.load(tmp_path / "engine.pt")
    assert loaded.in_dims == in_dims
    expected, actual = (e.adapt(inputs, per_sample=True).prediction for e in (engine, loaded))
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("in_dims", [(0,), (0, None, 0), {"x": 0}, (0, 5), (0, (0, 0)), 3])
def test_in_dims_that_do_not_fit_are_an_error(in_dims: object) -> None:
    x, prototypes = torch.randn(4, 6).double(), torch.randn(4, 5).double()
    with pytest.raises(ValueError, match="in_dims"):
        engine_of(Prototypes(), "layer", x, prototypes, in_dims=in_dims).adapt((x, prototypes), per_sample=True)


@pytest.mark.parametrize("in_dims", ["0", True, (0, "x"), 1.5])
def test_in_dims_of_another_type_are_an_error(in_dims: object) -> None:
    with pytest.raises(TypeError, match="in_dims must be a whole number"):
        IT3Engine(Prototypes(), "layer", in_dims=in_dims)


@pytest.mark.filterwarnings("ignore:per_sample. the samples adapt one after another")
@pytest.mark.parametrize("layer", ["lstm", "fc"])
def test_the_batch_is_where_the_layout_says(layer: str) -> None:
    x = torch.randn(6, 3, 4).double()
    engine = engine_of(Sequence(), layer, x)
    assert engine.prediction_layout.batch_of(3) == 1
    first, second = (engine.adapt(x, num_steps=0).first, engine.adapt(x, num_steps=0).second)
    close(engine.uncertainty(x), (second - first).square().sum((0, 2)).sqrt())
    together = engine.adapt(x, per_sample=True)
    assert together.prediction.shape == (6, 3, 2)
    close(together.uncertainty, (together.second - together.first).square().sum((0, 2)).sqrt())
    for i in range(3):
        close(together.prediction[:, [i]], engine.adapt(x[:, [i]]).prediction)
    chosen = engine.adapt(x, threshold=float(engine.uncertainty(x).median()))
    assert chosen.adapted_samples.shape == (3,)


def test_the_batch_is_kept_in_files(tmp_path: Path) -> None:
    x = torch.randn(6, 3, 4)
    engine = IT3Engine(Sequence(), "fc", in_dims=1).eval()
    engine.save(tmp_path / "engine.pt", x)
    loaded = it3.load(tmp_path / "engine.pt")
    assert loaded.in_dims == 1
    assert loaded.prediction_layout.batch_of(3) == 1
    close(loaded.uncertainty(x), engine.uncertainty(x), rtol=1e-4, atol=1e-6)


def test_a_combination_of_another_shape_is_an_error() -> None:
    case = make_case("mlp")
    engine = IT3Engine(case.model, case.layer, combine_fn=lambda f, e: (f + e)[:1]).eval()
    with pytest.raises(ValueError, match=r"combine_fn must return a tensor of .* \[7, 8\], not .*\[1, 8\]"):
        engine(case.inputs)


def test_uncertainty_is_the_same_in_mixed_precision() -> None:
    case = make_case("mlp", torch.float32)
    engine, _ = build(case, "traced", optimization_parameters={"amp": "bf16"})
    close(engine.uncertainty(case.inputs), engine.adapt(case.inputs, num_steps=0).uncertainty, rtol=0, atol=0)


def test_the_classes_are_where_the_layout_says() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(11, 8), nn.Tanh(), nn.Linear(8, 5)).double()
    tokens = torch.randint(11, (3, 4))
    engine = IT3Engine(model, "0", distance_fn="kl", optimization_parameters={"num_steps": 1}).eval()
    adaptation = engine.adapt(tokens)
    plain = engine.adapt(tokens, num_steps=0)
    log_q, log_p = plain.second.log_softmax(-1), plain.first.log_softmax(-1)
    close(adaptation.losses[0], (log_p.exp() * (log_p - log_q)).sum(-1).mean())
    given = IT3Engine(model, "0", distance_fn="kl", prediction_layout=Layout(channel_dim=1)).eval()
    given.load_state_dict(engine.state_dict(), strict=False)
    with pytest.raises(ValueError, match="channels"):
        given(tokens)
