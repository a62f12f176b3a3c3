"""Functions of the user's own in files with compiled programs: as in the engine that was saved, in Python and C++."""

import warnings
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import it3
import numpy as np
import pytest
import torch
from binary import needs_binary
from binary import run as run_binary
from compiled_engines import VECTORIZED_AT_ANY_SIZE, batch, check_alike, close, is_compiled, make_engine
from installed import run
from it3 import IT3Engine
from it3.compiling.capture import Captured
from test_compiled_functions import SHIFT, arguments, scaled
from torch import Tensor, nn

GAIN = nn.Parameter(torch.tensor(0.5, dtype=torch.float64))


class Gated(nn.Module):
    """With weights that make the file large if they are in it twice, and all kinds of tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.narrow = nn.Linear(12, 4096), nn.Linear(4096, 12)
        self.register_buffer("shift", torch.full((12,), 0.1), persistent=False)
        self.factor = torch.full((12,), 0.3, dtype=torch.float64)

    def forward(self, features: Tensor, embedding: Tensor) -> Tensor:
        return features + self.narrow(torch.tanh(self.wide(embedding))) * self.factor + self.shift


def gated() -> Gated:
    torch.manual_seed(2)
    return Gated().double()


def with_gain(second: Tensor, first: Tensor, *, reduction: str) -> Tensor:
    return nn.functional.l1_loss(second * GAIN, first * GAIN, reduction=reduction)


def saved(engine: IT3Engine, path: Path, example: Tensor, cache: Path, **how: Any) -> Path:
    engine.save(path, example, format="aoti", **{"backend": "compiled", "cache": cache, **how})
    return path


@pytest.fixture(scope="module")
def functions(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of an engine with an embedder, combine_fn and distance_fn of the user's own."""
    path = tmp_path_factory.mktemp("functions") / "engine.pt2"
    return saved(make_engine(arguments=arguments()), path, batch(8), cache)


def test_they_do_the_same(functions: Path) -> None:
    check_alike(it3.load(functions), make_engine(arguments=arguments()), batch(8), batch(5, seed=1), batch(1, seed=2))


def test_run_time_options(functions: Path) -> None:
    engine, source = it3.load(functions), make_engine(arguments=arguments())
    check_alike(engine, source, batch(8), batch(4, seed=1), threshold=0.3, num_steps=2, optimizer_name="sgd")
    for seed in range(3):
        x = batch(8, seed=seed)
        close(engine.adapt(x, online=True).prediction, source.adapt(x, online=True).prediction)


@needs_binary
def test_the_shell(functions: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", batch(8).numpy())
    files = ("--input", tmp_path / "x.npy", "--output", tmp_path / "y.npy")
    done = run_binary(functions, *files, "--batch-size=3", "--device=cpu")
    assert (done.returncode, done.stderr) == (0, "")
    source = make_engine(arguments=arguments())
    expected = torch.cat([source(each)[0] for each in batch(8).split(3)])
    close(torch.from_numpy(np.load(tmp_path / "y.npy")), expected)


def test_programs_in_cpp(functions: Path, consumer: Path, tmp_path: Path) -> None:
    torch.save(batch(5), tmp_path / "x.pt")
    said = run(consumer, functions, tmp_path / "x.pt", tmp_path / "y.pt")
    assert "compiled:    evaluated by programs of AOTInductor" in said
    close(torch.load(tmp_path / "y.pt"), make_engine(arguments=arguments())(batch(5))[0])


def as_for_another_torch(path: Path, to: Path) -> Path:
    """Copy a file without its compiled programs, so that every call is evaluated by passes."""
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(to, "w") as target:
        for info in source.infolist():
            if not info.filename.endswith("it3/programs.json"):
                target.writestr(info.filename, source.read(info))
    return to


def test_passes_do_the_same(functions: Path, consumer: Path, tmp_path: Path) -> None:
    path = as_for_another_torch(functions, tmp_path / "passes.pt2")
    source = make_engine(arguments=arguments())
    with pytest.warns(UserWarning, match="compiled programs of the saved engine are not used"):
        engine = it3.load(path)
    for samples in (8, 5, 1):
        close(engine(batch(samples))[0], source(batch(samples))[0])
        assert not is_compiled(engine, batch(samples))
    close(engine.adapt(batch(5), per_sample=True).prediction, source.adapt(batch(5), per_sample=True).prediction)
    torch.save(batch(5), tmp_path / "x.pt")
    said = run(consumer, path, tmp_path / "x.pt", tmp_path / "y.pt")
    assert "compiled" not in said
    close(torch.load(tmp_path / "y.pt"), source(batch(5))[0])


@pytest.mark.parametrize(
    ("given", "options"),
    [
        (scaled, {"per_sample": True}),
        (lambda: {"combine_fn": gated(), "distance_fn": partial(with_gain, reduction="mean")}, {"anchor": "frozen"}),
    ],
    ids=["a class of embedders", "a module and a partial function with a parameter"],
)
def test_kinds_of_functions(
    cache: Path, tmp_path: Path, given: Callable[[], dict[str, Any]], options: dict[str, Any]
) -> None:
    engine = make_engine(arguments=given(), **options)
    path = saved(engine, tmp_path / "engine.pt2", batch(8), cache)
    loaded = it3.load(path)
    is_any_size = VECTORIZED_AT_ANY_SIZE or not options.get("per_sample")
    check_alike(loaded, engine, batch(8), batch(3, seed=1), is_any_size=is_any_size)
    if run_binary.__globals__["BINARY"]:
        np.save(tmp_path / "x.npy", batch(8).numpy())
        done = run_binary(path, "--input", tmp_path / "x.npy", "--output", tmp_path / "y.npy")
        assert (done.returncode, done.stderr) == (0, "")
        close(torch.from_numpy(np.load(tmp_path / "y.npy")), engine(batch(8))[0])
    if isinstance(engine.combine_fn, Gated):
        weights = sum(p.numel() * p.element_size() for p in engine.combine_fn.parameters())
        assert path.stat().st_size - size_of_programs(path) < 1.5 * weights  # once


def size_of_programs(path: Path) -> int:
    names = ("prepare", "gradients", "gradients_of_rows", "first", "both")
    with zipfile.ZipFile(path) as archive:
        infos = archive.infolist()
    return sum(info.compress_size for info in infos if info.filename.endswith(tuple(f"it3/{n}.pt2" for n in names)))


def with_tensors_of_its_own(features: Tensor, embedding: Tensor) -> Tensor:
    return features + embedding * torch.linspace(0.5, 1, 12, dtype=features.dtype, device=features.device)


@pytest.mark.cuda
@needs_binary
def test_on_a_cuda_device(cache: Path, tmp_path: Path) -> None:
    parts = {**arguments(), "combine_fn": with_tensors_of_its_own}
    engine, x = make_engine(arguments=parts).cuda(), batch(8).cuda()
    path = saved(engine, tmp_path / "engine.pt2", x, cache)
    read = it3.load(path)
    for inputs in (x, x, x, batch(5, seed=1).cuda()):
        close(read.adapt(inputs).prediction, engine.adapt(inputs).prediction)
        assert is_compiled(read, inputs)
    expected = engine.adapt(x).prediction.cpu()
    np.save(tmp_path / "x.npy", x.cpu().numpy())
    for device in ("cuda", "cpu"):
        files = ("--input", tmp_path / "x.npy", "--output", tmp_path / "y.npy")
        done = run_binary(path, *files, "--device", device)
        assert done.returncode == 0, done.stderr
        close(torch.from_numpy(np.load(tmp_path / "y.npy")), expected)
        (tmp_path / "y.npy").unlink()
    with pytest.warns(UserWarning, match="compiled for a device of type cuda, but the engine is on cpu"):
        on_cpu = it3.load(path, device="cpu")
    close(on_cpu.adapt(x.cpu()).prediction, expected)


@pytest.mark.parametrize(
    "change",
    [
        lambda engine: engine.embedder.linear.weight.data.mul_(1.5),
        lambda engine: engine.embedder.mean.fill_(0.3),
        lambda engine: engine.distance_fn.weight.data.copy_(torch.tensor([3.0, 1.0, 1.0])),
    ],
)
def test_their_values_may_change(functions: Path, change: Callable[[IT3Engine], None]) -> None:
    engine, source = it3.load(functions), make_engine(arguments=arguments())
    check_alike(engine, source, batch(8))
    for each in (engine, source):
        change(each)
    check_alike(engine, source, batch(8))


@pytest.mark.parametrize(
    "change",
    [
        lambda engine: setattr(engine.embedder.linear, "weight", nn.Parameter(engine.embedder.linear.weight * 2)),
        lambda engine: engine.embedder.register_buffer("mean", engine.embedder.mean + 0.3),
        lambda engine: setattr(engine.embedder, "linear", nn.Linear(3, 12, dtype=torch.float64)),
        lambda engine: engine.embedder.linear.register_forward_hook(lambda module, args, output: output * 2),
        lambda engine: engine.embedder.register_forward_hook(lambda module, args, output: output * 2),
        lambda engine: setattr(engine, "combine_fn", lambda features, embedding: features - embedding),
        lambda engine: setattr(engine, "distance_fn", "mse"),
    ],
)
def test_a_change_of_them_is_seen(functions: Path, change: Callable[[IT3Engine], None]) -> None:
    engine, source = it3.load(functions), make_engine(arguments=arguments())
    check_alike(engine, source, batch(8))
    for each in (engine, source):
        torch.manual_seed(5)
        change(each)
    assert not is_compiled(engine, batch(8))
    close(engine(batch(8))[0], source(batch(8))[0])


def test_a_loaded_engine_is_compiled_and_saved_again(functions: Path, tmp_path: Path, made: list[Captured]) -> None:
    engine, source = it3.load(functions), make_engine(arguments=arguments())
    engine.optimization_parameters["threshold"] = 0.0  # as programs in files, which may be used with any
    it3.compile(engine, batch(8), backend="compiled", cache=tmp_path, progress=False)
    engine.optimization_parameters["threshold"] = None
    check_alike(engine, source, batch(8), batch(1, seed=3))
    engine.embedder.linear.weight.data.mul_(1.5)
    source.embedder.linear.weight.data.mul_(1.5)
    again = it3.load(saved(engine, tmp_path / "again.pt2", batch(8), tmp_path))
    assert len(made) == 1  # the file has the same programs
    check_alike(again, source, batch(8), batch(2, seed=4))


def test_the_users_functions_stay_as_they_were(cache: Path, tmp_path: Path) -> None:
    engine = make_engine(arguments=arguments())
    engine.embedder.train()
    state = {name: value.clone() for name, value in engine.state_dict().items()}
    functions = engine.embedder, engine.combine_fn, engine.distance_fn
    with pytest.raises(ValueError, match=r"in train mode.*call engine.eval\(\) before saving"):  # which has dropout
        saved(engine, tmp_path / "engine.pt2", batch(8), cache)
    assert list(tmp_path.iterdir()) == []
    assert engine.embedder.training
    saved(engine.eval(), tmp_path / "engine.pt2", batch(8), cache)
    assert (engine.embedder, engine.combine_fn, engine.distance_fn) == functions
    assert SHIFT[0] == 0.1
    for name, value in engine.state_dict().items():
        assert torch.equal(value, state[name])


class InList(nn.Module):
    """An embedder with a module that it does not own up to, and a number."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = [nn.Linear(3, 12).double()]

    def forward(self, prediction: Tensor) -> Tensor:
        return torch.tanh(self.hidden[0](prediction)) * torch.tensor(0.5, dtype=torch.float64)


class BatchInside(nn.Module):
    """Has its samples in the second dimension inside, as many transformers do."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.last = nn.Linear(6, 12), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.tanh(self.layer(x.view(-1, 4, 6).transpose(0, 1)))).mean(0)


def test_samples_in_another_dimension_and_tensors_without_names(cache: Path, tmp_path: Path) -> None:
    torch.manual_seed(4)
    parts = {"combine_fn": lambda f, e: f + e, "features_layout": it3.Layout(channel_dim=-1, batch_dim=1)}
    parts["embedder"] = InList()
    options = {"num_steps": 3, "lr": 1e-2}
    engine = IT3Engine(BatchInside().double(), "layer", optimization_parameters=options, **parts).eval()
    engine.is_trained = True
    x = batch(8, 24)
    loaded = it3.load(saved(engine, tmp_path / "engine.pt2", x, cache))
    check_alike(loaded, engine, x, batch(5, 24, seed=1), batch(3, 24, seed=2), is_any_size=VECTORIZED_AT_ANY_SIZE)
    weight = next(t for t in vars(loaded.embedder).values() if isinstance(t, Tensor) and t.shape == (12, 3))
    for each in (weight, engine.embedder.hidden[0].weight.data):  # whose change is seen
        each.mul_(5)
    close(loaded(x)[0], engine(x)[0])


def without_gradients(second: Tensor, first: Tensor) -> Tensor:
    with torch.no_grad():
        target = first * 0.5
    return (second - target).square().mean()


def with_the_models_weight(engine: IT3Engine) -> Any:
    weight = engine.model.last.weight
    return lambda features, embedding: features + embedding * weight.sum()


def test_tensors_of_the_model_are_refused(cache: Path, tmp_path: Path) -> None:
    engine = make_engine(parameters=["first.*"])
    engine.combine_fn = with_the_models_weight(engine)
    with pytest.raises(ValueError, match=r"combine_fn computes with the model's 'last\.weight'.* give it a clone"):
        saved(engine, tmp_path / "engine.pt2", batch(8), cache)
    assert list(tmp_path.iterdir()) == []


def by_values(second: Tensor, first: Tensor) -> Tensor:
    distance = (second - first).square().mean()
    return distance if distance > 1 else 2 * distance


@pytest.mark.parametrize(
    ("given", "error"),
    [
        (
            {"distance_fn": by_values},
            "distance_fn cannot be exported by torch.export .* save the engine as TorchScript",
        ),
        ({"distance_fn": without_gradients}, r"distance_fn cannot be in a file .* use .detach\(\)"),
        ({"combine_fn": lambda f, e: f + torch.rand_like(e)}, "the engine draws random numbers"),
        ({"distance_fn": torch.jit.script(nn.MSELoss())}, "distance_fn is TorchScript, which cannot be compiled"),
    ],
)
def test_what_cannot_be_saved(cache: Path, tmp_path: Path, given: dict[str, Any], error: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        engine = make_engine(arguments=given)
        with pytest.raises(ValueError, match=error):
            saved(engine, tmp_path / "engine.pt2", batch(8), cache)
    assert list(tmp_path.iterdir()) == []
