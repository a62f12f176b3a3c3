"""it3.compile: programs of AOTInductor against the formula, and against the engine as it runs without them."""

import copy
import pickle
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import it3
import pytest
import reference
import torch
from it3 import IT3Engine, compilation
from torch import Tensor, nn
from torch._inductor.exc import InvalidCxxCompiler

close = partial(torch.testing.assert_close, rtol=1e-9, atol=1e-9)


class Dense(nn.Module):
    """With a weight that is used twice, one that nothing depends on, and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.layer, self.last = nn.Linear(6, 12), nn.Linear(12, 12), nn.Linear(12, 3)
        self.twice = nn.Linear(12, 12)
        self.unused = nn.Parameter(torch.ones(2))
        self.register_buffer("scale", torch.full((12,), 1.5))

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.twice(self.layer(torch.tanh(self.first(x))) * self.scale)
        return self.last(torch.tanh(self.twice(torch.tanh(hidden))))


class Images(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm, self.last = nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Linear(4 * 16, 3)
        self.norm.running_mean.normal_()
        self.norm.running_var.uniform_(0.5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.norm(self.layer(x))).flatten(1))


def batch(samples: int, *shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(samples, *(shape or (6,)), dtype=torch.float64, generator=generator)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("compiled")


def make_engine(model: type[nn.Module] = Dense, arguments: dict[str, Any] | None = None, **options: Any) -> IT3Engine:
    torch.manual_seed(0)
    given = {"num_steps": 3, "lr": 1e-2, **options}
    engine = IT3Engine(model().double(), "layer", optimization_parameters=given, **(arguments or {})).eval()
    engine.is_trained = True
    engine.uncertainty(batch(4) if model is Dense else batch(4, 2, 6, 6))  # shapes the embedder
    return engine


def engines(cache: Path, example: Tensor, *given: Any, **options: Any) -> tuple[IT3Engine, IT3Engine]:
    """Return a compiled engine, and an equal one that is not."""
    engine = make_engine(*given, **options)
    plain = copy.deepcopy(engine)
    assert it3.compile(engine, example, backend="compiled", cache=cache, progress=False) is engine
    return engine, plain


def dense(cache: Path, **options: Any) -> tuple[IT3Engine, IT3Engine]:
    """Return engines that are compiled with a threshold, so that some samples may be left out."""
    engine, plain = engines(cache, batch(8), threshold=0.0)
    for each in (engine, plain):
        each.optimization_parameters.update({"threshold": None, **options})
    return engine, plain


def is_compiled(engine: IT3Engine, inputs: Tensor, **overrides: Any) -> bool:
    words = engine._setup_for(inputs).explain(inputs, {**engine.optimization_parameters, **overrides})
    return "; compiled: evaluated by programs of AOTInductor" in words


def check_alike(engine: IT3Engine, plain: IT3Engine, *batches: Tensor, **overrides: Any) -> None:
    for inputs in batches:
        torch.manual_seed(3)
        actual = engine.adapt(inputs, **overrides)
        torch.manual_seed(3)
        expected = plain.adapt(inputs, **overrides)
        assert is_compiled(engine, inputs, **overrides)
        for name in ("prediction", "first", "second", "losses"):
            close(getattr(actual, name), getattr(expected, name))
        close(actual._weights, expected._weights)
        close(engine.uncertainty(inputs), plain.uncertainty(inputs))


@pytest.mark.parametrize("samples", [1, 2, 8, 31])
@pytest.mark.parametrize("options", [{}, {"optimizer_name": "sgd", "momentum": 0.9, "max_grad_norm": 1e-3}])
def test_the_formula(cache: Path, samples: int, options: dict[str, Any]) -> None:
    engine, _ = dense(cache, num_steps=4, **options)
    weights = {name: value.clone() for name, value in engine.model.state_dict().items()}
    x = batch(samples, seed=samples)
    embedder = partial(
        reference.embed, **dict(zip(("w1", "b1", "w2", "b2"), engine.embedder.parameters(), strict=True))
    )
    for _ in range(2):  # the first call is tried in both ways
        expected, losses, adapted = reference.adapt(engine.model, "layer", embedder, x, num_steps=4, lr=1e-2, **options)
        result = engine.adapt(x)
        assert is_compiled(engine, x)
        close(result.prediction, expected)
        close(result.losses, torch.tensor(losses, dtype=torch.float64))
        close(result.state_dict()["first.weight"], adapted.first.weight.detach())
    torch.testing.assert_close(engine.model.state_dict(), weights, rtol=0, atol=0)


@pytest.mark.parametrize(
    "options",
    [
        {"prediction": "mean", "tolerance": 0.2},
        {"prediction": "second"},
        {"restore_probability": 0.3},
        {"num_steps": 0},
        {"optimizer_name": "rmsprop", "weight_decay": 0.1},
    ],
)
def test_what_the_loop_does_is_not_compiled(cache: Path, options: dict[str, Any]) -> None:
    check_alike(*dense(cache, **options), batch(8), batch(5, seed=1))


def test_samples_are_left_out(cache: Path) -> None:
    engine, plain = dense(cache)
    for x in (batch(8), batch(5, seed=1)):
        ordered = plain.uncertainty(x).sort().values
        for left_out in (1, len(x) - 1):
            threshold = float(ordered[left_out - 1 : left_out + 1].mean())
            check_alike(engine, plain, x, threshold=threshold)
            assert int(engine.adapt(x, threshold=threshold).adapted_samples.sum()) == len(x) - left_out
    broken = batch(6)
    broken[2] = torch.nan
    actual, expected = (each.adapt(broken, threshold=0.0) for each in (engine, plain))
    close(actual.prediction, expected.prediction, equal_nan=True)
    with pytest.raises(ValueError, match=r"sample 2"):
        engine(broken)


def test_online_weights_are_kept_and_go_back(cache: Path) -> None:
    engine, plain = dense(cache, online=True)
    start = {name: value.clone() for name, value in engine.model.state_dict().items()}
    for seed in range(4):
        close(engine(batch(8, seed=seed))[0], plain(batch(8, seed=seed))[0])
    close(engine.model.state_dict(), plain.model.state_dict())
    close(engine.drift().distance, plain.drift().distance)
    engine.reset()
    torch.testing.assert_close(engine.model.state_dict(), start, rtol=0, atol=0)


def test_trained_weights_are_seen(cache: Path) -> None:
    engine, plain = dense(cache)
    check_alike(engine, plain, batch(8))
    with torch.no_grad():
        for each in (engine, plain):
            for parameter in each.parameters():
                parameter.mul_(1.3)
            each.model.scale.fill_(0.4)
    check_alike(engine, plain, batch(8))


@pytest.mark.parametrize(("compiled_for", "anchor"), [("frozen", "frozen"), ("frozen", "ema"), ("ema", "ema")])
def test_other_networks_as_anchor(cache: Path, compiled_for: str, anchor: str) -> None:
    engine, plain = engines(cache, batch(8), anchor=compiled_for)
    for each in (engine, plain):
        each.optimization_parameters["anchor"] = anchor
    check_alike(engine, plain, batch(8), batch(3, seed=1))
    for seed in range(3):
        close(
            engine.adapt(batch(8, seed=seed), online=True).prediction,
            plain.adapt(batch(8, seed=seed), online=True).prediction,
        )


def test_images_with_their_own_statistics_and_a_neutral_signal(cache: Path) -> None:
    arguments = {"distance_fn": "kl", "neutral": torch.tensor([3.0, -2.0, 5.0])}
    x = batch(6, 2, 6, 6)
    engine, plain = engines(cache, x, Images, arguments, norm_statistics="blend", norm_prior=3)
    check_alike(engine, plain, x, batch(9, 2, 6, 6, seed=1))
    # These lie otherwise in memory, which the model could ask for.
    for other in (x.to(memory_format=torch.channels_last), x[::2], x.transpose(2, 3)):
        close(*(each.adapt(other).prediction for each in (engine, plain)))


def test_each_sample_by_itself(cache: Path) -> None:
    engine, plain = engines(cache, batch(4), per_sample=True)
    for x in (batch(4), batch(70, seed=1)):
        actual, expected = engine.adapt(x), plain.adapt(x)
        close(actual.prediction, expected.prediction)
        close(actual.losses, expected.losses)
        close(engine.uncertainty(x), plain.uncertainty(x))
    assert is_compiled(engine, batch(4))
    threshold = float(plain.uncertainty(batch(4)).median())
    close(*(each.adapt(batch(4), threshold=threshold).prediction for each in (engine, plain)))


def test_calls_of_another_kind_run_as_before(cache: Path) -> None:
    engine, plain = dense(cache)
    for overrides in ({"anchor": "frozen"}, {"parameters": ["last.*"]}, {"per_sample": True}):
        close(*(each.adapt(batch(8), **overrides).prediction for each in (engine, plain)))
        other = copy.copy(engine.optimization_parameters) | overrides
        assert "not evaluated by a compiled program" in engine._setup_for(batch(8)).explain(batch(8), other)
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
    assert "compiled" not in engine.explain(batch(8))


def test_copies_are_not_compiled(cache: Path) -> None:
    engine, plain = dense(cache)
    for other in (copy.deepcopy(engine), pickle.loads(pickle.dumps(engine))):
        assert "compiled" not in other.explain(batch(8))
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
    assert "not evaluated by a compiled program: the program predicts something else" in wrong.explain(batch(8))
    close(engine(batch(8))[0], plain(batch(8))[0])


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
    engine, plain = engines(cache, x, Images, arguments, norm_statistics="blend", norm_prior=3)
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


def test_programs_of_several_kinds(cache: Path) -> None:
    engine, plain = dense(cache)
    engine.optimization_parameters["anchor"] = "frozen"
    it3.compile(engine, batch(8), backend="compiled", cache=cache, progress=False)
    check_alike(engine, plain, batch(8), anchor="frozen")
    for each in (engine, plain):
        each.optimization_parameters["anchor"] = "self"
    check_alike(engine, plain, batch(8))


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
    shutil.copytree(cache, tmp_path / "cache")
    engine, plain = dense(tmp_path / "cache")
    check_alike(engine, plain, batch(8))
    shutil.rmtree(tmp_path / "cache")
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: engine(batch(8))[0], range(40)))
    for result in results:
        close(result, plain(batch(8))[0])


def test_another_process_finds_the_programs(cache: Path) -> None:
    dense(cache)
    before = sorted(cache.rglob("*"))
    program = (
        "import sys; sys.path.insert(0, sys.argv[1]); from test_compilation import *\n"
        "def never(*_, **__): raise AssertionError('compiled anew')\n"
        "compilation.capture = never\n"
        "engine, plain = dense(Path(sys.argv[2])); check_alike(engine, plain, batch(8))"
    )
    command = [sys.executable, "-c", program, str(Path(__file__).parent), str(cache)]
    subprocess.run(command, check=True, timeout=120)
    assert sorted(cache.rglob("*")) == before


def test_a_damaged_package_is_made_anew(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dense(cache)
    shutil.copytree(cache, tmp_path, dirs_exist_ok=True)
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
    assert "compiled" not in engine.explain(batch(8))


def test_nothing_else_changes(cache: Path) -> None:
    engine = make_engine(threshold=0.0)
    x, state = batch(8), {name: value.clone() for name, value in engine.state_dict().items() if "extra" not in name}
    given, random, flags = x.clone(), torch.get_rng_state(), [m.training for m in engine.modules()]
    it3.compile(engine, x, cache=cache, progress=False)
    assert torch.equal(torch.get_rng_state(), random)
    torch.testing.assert_close(x, given, rtol=0, atol=0)
    assert [m.training for m in engine.modules()] == flags
    now = engine.state_dict()
    for name, value in state.items():
        torch.testing.assert_close(now[name], value, rtol=0, atol=0)
    assert all(p.grad is None for p in engine.parameters())


def test_auto_takes_the_faster_way(cache: Path) -> None:
    engine = make_engine(threshold=0.0)
    plain = copy.deepcopy(engine)
    it3.compile(engine, batch(8), cache=cache, progress=False)
    for each in (engine, plain):
        each.optimization_parameters["threshold"] = None
    for _ in range(2):
        close(engine(batch(8))[0], plain(batch(8))[0])
    words = engine.explain(batch(8))
    assert "; compiled: evaluated by programs" in words or "compiled program: the passes are faster" in words


def test_threads_share_a_compiled_engine(cache: Path) -> None:
    engine, plain = dense(cache)
    batches = [batch(8, seed=seed) for seed in range(6)]
    expected = [plain(x)[0] for x in batches]
    failures: list[str] = []

    def work() -> None:
        for _ in range(5):
            for x, prediction in zip(batches, expected, strict=True):
                if not torch.allclose(engine(x)[0], prediction, rtol=1e-9, atol=1e-9):
                    failures.append("another prediction")

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


@pytest.mark.parametrize(
    ("model", "arguments", "words"),
    [
        (lambda: torch.jit.script(Dense().double()), {}, "eager model that torch.export takes"),
        (lambda: Dense().double(), {"distance_fn": nn.functional.mse_loss}, "not functions of your own"),
        (lambda: Dense().double(), {"combine_fn": torch.add}, "not functions of your own"),
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
