"""What hangs together, groups, calibration and the verdict, in whole evaluations."""

import math
from functools import partial
from typing import Any

import it3
import numpy as np
import pandas as pd
import pytest
import torch
from it3 import IT3Engine
from models import make_case
from scipy import stats
from test_class_scores import naive_ece
from test_evaluation import engine_and_batches
from test_evaluation_controls import classifier, rows_of
from torch import Tensor

close = partial(torch.testing.assert_close, rtol=1e-9, atol=1e-9)


def made_up(gains: dict[str, Tensor], **arguments) -> it3.Evaluation:
    """An evaluation whose rows have these scores, [run, batch], on batches of one; 0 steps and y1 have 0."""
    engines = [engine_and_batches(seed=run)[0] for run in range(len(next(iter(gains.values()))))]
    batches = next(iter(gains.values())).shape[1]
    numbers = iter(
        [
            number
            for run in range(len(engines))
            for row in (None, None, *gains)
            for number in ([0.0] * batches if row is None else gains[row][run].tolist())
        ]
    )
    loader = [(torch.zeros(1, 6, dtype=torch.double), torch.zeros(1))] * batches
    metric = lambda _prediction, _targets: torch.tensor([next(numbers)], dtype=torch.double)  # noqa: E731
    variants = {name: {"num_steps": 0} for name in gains}
    return it3.evaluate(engines, loader, metric, variants, resamples=2000, **arguments)


def drawn(*shape: int, mean: float, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.double, generator=torch.Generator().manual_seed(seed)) + mean


def test_the_gain_of_each_variant_is_tested_as_holm_says() -> None:
    """One run: by Student's test, of the gains against the best control, with the levels of three variants."""
    gains = {"large": drawn(1, 30, mean=1.5), "small": drawn(1, 30, mean=0.42, seed=1), "none": drawn(1, 30, mean=0.0)}
    rows = rows_of(made_up(gains))
    p = {name: stats.ttest_1samp(gain[0].numpy(), 0).pvalue for name, gain in gains.items()}
    assert p["large"] < p["small"] < p["none"]
    corrected = {"large": 3 * p["large"], "small": 2 * p["small"], "none": max(2 * p["small"], p["none"])}
    for (name, gain), level in zip(gains.items(), (0.05 / 3, 0.05 / 2, 0.05), strict=True):
        low, high = stats.ttest_1samp(gain[0].numpy(), 0).confidence_interval(1 - level)
        row = rows[name]
        assert row["p"] == pytest.approx(corrected[name], rel=0.3)
        assert (row["beyond_low"], row["beyond_high"]) == pytest.approx((low, high), abs=0.05 * (high - low))
        assert row["beyond"] == row["gain"] == pytest.approx(gain.mean().item())
        assert row["low"] >= row["beyond_low"] - 1e-12
    assert [rows[name]["verdict"] for name in gains] == ["helps", "helps", "no clear gain"]
    assert all(math.isnan(rows["0 steps"][name]) for name in ("beyond", "beyond_low", "beyond_high", "p"))
    assert rows["0 steps"]["verdict"] == ""


def test_a_gain_that_one_variant_would_have_may_be_too_small_among_many() -> None:
    gain = drawn(1, 30, mean=0.42, seed=1)
    alone = rows_of(made_up({"small": gain}))["small"]
    assert alone["verdict"] == "helps"
    others = {f"none {place}": drawn(1, 30, mean=0.0, seed=place + 2) for place in range(9)}
    among = rows_of(made_up({"small": gain, **others}))["small"]
    assert among["verdict"] == "no clear gain"
    assert among["p"] > 0.05 > alone["p"]
    assert alone["low"] > 0
    assert among["low"] == pytest.approx(alone["low"], rel=1e-9)  # against 0 steps, by itself


def test_what_clusters_says_is_drawn_together() -> None:
    gains = drawn(1, 4, mean=0.0, seed=3).repeat_interleave(6, 1) + 0.1 * drawn(1, 24, mean=0.0, seed=4)
    labels = [f"photo {place // 6}" for place in range(24)]
    of_photos = gains.view(4, 6).mean(1).numpy()
    expected = stats.ttest_1samp(of_photos, 0).confidence_interval()
    for clusters in (labels, lambda _run: labels, torch.arange(24) // 6, np.array(labels), pd.Series(labels)):
        row = rows_of(made_up({"a": gains}, clusters=clusters))["a"]
        width = expected.high - expected.low
        assert (row["low"], row["high"]) == pytest.approx((expected.low, expected.high), abs=0.05 * width)
    alone = rows_of(made_up({"a": gains}))["a"]
    assert row["high"] - row["low"] > 2 * (alone["high"] - alone["low"])


def test_runs_that_shuffle_the_same_samples_are_warned_of() -> None:
    engine, batches = engine_and_batches()
    x, y = (torch.cat(parts) for parts in zip(*batches, strict=True))
    data = torch.utils.data.TensorDataset(x, y)
    shuffled = torch.utils.data.DataLoader(data, 3, shuffle=True)
    with pytest.warns(UserWarning, match="the runs have the same targets in different orders"):
        it3.evaluate(engine, shuffled, "mse", seeds=3)
    it3.evaluate(engine, shuffled, "mse", seeds=3, clusters=["a", "b", "c"])
    it3.evaluate(engine, torch.utils.data.DataLoader(data, 3), "mse", seeds=3)
    it3.evaluate(engine, lambda _run: [(x, y + torch.randn_like(y)) for x, y in batches], "mse", seeds=2)


def test_engines_around_one_network_are_drawn_together() -> None:
    """They share weights: two of them tell no more of how networks differ than one."""
    first, batches = engine_and_batches()
    second, _ = engine_and_batches(seed=1)
    twin = IT3Engine(first.model, "0", first.embedder).eval()
    variants = {"a": {"num_steps": 3, "lr": 0.05}}
    pair = it3.evaluate([first, second], batches, "mse", variants).compare("a", "0 steps")
    four = it3.evaluate([first, twin, second, second], batches, "mse", variants).compare("a", "0 steps")
    close((four.value, four.low, four.high), (pair.value, pair.low, pair.high))


def test_the_worst_group_of_samples_and_of_batches() -> None:
    engine, batches = engine_and_batches()
    errors = [(engine.model(x) - y).square().mean(1).detach() for x, y in batches]
    of_samples = [["a", "b"], ["b", "b"], ["c", "a"], ["c"]]
    means: dict[str, list[float]] = {}
    for error, labels in zip(errors, of_samples, strict=True):
        for score, label in zip(error.tolist(), labels, strict=True):
            means.setdefault(label, []).append(score)
    worst = max(means, key=lambda label: sum(means[label]) / len(means[label]))
    for groups in (of_samples, lambda _run: of_samples):
        row = it3.evaluate(engine, batches, "mse", groups=groups).rows[0]
        assert row["worst_group"] == worst
        close(row["worst"], sum(means[worst]) / len(means[worst]))
        close(row["groups"], {label: sum(scores) / len(scores) for label, scores in means.items()})
    of_batches = [0, 1, 0, 1]
    numbered = [torch.tensor([0, 1]), torch.tensor([1, 1]), torch.tensor([2, 0]), torch.tensor([2])]
    assert it3.evaluate(engine, batches, "mse", groups=numbered).rows[0]["worst"] == row["worst"]
    row = it3.evaluate(engine, batches, "mse", groups=of_batches).rows[0]
    by_batch = [torch.cat(errors[place::2]).mean().item() for place in (0, 1)]
    close(row["worst"], max(by_batch))
    assert row["worst_group"] == str(by_batch.index(max(by_batch)))
    assert f"{row['worst']:.4f} {row['worst_group']}" in str(it3.evaluate(engine, batches, "mse", groups=of_batches))


def test_the_worst_group_of_a_score_of_which_more_is_better_over_runs() -> None:
    gains = {"a": torch.tensor([[1.0, 5.0, 3.0], [1.0, 0.0, 3.0]], dtype=torch.double)}
    row = rows_of(made_up(gains, groups=["x", "y", "z"]))["a"]
    assert (row["worst"], row["worst_group"]) == (1.0, "x")


def test_scores_of_whole_batches_have_groups_of_whole_batches() -> None:
    engine, batches = engine_and_batches()
    evaluate = partial(it3.evaluate, engine, batches, lambda p, y: (p - y).square().mean(), higher_is_better=False)
    expected = max((engine.model(x) - y).square().mean().item() for x, y in batches)
    close(evaluate(groups=["a", "b", "c", "d"]).rows[0]["worst"], expected)
    with pytest.raises(ValueError, match="groups has several labels in a batch, but the metric gives one score"):
        evaluate(groups=[["a", "b"], "b", "c", "d"])


@pytest.mark.parametrize("kind", ["mlp", "segmentation"])
def test_calibration_of_each_row(kind: str) -> None:
    engine, batches = classifier(kind)
    probable = {"probabilities": lambda x: engine.model(x).softmax(1), "logits": engine.model}
    references = torch.cat([y for _, y in batches])
    evaluation = it3.evaluate(engine, batches, "accuracy", {"a": {"lr": 0.05}}, others=probable, reference=references)
    rows = rows_of(evaluation)

    def expected(predict) -> float:
        p = torch.cat([predict(x).detach().softmax(1).movedim(1, -1).flatten(0, -2) for x, _ in batches])
        return naive_ece(p.numpy(), torch.cat([y.flatten() for _, y in batches]).numpy())

    for name in ("0 steps", "probabilities", "logits"):
        assert rows[name]["ece"] == pytest.approx(expected(engine.model), rel=1e-6)
    assert rows["a"]["ece"] == pytest.approx(expected(lambda x: engine.adapt(x, lr=0.05).prediction), rel=1e-6)
    assert math.isnan(rows["majority class"]["ece"])
    assert "ECE" in str(evaluation)


def test_calibration_is_that_of_each_network() -> None:
    """One that is too sure and one that is not sure enough do not make up for one another."""
    case = make_case("mlp")
    targets = torch.tensor([0, 0, 0, 1])
    inputs = torch.zeros(4, 6, dtype=torch.double)
    engines = []
    for logit in (0.2, 5.0):
        model = make_case("mlp").model
        with torch.no_grad():
            model[4].weight.zero_()
            model[4].bias.copy_(torch.tensor([logit, 0.0, -50.0]))
        engines.append(IT3Engine(model, case.layer).eval())
    row = it3.evaluate(engines, [(inputs, targets)], "accuracy", {}).rows[0]
    sure = [torch.tensor(logit).sigmoid().item() for logit in (0.2, 5.0)]
    assert row["ece"] == pytest.approx((abs(sure[0] - 0.75) + abs(sure[1] - 0.75)) / 2, rel=1e-6)


def test_a_function_called_accuracy_is_not_taken_for_ours() -> None:
    engine, batches = classifier("mlp")

    def accuracy(prediction: Tensor, targets: dict[str, Tensor]) -> Tensor:
        return (prediction.argmax(1) == targets["classes"]).double()

    named = [(x, {"classes": y}) for x, y in batches]
    rows = rows_of(it3.evaluate(engine, named, accuracy))
    assert rows["0 steps"]["score"] == rows_of(it3.evaluate(engine, batches, "accuracy"))["0 steps"]["score"]
    assert math.isnan(rows["0 steps"]["ece"])


def test_columns_that_say_nothing_are_left_out() -> None:
    engine, batches = engine_and_batches()
    evaluation = it3.evaluate(engine, batches, "mse")
    titles = str(evaluation).splitlines()[0].split()
    assert titles == ["mse", "gain", "95", "%", "interval", "ms", "MB"]
    assert all(math.isnan(row["ece"]) and math.isnan(row["worst"]) for row in evaluation.rows)
    assert {row["worst_group"] for row in evaluation.rows} == {""}


def test_columns_of_runs_are_there_for_several_also_where_a_row_failed() -> None:
    engine, batches = classifier("mlp")
    still = {"num_steps": 9, "lr": 1.7e307, "distance_fn": lambda y1, y0: 0 * (y1 + y0).sum()}
    evaluation = it3.evaluate(engine, batches, "accuracy", {"still": still}, seeds=2)
    titles, *lines = str(evaluation).splitlines()
    assert titles.split()[:3] == ["accuracy", "sd", "gain"]
    of_failed = next(line for line in lines if line.startswith("entropy minimization, still"))
    assert of_failed.removeprefix("entropy minimization, still").split() == ["nan", "+nan"]


def test_a_batch_of_one_sample_in_one_run() -> None:
    engine, batches = classifier("cnn", size=1)
    evaluation = it3.evaluate(engine, batches[:1], "accuracy", groups=["a"], clusters=["b"])
    row = evaluation.rows[-1]
    assert all(math.isnan(row[name]) for name in ("low", "high", "beyond_low", "beyond_high", "p", "sd"))
    assert row["verdict"] == "no clear gain"
    assert "the same accuracy as the best control, 0 steps, in every batch" in evaluation.verdict
    assert "nan" not in str(evaluation)
    assert row["worst"] == row["score"]


def test_errors() -> None:
    engine, batches = engine_and_batches()
    evaluate: Any = partial(it3.evaluate, engine, batches, "mse")
    for name in ("clusters", "groups"):
        with pytest.raises(ValueError, match=f"{name} has 3 entries for the 4 batches of run 0; give one for each"):
            evaluate(**{name: [1, 2, 3]})
        with pytest.raises(TypeError, match=f"{name} must be a list with an entry for each batch, .* not a str"):
            evaluate(**{name: "abcd"})
        with pytest.raises(TypeError, match=f"{name} must be a list .* not a int"):
            evaluate(**{name: lambda _run: 4})
    with pytest.raises(TypeError, match=r"an entry of clusters must be one label, .* not a list"):
        evaluate(clusters=[["a", "b"], "b", "c", "d"])
    with pytest.raises(TypeError, match=r"an entry of clusters must be one label, .* not a tensor of shape \(2,\)"):
        evaluate(clusters=list(torch.zeros(4, 2)))
    with pytest.raises(ValueError, match=r"an entry of groups must be one label .* each of its 2 samples; it has 3"):
        evaluate(groups=[["a", "b", "c"], "b", "c", "d"])
    with pytest.raises(ValueError, match="resamples must be a whole number, 100 or more, not 0"):
        evaluate(resamples=0)
    with pytest.raises(KeyError, match="no row is called '4 steps'; the rows are '0 steps', '0 steps, y1', 'adapted'"):
        evaluate().compare("4 steps", "0 steps")


def test_a_metric_may_be_called_like_another_column() -> None:
    def gain(prediction: Tensor, targets: Tensor) -> Tensor:
        return (prediction - targets).square().mean(1)

    engine, batches = engine_and_batches()
    lines = str(it3.evaluate(engine, batches, gain, {"1 step": {"num_steps": 1}}, higher_is_better=False)).splitlines()
    assert lines[0].split().count("gain") == 2
