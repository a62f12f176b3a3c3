"""What loggers write is read back."""

import builtins
import doctest
import importlib.util
import math
import os
import sys
import types
from pathlib import Path
from typing import Any

import it3
import pytest
import torch
import torch.nn.functional as F
from trained import Stops, data_list, make_engine, raise_


class Kept(it3.loggers._Logger):
    def write(self, values: Any, step: int) -> None:
        self.values = values


needs_tensorboard = pytest.mark.skipif(importlib.util.find_spec("tensorboard") is None, reason="needs tensorboard")
needs_mlflow = pytest.mark.skipif(importlib.util.find_spec("mlflow") is None, reason="needs mlflow-skinny")

Numbers = dict[str, list[tuple[int, float]]]


def train_and_predict(logger: it3.Callback) -> Numbers:
    """Train and predict, and return what is to be written, by name, of each step."""
    expected: Numbers = {}

    class Expecting(it3.Callback):
        def on_step(self, step: it3.TrainingStep) -> None:
            for name in ("loss", "loss_criterion", "loss_ttt", "lr", "grad_norm"):
                expected.setdefault(f"step/{name}", []).append((step.step, getattr(step, name)))

        def on_prediction(self, batch: int, adaptation: it3.Adaptation) -> None:
            for name, value in {
                "steps": 2.0,
                "uncertainty": adaptation.uncertainty.double().mean().item(),
                "first_loss": adaptation.losses[0].item(),
                "last_loss": adaptation.losses[1].item(),
                "adapted_share": adaptation.adapted_samples.double().mean().item(),
            }.items():
                expected.setdefault(f"prediction/{name}", []).append((batch, value))

    engine = make_engine(optimization_parameters={"num_steps": 2, "lr": 1e-3})
    callbacks = [logger, Expecting()]
    history = engine.fit(
        data_list(),
        F.cross_entropy,
        epochs=2,
        validation=data_list(),
        metric="accuracy",
        max_grad_norm=1.0,
        callbacks=callbacks,
    )
    for row in history.rows:
        for name, value in row.items():
            if name != "epoch":
                expected.setdefault(f"epoch/{name}", []).append((row["epoch"], value))
    threshold = min(engine.uncertainty(x).median().item() for x, _ in data_list())
    engine.eval().predict(data_list(), callbacks=callbacks, threshold=threshold)
    assert all(0 < share < 1 for _, share in expected["prediction/adapted_share"])
    assert len(expected["step/loss"]) == 6
    assert len(expected["prediction/steps"]) == 3
    return expected


def assert_written(written: Numbers, expected: Numbers, rel: float) -> None:
    assert written.keys() == expected.keys()
    for name, values in expected.items():
        assert [step for step, _ in written[name]] == [step for step, _ in values]
        assert [value for _, value in written[name]] == pytest.approx([value for _, value in values], rel=rel)


@needs_tensorboard
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the packages that tensorboard imports
def test_tensorboard(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # noqa: PLC0415

    expected = train_and_predict(it3.loggers.TensorBoard(tmp_path / "run"))
    events = EventAccumulator(str(tmp_path / "run"))
    events.Reload()
    written = {name: [(event.step, event.value) for event in events.Scalars(name)] for name in events.Tags()["scalars"]}
    assert_written(written, expected, rel=1e-6)  # of float32


@needs_tensorboard
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    x, y = torch.randn(8, 6), torch.randn(8, 3)
    names = {"it3": it3, "F": F, "engine": make_engine(distance_fn="mse"), "x": x, "y": y}
    parser, runner = doctest.DocTestParser(), doctest.DocTestRunner()
    runner.run(parser.get_doctest(str(it3.loggers.TensorBoard.__doc__), names, "TensorBoard", None, None))
    assert runner.summarize() == (0, 3)
    assert os.listdir(tmp_path / "runs") == ["first"]


@needs_tensorboard
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_after_an_error(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # noqa: PLC0415

    logger = it3.loggers.TensorBoard(tmp_path)
    stops = Stops(5, lambda: raise_(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        make_engine().fit(data_list(), F.cross_entropy, epochs=2, callbacks=[logger, stops])
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert [event.step for event in events.Scalars("step/loss")] == [1, 2, 3, 4, 5]
    assert "epoch/score" not in events.Tags()["scalars"]  # there is none


class FakeMLflow(types.ModuleType):
    """What MLflow logs by, in memory: batches of at most 1000 metrics, by run."""

    def __init__(self) -> None:
        super().__init__("mlflow")
        self.runs: dict[str, dict[str, Any]] = {}
        self.experiments: dict[str, str] = {}
        self.active: Any = None
        self.entities = types.SimpleNamespace(Metric=lambda *values: values)
        self.MlflowClient = lambda uri: FakeClient(self, uri)

    def active_run(self) -> Any:
        return self.active


class FakeClient:
    def __init__(self, mlflow: FakeMLflow, uri: str | None) -> None:
        self.mlflow, self.uri = mlflow, uri

    def get_experiment_by_name(self, name: str) -> Any:
        found = self.mlflow.experiments.get(name)
        return None if found is None else types.SimpleNamespace(experiment_id=found)

    def create_experiment(self, name: str) -> str:
        return self.mlflow.experiments.setdefault(name, f"id of {name}")

    def create_run(self, experiment: str, run_name: str | None) -> Any:
        run = f"run {len(self.mlflow.runs)}"
        self.mlflow.runs[run] = {"in": (self.uri, experiment, run_name), "metrics": [], "status": "RUNNING"}
        return types.SimpleNamespace(info=types.SimpleNamespace(run_id=run))

    def log_batch(self, run: str, metrics: list[Any]) -> None:
        assert 0 < len(metrics) <= 1000
        self.mlflow.runs[run]["metrics"] += metrics

    def set_terminated(self, run: str, status: str) -> None:
        self.mlflow.runs[run]["status"] = status


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeMLflow:
    module = FakeMLflow()
    monkeypatch.setitem(sys.modules, "mlflow", module)
    return module


def written_in(runs: list[dict[str, Any]]) -> Numbers:
    written: Numbers = {}
    for run in runs:
        for name, value, _, step in run["metrics"]:
            written.setdefault(name, []).append((step, value))
    return written


def test_mlflow_by_a_fake_of_it(fake: FakeMLflow) -> None:
    expected = train_and_predict(it3.loggers.MLflow("mine", "named", "sqlite:///x.db"))
    runs = list(fake.runs.values())
    assert [(run["in"], run["status"]) for run in runs] == [
        (("sqlite:///x.db", "id of mine", "named"), "FINISHED")  # a run of fit(), and one of predict()
    ] * 2
    assert_written(written_in(runs), expected, rel=1e-12)


def test_mlflow_runs_that_end_early_or_are_the_users(fake: FakeMLflow) -> None:
    def train(error: BaseException) -> None:
        make_engine().fit(
            data_list(), F.cross_entropy, callbacks=[it3.loggers.MLflow(), Stops(2, lambda: raise_(error))]
        )

    for error, status in ((KeyboardInterrupt(), "KILLED"), (ValueError("boom"), "FAILED")):
        with pytest.raises(type(error)):
            train(error)
        run = list(fake.runs.values())[-1]
        assert run["status"] == status
        assert run["in"] == (None, "0", None)
        assert len(run["metrics"]) == 8
    client = fake.MlflowClient(None)
    fake.active = client.create_run("0", "the user's")
    make_engine().fit(data_list(), F.cross_entropy, callbacks=[it3.loggers.MLflow("mine", "other")])
    assert len(fake.runs) == 3
    assert fake.runs["run 2"]["status"] == "RUNNING"
    assert len(written_in([fake.runs["run 2"]])["step/loss"]) == 3


@pytest.mark.parametrize("fails", ["log_batch", "create_run", "set_terminated"])
def test_mlflow_that_fails_at_the_end(fails: str, fake: FakeMLflow, monkeypatch: pytest.MonkeyPatch) -> None:
    logger = it3.loggers.MLflow()

    engine, inputs = make_engine(), [x for x, _ in data_list()]
    with monkeypatch.context() as patch:
        patch.setattr(FakeClient, fails, lambda *_, **__: raise_(OSError("no server")))
        with pytest.raises(OSError, match="no server"):
            engine.predict(inputs, callbacks=[logger])
    statuses = [run["status"] for run in fake.runs.values()]
    assert statuses == {"log_batch": ["FAILED"], "create_run": [], "set_terminated": ["RUNNING"]}[fails]
    engine.predict(inputs, callbacks=[logger])  # into another run
    assert list(fake.runs.values())[-1]["status"] == "FINISHED"
    assert len(fake.runs) == len(statuses) + 1
    assert len(written_in(list(fake.runs.values())[-1:])["prediction/steps"]) == 3


def test_losses_are_of_the_samples_that_adapted() -> None:
    engine = make_engine(optimization_parameters={"num_steps": 2, "lr": 1e-3, "per_sample": True})
    x = data_list()[0][0]
    engine.eval()
    uncertainties = engine.uncertainty(x)
    kept = Kept()
    engine.predict([x], callbacks=[kept], threshold=uncertainties.median().item())
    alone = engine.adapt(x[uncertainties > uncertainties.median()])
    assert 0 < kept.values["prediction/adapted_share"] < 1
    for name, losses in (("first_loss", alone.losses[0]), ("last_loss", alone.losses[1])):
        assert kept.values[f"prediction/{name}"] == pytest.approx(losses.mean().item(), rel=1e-3)


def test_mlflow_is_sent_what_it_takes_at_once(fake: FakeMLflow) -> None:
    batches = data_list()[:1] * 260
    make_engine().fit(batches, F.cross_entropy, callbacks=[it3.loggers.MLflow()])
    assert len(written_in([fake.runs["run 0"]])["step/lr"]) == 260


@needs_mlflow
@pytest.mark.filterwarnings("ignore")  # of the packages that mlflow imports
def test_mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow  # noqa: PLC0415

    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # a database needs more than mlflow-skinny

    uri = (tmp_path / "runs").as_uri()
    expected = train_and_predict(it3.loggers.MLflow("mine", "named", uri))
    client = mlflow.MlflowClient(uri)
    experiment = client.get_experiment_by_name("mine")
    runs = client.search_runs([experiment.experiment_id])
    assert [(run.info.run_name, run.info.status) for run in runs] == [("named", "FINISHED")] * 2
    written: Numbers = {}
    for run in runs:
        for name in run.data.metrics:
            written[name] = [(each.step, each.value) for each in client.get_metric_history(run.info.run_id, name)]
    assert_written(written, expected, rel=1e-12)


@pytest.mark.parametrize(("name", "package"), [("TensorBoard", "tensorboard"), ("MLflow", "mlflow-skinny")])
def test_without_the_package(name: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    original = builtins.__import__

    def without(module: str, *args: Any, **kwargs: Any) -> Any:
        if module.startswith(("mlflow", "tensorboard", "torch.utils.tensorboard")):
            raise ModuleNotFoundError(f"No module named {module!r}")
        return original(module, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(
        ModuleNotFoundError, match=rf"it3.loggers.{name} needs .*: pip install {package}, or it3\[log\]"
    ):
        getattr(it3.loggers, name)("x")


def test_nan_is_left_out() -> None:
    kept = Kept()
    kept.on_epoch({"epoch": 3, "loss": 1.0, "score": math.nan})
    assert kept.values == {"epoch/loss": 1.0}
