"""Engines are saved, copied, moved and kept as PyTorch users expect."""

import copy
import pickle

import pytest
import reference
import torch
import torch.nn.functional as F
from it3 import Embedder, IT3Engine
from models import Case, make_case

close = torch.testing.assert_close


@pytest.fixture
def engine(case: Case) -> IT3Engine:
    return IT3Engine(case.model, case.layer, distance_fn=F.l1_loss).eval()


@pytest.mark.parametrize("is_built", [True, False])
def test_deepcopy_and_pickle(engine: IT3Engine, case: Case, is_built: bool) -> None:
    if is_built:
        engine(case.inputs)
    for duplicate in (copy.deepcopy(engine), pickle.loads(pickle.dumps(engine))):
        assert {p.data_ptr() for p in duplicate.model.parameters()}.isdisjoint(
            p.data_ptr() for p in engine.model.parameters()
        )
        torch.manual_seed(3)
        result = duplicate(case.inputs)
        if is_built:
            assert torch.equal(result[0], engine(case.inputs)[0])


def test_copies_of_an_online_engine_go_on_as_it_does(engine: IT3Engine, case: Case) -> None:
    start = copy.deepcopy(engine.model.state_dict())
    engine.optimization_parameters["copy_model"] = False
    engine(case.inputs)
    duplicates = [copy.deepcopy(engine), pickle.loads(pickle.dumps(engine))]
    expected = engine(case.inputs + 0.1)
    for duplicate in duplicates:
        close(duplicate(case.inputs + 0.1), expected, rtol=0, atol=0)
        duplicate.reset()
        close(dict(duplicate.model.state_dict()), dict(start), rtol=0, atol=0)


def test_the_start_of_a_model_is_not_written_into_another_one(engine: IT3Engine, case: Case) -> None:
    engine.optimization_parameters["copy_model"] = False
    engine.adapt(case.inputs)
    other = copy.deepcopy(engine)
    other.model = copy.deepcopy(case.model)
    with torch.no_grad():
        for parameter in other.model.parameters():
            parameter.mul_(2)
    before = copy.deepcopy(other.model.state_dict())
    assert other.drift().distance == 0
    other.reset()
    torch.testing.assert_close(other.model.state_dict(), before, rtol=0, atol=0)


def test_saved_file_loads_into_a_fresh_engine(engine: IT3Engine, case: Case, tmp_path, device: str) -> None:
    expected = engine(case.inputs)
    torch.save(engine.state_dict(), tmp_path / "engine.pt")
    fresh = IT3Engine(make_case("mlp", device=device, seed=1).model, case.layer, distance_fn=F.l1_loss).eval()
    fresh.load_state_dict(torch.load(tmp_path / "engine.pt"))
    close(fresh(case.inputs), expected, rtol=0, atol=0)


def test_state_of_an_unbuilt_engine_makes_a_built_one_unbuilt(engine: IT3Engine, case: Case) -> None:
    state = copy.deepcopy(engine.state_dict())
    engine(case.inputs)
    engine.load_state_dict(state)
    assert not engine.embedder.is_built
    assert engine(case.inputs)[1] > 0


def test_state_of_another_size_is_an_error(engine: IT3Engine, case: Case) -> None:
    engine(case.inputs)
    state = {**engine.state_dict(), "embedder.weight1": torch.zeros(9, 3)}
    with pytest.raises(RuntimeError, match=r"size mismatch for embedder\.weight1"):
        engine.load_state_dict(state)
    with pytest.raises(RuntimeError, match="Missing key"):
        engine.load_state_dict(dict(engine.model.state_dict()))


def test_parameters_are_the_models_and_the_embedders(engine: IT3Engine) -> None:
    names = [name for name, _ in engine.named_parameters()]
    assert names == [f"model.{i}.{kind}" for i in (0, 2, 4) for kind in ("weight", "bias")] + [
        f"embedder.{name}" for name in ("weight1", "bias1", "weight2", "bias2")
    ]
    assert engine.embeder is engine.embedder
    engine.embedder = Embedder()
    assert engine.embeder is engine.embedder


def test_checkpoints_with_the_embedders_earlier_name(engine: IT3Engine, case: Case) -> None:
    engine(case.inputs)
    state = {name.replace("embedder.", "embeder."): value.clone() for name, value in engine.state_dict().items()}
    assert any(name.startswith("embeder.") for name in state)
    before = engine.embedder.weight1.detach().clone()
    with torch.no_grad():
        engine.embedder.weight1.zero_()
    engine.load_state_dict(state)
    assert torch.equal(engine.embedder.weight1, before)


def test_modes(engine: IT3Engine) -> None:
    assert not engine.model.training
    engine.train()
    assert engine.model.training
    assert engine.embedder.training


@pytest.mark.parametrize("is_built", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_conversions(engine: IT3Engine, case: Case, dtype: torch.dtype, is_built: bool) -> None:
    if is_built:
        engine(case.inputs)
    engine.to(dtype)
    prediction, loss = engine(case.inputs.to(dtype))
    assert prediction.dtype == dtype
    assert {p.dtype for p in engine.parameters()} == {dtype}
    assert torch.isfinite(loss)


@pytest.mark.cuda
@pytest.mark.parametrize("is_built", [True, False])
def test_moving_between_devices(is_built: bool) -> None:
    case = make_case("cnn")
    engine = IT3Engine(case.model, case.layer).eval()
    if is_built:
        expected = engine(case.inputs)
    engine.to("cuda")
    prediction, loss = engine(case.inputs.cuda())
    assert prediction.is_cuda
    assert loss.is_cuda
    if is_built:
        close((prediction.cpu(), loss.cpu()), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_steps_in_full_precision(dtype: torch.dtype, device: str) -> None:
    """Adam's eps of 1e-8 is 0 in float16, and small squared gradients vanish."""
    case = make_case("mlp", torch.float32, device)
    options = {"lr": 1e-2}
    exact = IT3Engine(copy.deepcopy(case.model), case.layer, optimization_parameters=options).eval()
    exact(case.inputs)
    half = copy.deepcopy(exact).to(dtype)
    expected, actual = exact.adapt(case.inputs), half.adapt(case.inputs.to(dtype))
    moved = (expected.prediction - case.model(case.inputs)).norm()
    assert (actual.prediction.float() - expected.prediction).norm() < 0.2 * moved


def test_autocast_adapts(device: str) -> None:
    """Its cache of casted weights must not outlive a step."""
    case = make_case("mlp", torch.float32, device)
    engine = IT3Engine(case.model, case.layer, optimization_parameters={"lr": 1e-2}).eval()
    with torch.autocast(device, torch.bfloat16):
        case.model(case.inputs)  # fills the cache
        prediction, _ = engine(case.inputs)
        after = case.model(case.inputs)
        assert {p.dtype for p in engine.embedder.parameters()} == {torch.float32}
    expected, _ = engine(case.inputs)
    plain = case.model(case.inputs)
    moved = (expected - plain).norm()
    assert (prediction - expected).norm() < 0.2 * moved
    assert (after - plain).norm() < 0.2 * moved


def test_autocast_under_no_grad_adapts(device: str) -> None:
    case = make_case("mlp", torch.float32, device)
    engine = IT3Engine(case.model, case.layer, optimization_parameters={"lr": 1e-2}).eval()
    expected, _ = engine(case.inputs)
    with torch.no_grad(), torch.autocast(device, torch.bfloat16):
        plain = case.model(case.inputs)
        prediction, _ = engine(case.inputs)
    assert (prediction - expected).norm() < 0.2 * (expected - plain).norm()


def online(case: Case, **options: object) -> IT3Engine:
    engine = IT3Engine(case.model, case.layer, optimization_parameters={"copy_model": False, **options}).eval()
    engine.uncertainty(case.inputs)
    return engine


@pytest.mark.parametrize("options", [{}, {"optimizer_name": "sgd", "momentum": 0.9}, {"optimizer_name": "adagrad"}])
def test_online_calls_go_on_where_the_last_one_stopped(case: Case, options: dict) -> None:
    engine = online(case, num_steps=2, **options)
    weights = [w.detach() for w in engine.embedder.parameters()]
    embed = lambda y, f: reference.embed(y, f, *weights)  # noqa: E731
    expected, _, _ = reference.adapt(case.model, case.layer, embed, case.inputs, num_steps=6, **options)
    for _ in range(2):
        engine(case.inputs)
    close(engine(case.inputs)[0], expected, rtol=1e-9, atol=1e-9)


def test_reset_goes_back_and_forgets(case: Case) -> None:
    engine = online(case)
    start = copy.deepcopy(engine.state_dict())
    first = engine(case.inputs)
    engine(case.inputs)
    engine.reset()
    close(dict(engine.state_dict()), dict(start), rtol=0, atol=0)
    close(engine(case.inputs), first, rtol=0, atol=0)
    engine.reset()
    engine.reset()
    close(dict(engine.state_dict()), dict(start), rtol=0, atol=0)


def test_reset_after_other_selections(case: Case) -> None:
    engine = online(case, parameters=["4"])
    start = copy.deepcopy(engine.state_dict())
    engine(case.inputs)
    engine.optimization_parameters["parameters"] = "all"
    engine(case.inputs)
    engine.reset()
    close(dict(engine.state_dict()), dict(start), rtol=0, atol=0)


@pytest.mark.parametrize("change", ["train", "load", "assign"])
def test_weights_changed_by_the_user_are_a_new_start(case: Case, change: str) -> None:
    engine = online(case)
    engine(case.inputs)
    if change == "train":
        optimizer = torch.optim.SGD(engine.parameters(), lr=0.1)
        sum(engine.train()(case.inputs, target=case.target)).sum().backward()
        optimizer.step()
        engine.eval()
    elif change == "load":
        engine.model.load_state_dict(make_case("mlp", seed=5).model.state_dict())
    else:
        for parameter in engine.model.parameters():
            parameter.data = parameter.data * 1.5
    changed = copy.deepcopy(engine.state_dict())
    engine.reset()
    close(dict(engine.state_dict()), dict(changed), rtol=0, atol=0)
    expected = IT3Engine(copy.deepcopy(engine.model), case.layer, engine.embedder).eval()(case.inputs)
    close(engine(case.inputs), expected, rtol=0, atol=0)
    engine.reset()
    close(dict(engine.state_dict()), dict(changed), rtol=0, atol=0)
