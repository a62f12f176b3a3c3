"""The binary it3-adapt gives what Python gives, and says in one line what is wrong."""

import json
import os
import pty
import subprocess
from pathlib import Path

import it3
import numpy as np
import pytest
import torch
from binary import BINARY, adapt, close, needs_binary, result, run, saved_engine, trained
from it3 import IT3Engine
from models import KINDS, make_case

pytestmark = needs_binary


@pytest.mark.parametrize("kind", KINDS)
def test_it_adapts_as_python_does(kind: str, device: str, tmp_path: Path) -> None:
    engine, x = saved_engine(tmp_path, kind)
    adapt(tmp_path, "--uncertainty", tmp_path / "u.npy", "--save-adapted", tmp_path / "a.pt", "--device", device)
    expected = engine.adapt(x)
    tolerance = {} if device == "cpu" else {"rtol": 1e-3, "atol": 1e-4}
    close(result(tmp_path / "y.npy"), expected.prediction, **tolerance)
    close(result(tmp_path / "u.npy"), expected.uncertainty, **tolerance)
    close(torch.jit.load(tmp_path / "a.pt", map_location="cpu")(x), expected.prediction, **tolerance)
    names = {"engine.pt", "x.npy", "y.npy", "u.npy", "a.pt"}
    assert {path.name for path in tmp_path.iterdir()} == names


def test_options_are_those_of_python(tmp_path: Path) -> None:
    engine, x = saved_engine(tmp_path, num_steps=5)
    close_to = lambda **options: close(result(tmp_path / "y.npy"), engine.adapt(x, **options).prediction)  # noqa: E731
    adapt(tmp_path)
    close_to()
    adapt(tmp_path, "--steps", 2, "--lr", "0.1", "--optimizer", "sgd", "--set", "momentum=0.9")
    close_to(num_steps=2, lr=0.1, optimizer_name="sgd", momentum=0.9)
    engine.optimization_parameters["betas"] = (0.5, 0.9)
    engine.save(tmp_path / "engine.pt", x)
    adapt(tmp_path, "--optimizer", "sgd", "--lr", "0.1")  # which has no betas
    close_to(lr=0.1, optimizer_name="sgd")
    adapt(tmp_path, "--set", "betas=0.5,0.9", "--set", "parameters=0.*,2.bias", "--threads", 1)
    close_to(betas=(0.5, 0.9), parameters=["0.*", "2.bias"])
    adapt(tmp_path, "--steps", 0)
    close(result(tmp_path / "y.npy"), engine.model(x))
    # Layers 0 and 2 have as many features, so that the embedder fits both.
    adapt(tmp_path, "--layer", "2")
    engine.features_layer_name = "2"
    close_to()


def test_anchors_and_predictions(tmp_path: Path) -> None:
    engine, x = saved_engine(tmp_path, anchor="frozen", prediction="mean")
    adapt(tmp_path)
    close(result(tmp_path / "y.npy"), engine.adapt(x).prediction)
    adapt(tmp_path, "--anchor", "ema", "--set", "ema_decay=0.5", "--set", "prediction=second")
    close(result(tmp_path / "y.npy"), engine.adapt(x, anchor="ema", ema_decay=0.5, prediction="second").prediction)
    adapt(tmp_path, "--anchor", "self", "--uncertainty", tmp_path / "u.npy")
    adaptation = engine.adapt(x, anchor="self")
    close(result(tmp_path / "y.npy"), adaptation.prediction)
    close(result(tmp_path / "u.npy"), adaptation.uncertainty)


def test_norm_statistics(tmp_path: Path) -> None:
    engine, x = saved_engine(tmp_path, "cnn", norm_statistics="batch")
    adapt(tmp_path)
    close(result(tmp_path / "y.npy"), engine.adapt(x).prediction)
    adapt(tmp_path, "--norm-statistics", "blend", "--set", "norm_prior=4")
    close(result(tmp_path / "y.npy"), engine.adapt(x, norm_statistics="blend", norm_prior=4).prediction)


def test_samples_adapt_each_by_itself(tmp_path: Path) -> None:
    engine, x = saved_engine(tmp_path)
    report = json.loads(adapt(tmp_path, "--per-sample", "--set", "chunk_size=3", "--json").stdout)
    alone = [engine.adapt(sample) for sample in x.split(1)]
    close(result(tmp_path / "y.npy"), torch.cat([a.prediction for a in alone]), rtol=1e-5, atol=1e-6)
    close(report["loss_before_last_step"], float(sum(a.losses[-1] for a in alone)) / len(x), rtol=1e-5, atol=1e-6)


def test_a_neutral_signal(tmp_path: Path) -> None:
    case = make_case("mlp", torch.float32)
    engine = trained(IT3Engine(case.model, case.layer, neutral=-4.0, optimization_parameters={"num_steps": 2}).eval())
    engine.save(tmp_path / "engine.pt", case.inputs)
    np.save(tmp_path / "x.npy", case.inputs.numpy())
    adapt(tmp_path)
    close(result(tmp_path / "y.npy"), engine.adapt(case.inputs).prediction)
    assert json.loads(run(tmp_path / "engine.pt", "--describe").stdout)["neutral"] == "[1] -4 to -4"


def test_only_samples_that_are_less_sure_than_clean_ones_adapt(tmp_path: Path) -> None:
    engine, x = saved_engine(tmp_path)
    np.save(tmp_path / "clean.npy", x[:4].numpy())
    done = adapt(tmp_path, "--calibrate", tmp_path / "clean.npy", "--quantile", 0.5, "--batch-size", 3, "--json")
    threshold = engine.calibrate([x[:3], x[3:4]], 0.5)
    expected = [engine.adapt(batch) for batch in x.split(3)]
    close(result(tmp_path / "y.npy"), torch.cat([e.prediction for e in expected]))
    report = json.loads(done.stdout)
    close(report["threshold"], threshold)
    assert report["adapted_samples"] == sum(int(e.adapted_samples.sum()) for e in expected)
    assert 0 < report["adapted_samples"] < len(x)
    assert "samples above" in adapt(tmp_path, "--set", "threshold=0.01").stdout


@pytest.mark.parametrize("per_sample", [False, True])
def test_losses_are_those_of_the_samples_that_adapt(tmp_path: Path, per_sample: bool) -> None:
    engine, x = saved_engine(tmp_path)
    threshold = float(engine.uncertainty(x).quantile(0.6))  # between two of them, as rounding differs
    options = {"threshold": threshold, "per_sample": per_sample, "tolerance": 0.5, "num_steps": 9, "lr": 1e-3}
    settings = [part for name, value in options.items() for part in ("--set", f"{name}={str(value).lower()}")]
    report = json.loads(adapt(tmp_path, *settings, "--batch-size", 3, "--json").stdout)
    runs = [engine.adapt(batch, **options) for batch in x.split(3)]
    counts = [int(run.adapted_samples.sum()) for run in runs]
    assert 0 < sum(counts) < len(x)
    for name, place in (("first", 0), ("last", -1)):
        of_batches = [
            float(run.losses[place].sum()) * (1 if per_sample else n) for run, n in zip(runs, counts, strict=True) if n
        ]
        assert report[f"loss_before_{name}_step"] == pytest.approx(sum(of_batches) / sum(counts), rel=1e-4)
    assert report["steps"] == max(run.steps for run in runs) < 9
    text = adapt(tmp_path, *settings, "--batch-size", 3).stdout
    assert f"up to {report['steps']} steps each" in text


def test_online_reports(tmp_path: Path) -> None:
    saved_engine(tmp_path, recovery_factor=1.0001, restore_probability=0.5)
    report = json.loads(adapt(tmp_path, "--online", "--batch-size", 1, "--json").stdout)
    assert 0 < report["drift"] < 1
    assert report["recoveries"] > 0
    text = adapt(tmp_path, "--online", "--batch-size", 1).stdout
    assert "weights moved by" in text
    assert "recovered" in text


def test_batches(tmp_path: Path) -> None:
    engine, x = saved_engine(tmp_path)
    adapt(tmp_path, "--batch-size", 3)
    close(result(tmp_path / "y.npy"), torch.cat([engine(batch)[0] for batch in x.split(3)]))
    alone = result(tmp_path / "y.npy")
    adapt(tmp_path, "--batch-size", 3, "--per-batch-reset")
    close(result(tmp_path / "y.npy"), alone)
    done = adapt(tmp_path, "--batch-size", 3, "--online", "--save-adapted", tmp_path / "a.pt", "--json")
    engine.optimization_parameters["copy_model"] = False
    runs = [engine.adapt(batch) for batch in x.split(3)]
    close(result(tmp_path / "y.npy"), torch.cat([run.prediction for run in runs]))
    close(torch.jit.load(tmp_path / "a.pt")(x), engine.model(x))
    report = json.loads(done.stdout)
    assert report.pop("seconds") > 0
    losses = [sum(len(r.prediction) * float(r.losses[i]) for r in runs) / len(x) for i in (0, -1)]
    assert [report.pop(f"loss_before_{which}_step") for which in ("first", "last")] == pytest.approx(losses, rel=1e-4)
    uncertainty = float(torch.cat([run.uncertainty for run in runs]).mean())
    assert report.pop("mean_uncertainty") == pytest.approx(uncertainty, rel=1e-4)
    assert report.pop("drift") == pytest.approx(engine.drift().relative, rel=1e-4)
    assert report == {"samples": 7, "batches": 3, "steps": 3, "output": str(tmp_path / "y.npy")}


def test_describe(tmp_path: Path) -> None:
    saved_engine(tmp_path, lr=1e-3)
    told = json.loads(run(tmp_path / "engine.pt", "--describe").stdout)
    options = told.pop("options")
    assert options["lr"] == 1e-3
    assert options["optimizer_name"] == "adam"
    assert told == {
        "model": "Sequential",
        "layer": "0",
        "inputs": ["Float [7, 6]"],
        "prediction": "Float [7, 3]",
        "features": "Float [7, 8]",
        "distance": "mse",
        "neutral": None,
        "compiled": None,
    }


def test_help_and_version() -> None:
    assert run("--version").stdout == f"it3-adapt {it3.__version__}\n"
    told = run("--help")
    assert told.returncode == 0
    for option in ("--steps", "--online", "--save-adapted", "Examples:", "Exit codes: 0 done"):
        assert option in told.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "engine is required"),
        (["engine.pt"], "--input and --output, or --describe, is required"),
        (["engine.pt", "--input", "x.npy"], "--input and --output"),
        (["engine.pt", "--inptu", "x.npy"], "--inptu"),
        (["engine.pt", "--steps", "-1"], "num_steps must be a whole number, 0 or more, not -1"),
        (["engine.pt", "--lr", "fast"], "lr must be a number, 0 or more, not 'fast'"),
        (["engine.pt", "--optimizer", "lion"], "optimizer_name must be one of adam, adamw"),
        (["engine.pt", "--set", "momentun=0.9"], "no option is called 'momentun'; did you mean 'momentum'"),
        (["engine.pt", "--set", "momentum"], "must be NAME=VALUE"),
        (["engine.pt", "--online", "--per-batch-reset"], "excludes"),
        (["engine.pt", "--batch-size", "0"], "--batch-size"),
        (["engine.pt", "--input", "x.npy", "--output", "x.npy"], "this file would replace that of --input"),
        (["engine.pt", "--threads", "1000000"], "--threads: Value 1000000 not in range"),
        (["engine.pt", "--threads", "20000"], "--threads: Value 20000 not in range"),
        (["engine.pt", "--calibrate", "x.npy", "--quantile", "nan"], "--quantile: is no number"),
    ],
)
def test_wrong_command_lines(arguments: list[str], message: str) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


@pytest.mark.parametrize(
    ("spoil", "arguments", "message"),
    [
        (lambda f: (f / "engine.pt").unlink(), [], "there is no file"),
        (
            lambda f: truncate(f / "engine.pt"),
            [],
            "engine.pt cannot be read as an engine: its directory is damaged",
        ),
        (lambda f: (f / "x.npy").unlink(), [], "there is no file"),
        (
            lambda f: truncate(f / "x.npy"),
            [],
            "x.npy cannot be read: it is cut off: 128 bytes are left for an array of the shape [7, 6]",
        ),
        (
            lambda f: (f / "x.npy").write_bytes(b"no array"),
            [],
            "x.npy cannot be read: it is no .npy file, as numpy.save writes it",
        ),
        (
            lambda f: np.save(f / "x.npy", np.array(["a"])),
            [],
            "x.npy cannot be read: its elements are of NumPy's type '<U1'; accepted are bool",
        ),
        (
            lambda f: np.save(f / "x.npy", np.zeros((4, 5), "f4")),
            [],
            "(4x5 and 6x8) (the inputs are Float [4, 5]; the engine was saved with the inputs Float [7, 6])",
        ),
        (
            lambda f: torch.save([torch.zeros(4, 6)] * 2, f / "x.pt"),
            ["x.pt"],
            "(the inputs are Float [4, 6], Float [4, 6]; the engine was saved with the inputs Float [7, 6])",
        ),
        (
            lambda f: torch.save((torch.zeros(4, 6), (torch.zeros(4, 6),)), f / "x.pt"),
            ["x.pt"],
            "the engine was saved with the inputs Float [7, 6])",
        ),
        (lambda f: (f / "in.npy").mkdir(), ["in.npy"], "in.npy is a folder; give the name of a file"),
        (lambda f: np.save(f / "x.npy", np.full((4, 6), np.nan)), [], "the loss at step 1 of 3 is nan"),
        (
            lambda f: np.save(f / "x.npy", np.zeros((0, 6), "f4")),
            [],
            "needs a batch dimension with at least one sample",
        ),
        (lambda f: None, ["--device", "cuda:99"], "there is no device cuda:99; this machine"),
        (lambda f: None, ["--device", "quantum"], "quantum"),
        (lambda f: None, ["--device", "meta"], "--device must be cpu, cuda, or cuda: and a number, not meta"),
        (lambda f: None, ["--layer", "7"], "the model has no layer '7'"),
        (lambda f: None, ["--layer", "nope"], "the model has no layer 'nope'; did you mean '0'? Its layers are 0, 1"),
        (lambda f: None, ["--layer", "4"], "the default embedder cannot bring"),
        (lambda f: None, ["--set", "momentum=0.9"], "momentum is for sgd and rmsprop"),
        (lambda f: None, ["--uncertainty", "u.txt"], "u.txt must end in .npy or .pt"),
        (
            lambda f: None,
            ["--uncertainty", "no_such_folder/u.npy"],
            "cannot write 'no_such_folder/u.npy': No such file or directory",
        ),
        (lambda f: None, ["--save-adapted", "a.pt", "--batch-size", "3"], "--save-adapted needs --online"),
    ],
)
def test_failures_are_one_line_and_leave_nothing(spoil, arguments: list[str], message: str, tmp_path: Path) -> None:
    saved_engine(tmp_path)
    spoil(tmp_path)
    before = {path.name for path in tmp_path.iterdir()}
    inputs, *options = arguments if arguments and not arguments[0].startswith("--") else ["x.npy", *arguments]
    done = run(tmp_path / "engine.pt", "--input", tmp_path / inputs, "--output", tmp_path / "y.npy", *options)
    assert done.returncode == 1
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""
    assert {path.name for path in tmp_path.iterdir()} == before


def test_progress_is_for_terminals(tmp_path: Path) -> None:
    saved_engine(tmp_path)
    master, terminal = pty.openpty()
    files = ("--input", tmp_path / "x.npy", "--output", tmp_path / "y.npy")
    subprocess.run([BINARY, tmp_path / "engine.pt", *files, "--batch-size", "2"], stderr=terminal, check=True)
    os.close(terminal)
    shown = os.read(master, 4096)
    assert b"100%" in shown
    assert shown.count(b"*") == 51


@needs_binary
def test_random_numbers_come_from_a_seed(tmp_path: Path) -> None:
    saved_engine(tmp_path, copy_model=False, restore_probability=0.5, lr=0.05)
    results = []
    for seed in ([], ["--seed", "0"], ["--seed", "1"]):
        adapt(tmp_path, "--batch-size", 2, *seed)
        results.append(result(tmp_path / "y.npy"))
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])
