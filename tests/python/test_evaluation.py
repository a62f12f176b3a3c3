"""evaluate() counts and compares as it says."""

import statistics
from functools import partial

import it3
import pytest
import torch
import torch.nn.functional as F
from it3 import IT3Engine
from it3.metrics import accuracy, mae, mse
from kinds_of_network import build, state_of
from models import make_case
from torch import Tensor

close = partial(torch.testing.assert_close, rtol=1e-9, atol=1e-9)
VARIANTS = {"1 step": {"num_steps": 1}, "online": {"copy_model": False}}


def engine_and_batches(
    kind: str = "mlp", seed: int = 0, device: str = "cpu"
) -> tuple[IT3Engine, list[tuple[Tensor, Tensor]]]:
    case = make_case(kind, seed=seed, device=device)
    engine, _ = build(case, "traced", optimization_parameters={"lr": 0.01})
    return engine, list(zip(case.inputs.split(2), case.target.split(2), strict=True))


def mean_score(predict, batches, score) -> float:
    scores = [score(predict(x), y) for x, y in batches]
    return torch.cat(scores).mean().item()


def squares(prediction: Tensor, targets: Tensor) -> Tensor:
    return (prediction - targets).square().flatten(1).mean(1)


def test_scores_are_those_of_the_engine(device: str) -> None:
    engine, batches = engine_and_batches(device=device)
    before = state_of(engine)
    evaluation = it3.evaluate(engine, batches, "mse", VARIANTS)
    assert all(torch.equal(value, before[name]) for name, value in engine.state_dict().items())
    rows = {row["name"]: row for row in evaluation.rows}
    assert list(rows) == ["0 steps", "0 steps, y1", "1 step", "online"]
    expected = {
        "0 steps": engine.model,
        "0 steps, y1": lambda x: engine.adapt(x, num_steps=0).second,
        "1 step": lambda x: engine.adapt(x, num_steps=1).prediction,
        "online": lambda x: engine.adapt(x, copy_model=False).prediction,
    }
    for name, predict in expected.items():
        close(rows[name]["score"], mean_score(predict, batches, squares))
    engine.reset()
    for row in evaluation.rows:
        close(row["gain"], rows["0 steps"]["score"] - row["score"])  # lower is better
        assert row["milliseconds"] > 0
        assert row["low"] <= row["gain"] <= row["high"]
    # The gradients, moments and copies of 155 weights in float64, at least.
    assert 1e3 * rows["1 step"]["megabytes"] > 4 * 155 * 8 / 1e3 > 0
    assert rows["1 step"]["megabytes"] > rows["0 steps"]["megabytes"]


def test_runs_of_several_engines() -> None:
    engines, plain = ([engine_and_batches(seed=seed)[0] for seed in (first, first + 1, first + 2)] for first in (0, 7))
    _, batches = engine_and_batches()
    evaluation = it3.evaluate(engines, batches, "mae", {"adapted": {}}, without_second_term=plain)
    rows = {row["name"]: row for row in evaluation.rows}
    of_runs = [mean_score(engine.model, batches, lambda a, b: (a - b).abs().mean(1)) for engine in engines]
    close(rows["0 steps"]["score"], statistics.mean(of_runs))
    close(rows["0 steps"]["sd"], statistics.stdev(of_runs))
    of_plain = [mean_score(engine.model, batches, lambda a, b: (a - b).abs().mean(1)) for engine in plain]
    close(rows["no second term, 0 steps"]["score"], statistics.mean(of_plain))


def test_controls_use_the_statistics_of_the_variants() -> None:
    engine, batches = engine_and_batches("cnn")
    variants = {"batch": {"norm_statistics": "batch"}, "blend": {"norm_statistics": "blend", "norm_prior": 4}}
    evaluation = it3.evaluate(engine, batches, "mse", variants)
    rows = {row["name"]: row for row in evaluation.rows}
    assert list(rows)[2:4] == ["0 steps, batch statistics", "0 steps, blend statistics, prior 4"]
    close(
        rows["0 steps, blend statistics, prior 4"]["score"],
        mean_score(lambda x: engine.adapt(x, num_steps=0, **variants["blend"]).prediction, batches, squares),
    )


def test_all_rows_of_a_run_see_the_same_draw() -> None:
    engine, batches = engine_and_batches()
    seen = []

    def loader(run: int):
        for x, y in batches:
            seen.append((run, torch.randn(1).item()))
            yield x + seen[-1][1], y

    evaluation = it3.evaluate(engine, loader, "mse", {"a": {}, "b": {}}, seeds=2)
    rows = {row["name"]: row for row in evaluation.rows}
    assert [run for run, _ in seen] == [0] * 4 + [1] * 4
    assert rows["a"]["score"] == rows["b"]["score"]
    torch.manual_seed(1)
    assert seen[4][1] == torch.randn(1).item()
    assert rows["0 steps"]["sd"] > 0


def made_up(gains: Tensor) -> it3.Evaluation:
    """An evaluation whose variant has these gains, [run, batch], on batches of one."""
    base = torch.zeros_like(gains)
    numbers = iter([])
    engine, _ = engine_and_batches()
    runs, batches = gains.shape
    order = [x for r in range(runs) for x in (*base[r], *base[r], *gains[r])]
    numbers = iter(order)
    loader = [(torch.zeros(1, 6, dtype=torch.double), torch.zeros(1))] * batches
    return it3.evaluate(
        [engine] * runs, loader, lambda _prediction, _targets: next(numbers).reshape(1), {"adapted": {"num_steps": 0}}
    )


def test_intervals_agree_with_the_theory() -> None:
    """One run of many batches: the mean's normal interval."""
    torch.manual_seed(0)
    gains = torch.randn(1, 400, dtype=torch.double) + 0.2
    gain = made_up(gains).compare("adapted", "0 steps")
    close(gain.value, gains.mean().item())
    half = 1.96 * gains.std().item() / 20
    assert gain.low == pytest.approx(gain.value - half, abs=0.02)
    assert gain.high == pytest.approx(gain.value + half, abs=0.02)


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    """Runs differ, batches differ: about 95 % of the intervals hold the mean; with few runs, somewhat fewer."""
    torch.manual_seed(0)
    hits = 0
    for _ in range(60):
        gains = torch.randn(8, 1, dtype=torch.double) + torch.randn(8, 20, dtype=torch.double)
        gain = made_up(gains).compare("adapted", "0 steps")
        hits += gain.low < 0 < gain.high
    assert 50 <= hits <= 60


@pytest.mark.parametrize(
    ("shift", "verdict"), [(1.0, "adapted: helps"), (-1.0, "adapted: hurts"), (0.0, "adapted: no clear effect")]
)
def test_verdicts(shift: float, verdict: str) -> None:
    torch.manual_seed(0)
    evaluation = made_up(0.1 * torch.randn(3, 10, dtype=torch.double) + shift)
    assert evaluation.verdict.startswith(verdict)
    assert verdict in str(evaluation)
    assert evaluation.to_frame().loc["adapted", "verdict"] in verdict


def test_verdict_names_the_control_that_does_as_well() -> None:
    engine, batches = engine_and_batches("cnn")
    better = [(x, engine.adapt(x, num_steps=0, norm_statistics="batch").prediction) for x, _ in batches]
    evaluation = it3.evaluate(engine, better, "mse", {"batch, 0 lr": {"norm_statistics": "batch", "lr": 0.0}})
    assert "helps" in evaluation.verdict
    assert "But without adapting, as much may come from '0 steps, batch statistics'" in evaluation.verdict


def test_one_batch_has_no_interval() -> None:
    engine, batches = engine_and_batches()
    row = it3.evaluate(engine, batches[:1], "mse").rows[-1]
    assert row["low"] != row["low"]
    assert row["verdict"] == "no clear effect"


def test_metrics() -> None:
    scores = torch.tensor([[0.1, 0.9], [0.8, 0.2], [0.3, 0.7]])
    classes = torch.tensor([1, 1, 1])
    close(accuracy(scores, classes), torch.tensor([1.0, 0, 1], dtype=torch.double))
    close(accuracy(scores, F.one_hot(classes, 2)), torch.tensor([1.0, 0, 1], dtype=torch.double))
    images = torch.stack([scores.T, 1 - scores.T])  # (2, 2, 3)
    close(accuracy(images, classes.repeat(2, 1)), torch.tensor([2 / 3, 1 / 3], dtype=torch.double))
    close(mse(torch.tensor([0.5, 2.0]), torch.tensor([[0.25], [0.0]])), torch.tensor([0.0625, 4.0]).double())
    close(mae(torch.tensor(3 * [[0.25, -0.75]]), torch.zeros(3, 2)), torch.tensor([0.5, 0.5, 0.5], dtype=torch.double))
    engine, batches = engine_and_batches()
    by_batch = it3.evaluate(engine, batches, lambda p, t: squares(p, t).mean(), higher_is_better=False)
    close(by_batch.rows[0]["score"], it3.evaluate(engine, batches, "mse").rows[0]["score"])


def test_errors() -> None:
    engine, batches = engine_and_batches()
    with pytest.raises(ValueError, match="metric must be one of accuracy, mse, mae, or a function, not 'rmse'"):
        it3.evaluate(engine, batches, "rmse")
    with pytest.raises(ValueError, match="the loader gave no batches"):
        it3.evaluate(engine, [], "mse")
    with pytest.raises(ValueError, match="a variant is called '0 steps'"):
        it3.evaluate(engine, batches, "mse", {"0 steps": {}})
    with pytest.raises(ValueError, match="did you mean 'num_steps'"):
        it3.evaluate(engine, batches, "mse", {"a": {"num_step": 3}})
