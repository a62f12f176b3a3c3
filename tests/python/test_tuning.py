"""tune() chooses as it says."""

import sys
from functools import partial

import it3
import pytest
import torch
from it3 import IT3Engine
from kinds_of_network import build, state_of
from models import make_case
from torch import Tensor

close = partial(torch.testing.assert_close, rtol=1e-9, atol=1e-9)


def engine_and_batches() -> tuple[IT3Engine, list[tuple[Tensor, Tensor]]]:
    case = make_case("mlp")
    engine, _ = build(case, "traced", optimization_parameters={"lr": 0.01})
    return engine, list(zip(case.inputs.split(2), case.target.split(2), strict=True))


def mean_square(predict, batches) -> float:
    return torch.cat([(predict(x) - y).square().mean(1) for x, y in batches]).mean().item()


def test_tuning_finds_what_was_planted() -> None:
    """The targets are what one setting predicts."""
    engine, batches = engine_and_batches()
    planted = {"num_steps": 3, "anchor": "frozen", "distance_fn": "l1"}
    other = IT3Engine(engine.model, "0", engine.embedder, distance_fn="l1", optimization_parameters={"lr": 0.01}).eval()
    data = [(x, other.adapt(x, num_steps=3, anchor="frozen").prediction) for x, _ in batches]
    before = state_of(engine)
    search = {"num_steps": [1, 3, 5], "anchor": ["self", "frozen"], "distance_fn": [None, "l1"]}
    tuning = it3.tune(engine, data, "mse", budget=40, search=search)
    assert tuning.choice == planted
    close(tuning.score, 0.0)
    close(tuning.engine.adapt(batches[0][0]).prediction, data[0][1])
    assert set(tuning.worth) == {"anchor", "distance_fn"}  # 3 steps are the default
    with_mse = IT3Engine(engine.model, "0", engine.embedder, optimization_parameters={"lr": 0.01}).eval()
    close(
        tuning.worth["distance_fn"],
        mean_square(lambda x: with_mse.adapt(x, num_steps=3, anchor="frozen").prediction, data),
    )
    close(tuning.unadapted, mean_square(engine.model, data))
    assert "anchor = 'frozen'   worth +" in str(tuning)
    assert engine.distance_fn == "mse"
    assert engine.optimization_parameters == {"lr": 0.01}
    assert all(torch.equal(value, before[name]) for name, value in engine.state_dict().items())


def test_tuning_chooses_between_engines_and_skips_what_a_model_lacks() -> None:
    engine, batches = engine_and_batches()
    other = IT3Engine(engine.model, "2", optimization_parameters={"num_steps": 2}).eval()
    data = [(x, other.adapt(x).prediction) for x, _ in batches]
    tuning = it3.tune({"0": engine, "2": other}, data, "mse", budget=30, seed=1)
    assert "norm_statistics" not in tuning.choice
    assert "parameters" not in tuning.choice
    assert tuning.choice.keys() >= {"num_steps", "lr", "anchor", "distance_fn"}
    assert tuning.name in ("0", "2")
    assert tuning.score <= tuning.unadapted
    assert "layer = " in str(tuning)


def test_tuning_with_options_that_refine_a_choice() -> None:
    engine, batches = engine_and_batches()
    engine.optimization_parameters = {"lr": 0.01, "anchor": "ema", "ema_decay": 0.5}
    tuning = it3.tune(engine, batches, "mse", budget=8)  # whose anchors are not all "ema"
    assert "ema_decay" not in tuning.choice
    search = {"anchor": ["self", "ema"], "ema_decay": [0.0, 0.9], "optimizer_name": ["sgd", "adam"], "momentum": [0.9]}
    tuning = it3.tune(engine, batches, "mse", budget=12, search=search)
    for trial in tuning.study.trials:
        choice = trial.user_attrs["choice"]
        assert ("ema_decay" in choice) == (choice["anchor"] == "ema")
        assert ("momentum" in choice) == (choice["optimizer_name"] == "sgd")
        predictions = [engine.adapt(x, **choice).prediction for x, _ in batches]
        squares = [(p - y).square().mean(1) for p, (_, y) in zip(predictions, batches, strict=True)]
        close(trial.value, torch.cat(squares).mean().item())
    with pytest.raises(ValueError, match="norm_prior is for norm_statistics='blend'"):
        it3.tune(engine, batches, "mse", budget=2, search={"norm_prior": [4.0], "lr": (1e-4, 1e-2)})


def test_tuning_without_finite_predictions() -> None:
    engine, batches = engine_and_batches()
    search = {"lr": [1e300], "optimizer_name": ["sgd"]}
    with pytest.raises(ValueError, match=r"no trial gave a score; the first failed because .* not finite"):
        it3.tune(engine, batches, "mse", budget=2, search=search)


@pytest.mark.parametrize("name", ["tune", "search"])
def test_without_optuna(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    monkeypatch.delitem(sys.modules, f"it3.searching.{name}", raising=False)
    with pytest.raises(ModuleNotFoundError, match=rf"it3\.{name} needs Optuna: pip install optuna"):
        getattr(it3, name)
    with pytest.raises(AttributeError, match="has no attribute 'tuen'"):
        it3.tuen  # noqa: B018  (the access is what raises)


def test_what_cannot_be_tuned() -> None:
    engine, batches = engine_and_batches()
    with pytest.raises(ValueError, match="the loader gave no batches"):
        it3.tune(engine, [], "mse")
    with pytest.raises(ValueError, match="there are no engines to choose from"):
        it3.tune({}, batches, "mse")
    with pytest.raises(
        TypeError, match="engines must be an IT3Engine, or several in a mapping or list, not Sequential"
    ):
        it3.tune(engine.model, batches, "mse")
    for budget in (0, 2.5):
        with pytest.raises(ValueError, match="budget must be a whole number, 1 or more"):
            it3.tune(engine, batches, "mse", budget)
    with pytest.raises(ValueError, match="did you mean 'num_steps'"):
        it3.tune(engine, batches, "mse", search={"num_step": [1]})
    for values in ([], (0.0, 1.0), (1.0,), (2.0, 1.0), "adam"):
        with pytest.raises(ValueError, match=r"'lr'"):
            it3.tune(engine, batches, "mse", search={"lr": values})
    with pytest.raises(ValueError, match="do not fit a prediction of shape"):
        it3.tune(engine, [(x, y[:, :2]) for x, y in batches], "mse")
    with pytest.raises(
        ValueError, match="cannot be scored on these data: mse: the prediction is not finite for samples 0"
    ):
        it3.tune(engine, [(batches[0][0] * torch.tensor([[torch.nan], [1.0]]), batches[0][1])], "mse")


def test_ranges_of_whole_numbers() -> None:
    engine, batches = engine_and_batches()
    tuning = it3.tune(engine, batches, "mse", budget=4, search={"num_steps": (1, 4), "lr": (1e-5, 1e-3)})
    assert isinstance(tuning.choice["num_steps"], int)
    assert 1e-5 <= tuning.choice["lr"] <= 1e-3


def test_settings_that_fail_are_passed_over() -> None:
    engine, batches = engine_and_batches()
    engine.optimization_parameters.update(lr=1e300, optimizer_name="sgd")
    tuning = it3.tune(engine, batches, "mse", budget=6, search={"lr": [1e300, 1e-3]})
    assert tuning.choice == {"lr": 1e-3}
    assert tuning.worth["lr"] != tuning.worth["lr"]  # the engine's own gives nothing to compare with


def test_online_is_searched_as_what_it_is_another_spelling_of() -> None:
    engine, batches = engine_and_batches()
    tuning = it3.tune(engine, batches, "mse", budget=4, search={"online": [True, False], "lr": [0.1]})
    assert set(tuning.choice) == {"copy_model", "lr"}
    assert {trial.user_attrs["choice"]["copy_model"] for trial in tuning.study.trials} == {True, False}
    engine.optimization_parameters["online"] = True
    assert set(it3.tune(engine, batches, "mse", budget=2, search={"copy_model": [True, False]}).choice) == {
        "copy_model"
    }
    with pytest.raises(ValueError, match="online is another spelling of copy_model; search one of the two"):
        it3.tune(engine, batches, "mse", budget=2, search={"online": [True], "copy_model": [True]})
    with pytest.raises(TypeError, match="online must be True or False, not 'yes'"):
        it3.tune(engine, batches, "mse", budget=2, search={"online": ["yes"]})
