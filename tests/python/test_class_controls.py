"""Controls of classes, entropy with diversity and balanced classes, are those of the formulas."""

import copy
import math
from functools import partial
from typing import Any

import it3
import pytest
import torch
from it3 import IT3Engine
from models import make_case
from test_evaluation_controls import BUDGET, Probabilities, classifier, mean_squares, rows_of, squares
from torch import Tensor, nn

close = partial(torch.testing.assert_close, rtol=1e-9, atol=1e-9)
DIVERSE = "entropy and diversity"
BALANCED = "0 steps, balanced classes"
BALANCED_OF_BATCH = "0 steps, batch statistics, balanced classes"


def informed(
    model: nn.Module, x: Tensor, *, probable: bool = False, dim: int = 1, only: str = "", of_batch: bool = False
) -> Tensor:
    """What a copy of a model predicts after steps on the entropy of its predictions minus that of their mean."""
    model = copy.deepcopy(model).eval()
    if of_batch:
        model.norm.train()
    adapted = [parameter for name, parameter in model.named_parameters() if only in name]
    optimizer = torch.optim.Adam(adapted, lr=BUDGET["lr"])
    for _ in range(BUDGET["num_steps"]):
        optimizer.zero_grad()
        p = model(x) if probable else model(x).softmax(dim)
        p = p.movedim(dim, -1).flatten(0, -2)
        (-(p * p.log()).sum(1).mean() + (p.mean(0) * p.mean(0).log()).sum()).backward()
        optimizer.step()
    return model(x)


def divided(prediction: Tensor, *, probable: bool = False, dim: int = 1) -> Tensor:
    """A prediction divided by its mean over samples and positions; of logits, minus the logarithm of that."""
    p = prediction if probable else prediction.softmax(dim)
    mean = p.movedim(dim, -1).flatten(0, -2).mean(0)
    mean = mean.reshape([-1 if place == dim else 1 for place in range(p.dim())])
    return (p / mean) / (p / mean).sum(dim, keepdim=True) if probable else prediction - mean.log()


@pytest.mark.parametrize("kind", ["mlp", "cnn", "segmentation"])
@pytest.mark.parametrize("probable", [False, True], ids=["logits", "probabilities"])
def test_against_torch(kind: str, probable: bool) -> None:
    engine, batches = classifier(kind, probable=probable, distance_fn="mse" if probable else "js")
    rows = rows_of(it3.evaluate(engine, batches, squares, {"it3": BUDGET}))
    adapted = mean_squares(lambda x: informed(engine.model, x, probable=probable), batches)
    close(rows[f"{DIVERSE}, it3"]["score"], adapted)
    balanced = mean_squares(lambda x: divided(engine.model(x), probable=probable), batches)
    close(rows[BALANCED]["score"], balanced)
    assert len({rows[name]["score"] for name in ("0 steps", BALANCED, f"{DIVERSE}, it3", "it3")}) == 4
    assert rows[BALANCED]["megabytes"] > 0


class ChannelsLast(nn.Module):
    """Predicts (B, H, W, C)."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x).movedim(1, -1)


@pytest.mark.parametrize("probable", [False, True], ids=["logits", "probabilities"])
def test_classes_in_the_last_dimension_of_images(probable: bool) -> None:
    case = make_case("segmentation")
    model = ChannelsLast(Probabilities(case.model) if probable else case.model)
    layer = "inner.0.encoder" if probable else "inner.encoder"
    engine = IT3Engine(model, layer, prediction_layout=it3.Layout(channel_dim=-1)).eval()
    batches = list(zip(case.inputs.split(2), case.target.argmax(1).split(2), strict=True))
    rows = rows_of(it3.evaluate(engine, batches, "accuracy", {"it3": BUDGET}))

    def right(predict: Any) -> float:
        return torch.cat([(predict(x).argmax(-1) == y).flatten(1).double().mean(1) for x, y in batches]).mean().item()

    close(rows[BALANCED]["score"], right(lambda x: divided(model(x), probable=probable, dim=3)))
    close(rows[f"{DIVERSE}, it3"]["score"], right(lambda x: informed(model, x, probable=probable, dim=3)))
    if probable:  # known to be classes without accuracy too
        rows = rows_of(it3.evaluate(engine, batches, squares, {"it3": BUDGET}))
        close(rows[BALANCED]["score"], mean_squares(lambda x: divided(model(x), probable=True, dim=3), batches))
        expected = mean_squares(lambda x: informed(model, x, probable=True, dim=3), batches)
        close(rows[f"{DIVERSE}, it3"]["score"], expected)


def test_a_few_weights_and_statistics_of_the_batch() -> None:
    engine, batches = classifier("cnn", distance_fn="js")
    variants = {"norm": {**BUDGET, "parameters": "norm"}, "batch": {**BUDGET, "norm_statistics": "batch"}}
    rows = rows_of(it3.evaluate(engine, batches, squares, variants))
    model = engine.model
    close(rows[f"{DIVERSE}, norm"]["score"], mean_squares(lambda x: informed(model, x, only="norm"), batches))
    close(rows[f"{DIVERSE}, batch"]["score"], mean_squares(lambda x: informed(model, x, of_batch=True), batches))
    by_batch = copy.deepcopy(model)
    by_batch.norm.train()
    close(rows[BALANCED]["score"], mean_squares(lambda x: divided(model(x)), batches))
    close(rows[BALANCED_OF_BATCH]["score"], mean_squares(lambda x: divided(by_batch(x)), batches))


def test_samples_by_themselves() -> None:
    """Their loss is over their own positions; of one prediction it is 0, and its network stays as it is."""
    each = {"each": {**BUDGET, "per_sample": True}}
    engine, batches = classifier("segmentation", size=3, distance_fn="js")
    rows = rows_of(it3.evaluate(engine, batches, squares, each))
    alone = [(x[None], y[None]) for xs, ys in batches for x, y in zip(xs, ys, strict=True)]
    close(rows[f"{DIVERSE}, each"]["score"], mean_squares(lambda x: informed(engine.model, x), alone))
    assert rows[f"{DIVERSE}, each"]["score"] != rows["0 steps"]["score"]
    engine, batches = classifier("mlp", distance_fn="js")
    engine, batches = engine.float(), [(x.float(), y) for x, y in batches]
    rows = rows_of(it3.evaluate(engine, batches, squares, each))
    assert rows[f"{DIVERSE}, each"]["score"] == pytest.approx(rows["0 steps"]["score"], rel=1e-6)


@pytest.mark.parametrize("amp", ["bf16", "fp16"])
def test_half_precision_is_full_precision_but_for_rounding(amp: str) -> None:
    engine, batches = classifier("mlp", size=7, distance_fn="js")
    engine, batches = engine.float(), [(x.float(), y) for x, y in batches]
    step = {**BUDGET, "optimizer_name": "sgd", "lr": 0.5}
    rows = rows_of(it3.evaluate(engine, batches, squares, {"full": step, "half": {**step, "amp": amp}}))
    full, half = (rows[f"{DIVERSE}, {name}"]["score"] for name in ("full", "half"))
    assert half == pytest.approx(full, rel=0.02)
    assert abs(full - rows["0 steps"]["score"]) > 0.02 * full


def test_engines_that_differ_in_whether_they_predict_logits() -> None:
    first, batches = classifier("mlp", size=7, optimization_parameters=BUDGET)
    second, _ = classifier("mlp", probable=True, optimization_parameters=BUDGET)
    rows = rows_of(it3.evaluate([first, second], batches, "accuracy"))

    def right(predict: Any) -> Tensor:
        return torch.cat([predict(x).argmax(1) == y for x, y in batches]).double()

    of_first = right(lambda x: divided(first.model(x)))
    of_second = right(lambda x: divided(second.model(x), probable=True))
    close(rows[BALANCED]["score"], torch.cat([of_first, of_second]).mean().item())
    of_first = right(lambda x: informed(first.model, x))
    of_second = right(lambda x: informed(second.model, x, probable=True))
    close(rows[f"{DIVERSE}, adapted"]["score"], torch.cat([of_first, of_second]).mean().item())


def test_balance_helps_where_classes_are_as_frequent_and_hurts_where_they_are_not() -> None:
    """For a network that tells four classes apart, but prefers the first."""
    network = nn.Sequential(nn.Linear(4, 4), nn.Identity())
    with torch.no_grad():
        network[0].weight.copy_(4 * torch.eye(4))
        network[0].bias.copy_(torch.tensor([5.0, 0.0, 0.0, 0.0]))
    engine = IT3Engine(network, "0").eval()
    even, uneven = torch.arange(4).repeat(4), torch.zeros(16, dtype=torch.long)
    noise = 0.3 * torch.randn(16, 4, generator=torch.Generator().manual_seed(0))
    for classes, helps in ((even, True), (uneven, False)):
        inputs = torch.eye(4)[classes] + noise
        rows = rows_of(it3.evaluate(engine, [(inputs, classes)], "accuracy", {"none": {"num_steps": 0}}))
        assert (rows[BALANCED]["score"] > rows["0 steps"]["score"]) == helps
        assert (rows[BALANCED]["score"] < rows["0 steps"]["score"]) != helps


def test_which_networks_have_them_and_where() -> None:
    engine, batches = classifier("cnn")
    first = ["0 steps", "0 steps, y1", "0 steps, batch statistics", BALANCED, BALANCED_OF_BATCH, "0 steps, same"]
    names = list(rows_of(it3.evaluate(engine, batches, "accuracy", repairs={"same": lambda x: x})))
    assert names == [*first, "entropy minimization, adapted", f"{DIVERSE}, adapted", "adapted"]
    names = list(rows_of(it3.evaluate(engine, batches, squares)))
    assert names == [*first[:3], "adapted"]
    engine.train()(batches[0][0], target=batches[0][1])
    names = list(rows_of(it3.evaluate(engine.eval(), batches, squares)))
    assert names == [*first[:-1], "entropy minimization, adapted", f"{DIVERSE}, adapted", "adapted"]
    engine, batches = classifier("mlp")  # without normalization
    names = list(rows_of(it3.evaluate(engine, batches, "accuracy")))
    assert names == [*first[:2], BALANCED, "entropy minimization, adapted", f"{DIVERSE}, adapted", "adapted"]


def test_labels_that_do_not_exclude_one_another_are_no_classes() -> None:
    case = make_case("mlp")
    engine = IT3Engine(nn.Sequential(case.model, nn.Sigmoid()), f"0.{case.layer}").eval()
    names = list(rows_of(it3.evaluate(engine, [(case.inputs, case.target.sigmoid().round())], squares)))
    assert names == ["0 steps", "0 steps, y1", "adapted"]


def test_they_may_fail() -> None:
    """A sample that the metric leaves out spoils the mean of the batch."""
    engine, batches = classifier("cnn", distance_fn="js")
    batches[0][0][0] = math.nan

    def known(prediction: Tensor, _targets: Any) -> Tensor:
        return prediction[prediction.isfinite()].square().mean()

    evaluation = it3.evaluate(engine, batches, known, {"none": {"num_steps": 0}})
    rows = rows_of(evaluation)
    assert math.isfinite(rows["0 steps"]["score"])
    assert math.isnan(rows[BALANCED]["score"])
    assert f"{BALANCED}: failed; " in evaluation.verdict


@pytest.mark.parametrize("name", ["balanced classes", "batch statistics, balanced classes"])
def test_repairs_are_not_called_like_them(name: str) -> None:
    engine, batches = classifier("cnn")
    with pytest.raises(ValueError, match=f"a repair is called '0 steps, {name}', which is the name of a control"):
        it3.evaluate(engine, batches, "accuracy", repairs={name: lambda x: x})
