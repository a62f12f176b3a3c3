"""evaluate() counts and compares as it says."""

import statistics
import subprocess
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


def test_memory_is_measured_from_the_start_of_weights_that_are_kept() -> None:
    """These bear the one batch that there is, but not the same once more."""
    engine, batches = engine_and_batches()
    settings = {"copy_model": False, "num_steps": 1, "optimizer_name": "sgd", "lr": 1e100}
    row = it3.evaluate(engine, batches[:1], "mse", {"online": settings}).rows[-1]
    close(
        row["score"],
        mean_score(lambda x: engine.adapt(x, **{**settings, "copy_model": True}).prediction, batches[:1], squares),
    )
    assert row["megabytes"] > 0


def test_nothing_is_told_of_memory_that_was_taken_before_it_is_counted() -> None:
    """Torch tells on the standard error, at the first time in a process and at each thousandth."""
    script = """
import it3, torch
engine = it3.IT3Engine(torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2)), "0").eval()
batches = [(torch.randn(5, 3), torch.randn(5, 2))] * 3
kept = {"copy_model": False, "num_steps": 1, "anchor": "ema", "restore_probability": 0.02}
it3.evaluate(engine, batches, "mse", {"kept": kept}, resamples=100)
"""
    command = [sys.executable, "-W", "ignore", "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr == ""


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


def test_variants_may_undo_what_the_engine_refines() -> None:
    engine, batches = engine_and_batches("cnn")
    engine.optimization_parameters = {"norm_statistics": "blend", "norm_prior": 4.0, "num_steps": 1, "lr": 0.01}
    evaluation = it3.evaluate(engine, batches, "mse", {"own": {}, "batch": {"norm_statistics": "batch"}})
    rows = {row["name"]: row for row in evaluation.rows}
    assert list(rows)[2:4] == ["0 steps, batch statistics", "0 steps, blend statistics, prior 4"]
    plain = IT3Engine(engine.model, engine.features_layer_name, engine.embedder).eval()
    options = {"norm_statistics": "batch", "num_steps": 1, "lr": 0.01}
    close(rows["batch"]["score"], mean_score(lambda x: plain.adapt(x, **options).prediction, batches, squares))


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
    engine, _ = engine_and_batches()
    runs, batches = gains.shape
    order = [x for r in range(runs) for x in (*base[r], *base[r], *gains[r])]
    numbers = iter(order)
    loader = [(torch.zeros(1, 6, dtype=torch.double), torch.zeros(1))] * batches
    metric = lambda _prediction, _targets: next(numbers).reshape(1)  # noqa: E731
    return it3.evaluate([engine] * runs, loader, metric, {"adapted": {"num_steps": 0}}, resamples=4000)


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
    generator = torch.Generator().manual_seed(0)
    draw = partial(torch.randn, dtype=torch.double, generator=generator)
    hits = 0
    for _ in range(60):
        gains = draw(8, 1) + draw(8, 20)
        gain = made_up(gains).compare("adapted", "0 steps")
        hits += gain.low < 0 < gain.high
    assert 50 <= hits <= 60


@pytest.mark.parametrize(
    ("shift", "verdict"), [(1.0, "adapted: helps"), (-1.0, "adapted: worse"), (0.0, "adapted: no clear gain")]
)
def test_verdicts(shift: float, verdict: str) -> None:
    torch.manual_seed(0)
    evaluation = made_up(0.1 * torch.randn(3, 10, dtype=torch.double) + shift)
    assert evaluation.verdict.startswith(verdict)
    assert evaluation.verdict.endswith("against the best control, 0 steps.")
    assert verdict in str(evaluation)
    assert evaluation.to_frame().loc["adapted", "verdict"] in verdict


def test_verdict_names_the_control_that_does_as_well() -> None:
    engine, batches = engine_and_batches("cnn")
    better = [(x, engine.adapt(x, num_steps=0, norm_statistics="batch").prediction) for x, _ in batches]
    evaluation = it3.evaluate(engine, better, "mse", {"batch, 0 lr": {"norm_statistics": "batch", "lr": 0.0}})
    assert evaluation.best_control == "0 steps, batch statistics"
    beginning = (
        "batch, 0 lr: no clear gain; the same mse as the best control, '0 steps, batch statistics', in every batch"
    )
    assert evaluation.verdict.startswith(f"{beginning}, and +")
    assert evaluation.compare("batch, 0 lr", "0 steps").low > 0


def test_scores_that_differ_in_a_batch_are_not_called_the_same() -> None:
    """Nor those whose differences cancel."""
    alike, cancels = torch.zeros(1, 4), torch.tensor([[1.0, -1.0, 0.0, 0.0]])
    assert made_up(alike).verdict.startswith("adapted: no clear gain; the same metric as the best control, 0 steps, in")
    evaluation = made_up(cancels)
    assert evaluation.rows[-1]["gain"] == 0
    assert "the same" not in evaluation.verdict


def test_long_sentences_are_broken_into_lines() -> None:
    engine, batches = engine_and_batches()
    name = "a variant of a name that is as long as two of the options that it stands for, one-and-all, taken together"
    evaluation = it3.evaluate(engine, batches, "mse", {name: {"num_steps": 1}, "x" * 130: {"num_steps": 2}})
    assert len(evaluation.verdict.splitlines()) == 2
    lines = str(evaluation).split("\n\n")[1].splitlines()
    assert all(len(line) <= 120 or line.startswith("x" * 130) for line in lines)
    assert [line.removeprefix("  ") for line in lines if not line.startswith("  ")] == [lines[0], "x" * 130 + ":"]
    assert " ".join(line.strip() for line in lines) == evaluation.verdict.replace("\n", " ")


def test_one_batch_has_no_interval() -> None:
    engine, batches = engine_and_batches()
    evaluation = it3.evaluate(engine, batches[:1], "mse")
    assert " (no interval) against the best control, " in evaluation.verdict
    row = evaluation.rows[-1]
    assert row["low"] != row["low"]
    assert row["p"] != row["p"]
    assert row["verdict"] == "no clear gain"


def test_metrics_of_whole_batches() -> None:
    engine, batches = engine_and_batches()
    by_batch = it3.evaluate(engine, batches, lambda p, t: squares(p, t).mean(), higher_is_better=False)
    close(by_batch.rows[0]["score"], it3.evaluate(engine, batches, "mse").rows[0]["score"])


def test_several_engines_take_turns_over_seeds() -> None:
    engines = [engine_and_batches(seed=seed)[0] for seed in (0, 1)]
    _, batches = engine_and_batches()

    def loader(run: int):
        return [(x + torch.randn(1, dtype=torch.double), y) for x, y in batches]

    evaluation = it3.evaluate(engines, loader, "mse", {"a": {}}, seeds=2)
    expected = []
    for run in range(4):
        torch.manual_seed(run)
        expected.append(mean_score(engines[run % 2].model, loader(run), squares))
    base = evaluation.rows[0]
    close(base["score"], statistics.mean(expected))
    close(base["sd"], statistics.stdev(expected))


def test_runs_that_repeat_one_another_do_not_narrow_the_interval() -> None:
    engine, batches = engine_and_batches()
    once, often = (it3.evaluate(engine, batches, "mse", {"a": {}}, seeds=seeds) for seeds in (1, 9))
    once, often = (evaluation.compare("a", "0 steps") for evaluation in (once, often))
    close((often.value, often.low, often.high, often.p), (once.value, once.low, once.high, once.p))
    one = it3.evaluate(engine, batches[:1], "mse", {"a": {}}, seeds=3).rows[-1]
    assert one["low"] != one["low"]
    assert one["verdict"] == "no clear gain"


def test_rows_do_not_depend_on_one_another() -> None:
    """Each draws the same weights to go back to the start."""
    engine, batches = engine_and_batches()
    options = {"restore_probability": 0.5, "num_steps": 2}
    rows = it3.evaluate(engine, batches, "mse", {"a": options, "between": {}, "b": options}).rows
    assert rows[-3]["score"] == rows[-1]["score"] != rows[-2]["score"]


@pytest.mark.parametrize("distance", [None, "l1", torch.nn.SmoothL1Loss(), torch.nn.functional.l1_loss])
@pytest.mark.parametrize("own", ["mse", torch.nn.MSELoss()])
def test_what_tune_chooses_is_a_variant(own, distance) -> None:
    case = make_case("mlp")
    engine, _ = build(case, "traced", distance_fn=own, optimization_parameters={"lr": 0.01})
    batches = list(zip(case.inputs.split(2), case.target.split(2), strict=True))
    search = {"distance_fn": [distance], "num_steps": [2], "parameters": [["2.*", "4.bias"]]}
    tuning = it3.tune(engine, batches, "mse", budget=1, search=search)
    assert tuning.choice["distance_fn"] is distance
    evaluation = it3.evaluate(engine, batches, "mse", {"tuned": tuning.choice})
    other = IT3Engine(
        engine.model,
        "0",
        engine.embedder,
        distance_fn=distance or own,
        optimization_parameters={"lr": 0.01, "num_steps": 2, "parameters": ["2.*", "4.bias"]},
    ).eval()
    expected = mean_score(lambda x: other.adapt(x).prediction, batches, squares)
    close(evaluation.rows[-1]["score"], expected)
    close(tuning.score, expected)
    close(it3.evaluate(tuning.engine, batches, "mse").rows[-1]["score"], expected)
    close(it3.tune([tuning.engine], batches, "mse", budget=1, search={"num_steps": [2]}).score, expected)
    assert engine.distance_fn is own
    assert list(dict(engine.named_children())) == list(dict(build(case, "traced", distance_fn=own)[0].named_children()))


def test_inputs_written_by_the_model_are_the_same_for_each_row() -> None:
    class Halves(torch.nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.mul_(0.5))

    engine, batches = engine_and_batches()
    halves = IT3Engine(Halves(*engine.model), "0", engine.embedder, optimization_parameters={"lr": 0.01}).eval()
    halved = [(x * 0.5, y) for x, y in batches]
    before = [x.clone() for x, _ in batches]
    rows = it3.evaluate(halves, batches, "mse", {"a": {"num_steps": 0}, "b": {"num_steps": 0}}).rows
    expected = mean_score(engine.model, halved, squares)
    for row in (rows[0], rows[-2], rows[-1]):
        close(row["score"], expected)
    assert all(torch.equal(x, kept) for (x, _), kept in zip(batches, before, strict=True))


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
    with pytest.raises(ValueError, match="of mse, lower is better; leave out higher_is_better=True"):
        it3.evaluate(engine, batches, "mse", higher_is_better=True)
    with pytest.raises(ValueError, match=r"batch 1 must be a pair \(inputs, targets\), but is a tuple of 3"):
        it3.evaluate(engine, [batches[0], (*batches[0], None)], "mse")
    with pytest.raises(ValueError, match=r"batch 0 must be a pair .* but is a tensor of shape \(2, 6\)"):
        it3.evaluate(engine, batches[0], "mse")
    with pytest.raises(TypeError, match=r"loader must be an iterable of batches .* not a tensor of shape \(2, 6\)"):
        it3.evaluate(engine, batches[0][0], "mse")
    for seeds in (0, 1.5, True):
        with pytest.raises(ValueError, match="seeds must be a whole number, 1 or more"):
            it3.evaluate(engine, batches, "mse", seeds=seeds)
    with pytest.raises(ValueError, match="there are no engines"):
        it3.evaluate([], batches, "mse")
    with pytest.raises(TypeError, match="not a mapping; call it once for each engine"):
        it3.evaluate({"a": engine}, batches, "mse")
    with pytest.raises(TypeError, match="engines must be an IT3Engine, or a list of them, not Sequential"):
        it3.evaluate(engine.model, batches, "mse")
    with pytest.raises(TypeError, match="a variant must be a mapping of options, not a int"):
        it3.evaluate(engine, batches, "mse", {"a": 3})
    with pytest.raises(ValueError, match="rmse"):
        it3.evaluate(engine, batches, "mse", {"a": {"distance_fn": "rmse"}})
    with pytest.raises(TypeError, match="distance_fn must be a name, a function or None, not 3"):
        it3.evaluate(engine, batches, "mse", {"a": {"distance_fn": 3}})
