"""The controls that evaluate() runs beside a variant are what they say, and cannot be left out."""

import copy
import math
from functools import partial
from typing import Any

import it3
import pytest
import torch
from it3 import IT3Engine
from models import make_case
from torch import Tensor, nn

close = partial(torch.testing.assert_close, rtol=1e-9, atol=1e-9)
Batches = list[tuple[Any, Tensor]]
BUDGET = {"num_steps": 2, "lr": 0.05}


class Probabilities(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).softmax(1)


def classifier(kind: str = "cnn", *, probable: bool = False, size: int = 2, **arguments) -> tuple[IT3Engine, Batches]:
    case = make_case(kind)
    model, layer = (Probabilities(case.model), f"0.{case.layer}") if probable else (case.model, case.layer)
    classes = case.target.argmax(1)
    engine = IT3Engine(model, layer, **arguments).eval()
    return engine, list(zip(case.inputs.split(size), classes.split(size), strict=True))


def rows_of(evaluation: it3.Evaluation) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in evaluation.rows}


def squares(prediction: Tensor, _targets: Any) -> Tensor:
    """A score that tells predictions apart."""
    return prediction.square().flatten(1).mean(1)


def mean_squares(predict, batches: Batches) -> float:
    return torch.cat([squares(predict(x).detach(), y) for x, y in batches]).mean().item()


def minimized(model: nn.Module, x: Tensor, probable: bool, only: str = "") -> Tensor:
    """What a copy of a model predicts after it has minimized the entropy of its predictions."""
    model = copy.deepcopy(model).eval()
    adapted = [parameter for name, parameter in model.named_parameters() if only in name]
    optimizer = torch.optim.Adam(adapted, lr=BUDGET["lr"])
    for _ in range(BUDGET["num_steps"]):
        optimizer.zero_grad()
        p = model(x) if probable else model(x).softmax(1)
        (-(p * p.log()).sum(1).mean()).backward()
        optimizer.step()
    return model(x)


@pytest.mark.parametrize("kind", ["mlp", "cnn", "segmentation"])
@pytest.mark.parametrize("probable", [False, True], ids=["logits", "probabilities"])
def test_entropy_minimization_against_torch(kind: str, probable: bool) -> None:
    engine, batches = classifier(kind, probable=probable, distance_fn="mse" if probable else "js")
    rows = rows_of(it3.evaluate(engine, batches, squares, {"it3": BUDGET}))
    expected = mean_squares(lambda x: minimized(engine.model, x, probable), batches)
    close(rows["entropy minimization, it3"]["score"], expected)
    assert expected != rows["0 steps"]["score"]


def test_entropy_minimization_of_a_few_weights_and_of_one_sample() -> None:
    engine, batches = classifier("cnn", size=1, distance_fn="js")
    variants = {"norm": {**BUDGET, "parameters": "norm"}, "per sample": {**BUDGET, "per_sample": True}}
    rows = rows_of(it3.evaluate(engine, batches, squares, variants))
    close(
        rows["entropy minimization, norm"]["score"],
        mean_squares(lambda x: minimized(engine.model, x, False, "norm"), batches),
    )
    together = [(torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches]))]
    of_all = rows_of(it3.evaluate(engine, together, squares, variants))
    alone = mean_squares(lambda x: minimized(engine.model, x, False), batches)
    close(rows["entropy minimization, per sample"]["score"], alone)
    close(of_all["entropy minimization, per sample"]["score"], alone)


def test_entropy_minimization_has_each_budget_once() -> None:
    """Anchors, thresholds and the choice of the answer are about y1, which it does not have."""
    engine, batches = classifier("cnn", optimization_parameters={"threshold": 1e9, "lr": 0.05, "num_steps": 2})
    variants = {
        "a": {},
        "frozen": {"anchor": "frozen"},
        "ema": {"anchor": "ema", "ema_decay": 0.9},
        "mean": {"prediction": "mean", "threshold": None},
        "same": {"lr": 0.05},
        "l1": {"distance_fn": "l1"},
        "none": {"num_steps": 0},
        "more": {"num_steps": 4},
        "blend": {"norm_statistics": "blend"},
    }
    names = [name for name in rows_of(it3.evaluate(engine, batches, "accuracy", variants)) if "entropy" in name]
    kinds = ("entropy minimization", "entropy and diversity")
    assert names == [f"{kind}, {name}" for kind in kinds for name in ("a", "more", "blend")]
    score = rows_of(it3.evaluate(engine, batches, "accuracy", {"a": {}}))["entropy minimization, a"]["score"]
    right = [minimized(engine.model, x, False).argmax(1) == y for x, y in batches]
    assert score == torch.cat(right).double().mean().item()


def test_entropy_minimization_keeps_weights_where_the_variant_does() -> None:
    engine, batches = classifier("mlp", distance_fn="kl")
    rows = rows_of(it3.evaluate(engine, batches, squares, {"online": {**BUDGET, "copy_model": False}}))
    model = copy.deepcopy(engine.model)
    optimizer = torch.optim.Adam(model.parameters(), lr=BUDGET["lr"])
    predictions = []
    for x, _ in batches:
        for _ in range(BUDGET["num_steps"]):
            optimizer.zero_grad()
            p = model(x).softmax(1)
            (-(p * p.log()).sum(1).mean()).backward()
            optimizer.step()
        predictions.append(model(x).detach())
    close(
        rows["entropy minimization, online"]["score"], torch.cat([squares(p, None) for p in predictions]).mean().item()
    )


def test_entropy_minimization_of_engines_that_differ() -> None:
    """In their options, and in whether they predict logits or probabilities."""
    first, batches = classifier("mlp", optimization_parameters=BUDGET)
    second, _ = classifier("mlp", probable=True, optimization_parameters={**BUDGET, "parameters": "0.4*"})
    rows = rows_of(it3.evaluate([first, second], batches, "accuracy"))

    def right(engine: IT3Engine, *how: Any) -> Tensor:
        return torch.cat([minimized(engine.model, x, *how).argmax(1) == y for x, y in batches]).double()

    expected = torch.cat([right(first, False), right(second, True, "0.4")]).mean().item()
    close(rows["entropy minimization, adapted"]["score"], expected)


def test_a_control_that_nobody_asked_for_may_fail() -> None:
    """The variant's loss has no gradient, so that its weights stay, whatever the learning rate."""
    engine, batches = classifier("mlp")
    still = {"num_steps": 9, "lr": 1.7e307, "distance_fn": lambda y1, y0: 0 * (y1 + y0).sum()}
    labels = [0] * len(batches)
    evaluation = it3.evaluate(engine, batches, "accuracy", {"still": still}, groups=labels, seeds=2)
    rows = rows_of(evaluation)
    failed = rows["entropy minimization, still"]
    assert rows["still"]["score"] == rows["0 steps"]["score"]
    numbers = ("score", "sd", "gain", "low", "high", "ece", "worst", "milliseconds", "megabytes")
    assert all(math.isnan(failed[name]) for name in numbers)
    assert evaluation.best_control in ("0 steps", "0 steps, y1")
    minimization, diversity = evaluation.verdict.splitlines()[-2:]
    assert minimization.startswith("entropy minimization, still: failed; ")
    assert "the loss at step 2 of 9 is nan" in minimization
    assert diversity.startswith("entropy and diversity, still: failed; ")
    with pytest.raises(ValueError, match="the loss at step") as caught:
        it3.evaluate(engine, batches, "accuracy", {"wild": {"num_steps": 9, "lr": 1.7e307}})
    assert caught.value.__notes__ == ["in the row 'wild', run 0"]


def test_networks_that_have_learned_classes_have_it_with_any_metric() -> None:
    engine, batches = classifier("mlp")
    assert not [name for name in rows_of(it3.evaluate(engine, batches, squares)) if "entropy" in name]
    engine.train()(batches[0][0], target=batches[0][1])
    assert [name for name in rows_of(it3.evaluate(engine.eval(), batches, squares)) if "entropy" in name]


def test_regression_has_no_entropy_to_minimize() -> None:
    case = make_case("mlp")
    engine = IT3Engine(case.model, case.layer).eval()
    names = list(rows_of(it3.evaluate(engine, [(case.inputs, case.target)], "mse")))
    assert names == ["0 steps", "0 steps, y1", "adapted"]


def test_batch_statistics_are_a_row_of_every_network_that_has_some() -> None:
    engine, batches = classifier("cnn", distance_fn="js")
    rows = rows_of(it3.evaluate(engine, batches, squares, {"running": {}}))
    expected = mean_squares(lambda x: engine.adapt(x, num_steps=0, norm_statistics="batch").prediction, batches)
    close(rows["0 steps, batch statistics"]["score"], expected)
    scripted = IT3Engine(torch.jit.script(engine.model), "conv1", distance_fn="js").eval()
    scripted_rows = rows_of(it3.evaluate(scripted, batches, squares, {"running": {}}))
    close(scripted_rows["0 steps, batch statistics"]["score"], expected)
    without, batches = classifier("segmentation")
    assert not [name for name in rows_of(it3.evaluate(without, batches, "accuracy")) if "statistics" in name]


def test_repairs_are_rows_of_the_plain_network() -> None:
    engine, batches = classifier("cnn")
    shifted = [(5 * x, y) for x, y in batches]
    training = torch.cat([x for x, _ in batches])
    repairs = {"clipped": it3.clip_to(training), "filtered": it3.median_filter(3), "halved": lambda x: x.div_(2)}
    rows = rows_of(it3.evaluate(engine, shifted, squares, repairs=repairs))
    before = [x.clone() for x, _ in shifted]
    for name, repair in repairs.items():
        expected = mean_squares(lambda x, repair=repair: engine.model(repair(x.clone())), shifted)
        close(rows[f"0 steps, {name}"]["score"], expected)
        assert rows[f"0 steps, {name}"]["milliseconds"] > 0
    assert all(torch.equal(x, kept) for (x, _), kept in zip(shifted, before, strict=True))


class Filled(nn.Module):
    """A network that takes missing values for zeros, and its inputs by name."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.Linear(4, 8), nn.Linear(8, 2)

    def forward(self, table: Tensor, scale: Tensor) -> Tensor:
        return self.head(torch.tanh(self.layer(table.nan_to_num(0.0)))) * scale


def test_missing_values_in_inputs_with_names() -> None:
    torch.manual_seed(0)
    engine = IT3Engine(Filled(), "layer").eval()
    training = {"table": torch.randn(50, 4) + 3, "scale": torch.ones(50, 1)}
    table = torch.randn(12, 4) + 3
    right = engine.model(table, torch.ones(12, 1)).detach()
    table[torch.rand(table.shape) < 0.3] = math.nan
    batches = [
        ({"scale": torch.ones(4, 1), "table": x}, y) for x, y in zip(table.split(4), right.split(4), strict=True)
    ]
    rows = rows_of(it3.evaluate(engine, batches, "mse", repairs={"imputed": it3.impute(training)}))
    means = training["table"].mean(0)
    filled = torch.where(table.isnan(), means, table)
    expected = (engine.model(filled, torch.ones(12, 1)) - right).square().mean().item()
    assert rows["0 steps, imputed"]["score"] == pytest.approx(expected, rel=1e-5)
    assert rows["0 steps, imputed"]["score"] < rows["0 steps"]["score"]


def test_repairs_that_do_not_work() -> None:
    engine, batches = classifier("mlp")
    with pytest.raises(TypeError, match="the repair 'zero' must be a function of the inputs, not a int"):
        it3.evaluate(engine, batches, "accuracy", repairs={"zero": 0})
    with pytest.raises(ValueError, match="a repair is called '0 steps, y1', which is the name of a control"):
        it3.evaluate(engine, batches, "accuracy", repairs={"y1": lambda x: x})
    with pytest.raises(ZeroDivisionError) as caught:
        it3.evaluate(engine, batches, "accuracy", repairs={"broken": lambda x: 1 / 0})
    assert caught.value.__notes__ == ["in the row '0 steps, broken', run 0"]
