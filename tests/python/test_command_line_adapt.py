"""``it3 adapt``: what it writes is what the engine gives, and files are whole or not there."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import it3
import numpy as np
import pandas as pd
import pytest
import torch
from it3 import IT3Engine
from torch import Tensor, nn

pytest.importorskip("typer")

from command_line import answer, call, error, options_of, trained_engine


@pytest.fixture
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("saved") / "engine.pt"
    trained_engine().save(path, torch.randn(6, 4))
    return path


@pytest.fixture
def x(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tensor:
    """Samples, which files in the current folder hold too."""
    monkeypatch.chdir(tmp_path)
    samples = np.random.default_rng(0).normal(size=(10, 4)).astype(np.float32)
    np.save("x.npy", samples)
    frame = pd.DataFrame(samples, columns=["d", "b", "a", "c"])
    frame.to_csv("x.csv", index=False)
    frame.to_parquet("x.parquet", index=False)
    return torch.from_numpy(samples)


def wait_until(happens: Callable[[], bool]) -> None:
    until = time.monotonic() + 60
    while not happens() and time.monotonic() < until:
        time.sleep(0.05)


def close(actual: np.ndarray, expected: Tensor) -> None:
    np.testing.assert_allclose(actual, expected.numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("ending", ["npy", "csv", "parquet"])
def test_predictions_are_the_engine_s(ending: str, saved: Path, x: Tensor) -> None:
    call("adapt", saved, "--input", f"x.{ending}", "--output", f"y.{ending}", "--uncertainty", f"u.{ending}")
    adaptation = it3.load(saved).adapt(x)
    assert not torch.allclose(adaptation.prediction, it3.load(saved).model(x), atol=1e-3)  # it does adapt
    if ending == "npy":
        close(np.load("y.npy"), adaptation.prediction)
        close(np.load("u.npy"), adaptation.uncertainty)
        return
    read = pd.read_csv if ending == "csv" else pd.read_parquet
    frame = read(f"y.{ending}")
    assert list(frame) == ["prediction_0", "prediction_1", "prediction_2"]
    close(frame.to_numpy(), adaptation.prediction)
    assert list(read(f"u.{ending}")) == ["uncertainty"]
    close(read(f"u.{ending}")["uncertainty"].to_numpy(), adaptation.uncertainty)


def test_batches_options_and_the_report(saved: Path, x: Tensor) -> None:
    settings = ["--set", "num_steps=3", "--set", "lr=1e-2", "--set", "optimizer_name=sgd", "--set", "momentum=0.5"]
    files = ["--input", "x.npy", "--output", "y.npy"]
    report = answer("adapt", saved, *files, "--batch-size", "4", "--progress", *settings)
    engine = it3.load(saved)
    options = {"num_steps": 3, "lr": 0.01, "optimizer_name": "sgd", "momentum": 0.5}
    parts = [engine.adapt(batch, **options) for batch in (x[:4], x[4:8], x[8:])]
    close(np.load("y.npy"), torch.cat([part.prediction for part in parts]))
    assert (report["samples"], report["batches"], report["steps"]) == (10, 3, 3)
    first = (4 * parts[0].losses[0] + 4 * parts[1].losses[0] + 2 * parts[2].losses[0]) / 10
    assert report["loss_before_first_step"] == pytest.approx(float(first), rel=1e-4)
    assert report["mean_uncertainty"] == pytest.approx(
        float(torch.cat([part.uncertainty for part in parts]).mean()), rel=1e-4
    )


def test_numbers_of_half_precision_and_where_it_fails(x: Tensor) -> None:
    for dtype, written in ((torch.float16, np.float16), (torch.bfloat16, np.float32)):
        engine = trained_engine().to(dtype)
        engine.save("half.pt", x.to(dtype))
        for ending in ("npy", "csv", "parquet"):
            files = ["--input", "x.npy", "--output", f"y.{ending}", "--uncertainty", f"u.{ending}"]
            assert call("adapt", "half.pt", *files, "--set", "num_steps=0").exit_code == 0
        assert np.load("y.npy").dtype == written
        close(np.load("y.npy").astype(np.float32), it3.load("half.pt").model(x.to(dtype)).detach().float())
    bad = x.clone()
    bad[7] = torch.nan
    np.save("bad.npy", bad.numpy())
    said = error("adapt", "half.pt", "--input", "bad.npy", "--output", "z.npy", "--batch-size", "3", code=1)
    assert said.endswith("(in batch 2, counted from 0)")


def test_online_weights_go_from_batch_to_batch(saved: Path, x: Tensor) -> None:
    settings = ["--set", "online=true", "--set", "parameters=0.*,2.bias", "--set", "betas=0.5,0.9"]
    report = answer("adapt", saved, "--input", "x.npy", "--output", "y.npy", "--batch-size", "5", *settings)
    engine = it3.load(saved)
    options = {"online": True, "parameters": ["0.*", "2.bias"], "betas": (0.5, 0.9)}
    close(np.load("y.npy"), torch.cat([engine.adapt(batch, **options).prediction for batch in x.split(5)]))
    assert report["drift"] == pytest.approx(engine.drift().relative, rel=1e-4)


@pytest.mark.parametrize("parameters", ["0", "2", "0,2.bias", "all", "norm"])
def test_parameters_are_words(parameters: str, saved: Path, x: Tensor) -> None:
    arguments = ["adapt", saved, "--input", "x.npy", "--output", "y.npy", "--set", f"parameters={parameters}"]
    if parameters == "norm":  # of which the network has none
        assert "parameters" in error(*arguments, code=1)
        return
    assert call(*arguments).exit_code == 0
    close(np.load("y.npy"), it3.load(saved).adapt(x, parameters=parameters.split(",")).prediction)


def test_a_threshold_leaves_samples_as_they_are(saved: Path, x: Tensor) -> None:
    middle = float(it3.load(saved).uncertainty(x).median())
    report = answer("adapt", saved, "--input", "x.npy", "--output", "y.npy", "--set", f"threshold={middle}")
    assert report["adapted_samples"] == 5
    report = answer("adapt", saved, "--input", "x.npy", "--output", "y.npy", "--set", "num_steps=0")
    assert report["loss_before_first_step"] is None
    close(np.load("y.npy"), it3.load(saved).model(x).detach())


def test_steps_are_those_that_were_taken(saved: Path, x: Tensor) -> None:
    settings = ["--set", "num_steps=50", "--set", "tolerance=1e9", "--batch-size", "5"]
    files = [saved, "--input", "x.npy", "--output", "y.npy"]
    engine = it3.load(saved)
    steps = max(engine.adapt(part, num_steps=50, tolerance=1e9).steps for part in x.split(5))
    assert steps == 1
    assert answer("adapt", *files, *settings)["steps"] == 1
    said = call("adapt", *files, *settings).stdout
    assert "10 samples, 2 batches, up to 1 step each: loss" in said
    assert "; mean uncertainty after adapting " in said
    assert "after adapting" not in call("adapt", *files, "--set", "num_steps=0").stdout
    threshold = float(it3.load(saved).uncertainty(x)[:5].max())  # which the first batch stays below
    assert answer("adapt", *files, *settings[-2:], "--set", f"threshold={threshold + 1e-6}")["steps"] == 2


@pytest.mark.parametrize("per_sample", [False, True])
def test_losses_are_of_the_samples_that_adapt(per_sample: bool, saved: Path, x: Tensor) -> None:
    x = x[it3.load(saved).uncertainty(x).argsort()]
    np.save("sorted.npy", x.numpy())
    threshold = float(it3.load(saved).uncertainty(x)[4:6].mean())  # 0 of the first 4, 3 of the next 4, 2 of the rest
    settings = ["--set", f"threshold={threshold}", "--set", f"per_sample={str(per_sample).lower()}"]
    report = answer(
        "adapt", saved, "--input", "sorted.npy", "--output", "y.npy", "--batch-size", "4", *settings, "--set", "lr=1e-4"
    )
    assert report["adapted_samples"] == 5
    parts = [it3.load(saved).adapt(part, threshold=None, per_sample=per_sample, lr=1e-4) for part in (x[5:8], x[8:])]
    for name, place in (("loss_before_first_step", 0), ("loss_before_last_step", -1)):
        expected = (3 * parts[0].losses[place].mean() + 2 * parts[1].losses[place].mean()) / 5
        assert report[name] == pytest.approx(float(expected), rel=1e-3)


def test_kinds_of_numbers_become_the_network_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    double = IT3Engine(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)).double(), "0").eval()
    double.is_trained = True
    double.save("double.pt", torch.randn(5, 3).double())
    np.save("whole.npy", np.arange(12).reshape(4, 3))
    assert call("adapt", "double.pt", "--input", "whole.npy", "--output", "y.npy").exit_code == 0
    close(np.load("y.npy"), it3.load("double.pt").adapt(torch.arange(12.0).reshape(4, 3).double()).prediction)
    assert np.load("y.npy").dtype == np.float64

    tokens = IT3Engine(nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(8, 2)), "1").eval()
    tokens.is_trained = True
    tokens.save("tokens.pt", torch.randint(9, (5, 2)))
    Path("tokens.csv").write_text("first,second\n1,2\n3,8\n0,0\n")
    assert call("adapt", "tokens.pt", "--input", "tokens.csv", "--output", "y.csv").exit_code == 0
    expected = it3.load("tokens.pt").adapt(torch.tensor([[1, 2], [3, 8], [0, 0]])).prediction
    close(pd.read_csv("y.csv").to_numpy(), expected)
    pd.DataFrame([[1, 2], [3, 8], [0, 0]]).to_csv("numbered.csv", index=False)  # whose columns are called 0 and 1
    assert call("adapt", "tokens.pt", "--input", "numbered.csv", "--output", "y.csv").exit_code == 0
    close(pd.read_csv("y.csv").to_numpy(), expected)


@pytest.mark.parametrize("samples", [[1.7, 2], [1, np.nan], [np.inf, 0], [3e9, 1], [-3e9, 1]])
def test_whole_numbers_are_not_made_of_others(samples: list[float], x: Tensor) -> None:
    tokens = IT3Engine(nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(8, 2)), "1").eval()
    tokens.is_trained = True
    tokens.save("tokens.pt", torch.randint(9, (5, 2), dtype=torch.int32))
    table = np.array([[1, 2], samples])
    np.save("odd.npy", table)
    pd.DataFrame(table).to_csv("odd.csv", index=False)
    pd.DataFrame(table, columns=["a", "b"]).to_parquet("odd.parquet")
    for ending in ("npy", "csv", "parquet"):
        said = error("adapt", "tokens.pt", "--input", f"odd.{ending}", "--output", "y.npy", code=1)
        assert f"the engine takes torch.int32 inputs, and odd.{ending} holds" in said


def test_the_order_of_bytes_and_elements_does_not_matter(saved: Path, x: Tensor) -> None:
    expected = it3.load(saved).adapt(x.flip(0)).prediction
    np.save("odd.npy", np.asfortranarray(x.numpy().astype(">f4")[::-1]))
    assert call("adapt", saved, "--input", "odd.npy", "--output", "y.npy").exit_code == 0
    close(np.load("y.npy"), expected)


class ByKeyword(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 5), nn.Linear(5, 2)

    def forward(self, *, table: Tensor) -> Tensor:
        return self.last(self.first(table).tanh())


class OfTwo(ByKeyword):
    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.last(self.first(a + b).tanh())


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words, self.inner, self.last = nn.Embedding(9, 4), nn.GRU(4, 5), nn.Linear(5, 2)

    def forward(self, words: Tensor) -> Tensor:
        return self.last(self.inner(self.words(words))[0])


class OfColumns(ByKeyword):
    def forward(self, columns: Tensor) -> Tensor:
        return self.last(self.first(columns.t()).tanh())


@pytest.mark.parametrize("in_dims", [1, (-1,), None])
def test_samples_in_the_second_dimension(in_dims: int | tuple[int] | None, x: Tensor) -> None:
    torch.manual_seed(0)
    is_table = in_dims is not None
    model, columns = (OfColumns(), x[:7].t()) if is_table else (Recurrent(), torch.randint(9, (4, 7)))
    engine = IT3Engine(model, "first" if is_table else "last", in_dims=in_dims).eval()
    engine.is_trained = True
    engine.save("engine.pt", columns)
    np.save("columns.npy", columns.numpy())
    pd.DataFrame(columns.numpy()).to_csv("columns.csv", index=False)
    assert answer("adapt", "engine.pt", "--input", "columns.npy", "--output", "y.npy")["samples"] == 7
    close(np.load("y.npy"), it3.load("engine.pt").adapt(columns).prediction)
    assert answer("bench", "engine.pt", "--input", "columns.npy", "--repeats", "2")["samples"] == 7
    for command in (["adapt", "engine.pt", "--output", "z.npy"], ["bench", "engine.pt"]):
        said = error(*command, "--input", "columns.csv", code=1)
        assert "the rows of columns.csv are its samples, but this engine takes them in dimension 1" in said
        assert "leave out --batch-size" in error(*command, "--input", "columns.npy", "--batch-size", "2", code=1)


def test_inputs_by_keyword_and_several(x: Tensor) -> None:
    for model, example in ((ByKeyword(), {"table": x}), (OfTwo(), (x, x))):
        engine = IT3Engine(model, "first").eval()
        engine.is_trained = True
        engine.save("engine.pt", example)
        assert answer("info", "engine.pt")["fed_back"] == "y0"
        if isinstance(example, tuple):
            assert "takes 2 inputs" in error("adapt", "engine.pt", "--input", "x.npy", "--output", "z.npy", code=1)
        else:
            assert call("adapt", "engine.pt", "--input", "x.npy", "--output", "y.npy").exit_code == 0
            close(np.load("y.npy"), it3.load("engine.pt").adapt({"table": x}).prediction)
            assert answer("bench", "engine.pt", "--input", "x.npy", "--repeats", "2")["samples"] == 10


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (["--set", "num_stesp=3"], 2, "no option is called 'num_stesp'; did you mean 'num_steps'?"),
        (["--set", "num_steps=-3"], 2, "num_steps must be a whole number, 0 or more, not -3"),
        (["--set", "num_steps"], 2, "NAME=VALUE"),
        (["--set", "lr=1", "--set", "lr=2"], 2, "given twice"),
        (["--batch-size", "0"], 2, "--batch-size"),
        (["--output", "y.txt"], 2, "y.txt must end in .npy, .csv or .parquet"),
        (["--output", "x.npy"], 2, "x.npy would replace another file of this call"),
        (["--output", "no/y.npy"], 2, "there is no folder no"),
        (["--uncertainty", "y.npy"], 2, "y.npy would replace another file of this call"),
        (["--input", "nothing.npy"], 2, "there is no file nothing.npy"),
        (["--input", "words.csv"], 1, "the column 'b' of words.csv holds"),
        (["--input", "broken.npy"], 1, "broken.npy is not a .npy file of numbers, or is damaged"),
        (["--input", "headless.csv"], 1, "put a header line first"),
        (["--device", "gpu"], 2, "cuda: and a number, not 'gpu'"),
        (["--device", "cuda:99"], 2, "there is no device cuda:99"),
        (["--input", "empty.csv"], 1, "without samples"),
        (["--input", "flat.npy"], 1, "the engine was saved with an input of (6, 4)"),
        (["--input", "wide.npy"], 1, "shapes cannot be multiplied"),
    ],
)
def test_errors_are_one_line_and_write_nothing(
    args: list[str], code: int, words: str, saved: Path, x: Tensor, tmp_path: Path
) -> None:
    Path("words.csv").write_text("a,b,c,d\n1,two,3,4\n")
    Path("broken.npy").write_bytes(Path("x.npy").read_bytes()[:150])
    Path("headless.csv").write_text("-1.5,-1.5,3,1e-3\n1,2,3,4\n")
    Path("empty.csv").write_text("a,b,c,d\n")
    np.save("flat.npy", np.zeros(4, np.float32))
    np.save("wide.npy", np.zeros((2, 5), np.float32))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    given = {"--input": "x.npy", "--output": "y.npy"}
    rest = [arg for name, value in given.items() if name not in args for arg in (name, value)]
    assert words in error("adapt", saved, *rest, *args, code=code)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_table_cannot_hold_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    engine = IT3Engine(nn.Sequential(nn.Conv2d(1, 2, 1), nn.Conv2d(2, 1, 1)), "0").eval()
    engine.is_trained = True
    engine.save("engine.pt", torch.randn(3, 1, 4, 4))
    np.save("x.npy", np.ones((2, 1, 4, 4), np.float32))
    assert "cannot hold" in error("adapt", "engine.pt", "--input", "x.npy", "--output", "y.csv", code=1)
    assert call("adapt", "engine.pt", "--input", "x.npy", "--output", "y.npy").exit_code == 0
    assert np.load("y.npy").shape == (2, 1, 4, 4)


def test_missing_entries_are_nan(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("x.csv").write_text("a,b,c,d\n1,2,3,4\n1,,3,4\n")
    samples = np.array([[1, 2, 3, 4], [1, np.nan, 3, 4]], np.float32)
    np.save("with_nan.npy", samples)
    results = [call("adapt", saved, "--input", name, "--output", "y.npy") for name in ("x.csv", "with_nan.npy")]
    assert results[0].exit_code == results[1].exit_code
    assert results[0].stderr == results[1].stderr


def test_ctrl_c_while_it_adapts_ends_it(saved: Path, x: Tensor, tmp_path: Path) -> None:
    before = {path.name for path in tmp_path.iterdir()}
    command = [sys.executable, "-m", "it3", "adapt", str(saved), "--input", "x.npy", "--output", "y.npy"]
    command += ["--set", "num_steps=1000000000"]
    run = subprocess.Popen(command, **options_of(tmp_path, {}))
    wait_until(lambda: "x.npy" in Path(f"/proc/{run.pid}/maps").read_text())
    time.sleep(0.2)
    run.send_signal(signal.SIGINT)
    _, said = run.communicate(timeout=60)
    assert run.returncode == 130, said
    assert "Traceback" not in said
    assert {path.name for path in tmp_path.iterdir()} == before


WAITING = """
import sys, time
from it3 import _C
from it3.command_line.program import main

class Waiting:
    def __init__(self, path):
        self.file = new_file(path)

    def __enter__(self):
        self.file.__enter__()
        return self

    def __exit__(self, *raised):
        return self.file.__exit__(*raised)

    def write(self, content):
        self.file.write(content[: len(content) // 2])
        print("half", file=sys.stderr, flush=True)
        time.sleep(60)

new_file, _C.NewFile = _C.NewFile, Waiting
main()
"""
"""The command line, which waits where half of a file is written."""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 130)])
def test_a_run_that_is_ended_while_it_writes_leaves_no_half_file(
    number: signal.Signals, code: int, saved: Path, tmp_path: Path
) -> None:
    np.save(tmp_path / "x.npy", np.zeros((5000, 4), np.float32))
    (tmp_path / "y.npy").write_bytes(b"what was there before")
    command = [sys.executable, "-c", WAITING, "adapt", str(saved), "--input", "x.npy", "--output", "y.npy"]
    run = subprocess.Popen(command, **options_of(tmp_path, {}))
    assert run.stderr is not None
    while not run.stderr.readline().startswith("half"):
        assert run.poll() is None
    (partial,) = (path for path in tmp_path.iterdir() if path.name not in ("x.npy", "y.npy"))
    assert 20_000 < partial.stat().st_size < 40_000
    run.send_signal(number)
    _, said = run.communicate(timeout=60)
    assert run.returncode == code, said
    assert "Traceback" not in said
    assert (tmp_path / "y.npy").read_bytes() == b"what was there before"
    assert partial.exists() == (number == signal.SIGKILL)  # after which nobody can remove it


def test_a_full_disk_leaves_no_half_file(saved: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((5000, 4), np.float32))
    command = f"ulimit -f 16; {sys.executable} -m it3 adapt {saved} --input x.npy --output y.npy"
    run = subprocess.run(["sh", "-c", command], check=False, **options_of(tmp_path, {"PYTHONDONTWRITEBYTECODE": "1"}))
    assert (run.returncode, run.stdout) == (1, "")
    assert "y.npy" in run.stderr.splitlines()[-1]
    assert [path.name for path in tmp_path.iterdir()] == ["x.npy"]
