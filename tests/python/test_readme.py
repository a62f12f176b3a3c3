"""What README.md shows runs as it stands there."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import it3
import pytest
import torch
from installed import ROOT, build_program, run

README = (ROOT / "README.md").read_text()


def snippets(language: str, heading: str) -> list[str]:
    """Return the blocks of code of a language below a heading of the second level."""
    section = README.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return re.findall(rf"```{language}\n(.*?)```", section, flags=re.DOTALL)


def as_program(snippet: str, before: str, after: str) -> str:
    """Put statements into a main(), below the lines that include something."""
    lines = snippet.splitlines()
    includes = [line for line in lines if line.startswith("#include")]
    body = [line for line in lines if not line.startswith("#include")]
    return "\n".join([*includes, "int main() {", before, *body, after, "}", ""])


def test_the_cpp_snippet_trains_and_adapts(tmp_path: Path) -> None:
    (snippet,) = snippets("cpp", "C++")
    before = "const at::Tensor x = torch::randn({8, 13}), target = torch::randn({8, 1});"
    after = """
      const bool right = adapted.prediction.sizes() == target.sizes() && distances.size(0) == 8;
      return right && torch::isfinite(adapted.prediction).all().item<bool>() ? 0 : 1;"""
    run(build_program(as_program(snippet, before, after), tmp_path))


def test_the_engine_that_python_saves_adapts_in_the_cpp_snippet(tmp_path: Path) -> None:
    namespace: dict[str, object] = {}
    exec(snippets("python", "Python")[0], namespace)
    x = torch.randn(4, 13)
    save, *_ = snippets("python", "From Python to C++")
    (load,) = snippets("cpp", "From Python to C++")
    before = f'const at::Tensor x = torch::randn({{4, 13}}); torch::manual_seed(0); chdir("{tmp_path}");'
    program = as_program(load, before, "return prediction.size(0) == 4 ? 0 : 1;")
    saved = save.replace("engine.pt", str(tmp_path / "engine.pt"))
    exec(saved, namespace | {"x": x, "it3": it3})
    run(build_program("#include <unistd.h>\n#include <it3/it3.h>\n#include <torch/torch.h>\n" + program, tmp_path))


def test_the_python_snippet_runs_by_itself(tmp_path: Path) -> None:
    snippet = snippets("python", "Python")[0]
    run(sys.executable, "-W", "error", "-c", snippet + "\nassert logits.shape == (4, 3)")


def test_the_snippet_of_loops_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorboard")
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {"it3": it3}
    exec(snippets("python", "Python")[0], namespace)
    batches = [(torch.randn(8, 13), torch.randint(3, (8,))) for _ in range(3)]
    names = {"training": batches, "held_out": batches[:1], "test": batches}
    exec(snippets("python", "Python")[1], namespace | names)
    assert {path.name for path in tmp_path.iterdir()} == {"runs", "training.pt", "predictions.npy"}


def test_the_snippet_of_pictures_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
    engine, x, targets = it3.IT3Engine(model, "0").eval(), torch.randn(20, 4), torch.randn(20, 1)
    engine.is_trained = True
    evaluation = it3.evaluate(engine, list(zip(x.split(5), targets.split(5), strict=True)), "mse", {"3 steps": {}})
    errors = (engine.adapt(x).prediction - targets).abs().flatten()
    engine.adapt(x, copy_model=False)  # so that there is a drift
    given = {"evaluation": evaluation, "engine": engine, "x": x, "targets": targets, "errors": errors, "it3": it3}
    exec(next(code for code in snippets("python", "Does it help?") if "report(" in code), given)
    assert {path.name for path in tmp_path.iterdir()} == {"report.html", "gains.png"}


def test_the_input_snippet_runs() -> None:
    namespace: dict[str, Any] = {"it3": it3, "nn": torch.nn}
    exec(snippets("python", "Python")[2], namespace)
    engine = namespace["engine"].train()
    prediction, _ = engine(torch.randn(4, 8), target=torch.randn(4, 1))
    assert prediction.shape == (4, 1)
    assert engine.eval().adapt(torch.randn(4, 8)).steps == 3


def test_the_compiling_snippet_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IT3_CACHE_DIR", str(tmp_path))
    namespace: dict[str, object] = {}
    exec(snippets("python", "Python")[0], namespace)
    exec(snippets("python", "Python")[3], namespace | {"it3": it3, "example_inputs": torch.randn(1, 13)})
    assert len(list(tmp_path.glob("*/gradients.pt2"))) == 1
    x = torch.randn(4, 13)
    save = snippets("python", "From Python to C++")[1].replace("engine.pt2", str(tmp_path / "engine.pt2"))
    exec(save, namespace | {"x": x})
    engine = namespace["engine"]
    assert isinstance(engine, it3.IT3Engine)
    torch.testing.assert_close(it3.load(tmp_path / "engine.pt2")(x), engine(x))


def test_the_online_snippet_runs() -> None:
    namespace: dict[str, object] = {}
    exec(snippets("python", "Python")[0], namespace)
    exec(snippets("python", "Python")[4], namespace | {"stream": torch.randn(3, 8, 13)})


@pytest.mark.parametrize("path", ["/usr/bin:/bin"])
def test_the_wheel_finds_its_torch_whatever_python_is_first(path: str, tmp_path: Path) -> None:
    (tmp_path / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.25)\n"
        "project(finds LANGUAGES CXX)\n"
        "find_package(it3 REQUIRED)\n"
        'message(STATUS "torch in ${LibTorch_LIBRARY_DIR}")\n'
    )
    cmake = Path(sys.executable).parent / "cmake"
    done = subprocess.run(
        [cmake, "-S", tmp_path, "-B", tmp_path / "build", f"-DCMAKE_PREFIX_PATH={it3.cmake_prefix_path}"],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": path},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = re.search("torch in (.*)", done.stdout)
    assert found is not None
    assert Path(found[1]).resolve() == (Path(torch.__file__).parent / "lib").resolve()
