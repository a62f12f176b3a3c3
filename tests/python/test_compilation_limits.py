"""it3.compile: calls, models and caches that programs do not fit, which run as they would without them."""

import copy
import pickle
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import it3
import pytest
import torch
from compiled_engines import (
    Dense,
    Images,
    batch,
    check_alike,
    close,
    copy_cache,
    dense,
    engines,
    is_compiled,
    make_engine,
)
from it3 import IT3Engine
from it3.compiling import capture
from it3.compiling import compile as compilation
from torch import Tensor, nn
from torch._inductor.exc import InvalidCxxCompiler


def test_calls_of_another_kind_run_as_before(cache: Path) -> None:
    engine, plain = dense(cache)
    for overrides in ({"anchor": "frozen"}, {"parameters": ["last.*"]}, {"per_sample": True}):
        close(*(each.adapt(batch(8), **overrides).prediction for each in (engine, plain)))
        other = copy.copy(engine.optimization_parameters) | overrides
        explanation = engine._setup_for(batch(8)).explain(batch(8), other)
        assert explanation.compiled.startswith("not evaluated by a compiled program")
        assert not explanation.is_compiled
    close(*(each.adapt(batch(0)).prediction for each in (engine, plain)))
    check_alike(engine, plain, batch(8))


def test_a_changed_model_runs_as_before(cache: Path) -> None:
    engine, plain = dense(cache)
    check_alike(engine, plain, batch(8))
    for each in (engine, plain):
        each.model.last.register_forward_hook(lambda _, __, out: out * 2)
    close(engine(batch(8))[0], plain(batch(8))[0])
    assert not is_compiled(engine, batch(8))


def test_other_attributes_forget_the_programs(cache: Path) -> None:
    engine, plain = dense(cache)
    check_alike(engine, plain, batch(8))
    for each in (engine, plain):
        each.distance_fn = "l1"
    close(engine(batch(8))[0], plain(batch(8))[0])
    assert not engine.explain(batch(8)).compiled


def test_copies_are_not_compiled(cache: Path) -> None:
    engine, plain = dense(cache)
    for other in (copy.deepcopy(engine), pickle.loads(pickle.dumps(engine))):
        assert not other.explain(batch(8)).compiled
        close(other(batch(8))[0], plain(batch(8))[0])


def test_programs_that_are_wrong_are_never_used(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, plain = dense(cache)
    constants_of = compilation.constants_of
    # The programs read another buffer than the model's.
    monkeypatch.setattr(
        compilation, "constants_of", lambda call: [c + 1 if c.shape == (12,) else c for c in constants_of(call)]
    )
    wrong, _ = dense(cache)
    close(wrong(batch(8))[0], plain(batch(8))[0])
    assert wrong.explain(batch(8)).compiled.endswith("program: the program predicts something else")
    close(engine(batch(8))[0], plain(batch(8))[0])


class ZeroGates(Dense):
    """Has a branch through which nothing comes before a step has changed both of its weights."""

    def __init__(self) -> None:
        super().__init__()
        self.branch = nn.Linear(6, 3)
        self.gates = nn.ParameterList([nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(()))])

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self.gates[0] * self.gates[1] * torch.sigmoid(self.branch(x))


def test_wrong_gradients_behind_weights_that_are_zero(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = {torch.ops.aten.sigmoid_backward.default: lambda gradient, result: 2 * gradient * result * (1 - result)}
    monkeypatch.setattr(capture, "_DECOMPOSITIONS", capture._DECOMPOSITIONS | wrong)
    engine, plain = engines(tmp_path, batch(8), ZeroGates)
    close(engine(batch(8))[0], plain(batch(8))[0])
    assert "not evaluated by a compiled program: the program has other gradients" in engine.explain(batch(8)).compiled


class Steep(Dense):
    """Its loss overflows where weights move by a quarter."""

    def __init__(self) -> None:
        super().__init__()
        self.power = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * torch.exp(180 * (self.power - 1))


def test_a_loss_that_overflows_with_other_weights(cache: Path) -> None:
    engine, x = make_engine(Steep, lr=1e-6).float(), batch(8).float()
    plain = copy.deepcopy(engine)
    it3.compile(engine, x, backend="compiled", cache=cache, progress=False)
    torch.testing.assert_close(engine(x)[0], plain(x)[0], rtol=1e-3, atol=1e-3)
    assert is_compiled(engine, x)


def test_a_threshold_that_the_programs_were_not_compiled_for(cache: Path) -> None:
    engine, plain = engines(cache, batch(8), anchor="frozen")
    broken = batch(8)
    broken[1] = torch.inf
    with pytest.raises(ValueError, match="not finite"):  # such a first call decides nothing
        engine(broken)
    check_alike(engine, plain, batch(8))
    threshold = float(plain.uncertainty(batch(8)).mean())
    close(*(each.adapt(batch(8), threshold=threshold).prediction for each in (engine, plain)))
    check_alike(engine, plain, batch(8))


def test_autocast_of_the_caller(cache: Path) -> None:
    engine, plain = dense(cache)
    check_alike(engine, plain, batch(8))
    for each in (engine, plain):
        each.float()
    x = batch(8).float()
    other = make_engine(threshold=0.0)
    with torch.autocast("cpu", torch.bfloat16):
        it3.compile(other, batch(8), cache=cache, progress=False)
        torch.testing.assert_close(engine(x)[0], plain(x)[0], rtol=0, atol=0)
    assert not is_compiled(engine, x)


def test_memory_that_is_shared_later(cache: Path) -> None:
    engine, plain = dense(cache, lr=0.3)
    check_alike(engine, plain, batch(8))
    for each in (engine, plain):
        each.model.scale.data = each.model.first.bias.data  # which follows what adapts
    close(engine(batch(8))[0], plain(batch(8))[0])
    for each in (engine, plain):
        each.model.last.bias.data = each.model.last.weight.data[:, 0]
        with pytest.raises(ValueError, match="share memory"):
            each(batch(8))


def test_tensors_that_become_others(cache: Path) -> None:
    engine, plain = dense(cache)
    check_alike(engine, plain, batch(8))
    for each in (engine, plain):
        each.embedder.float()
    close(engine(batch(8))[0], plain(batch(8))[0])
    arguments = {"distance_fn": "kl", "neutral": torch.tensor([3.0, -2.0, 5.0])}
    x = batch(6, 2, 6, 6)
    options = {"norm_statistics": "blend", "norm_prior": 3, "threshold": 0.0}
    engine, plain = engines(cache, x, Images, arguments, **options)
    for each in (engine, plain):
        each(x)
        each.neutral.data = torch.tensor([4.0])
    close(engine(x)[0], plain(x)[0])


def test_an_exception_that_is_kept_locks_nothing(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise ValueError("no")

    engine = make_engine(parameters=["last.*"])
    monkeypatch.setattr(compilation, "capture", fail)
    with pytest.raises(ValueError, match="no") as kept:
        it3.compile(engine, batch(8), cache=cache)
    thread = threading.Thread(target=lambda: engine(batch(3, 2, 6)), daemon=True)  # which is exported
    thread.start()
    thread.join(60)
    assert not thread.is_alive()
    assert kept.value is not None


def test_indices_out_of_range_raise_what_they_raise_without_programs(cache: Path) -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.layer, self.last = nn.Embedding(20, 6), nn.Linear(6, 6), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(torch.tanh(self.layer(self.table(x).mean(1))))

    torch.manual_seed(0)
    engine = IT3Engine(Tokens(), "layer", optimization_parameters={"lr": 1e-2}).eval()
    x = torch.randint(0, 20, (64, 200))
    engine.uncertainty(x)
    plain = copy.deepcopy(engine)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)  # an exception between threads of OpenMP ends the process
    try:
        it3.compile(engine, x, backend="compiled", cache=cache, progress=False)
        torch.testing.assert_close(engine(x)[0], plain(x)[0], rtol=1e-3, atol=1e-4)
        assert is_compiled(engine, x)
        x[3, 4] = 20
        for each in (engine, plain):
            with pytest.raises((RuntimeError, IndexError), match="index out of range in self"):
                each(x)
    finally:
        torch.set_num_threads(threads)


def test_threads_go_on_when_the_cache_is_gone(cache: Path, tmp_path: Path) -> None:
    dense(cache)
    engine, plain = dense(copy_cache(cache, tmp_path / "cache"))
    check_alike(engine, plain, batch(8))
    shutil.rmtree(tmp_path / "cache")
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: engine(batch(8))[0], range(40)))
    for result in results:
        close(result, plain(batch(8))[0])


def test_another_process_finds_the_programs(cache: Path) -> None:
    dense(cache)
    program = (
        "import sys; sys.path.insert(0, sys.argv[1]); from pathlib import Path\n"
        "from compiled_engines import *\n"
        "def never(*_, **__): raise AssertionError('compiled anew')\n"
        "from it3.compiling import compile; compile.capture = never\n"
        "engine, plain = dense(Path(sys.argv[2])); check_alike(engine, plain, batch(8))"
    )
    command = [sys.executable, "-c", program, str(Path(__file__).parent), str(cache)]
    subprocess.run(command, check=True, timeout=120)


def test_a_damaged_package_is_made_anew(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dense(cache)
    copy_cache(cache, tmp_path)
    for file in tmp_path.glob("*/first.pt2"):
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 255
        file.write_bytes(content)
    made: list[str] = []

    def make(place: Path, *_: Any) -> None:
        assert not place.exists()
        made.append(place.name)
        shutil.copytree(cache / place.name, place)

    monkeypatch.setattr(compilation, "capture", lambda *_, **__: None)
    monkeypatch.setattr(compilation, "_make", make)
    engine, plain = dense(tmp_path)
    assert len(made) == 1
    check_alike(engine, plain, batch(8))
    dense(tmp_path)
    assert len(made) == 1


def test_a_failing_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise InvalidCxxCompiler

    engine, expected = make_engine(), make_engine()(batch(8))[0]
    monkeypatch.setattr(torch._inductor, "aoti_compile_and_package", fail)
    with pytest.raises(RuntimeError, match=r"needs a C\+\+ compiler, such as g\+\+"):
        it3.compile(engine, batch(8), cache=tmp_path, progress=False)
    assert list(tmp_path.iterdir()) == []
    close(engine(batch(8))[0], expected)
    assert not engine.explain(batch(8)).compiled


class Turning(nn.Module):
    """Multiplies by a complex number, which Inductor's C++ does not know."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.last = nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        numbers = torch.view_as_complex(self.layer(x).view(-1, 3, 2)) * 2j
        return self.last(torch.view_as_real(numbers).flatten(1))


class Overwriting(nn.Module):
    """Writes behind its layer to a part of what it has computed before."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.layer, self.last = nn.Linear(6, 6), nn.Linear(6, 3), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.first(x)
        part = hidden[:, :3]
        part.add_(self.layer(x))
        return self.last(hidden) + part


@pytest.mark.parametrize(
    ("model", "arguments", "words"),
    [
        (lambda: torch.jit.script(Dense().double()), {}, "eager models that torch.export takes"),
        (lambda: Turning().double(), {}, "AOTInductor cannot compile what was recorded"),
        (
            lambda: Overwriting().double(),
            {},
            "writes in place, behind the layer, to a tensor from before it that shares memory",
        ),
    ],
)
def test_what_cannot_be_compiled(tmp_path: Path, model: Any, arguments: dict[str, Any], words: str) -> None:
    engine = IT3Engine(model(), "layer", **arguments).eval()
    with pytest.raises(ValueError, match=words):
        it3.compile(engine, batch(8), cache=tmp_path, progress=False)
    with pytest.raises(ValueError, match="backend must be 'auto' or 'compiled', not 'fast'"):
        it3.compile(engine, batch(8), backend="fast", cache=tmp_path)


def test_weights_that_share_memory(tmp_path: Path) -> None:
    model = Dense().double()
    model.scale = model.first.bias.detach()
    engine = IT3Engine(model, "layer").eval()
    with pytest.raises(ValueError, match=r"the parameter 'first\.bias' shares memory"):
        it3.compile(engine, batch(8), cache=tmp_path, progress=False)


def test_explaining_options_that_select_nothing(cache: Path) -> None:
    engine, _ = dense(cache)
    engine.optimization_parameters["parameters"] = ["nothing.*"]
    assert "not evaluated by a compiled program: parameters has 'nothing.*'" in engine.explain(batch(8)).compiled
    plain = make_engine(parameters=["nothing.*"])
    assert not plain.explain(batch(8)).compiled


def test_what_is_no_engine_or_no_example(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"compile\(\) takes an it3\.IT3Engine, not a Dense; make one around the model"):
        it3.compile(Dense(), batch(8), cache=tmp_path)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"tensors of shapes \[\(0, 6\)\], of which one is empty"):
        it3.compile(make_engine(), batch(8)[:0], cache=tmp_path)


def test_weights_that_move_or_get_another_dtype(cache: Path) -> None:
    engine, plain = dense(cache)
    check_alike(engine, plain, batch(8))
    for each in (engine, plain):
        for parameter in each.model.parameters():
            parameter.data = parameter.data.clone() * 1.1
    check_alike(engine, plain, batch(8))
    for each in (engine, plain):
        each.float()
    torch.testing.assert_close(engine(batch(8).float())[0], plain(batch(8).float())[0])
    assert not is_compiled(engine, batch(8).float())
    for each in (engine, plain):
        each.double()
    close(engine(batch(8))[0], plain(batch(8))[0])
