"""The command line: doctor, layers, info, and how each command ends."""

import json
import math
import os
import platform
import signal
import subprocess
import sys
import time
from pathlib import Path

import it3
import numpy as np
import pytest
import torch

pytest.importorskip("typer")

from command_line import MODELS, answer, call, error, options_of, program, trained_engine
from it3.command_line import installation


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a file of models, that imports leave nothing of."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    (tmp_path / "some_models.py").write_text(MODELS)
    monkeypatch.delitem(sys.modules, "some_models", raising=False)
    return tmp_path


def test_doctor_tells_versions_and_what_works() -> None:
    found = answer("doctor")
    assert found["versions"]["it3"] == it3.__version__
    assert found["versions"]["torch"] == torch.__version__
    assert found["versions"]["numpy"] == np.__version__
    assert found["versions"]["Python"] == platform.python_version()
    assert len(found["devices"]["CUDA devices"]) == torch.cuda.device_count()
    works = {check["name"]: check["works"] for check in found["checks"]}
    assert works["adapting"]
    assert works["CUDA graphs"] == torch.cuda.is_available()
    assert found["is_usable"]
    text = call("doctor").stdout
    assert "adapting:" in text
    assert "All that is needed works." in text


def test_doctor_ends_with_1_where_nothing_adapts(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise RuntimeError("nothing adapts")

    monkeypatch.setattr(it3.IT3Engine, "adapt", fails)
    found = answer("doctor", code=1)
    checks = {check["name"]: check for check in found["checks"]}
    assert not checks["adapting"]["works"]
    assert checks["adapting"]["why"] == "RuntimeError: nothing adapts"
    assert not found["is_usable"]
    text = call("doctor")
    assert text.exit_code == 1
    assert "NO; RuntimeError: nothing adapts" in text.stdout


def test_doctor_tells_what_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_script(*_: object) -> None:
        raise RuntimeError("no TorchScript here\nand more")

    monkeypatch.setattr(torch.jit, "script", no_script)
    found = answer("doctor")
    checks = {check["name"]: check for check in found["checks"]}
    assert not checks["TorchScript"]["works"]
    assert checks["TorchScript"]["why"] == "RuntimeError: no TorchScript here"
    assert checks["adapting"]["works"]  # an eager network does
    assert found["is_usable"]


def test_doctor_looks_for_the_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "there-is-no-such-compiler")
    checks = {check["name"]: check for check in answer("doctor")["checks"]}
    assert checks["C++ compiler"]["works"] is False
    assert "there-is-no-such-compiler" in checks["compiled programs"]["why"]
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\necho 'no headers' >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("CXX", str(broken))
    assert installation._compiler().why.endswith("does not compile a small program: no headers")


def test_doctor_tells_of_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IT3_CACHE_DIR", str(tmp_path / "a" / "b"))
    assert answer("doctor")["cache"] == {"folder": str(tmp_path / "a" / "b"), "is_writable": True, "why_not": ""}
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("IT3_CACHE_DIR", str(tmp_path / "file"))
    cache = answer("doctor")["cache"]
    assert not cache["is_writable"]
    assert str(tmp_path / "file") in cache["why_not"]


@pytest.mark.parametrize(
    "name", ["some_models:make", "some_models.py:make", "some_models:made", "./some_models.py:make"]
)
def test_layers_are_those_of_the_function(name: str, folder: Path) -> None:
    rows = answer("layers", name, "--shape", "5,4")["layers"]
    import some_models  # noqa: PLC0415

    expected = {layer.name: layer for layer in it3.layers(some_models.make(), torch.randn(5, 4))}
    assert [row["name"] for row in rows] == list(expected)
    for row in rows:
        layer = expected[row["name"]]
        assert tuple(row["output_shape"]) == layer.output_shape
        assert (row["weights_before"], row["weights_behind"]) == (layer.weights_before, layer.weights_behind)
        assert row["batch_norms_behind"] == layer.batch_norms_behind
        assert row["runs"] == ""


def test_layers_of_a_file_of_inputs(folder: Path) -> None:
    np.save("x.npy", np.zeros((7, 4), np.float32))
    np.save("double.npy", np.zeros((3, 4)))
    assert answer("layers", "some_models:make", "--input", "double.npy")["layers"][0]["output_shape"] == [3, 6]
    (folder / "x.csv").write_text("a,b,c,d\n1,2,3,4\n5,6,7,8\n")
    assert answer("layers", "some_models:make", "--input", "x.npy")["layers"][0]["output_shape"] == [7, 6]
    assert answer("layers", "some_models:make", "--input", "x.csv")["layers"][0]["output_shape"] == [2, 6]


def test_layers_suggests_and_explains(folder: Path) -> None:
    found = answer("layers", "some_models:make", "--shape", "5,4", "--suggest", "--explain")
    assert found["suggestion"]["layer"] == it3.suggest_layer(_made(), torch.randn(5, 4)).name
    assert all(row["runs"] for row in found["layers"])
    text = call("layers", "some_models:make", "--shape", "5,4", "--suggest").stdout
    assert f"'{found['suggestion']['layer']}': it is called once" in text


def test_layers_takes_weights(folder: Path) -> None:
    model = _made()
    torch.save(model.state_dict(), "weights.pt")
    torch.save({"state_dict": model.state_dict()}, "checkpoint.pt")
    for name in ("weights.pt", "checkpoint.pt"):
        assert answer("layers", "some_models:make", "--shape", "5,4", "--weights", name)["layers"]
    torch.save(torch.nn.Linear(2, 2).state_dict(), "other.pt")
    said = error("layers", "some_models:made", "--shape", "5,4", "--weights", "other.pt", code=1)
    assert "do not fit the model" in said
    assert "first.weight" in said


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (["some_models:mak", "--shape", "5,4"], 2, "did you mean 'make'?"),
        (["some_modls:make", "--shape", "5,4"], 2, "there is no module 'some_modls'"),
        (["some_models", "--shape", "5,4"], 2, "write package.module:thing or file.py:thing"),
        (["nothing.py:make", "--shape", "5,4"], 2, "there is no file"),
        (["some_models:made"], 2, "--shape 2,3,32,32"),
        (["some_models:made", "--shape", "5,x"], 2, "not '5,x'"),
        (["some_models:made", "--shape", "5,4", "--dtype", "float31"], 2, "not 'float31'"),
        (["some_models:made", "--shape", "5,4", "--layers"], 2, "No such option: --layers"),
        (["some_models:number", "--shape", "5,4"], 2, "is a int, not a model"),
        (["some_models:made", "--shape", "5,3"], 1, "mat1 and mat2 shapes cannot be multiplied"),
        (["some_models:fails", "--shape", "5,3"], 1, "KeyError: no such thing"),
    ],
)
def test_errors_are_one_line(args: list[str], code: int, words: str, folder: Path) -> None:
    if not args[0].startswith(("nothing", "some_modls")):
        program_output = call("layers", *args)  # what the user's code prints is no error
        assert program_output.exit_code == code
        assert words in program_output.stderr.splitlines()[-1]
    else:
        assert words in error("layers", *args, code=code)
    debug = call("layers", *args, "--debug")
    assert debug.exit_code == code
    assert "Traceback" in debug.stderr


def test_info_tells_what_is_in_the_file(tmp_path: Path) -> None:
    engine = trained_engine()
    x = torch.randn(6, 4)
    engine.calibrate([(x, torch.zeros(6))], has_targets=True)
    engine.save(tmp_path / "engine.pt", x)
    facts = answer("info", tmp_path / "engine.pt")
    assert facts["layer"] == "0"
    assert facts["distance"] == "js"
    assert facts["fed_back"] == engine.explain(x).fed_back == "softmax(y0)"
    assert facts["is_trained"]
    assert facts["weights"] == 4 * 8 + 8 + 8 * 3 + 3
    assert facts["threshold"] == pytest.approx(engine.optimization_parameters["threshold"])
    assert facts["inputs"] == ["Float [6, 4]"]
    assert facts["options"]["num_steps"] == 2
    assert facts["compiled"] is None
    # The least mean entropy of a batch's predictions, of which there is one.
    probabilities = engine.model(x).detach().softmax(1)
    entropy = float(-(probabilities * probabilities.log()).sum(1).mean())
    assert facts["calibrated_range"]["least_mean_entropy"] == pytest.approx(entropy, rel=1e-4)
    assert "fed back:" in call("info", tmp_path / "engine.pt").stdout


def test_info_of_no_engine(tmp_path: Path) -> None:
    (tmp_path / "text.pt").write_text("no engine")
    assert "cannot be read as an engine" in error("info", tmp_path / "text.pt", code=1)
    assert "there is no file" in error("info", tmp_path / "nothing.pt", code=2)


def test_as_a_program_nothing_else_is_on_the_output(folder: Path) -> None:
    run = program("layers", "some_models.py:make", "--shape", "5,4", "--json", cwd=folder)
    assert run.returncode == 0, run.stderr
    rows = json.loads(run.stdout)["layers"]
    assert not any(isinstance(row["share_behind"], float) and math.isnan(row["share_behind"]) for row in rows)
    assert "this is printed by the user's code" in run.stderr


def test_a_pipe_that_nobody_reads_is_no_traceback(folder: Path) -> None:
    (folder / "deep.py").write_text(
        "from torch import nn\nmodel = nn.Sequential(*(nn.Linear(4, 4) for _ in range(600)))\n"
    )
    command = f"{sys.executable} -m it3 layers deep.py:model --shape 1,4 | head -n 1"
    run = subprocess.run(["sh", "-c", command], check=True, **options_of(folder, {}))
    assert run.stdout.split()[:3] == ["layer", "kind", "output"]  # plain text
    assert run.stderr == ""


def test_ctrl_c_ends_with_130(folder: Path) -> None:
    (folder / "slow.py").write_text(
        "import pathlib, time\ndef make():\n    pathlib.Path('begun').touch()\n    time.sleep(60)\n"
    )
    command = [sys.executable, "-m", "it3", "layers", "slow.py:make", "--shape", "1,4"]
    run = subprocess.Popen(command, **options_of(folder, {}))
    until = time.monotonic() + 60
    while not (folder / "begun").exists() and time.monotonic() < until:
        time.sleep(0.05)
    os.kill(run.pid, signal.SIGINT)
    _, said = run.communicate(timeout=60)
    assert run.returncode == 130
    assert "Traceback" not in said


def test_without_typer_one_sentence_says_what_to_install(folder: Path) -> None:
    (folder / "typer.py").write_text("raise ModuleNotFoundError(\"No module named 'typer'\", name='typer')\n")
    run = program("doctor", cwd=folder)
    assert (run.returncode, run.stdout) == (2, "")
    assert run.stderr == "it3: the command line needs typer: pip install 'it3[cli]'\n"


def test_importing_it3_imports_no_command_line(folder: Path) -> None:
    code = "import it3, sys; print(sorted({'typer', 'rich', 'it3.command_line'} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], **options_of(folder, {}), check=True)
    assert run.stdout == "[]\n"


@pytest.mark.parametrize("args", [["doctor"], ["layers", "some_models.py:make", "--shape", "2,4"]])
def test_what_takes_long_to_import_is_not(args: list[str], folder: Path) -> None:
    """A fresh torch takes about two seconds already, and torch._dynamo as long again."""
    slow = ("pandas", "optuna", "matplotlib", "torch._dynamo", "torch._inductor", "sympy", "scipy", "PIL", "jinja2")
    code = f"""
import sys
sys.argv = ["it3", *{args!r}]
from it3.command_line.program import main
try:
    main()
except SystemExit as end:
    assert not end.code
print(sorted(name for name in {slow!r} if name in sys.modules), file=sys.stderr)
"""
    run = subprocess.run([sys.executable, "-c", code], **options_of(folder, {}), check=True)
    assert run.stderr.splitlines()[-1] == "[]"


def test_version_and_help() -> None:
    assert call("--version").stdout == f"it3 {it3.__version__}\n"
    for args in ([], ["--help"]):
        result = call(*args)
        assert result.exit_code == 0
        assert "it3 adapt engine.pt --input x.npy --output y.npy" in " ".join(result.stdout.split())


def _made() -> torch.nn.Module:
    import some_models  # noqa: PLC0415

    made: torch.nn.Module = some_models.make()
    return made
