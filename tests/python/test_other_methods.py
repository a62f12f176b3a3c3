"""Other methods are rows of an evaluation, and leave no trace."""

import copy
import random
from functools import partial
from typing import Any

import it3
import numpy as np
import pytest
import torch
from it3 import IT3Engine
from kinds_of_network import state_of
from models import make_case
from test_evaluation_controls import Batches, classifier, mean_squares, rows_of, squares
from torch import Tensor, nn
from torch_ttt_reference import ActMADEngine, EataEngine, MemoEngine, TentEngine

close = partial(torch.testing.assert_close, rtol=1e-9, atol=1e-9)
STEPS = {"num_steps": 2, "lr": 0.05}


def jittered(x: Tensor) -> Tensor:
    return x + 0.1 * torch.randn_like(x)


def tent(model: nn.Module) -> nn.Module:
    return TentEngine(model, STEPS).eval()


def eata(model: nn.Module) -> nn.Module:
    """With one step, as the next finds all samples alike and has none left."""
    return EataEngine(model, {"num_steps": 1, "lr": 0.05}).eval()


def actmad(model: nn.Module) -> nn.Module:
    engine = ActMADEngine(model, ["conv1"], STEPS)
    case = make_case("cnn")
    engine.compute_statistics([(case.inputs, case.target)])
    return engine.eval()


def memo(model: nn.Module) -> nn.Module:
    """Of a network without batch normalization, which MEMO of torch-ttt cannot run."""
    return MemoEngine(model, STEPS, augmentations=jittered, n_augmentations=3).eval()


@pytest.mark.parametrize(("make", "kind"), [(tent, "cnn"), (eata, "cnn"), (actmad, "cnn"), (memo, "mlp")])
def test_methods_of_torch_ttt(make, kind: str) -> None:
    engine, batches = classifier(kind, size=2 if kind == "mlp" else 3, distance_fn="js")
    method = make(copy.deepcopy(engine.model))
    before, of_method = state_of(engine.model), state_of(method)
    evaluation = it3.evaluate(engine, batches, squares, {"a": {}}, others={"other": method})
    torch.manual_seed(0)
    row = rows_of(evaluation)["other"]
    close(row["score"], mean_squares(lambda x: method(x)[0], batches))
    assert row["score"] != rows_of(evaluation)["0 steps"]["score"]
    assert row["milliseconds"] > 0
    assert row["megabytes"] > 0
    for module, state in ((engine.model, before), (method, of_method)):
        assert all(torch.equal(value, state[name]) for name, value in module.state_dict().items())


def test_tent_of_torch_ttt_is_entropy_minimization_of_the_same_weights() -> None:
    """In eval mode, in which torch-ttt's keeps the running statistics."""
    engine, batches = classifier("cnn", distance_fn="js")
    rows = rows_of(
        it3.evaluate(
            engine,
            batches,
            squares,
            {"it3": {**STEPS, "parameters": "norm"}},
            others=lambda engine: {"TENT": tent(engine.model)},
        )
    )
    close(rows["entropy minimization, it3"]["score"], rows["TENT"]["score"])


def test_each_run_has_methods_of_its_own() -> None:
    """Made of a copy of its engine, whose network torch-ttt's methods change."""
    cases = [make_case("cnn", seed=seed) for seed in (0, 1)]
    engines = [IT3Engine(case.model, case.layer).eval() for case in cases]
    batches = [(cases[0].inputs, cases[0].target)]
    before = [state_of(engine) for engine in engines]
    evaluation = it3.evaluate(engines, batches, squares, others=lambda engine: {"TENT": tent(engine.model)}, seeds=2)
    expected = [mean_squares(lambda x, case=case: tent(copy.deepcopy(case.model))(x)[0], batches) for case in cases]
    close(rows_of(evaluation)["TENT"]["score"], sum(expected) / 2)
    for engine, state in zip(engines, before, strict=True):
        assert all(torch.equal(value, state[name]) or "embedder" in name for name, value in engine.state_dict().items())
        assert all(parameter.requires_grad for parameter in engine.model.parameters())
        assert not any(module.training for module in engine.modules())


class Online(nn.Module):
    """Predicts how often it was called."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros((), dtype=torch.double))

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        self.calls += 1
        return self.calls.expand(len(x), 3), None


def test_a_module_starts_each_run_as_it_was() -> None:
    engine, batches = classifier("mlp", size=1)
    method = Online().eval()
    rows = rows_of(it3.evaluate(engine, batches, lambda p, _: p.mean(1), others={"online": method}, seeds=3))
    assert rows["online"]["score"] == 4  # of 1 to 7, in each run
    assert method.calls == 0


def test_engines_functions_and_tuples() -> None:
    engine, batches = classifier("mlp", distance_fn="js")
    other, _ = classifier("mlp", optimization_parameters={**STEPS, "copy_model": False})
    others = {
        "engine": other,
        "function": lambda x: engine.model(x) + 1,
        "tuple": lambda x: [engine.model(x) + 1, "more"],
    }
    other.uncertainty(batches[0][0])
    before = state_of(other.model)
    with torch.inference_mode():
        rows = rows_of(it3.evaluate(engine, batches, squares, others=others))
    expected = mean_squares(lambda x: engine.model(x) + 1, batches)
    close(rows["function"]["score"], expected)
    close(rows["tuple"]["score"], expected)
    close(rows["engine"]["score"], mean_squares(lambda x: other.adapt(x).prediction, batches))
    other.reset()
    assert all(torch.equal(value, before[name]) for name, value in other.model.state_dict().items())


def test_others_come_behind_the_controls_and_are_what_a_gain_has_to_beat() -> None:
    engine, batches = classifier("mlp")
    right: dict[Any, Tensor] = {tuple(x.flatten().tolist()): y for x, y in batches}
    others = {"oracle": lambda x: nn.functional.one_hot(right[tuple(x.flatten().tolist())], 3).double()}
    evaluation = it3.evaluate(engine, batches, "accuracy", {"b": {}, "a": {}}, others=others)
    assert list(rows_of(evaluation))[-3:] == ["oracle", "b", "a"]
    assert evaluation.best_control == "oracle"
    assert rows_of(evaluation)["oracle"]["score"] == 1
    assert rows_of(evaluation)["oracle"]["ece"] == 0
    assert evaluation.verdict.splitlines()[0].startswith("b: ")
    assert "against the best control, 'oracle'" in evaluation.verdict


def test_a_method_that_draws_and_seeds_changes_no_other_row() -> None:
    engine, batches = classifier("mlp")

    def rude(x: Tensor) -> Tensor:
        torch.manual_seed(7)
        random.seed(7)
        np.random.seed(7)  # noqa: NPY002
        return torch.randn(len(x), 3) + random.random() + np.random.rand()  # noqa: NPY002

    variants = {"a": {"restore_probability": 0.5}}
    torch.manual_seed(3)
    random.seed(3)
    np.random.seed(3)  # noqa: NPY002
    state = (torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist())  # noqa: NPY002
    seeds: list[float] = []
    others = {"rude": rude, "draws": lambda x: torch.full((len(x), 3), seeds.append(random.random()) or 1.0)}
    with_others = rows_of(it3.evaluate(engine, batches, squares, variants, others=others))
    assert torch.equal(torch.get_rng_state(), state[0])
    assert (random.getstate(), np.random.get_state()[1].tolist()) == state[1:]  # noqa: NPY002
    random.seed(3)
    assert seeds[0] == random.random()
    without = rows_of(it3.evaluate(engine, batches, squares, variants))
    assert all(with_others[name]["score"] == row["score"] for name, row in without.items())


@pytest.mark.parametrize("change", ["weights", "modes", "requires_grad", "statistics"])
def test_a_function_that_changes_the_network_of_the_run_is_an_error(change: str) -> None:
    engine, batches = classifier("cnn")
    model = engine.model

    def method(x: Tensor) -> Tensor:
        if change == "weights":
            with torch.no_grad():
                model.fc.bias.add_(1)
        elif change == "statistics":
            model.train()
            model(x)
            model.eval()
        elif change == "modes":
            model.train()
        else:
            model.fc.requires_grad_(False)
        return torch.zeros(len(x), 5)

    with pytest.raises(ValueError, match="the method 'careless' of others changed the network of the run's engine"):
        it3.evaluate(engine, batches, "accuracy", others={"careless": method})


def test_errors() -> None:
    engine, batches = classifier("mlp")
    evaluate = partial(it3.evaluate, engine, batches, "accuracy")
    with pytest.raises(TypeError, match=r"others must map names to methods, or be a function .* not a list"):
        evaluate(others=[engine])
    with pytest.raises(
        TypeError, match=r"the method 'a' of others must be an IT3Engine, a module or a function .* int"
    ):
        evaluate(others={"a": 3})
    with pytest.raises(TypeError, match="the function others must return a mapping of methods, not a IT3Engine"):
        evaluate(others=lambda engine: engine)
    with pytest.raises(ValueError, match=r"'TENT' of others is a module in train mode, .*; call its eval\(\)"):
        evaluate(others={"TENT": TentEngine(copy.deepcopy(engine.model), STEPS)})
    with pytest.raises(TypeError, match=r"a method of others must return a prediction, .* but returned a NoneType"):
        evaluate(others={"a": lambda x: None})
    with pytest.raises(ValueError, match="a method of others is called '0 steps'"):
        evaluate(others={"0 steps": lambda x: x})
    with pytest.raises(ValueError, match="a method of others is called 'adapted'"):
        evaluate(others={"adapted": lambda x: x})
    with pytest.raises(ZeroDivisionError) as caught:
        evaluate(others={"broken": lambda x: 1 / 0})
    assert caught.value.__notes__ == ["in the row 'broken', run 0"]
    runs: Batches = []
    with pytest.raises(ValueError, match="methods of the same names for each run, not 'b' after 'a'"):
        evaluate(others=lambda _: runs.append(0) or {"ab"[len(runs) - 1]: lambda x: torch.zeros(len(x), 3)}, seeds=2)
    with pytest.raises(ValueError, match=r"predicts for \[1, 1, 1, 1\] samples of the batches, where 0 steps"):
        it3.evaluate(engine, batches, lambda p, _: p.mean(), others={"few": lambda x: torch.zeros(1, 3)})
