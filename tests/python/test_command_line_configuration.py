"""The commands that go by a TOML file do what the functions of it3 do when called by hand."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import it3
import numpy as np
import pytest
import torch
from it3 import IT3Engine
from torch import nn

pytest.importorskip("typer")
pytest.importorskip("optuna")

from command_line import answer, call, error, options_of, program
from configurations import CONFIG, changed, configured


@pytest.fixture
def parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    with configured(tmp_path, monkeypatch) as module:
        yield module


def trained_by_hand(
    parts: Any, lr: float = 0.1, layer: str = "0", seed: int = 4, kind: type[torch.optim.Optimizer] = torch.optim.SGD
) -> IT3Engine:
    torch.manual_seed(seed)
    recipe = it3.TrainingRecipe(second_pass="drawn", target_probability=0.7)
    options = {"num_steps": 2, "lr": 1e-2}
    engine = IT3Engine(
        parts.make(), layer, distance_fn="js", optimization_parameters=options, training_recipe=recipe
    ).train()
    optimizer = None
    for _ in range(3):
        for x, classes in parts.batches(0, 0.0):
            prediction, loss_ttt = engine(x, target=classes)
            optimizer = optimizer or kind(engine.parameters(), lr)  # once the embedder has its shape
            optimizer.zero_grad()
            (nn.functional.cross_entropy(prediction, classes) + loss_ttt).backward()
            optimizer.step()
    return engine.eval()


@pytest.mark.parametrize("optimizer", ["SGD", "Adagrad"])  # which shapes its state when it is made
def test_train_is_the_loop_by_hand(optimizer: str, parts: Any) -> None:
    found = answer("train", changed('"SGD"', f'"{optimizer}"'))
    assert [epoch["epoch"] for epoch in found["epochs"]] == [1, 2, 3]
    assert found["epochs"][2]["loss"] < found["epochs"][0]["loss"]
    expected = trained_by_hand(parts, kind=getattr(torch.optim, optimizer))
    engine = it3.load("inside/engine.pt")
    state = engine.state_dict()
    for name, weight in expected.state_dict().items():
        torch.testing.assert_close(state[name], weight, rtol=0, atol=0)
    x = torch.randn(5, 4)
    torch.testing.assert_close(engine.adapt(x).prediction, expected.adapt(x).prediction)
    assert answer("info", "inside/engine.pt")["is_trained"]


def test_training_goes_on_at_its_checkpoint(parts: Any) -> None:
    answer("train", changed("epochs = 3", 'epochs = 2\ncheckpoint = "training.pt"'))
    found = answer("train", changed("epochs = 3", 'epochs = 3\ncheckpoint = "training.pt"'))
    assert [epoch["epoch"] for epoch in found["epochs"]] == [1, 2, 3]
    expected = trained_by_hand(parts).state_dict()
    state = it3.load("inside/engine.pt").state_dict()
    for name, weight in expected.items():
        torch.testing.assert_close(state[name], weight, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("seed = 4", "seed = 5", "seed in [training] was 4, and is 5"),
        ("parts:train", "parts:validation", 'train in [data] was "configured_parts:train", and is "configured_parts:v'),
        ("parts.py:make", "parts.py:other", 'make in [model] was "configured_parts.py:make", and is'),
        ("num_steps = 2", "num_steps = 3", 'optimization_parameters in [engine] was {"lr": 0.01, "num_steps": 2}, and'),
        ("target_probability = 0.7", "", "target_probability in [recipe] was 0.7, and is None"),
    ],
)
def test_a_checkpoint_of_another_configuration_is_not_gone_on_with(old: str, new: str, words: str, parts: Any) -> None:
    path = changed("epochs = 3", 'epochs = 2\ncheckpoint = "training.pt"')
    begun = path.read_text()
    answer("train", path)
    engine = Path("inside/engine.pt").read_bytes()
    path.write_text(begun.replace(old, new))
    assert words in call("train", path).stderr.splitlines()[-1]
    assert call("train", path).exit_code == 1
    assert Path("inside/engine.pt").read_bytes() == engine
    path.write_text(begun.replace("epochs = 2", 'epochs = 2\noutput = "other.pt"\nmethod = "trace"'))
    assert call("train", path).exit_code == 0
    Path("inside/training.pt").unlink()
    path.write_text(begun.replace(old, new))
    assert call("train", path).exit_code == 0  # begun anew


def test_a_loader_that_shuffles_goes_on_with_its_generator(parts: Any) -> None:
    def train(epochs: int, checkpoint: str) -> dict[str, torch.Tensor]:
        new = f'epochs = {epochs}\ncheckpoint = "{checkpoint}"'
        path = changed("epochs = 3", new)
        path.write_text(path.read_text().replace("parts:train", "parts:shuffled"))
        answer("train", path)
        return it3.load("inside/engine.pt").state_dict()

    expected = train(3, "whole.pt")
    train(1, "parted.pt")
    for name, weight in train(3, "parted.pt").items():
        torch.testing.assert_close(weight, expected[name], rtol=0, atol=0)
    path = Path("inside/changed.toml")
    path.write_text(path.read_text().replace("parts:shuffled", "parts:persistent").replace("parted.pt", "new.pt"))
    assert "persistent_workers=True" in error("train", path, code=1)


def test_a_generator_is_gone_through_in_each_epoch(parts: Any) -> None:
    answer("train", changed("configured_parts:train", "configured_parts:generated"))
    expected = trained_by_hand(parts).state_dict()
    torch.testing.assert_close(it3.load("inside/engine.pt").state_dict()["model.0.weight"], expected["model.0.weight"])


def test_evaluate_is_it3_evaluate(parts: Any) -> None:
    assert "run: it3 train" in error("evaluate", CONFIG, code=2)
    answer("train", CONFIG)
    found = answer("evaluate", CONFIG)
    variants = {"5 steps": {"num_steps": 5}, "sgd": {"optimizer_name": "sgd", "lr": 0.1}}
    expected = it3.evaluate(it3.load("inside/engine.pt"), parts.test(), "accuracy", variants)
    assert [row["name"] for row in found["rows"]] == [row["name"] for row in expected.rows]
    assert [row["score"] for row in found["rows"]] == pytest.approx([row["score"] for row in expected.rows])
    assert found["best_control"] == expected.best_control
    assert found["verdict"] == expected.verdict
    own = answer("evaluate", changed('metric = "accuracy"', 'metric = "configured_parts:right"'))
    assert own["rows"][0]["score"] == pytest.approx(found["rows"][0]["score"])
    assert "5 steps: " in call("evaluate", CONFIG).stdout


def test_search_is_it3_search(parts: Any) -> None:
    def train(settings: dict[str, Any], seed: int) -> IT3Engine:
        return trained_by_hand(parts, settings["training.lr"], settings["engine.features_layer_name"], seed)

    found = answer("search", CONFIG)
    space = {"training.lr": (1e-2, 1e-1), "engine.features_layer_name": ["0", "1"]}
    choices = {"num_steps": [1, 3]}
    expected = it3.search(
        train, parts.validation(), "accuracy", space, adaptation=choices, budget=2, adaptation_budget=2, seeds=1
    )
    assert [trial["settings"] for trial in found["trials"]] == [trial["settings"] for trial in expected.trials]
    assert [trial["score"] for trial in found["trials"]] == pytest.approx([t["score"] for t in expected.trials])
    assert (found["choice"], found["adaptation"]) == (expected.choice, expected.adaptation)


def test_search_in_processes_prints_one_document(parts: Any, tmp_path: Path) -> None:
    path = changed("budget = 2\nadaptation", "budget = 1\nadaptation")
    run = program("search", path, "--processes", "2", "--json", cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    assert [trial["failure"] for trial in found["trials"]] == [""]
    assert "this is printed by the user's code" in run.stderr


def test_export_writes_the_trained_engine(parts: Any) -> None:
    answer("train", CONFIG)
    answer("export", CONFIG, "--output", "other.pt")
    x = torch.randn(5, 4)
    expected = it3.load("inside/engine.pt").adapt(x).prediction
    torch.testing.assert_close(it3.load("other.pt").adapt(x).prediction, expected)
    np.save("x.npy", x.numpy())
    answer("export", "inside/engine.pt", "--input", "x.npy", "--output", "adapted.pt")
    torch.testing.assert_close(torch.jit.load("adapted.pt")(x), expected)
    assert "needs --input" in error("export", "inside/engine.pt", "--output", "adapted.pt", code=2)


def test_export_keeps_what_calibration_found(parts: Any) -> None:
    answer("train", CONFIG)
    engine = it3.load("inside/engine.pt")
    engine.calibrate(parts.train(), has_targets=True)
    engine.save("inside/engine.pt", torch.randn(5, 4))
    answer("export", CONFIG, "--output", "other.pt")
    facts, expected = (answer("info", path) for path in ("other.pt", "inside/engine.pt"))
    assert expected["calibrated_range"] is not None
    for part in ("calibrated_range", "threshold"):
        assert facts[part] == expected[part]


def test_bench_times_calls(parts: Any) -> None:
    answer("train", CONFIG)
    np.save("x.npy", np.zeros((6, 4), np.float32))
    found = answer("bench", "inside/engine.pt", "--input", "x.npy", "--repeats", "5", "--set", "num_steps=40")
    assert [row["steps"] for row in found["milliseconds"]] == [0, 40]
    for row in found["milliseconds"]:
        assert 0 < row["lower quartile"] <= row["median"] <= row["upper quartile"]
    assert found["milliseconds"][0]["median"] < found["milliseconds"][1]["median"]
    assert "steps" in call("bench", "inside/engine.pt", "--input", "x.npy", "--repeats", "2").stdout


def test_functions_of_the_user_s_own(parts: Any) -> None:
    path = changed('"js"', '"configured_parts:distance"\nembedder = "configured_parts:embedder"')
    answer("train", path)
    facts = answer("info", "inside/engine.pt")
    assert facts["distance"] == facts["embedder"] == "a function of its own"


@pytest.mark.parametrize(
    ("old", "new", "command", "code", "words"),
    [
        ("[training]", "[trainig]", "train", 2, "unknown table [trainig]; did you mean 'training'?"),
        ("epochs = 3", "epoch = 3", "train", 2, "unknown key 'epoch' in [training]; did you mean 'epochs'?"),
        ("epochs = 3", "epochs = 0", "train", 2, "epochs must be a whole number, 1 or more, not 0"),
        (
            "epochs = 3",
            'epochs = "3"',
            "train",
            2,
            "epochs in [training] of inside/changed.toml must be a whole number",
        ),
        ("epochs = 3", "epochs = ", "train", 2, "is not a TOML file"),
        ('criterion = "cross_entropy"', "", "train", 2, "needs 'criterion' in [training]"),
        ('"cross_entropy"', '"cross_entrpy"', "train", 2, "did you mean 'cross_entropy'?"),
        ('"SGD"', '"Adm"', "train", 2, "torch.optim has no 'Adm'; did you mean 'Adam'?"),
        ('"js"', '"jss"', "train", 2, "did you mean 'js'?"),
        ("num_steps = 2", "num_stps = 2", "train", 2, "did you mean 'num_steps'?"),
        ('second_pass = "drawn"', 'second_pass = "dawn"', "train", 2, "[recipe]"),
        ("parts.py:make", "parts.py:mk", "train", 2, "did you mean 'make'?"),
        ("parts:train", "parts:nothing", "train", 1, "gave no batches"),
        ("parts:train", "parts:without_targets", "train", 1, "must be a pair (inputs, targets)"),
        ("{num_steps = 5}", "{num_stps = 5}", "evaluate", 2, "did you mean 'num_steps'?"),
        ("{num_steps = 5}", "5", "evaluate", 2, "must be a table of options"),
        ('metric = "accuracy"', "", "search", 2, "needs 'metric' in [evaluation]"),
        (
            "[evaluation]",
            "[evaluation]\nrepair = 1",
            "evaluate",
            2,
            "unknown key 'repair' in [evaluation]; did you mean",
        ),
        ('"training.lr"', '"training.rl"', "search", 2, "unknown key 'rl' in [training]"),
        ('"training.lr"', '"training.lr.x"', "search", 2, "'training.lr.x' names nothing in"),
        ('"training.lr"', '"training"', "search", 2, "'training' in inside/changed.toml must be a table"),
        ("{low = 1e-2, high = 1e-1}", "3", "search", 2, "must be a list of choices"),
    ],
)
def test_errors_are_one_line(old: str, new: str, command: str, code: int, words: str, parts: Any) -> None:
    assert words in error(command, changed(old, new), code=code).replace("\\", "/")
    assert not Path("inside/engine.pt").exists()


def test_a_loss_that_is_not_finite_is_said(parts: Any) -> None:
    result = call("train", changed("lr = 0.1\nseed", "lr = 1e30\nseed"))
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1].startswith("it3: the loss of epoch 1, batch 1 (counted from 0) is not finite")
    assert not Path("inside/engine.pt").exists()


def test_ctrl_c_of_training_leaves_no_file(parts: Any, tmp_path: Path) -> None:
    path = changed("epochs = 3", "epochs = 100000000")
    command = [sys.executable, "-m", "it3", "train", str(path)]
    run = subprocess.Popen(command, **options_of(tmp_path, {}))
    assert run.stderr is not None
    while not run.stderr.readline().startswith("epoch"):
        assert run.poll() is None
    run.send_signal(signal.SIGINT)
    said = run.communicate(timeout=60)
    assert run.returncode == 130
    assert "Traceback" not in said[1]
    assert not Path("inside/engine.pt").exists()
