"""Pictures show the numbers that they were given."""

import io
import math
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import it3
import matplotlib as mpl
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from it3 import IT3Engine, plots
from it3.evaluation.selective_risk import selective_risk
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from models import make_case
from test_evaluation import engine_and_batches
from test_evaluation_columns import drawn, made_up
from test_evaluation_controls import classifier
from torch import Tensor, nn


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    """Close the figures that pyplot would keep."""
    yield
    plt.close("all")


def texts_of(ax: Axes) -> list[str]:
    return [text.get_text() for text in ax.texts]


def heights_of(ax: Axes) -> list[str]:
    return [label.get_text() for label in ax.get_yticklabels()]


def points_of(ax: Axes, place: int = 0) -> Tensor:
    return torch.as_tensor(np.asarray(ax.collections[place].get_offsets()))


def test_losses_are_those_of_the_adaptation() -> None:
    engine, batches = engine_and_batches()
    adaptation = engine.adapt(batches[0][0], num_steps=4)
    (line,) = plots.losses(adaptation).lines
    assert list(line.get_xdata()) == [0, 1, 2, 3]
    assert list(line.get_ydata()) == adaptation.losses.tolist()
    several = [engine.adapt(x, num_steps=steps) for steps, (x, _) in enumerate(batches)]  # of which one has no losses
    ax = plots.losses(several)
    assert [list(line.get_ydata()) for line in ax.lines] == [a.losses.tolist() for a in several[1:]]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == [f"adaptation {n}" for n in (1, 2, 3)]


def test_losses_of_samples_leave_out_those_that_did_not_adapt() -> None:
    engine, _ = engine_and_batches()
    x = make_case("mlp").inputs
    threshold = engine.uncertainty(x).median().item()
    adaptation = engine.adapt(x, num_steps=3, per_sample=True, threshold=threshold)
    adapted = adaptation.adapted_samples.nonzero().flatten().tolist()
    assert 0 < len(adapted) < len(x)
    ax = plots.losses(adaptation)
    assert [line.get_label() for line in ax.lines] == [f"sample {place}" for place in adapted]
    assert [list(line.get_ydata()) for line in ax.lines] == adaptation.losses[:, adapted].T.tolist()


def test_losses_of_many_samples_are_percentiles() -> None:
    engine, _ = engine_and_batches()
    x = torch.randn(40, 6, dtype=torch.double, generator=torch.Generator().manual_seed(0))
    losses = engine.adapt(x, num_steps=3, per_sample=True).losses.numpy()
    ax = plots.losses(engine.adapt(x, num_steps=3, per_sample=True))
    np.testing.assert_allclose(ax.lines[0].get_ydata(), np.median(losses, axis=1))
    for band, (low, high) in zip(ax.collections, ((5, 95), (25, 75)), strict=True):
        (path,) = band.get_paths()
        for step, column in enumerate(losses):
            ends = path.vertices[path.vertices[:, 0] == step, 1]
            assert (ends.min(), ends.max()) == pytest.approx(tuple(np.percentile(column, (low, high))))


def test_many_losses_of_different_lengths_keep_their_last() -> None:
    engine, batches = engine_and_batches()
    x = batches[0][0]
    many = [engine.adapt(x, num_steps=1)] * 10 + [engine.adapt(x, num_steps=3)] * 9
    (line,) = plots.losses(many).lines
    assert list(line.get_ydata()) == [many[0].losses[0].item()] * 3  # the median is of those that ended


def test_numbers_before_and_after_lie_over_their_targets() -> None:
    engine, _ = engine_and_batches()
    case = make_case("mlp")
    unadapted, adapted = engine.adapt(case.inputs, num_steps=0), engine.adapt(case.inputs, num_steps=3)
    for targets in (case.target, case.target[:, None], case.target.float()):
        ax = plots.before_and_after(unadapted, adapted, targets)
        for place, adaptation in ((1, unadapted), (2, adapted)):
            expected = torch.stack([targets.double().flatten(), adaptation.prediction.flatten()], 1)
            torch.testing.assert_close(points_of(ax, place), expected, rtol=0, atol=0)
        lines = np.array(ax.collections[0].get_segments())
        np.testing.assert_array_equal(lines[:, 0, 1], unadapted.prediction.flatten())
        np.testing.assert_array_equal(lines[:, 1, 1], adapted.prediction.flatten())


@pytest.mark.parametrize("kind", ["cnn", "segmentation"])
@pytest.mark.parametrize("probable", [False, True], ids=["logits", "probabilities"])
def test_classes_before_and_after_are_probabilities_of_the_right_class(kind: str, probable: bool) -> None:
    engine, batches = classifier(kind, probable=probable, distance_fn="mse" if probable else "js")
    x, y = (torch.cat(parts) for parts in zip(*batches, strict=True))
    unadapted, adapted = engine.adapt(x, num_steps=0), engine.adapt(x, num_steps=3, lr=0.1)
    expected = []
    for adaptation in (unadapted, adapted):
        p = adaptation.prediction if probable else adaptation.prediction.softmax(1)
        expected.append([p[(n, y[n, *at], *at)].item() for n in range(len(y)) for at in np.ndindex(*y.shape[1:])])
    given = [y, y[:, None]]
    if not probable:  # else they are numbers like any others
        given.append(F.one_hot(y, p.shape[1]).movedim(-1, 1).double())
    for targets in given:
        ax = plots.before_and_after(unadapted, adapted, targets)
        np.testing.assert_allclose(points_of(ax), np.array(expected).T, rtol=1e-12)
    more = sum(after > before for before, after in zip(*expected, strict=True))
    assert ax.get_title().startswith(f"higher for {more}, lower for {len(expected[0]) - more} of {len(expected[0])}")


def test_whole_numbers_of_the_predictions_shape_are_no_classes() -> None:
    engine, _ = engine_and_batches()
    x, ages = make_case("mlp").inputs, torch.arange(21).reshape(7, 3)
    ax = plots.before_and_after(engine.adapt(x, num_steps=0), engine.adapt(x), ages)
    assert points_of(ax, 1)[:, 0].tolist() == list(range(21))


def test_what_cannot_be_before_and_after() -> None:
    engine, _ = engine_and_batches()
    case = make_case("mlp")
    x, y = case.inputs, case.target
    none, some = engine.adapt(x, num_steps=0), engine.adapt(x, num_steps=2)
    for given, error, message in (
        ((some, none, y), ValueError, r"unadapted took 2 steps; give engine.adapt\(inputs, num_steps=0\)"),
        ((none, engine.adapt(x[:2]), y), ValueError, r"shapes \(7, 3\) and \(2, 3\)"),
        ((none, some.prediction, y), TypeError, "adapted must be what engine.adapt"),
        ((none, some, y.tolist()), TypeError, "targets must be a tensor, not a list"),
        ((none, some, y[:, :2]), ValueError, r"targets of shape \(7, 2\) do not fit predictions of shape \(7, 3\)"),
        ((none, some, torch.full((7,), 3)), ValueError, "targets hold the class 3, but the prediction has 3"),
        ((none, some, y.clone().fill_(math.nan)), ValueError, "targets is not finite and real everywhere"),
    ):
        with pytest.raises(error, match=message):
            plots.before_and_after(*given)
    with pytest.raises(ValueError, match="no steps were taken"):
        plots.losses([none, none])
    with pytest.raises(TypeError, match=r"adaptations must be what engine.adapt\(\) returns, not a Tensor"):
        plots.losses([some.losses])


def test_risk_is_the_mean_error_of_the_surest() -> None:
    uncertainty, errors = drawn(50, mean=0.0).abs(), drawn(50, mean=0.0, seed=1).square()
    order = sorted(range(50), key=lambda n: uncertainty[n].item())
    expected = [sum(errors[n].item() for n in order[: k + 1]) / (k + 1) for k in range(50)]
    assert selective_risk(uncertainty, errors).tolist() == pytest.approx(expected)
    ax = plots.risk_coverage(uncertainty.tolist(), errors.float())
    assert list(ax.lines[0].get_ydata()) == pytest.approx(expected, rel=1e-6)
    assert list(ax.lines[0].get_xdata()) == pytest.approx([2 * (k + 1) for k in range(50)])
    assert list(ax.lines[1].get_ydata()) == pytest.approx([errors.mean().item()] * 2)
    best = sorted(errors.tolist())
    assert list(ax.lines[2].get_ydata()) == pytest.approx([sum(best[: k + 1]) / (k + 1) for k in range(50)], rel=1e-6)
    assert f"area {sum(expected) / 50:.4g}" in ax.get_legend().get_texts()[0].get_text()


def test_risk_of_samples_that_are_alike_is_what_any_order_gives_on_average() -> None:
    uncertainty, errors = torch.tensor([1.0, 0.0, 1.0, 1.0, 2.0]), torch.tensor([1.0, 0.0, 0.0, 0.0, 1.0])
    orders = [(1, *rest, 4) for rest in ((0, 2, 3), (2, 0, 3), (2, 3, 0))]  # where the one error may come
    risks = [errors[list(order)].double().cumsum(0) / torch.arange(1, 6) for order in orders]
    torch.testing.assert_close(selective_risk(uncertainty, errors), torch.stack(risks).mean(0))


def test_uncertainty_against_error_has_every_sample_and_the_means_of_tenths() -> None:
    uncertainty, errors = drawn(47, mean=0.0).abs(), drawn(47, mean=0.0, seed=1).square()
    ax = plots.uncertainty_against_error(uncertainty, errors)
    np.testing.assert_array_equal(points_of(ax), torch.stack([uncertainty, errors], 1))
    order = np.argsort(uncertainty.numpy())
    parts = np.array_split(order, 10)
    np.testing.assert_allclose(ax.lines[0].get_xdata(), [uncertainty[part].mean() for part in parts])
    np.testing.assert_allclose(ax.lines[0].get_ydata(), [errors[part].mean() for part in parts])
    of_classes = plots.uncertainty_against_error(uncertainty, errors > 1)
    assert not of_classes.collections
    np.testing.assert_allclose(of_classes.lines[0].get_ydata(), [(errors[part] > 1).double().mean() for part in parts])
    alone = plots.uncertainty_against_error([0.5], [0.25])
    assert list(alone.lines[0].get_ydata()) == [0.25]


def test_what_is_no_uncertainty() -> None:
    for uncertainty, errors, message in (
        ([1.0, 2.0], [1.0], "uncertainty has 2 samples, and errors 1"),
        ([[1.0]], [1.0], r"uncertainty must have one number for each sample, \(B,\), not the shape \(1, 1\)"),
        ([], [], "must have one number for each sample"),
        ([1.0, math.nan], [1.0, 1.0], "uncertainty has 1 of 2 values that are not finite; leave these samples out"),
        ([1.0], [math.inf], "errors has 1 of 1 values that are not finite"),
        ([1j], [1.0], "uncertainty must be real numbers, not of torch.complex64"),
        (["a"], [1.0], "uncertainty must be a tensor, an array or a list of numbers"),
    ):
        for draw in (plots.risk_coverage, plots.uncertainty_against_error):
            with pytest.raises((TypeError, ValueError), match=message):
                draw(uncertainty, errors)


def test_drift_by_layer() -> None:
    engine, batches = engine_and_batches()
    before = {name: parameter.detach().clone() for name, parameter in engine.model.named_parameters()}
    engine.adapt(batches[0][0], copy_model=False, num_steps=2)
    moved = {name: parameter.detach() - before[name] for name, parameter in engine.model.named_parameters()}
    ax = plots.drift(engine.drift())
    assert heights_of(ax) == ["0", "2", "4"]
    expected = [torch.cat([moved[f"{layer}.{of}"].flatten() for of in ("weight", "bias")]).norm() for layer in "024"]
    np.testing.assert_allclose([bar.get_width() for bar in ax.patches], expected, rtol=1e-6)
    engine.reset()
    with pytest.raises(ValueError, match=r"no weights have been kept since the start, .* copy_model=False"):
        plots.drift(engine.drift())
    with pytest.raises(TypeError, match=r"drift must be what engine.drift\(\) returns, not a float"):
        plots.drift(1.0)


def test_drift_of_many_layers_keeps_all_of_it() -> None:
    model = nn.Sequential(*[nn.Linear(3, 3) for _ in range(40)])
    engine = IT3Engine(model, "0").eval()
    engine.is_trained = True
    engine.adapt(torch.randn(4, 3), copy_model=False, num_steps=2, lr=0.1)
    drift = engine.drift()
    ax = plots.drift(drift)
    widths = [bar.get_width() for bar in ax.patches]
    assert len(widths) == 31
    assert heights_of(ax)[-1] == "(10 other layers)"
    assert math.hypot(*widths) == pytest.approx(drift.distance, rel=1e-5)


def test_gains_are_those_of_the_rows() -> None:
    gains = {"large": drawn(1, 30, mean=1.5), "$\\frac & <b>": drawn(1, 30, mean=0.42, seed=1)}
    evaluation = made_up(gains)
    ax = plots.gains(evaluation)
    assert heights_of(ax) == [row["name"] for row in evaluation.rows]
    marks = {line.get_ydata()[0]: line for line in ax.lines if len(line.get_ydata()) == 1}
    for place, row in enumerate(evaluation.rows):
        assert marks[place].get_xdata()[0] == row["gain"]
        if row["name"] in gains:
            (bar,) = [line.get_xdata() for line in ax.lines if list(line.get_ydata()) == [place, place]]
            assert list(bar) == [row["low"], row["high"]]
    colors = [to_hex(marks[place].get_color()) for place in range(4)]
    assert colors == ["#d55e00", "#808080", "#0072b2", "#0072b2"]  # the best control, one more, and the variants
    assert ax.get_xlim()[0] < min(row["low"] for row in evaluation.rows)
    ax.figure.savefig(io.BytesIO())  # dollars begin no formula


def test_gains_of_controls_far_away_are_arrows() -> None:
    engine, batches = engine_and_batches()
    others = {"far": lambda x: torch.full((len(x), 3), 1e3, dtype=torch.double)}
    evaluation = it3.evaluate(engine, batches, "mse", {"a": {"num_steps": 1}}, others=others)
    ax = plots.gains(evaluation)
    row = next(row for row in evaluation.rows if row["name"] == "far")
    assert row["gain"] < ax.get_xlim()[0]
    assert f"← {row['gain']:+.3g}" in texts_of(ax)
    low, high = ax.get_xlim()
    assert all(low <= end <= high for end in (evaluation.rows[-1]["low"], evaluation.rows[-1]["high"], 0))


def test_gains_without_intervals_and_of_rows_that_failed() -> None:
    engine, batches = classifier()
    one = plots.gains(it3.evaluate(engine, batches[:1], "accuracy"))
    assert all(len(line.get_xdata()) == 1 for line in one.lines if to_hex(line.get_color()) == "#0072b2")
    engine, batches = classifier("mlp")
    still = {"num_steps": 9, "lr": 1.7e307, "distance_fn": lambda y1, y0: 0 * (y1 + y0).sum()}
    evaluation = it3.evaluate(engine, batches, "accuracy", {"still": still}, seeds=2)
    ax = plots.gains(evaluation)
    places = [row["name"].startswith("entropy") for row in evaluation.rows]
    assert [text.get_position()[1] for text in ax.texts if text.get_text() == " failed"] == [
        place for place, failed in enumerate(places) if failed
    ]
    with pytest.raises(TypeError, match=r"evaluation must be what it3.evaluate\(\) returns, not a list"):
        plots.gains(evaluation.rows)


def all_pictures() -> dict[str, Any]:
    engine, batches = engine_and_batches()
    x, y = batches[0]
    unadapted, adapted = engine.adapt(x, num_steps=0), engine.adapt(x)
    evaluation = it3.evaluate(engine, batches, "mse", resamples=100)
    engine.adapt(x, copy_model=False)
    return {
        "losses": lambda **how: plots.losses(adapted, **how),
        "before_and_after": lambda **how: plots.before_and_after(unadapted, adapted, y, **how),
        "uncertainty_against_error": lambda **how: plots.uncertainty_against_error([1, 2, 3], [1, 2, 3], **how),
        "risk_coverage": lambda **how: plots.risk_coverage([1, 2, 3], [0, 0, 1], **how),
        "drift": lambda **how: plots.drift(engine.drift(), **how),
        "cut": lambda **how: plots.cut(engine, x, **how),
        "gains": lambda **how: plots.gains(evaluation, **how),
    }


def test_all_draw_on_what_they_are_given_and_leave_matplotlib_as_it_was() -> None:
    settings = dict(mpl.rcParams)
    pictures = all_pictures()
    assert set(pictures) == set(plots.__all__)
    for name, draw in pictures.items():
        figure = mpl.figure.Figure(layout="constrained")
        ax = figure.subplots(1, 2)[0]
        assert draw(ax=ax) is ax
        assert len(figure.axes) == 2, name
        assert plt.get_fignums() == []
        figure.savefig(io.BytesIO())
        own = draw()
        assert plt.gca() is own  # so that plt.show() shows it, and plt.title() titles it
        assert plt.get_fignums() == [own.figure.number]
        own.figure.savefig(io.BytesIO())  # where nothing may be cut off
        width = own.figure.bbox.width
        for text in (own.xaxis.label, own.yaxis.label, own.title):
            extent = text.get_window_extent()
            assert not text.get_text() or (extent.x0 >= 0 and extent.x1 <= width), (name, text)
        with pytest.raises(TypeError, match="ax must be one matplotlib Axes, or None for new ones, not a ndarray"):
            draw(ax=figure.subplots(1, 2))
        plt.close(own.figure)
    assert dict(mpl.rcParams) == settings


def test_errors_leave_no_figure() -> None:
    engine, batches = engine_and_batches()
    x, y = batches[0]
    unadapted = engine.adapt(x, num_steps=0)
    with pytest.raises(ValueError, match="no steps were taken"):
        plots.losses(unadapted)
    for targets in (y[:, :1], torch.zeros(len(x), 7, dtype=torch.long)):
        with pytest.raises(ValueError, match="targets"):
            plots.before_and_after(unadapted, engine.adapt(x), targets)
    assert plt.get_fignums() == []


@pytest.mark.parametrize("where", ["a script", "a notebook"])
def test_pyplot_knows_figures_where_it_is_asked_to_show_them(where: str) -> None:
    """A script that never imports it would have no way to close what it keeps."""
    script = """
import gc, sys, types, weakref
if sys.argv[1] == "a notebook":
    sys.modules["ipykernel"] = types.ModuleType("ipykernel")
from it3 import plots
figures = weakref.WeakSet(plots.risk_coverage([1, 2], [0, 1]).figure for _ in range(3))
gc.collect()
print(len(figures), "matplotlib.pyplot" in sys.modules)
"""
    told = subprocess.run([sys.executable, "-c", script, where], capture_output=True, text=True, check=True).stdout
    assert told.split() == (["3", "True"] if where == "a notebook" else ["0", "False"])


def test_matplotlib_is_imported_by_those_who_draw() -> None:
    without = """
import sys, it3
assert "matplotlib" not in sys.modules and "jinja2" not in dir(it3)
sys.modules["matplotlib"] = None
for use in ("it3.plots", "from it3 import plots"):
    try:
        exec(use)
    except ModuleNotFoundError as error:
        print(error)
"""
    told = subprocess.run([sys.executable, "-c", without], capture_output=True, text=True, check=True).stdout
    assert told == "it3.plots needs matplotlib: pip install matplotlib\n" * 2
