"""Engines in files with compiled programs equal those that were saved, in Python, in C++ programs and on the shell."""

import io
import json
import sys
import threading
import warnings
import zipfile
from functools import partial
from pathlib import Path
from typing import Any

import it3
import numpy as np
import pytest
import reference
import torch
from binary import needs_binary
from binary import run as run_binary
from compiled_engines import (
    Dense,
    Images,
    batch,
    check_alike,
    close,
    is_compiled,
    make_engine,
)
from installed import run
from it3 import IT3Engine
from torch import Tensor, nn

pytestmark = pytest.mark.filterwarnings("ignore:The given buffer is not writable")  # torch.export.load of torch 2.11

VERSION = torch.__version__.partition("+")[0]
OTHER = "9" + VERSION[1:]


def saved(engine: IT3Engine, folder: Path, example: Tensor, cache: Path, **how: Any) -> Path:
    path = folder / "engine.pt2"
    engine.save(path, example, format="aoti", **{"backend": "compiled", "cache": cache, **how})
    return path


def loaded(engine: IT3Engine, folder: Path, example: Tensor, cache: Path, **how: Any) -> IT3Engine:
    return it3.load(saved(engine, folder, example, cache, **how))


@pytest.fixture(scope="module")
def dense(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of make_engine()."""
    return saved(make_engine(), tmp_path_factory.mktemp("dense"), batch(8), cache)


@pytest.mark.parametrize("samples", [1, 2, 31])
def test_the_formula(dense: Path, samples: int) -> None:
    engine, source = it3.load(dense), make_engine()
    x = batch(samples, seed=samples)
    embedder = partial(
        reference.embed, **dict(zip(("w1", "b1", "w2", "b2"), source.embedder.parameters(), strict=True))
    )
    for _ in range(2):  # the first call is tried in both ways
        expected, losses, _ = reference.adapt(source.model, "layer", embedder, x, num_steps=3, lr=1e-2)
        result = engine.adapt(x)
        assert is_compiled(engine, x)
        close(result.prediction, expected)
        close(result.losses, torch.tensor(losses, dtype=torch.float64))


@pytest.mark.parametrize(
    "options",
    [
        {"num_steps": 0},
        {"optimizer_name": "sgd", "momentum": 0.9, "num_steps": 5, "lr": 0.1},
        {"prediction": "mean", "tolerance": 0.2, "max_grad_norm": 1e-2},
        {"threshold": 0.3},
        {"restore_probability": 0.2, "weight_decay": 0.1, "optimizer_name": "adamw"},
    ],
)
def test_run_time_options(dense: Path, options: dict[str, Any]) -> None:
    check_alike(it3.load(dense), make_engine(), batch(8), batch(5, seed=1), **options)


def test_online_weights_and_going_back(dense: Path) -> None:
    engine, source = it3.load(dense), make_engine()
    start = {name: value.clone() for name, value in engine.model.state_dict().items()}
    for seed in range(3):
        x = batch(8, seed=seed)
        close(engine.adapt(x, online=True).prediction, source.adapt(x, online=True).prediction)
    close(engine.drift().distance, source.drift().distance)
    engine.reset()
    torch.testing.assert_close(engine.model.state_dict(), start, rtol=0, atol=0)


class Unusual(Dense):
    """With constants that are no buffers, a buffer that is not in the state, tied weights, and calls of two kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("shift", torch.linspace(-1, 1, 12), persistent=False)
        self.own = torch.linspace(1, 2, 12, dtype=torch.float64)
        self.last.weight.requires_grad_(False)
        self.first.bias = self.layer.bias

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        x = x.squeeze() * torch.tensor([1.0, 2.0, 1.0, 1.0, 0.5, 1.0], dtype=x.dtype)
        y = super().forward(x + self.shift[:6] * self.own[:6])
        return y if mask is None else y * mask


def make_unusual() -> IT3Engine:
    arguments = {"neutral": 0.5, "feedback": "probabilities", "distance_fn": "js"}
    torch.manual_seed(0)
    options = {"num_steps": 3, "lr": 1e-2, "parameters": ["twice", "*.bias"], "anchor": "ema"}
    engine = IT3Engine(Unusual().double(), "layer", optimization_parameters=options, **arguments).eval()
    engine.is_trained = True
    engine.uncertainty(named(batch(4)))  # shapes the embedder
    return engine


def named(x: Tensor, mask: Tensor | None = None) -> dict[str, Tensor | None]:
    return {"x": x, "mask": mask}


@pytest.fixture(scope="module")
def unusual(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of make_unusual()."""
    return saved(make_unusual(), tmp_path_factory.mktemp("unusual"), named(batch(8)), cache)


def test_what_is_compiled(unusual: Path) -> None:
    check_alike(it3.load(unusual), make_unusual(), named(batch(8)), named(batch(3, seed=2)))


def test_calls_that_were_not_exported_are_refused(unusual: Path, tmp_path: Path) -> None:
    engine, source = it3.load(unusual), make_unusual()
    close(engine({"mask": None, "x": batch(5)})[0], source({"x": batch(5)})[0])
    with pytest.raises(ValueError, match="squeezes a dimension that is 1 for these inputs"):
        engine(named(batch(1)))
    with pytest.raises(ValueError, match=r"such as x=a tensor of shape \(8, 6\), mask=None, but it was called"):
        engine(named(batch(8), batch(8)[:, :1]))
    if run_binary.__globals__["BINARY"]:
        np.save(tmp_path / "x.npy", batch(1).numpy())
        done = run_binary(unusual, "--input", tmp_path / "x.npy", "--output", tmp_path / "y.npy")
        assert done.returncode != 0
        assert "sizes" in done.stderr


def test_each_sample_by_itself(cache: Path, tmp_path: Path) -> None:
    source, x = make_engine(Images, per_sample=True, parameters=["last"]), batch(4, 2, 6, 6)
    engine = loaded(source, tmp_path, x, cache)
    check_alike(engine, source, x, batch(3, 2, 6, 6, seed=2), is_any_size=False)  # convolutions of stacked samples


def test_images_and_batch_statistics(cache: Path, tmp_path: Path) -> None:
    x = batch(6, 2, 6, 6)
    arguments = {"distance_fn": "kl", "neutral": torch.tensor([3.0, -2.0, 5.0])}
    source = make_engine(Images, arguments, norm_statistics="blend", norm_prior=3)
    check_alike(loaded(source, tmp_path, x, cache), source, x, batch(7, 2, 6, 6, seed=1))


def test_trained_weights_and_learned_facts_are_in_the_file(cache: Path, tmp_path: Path) -> None:
    source = make_engine()
    source.train()
    prediction, loss = source(batch(8), torch.randint(3, (8,)))
    (prediction.sum() + loss).backward()
    with torch.no_grad():
        for parameter in source.parameters():
            if parameter.grad is not None:
                parameter.sub_(parameter.grad, alpha=0.1)
    source.eval()
    engine = loaded(source, tmp_path, batch(1), cache)  # programs for one sample
    assert engine.is_trained
    torch.testing.assert_close(dict(engine.embedder.state_dict()), dict(source.embedder.state_dict()), rtol=0, atol=0)
    check_alike(engine, source, batch(1, seed=3))
    close(engine(batch(8))[0], source(batch(8))[0])  # whether or not the programs are for it


def test_the_users_engine_stays_as_it_was(cache: Path, tmp_path: Path) -> None:
    engine = make_engine()
    before, state = {name: value.clone() for name, value in engine.state_dict().items()}, torch.get_rng_state()
    engine.train()
    saved(engine, tmp_path, batch(8), cache)
    torch.testing.assert_close(dict(engine.state_dict()), before, rtol=0, atol=0)
    assert all(module.training for module in engine.modules())
    assert torch.equal(torch.get_rng_state(), state)
    assert [path.name for path in tmp_path.iterdir()] == ["engine.pt2"]
    assert not is_compiled(engine.eval(), batch(8))


def test_the_file_is_the_plain_network_too(dense: Path) -> None:
    close(torch.export.load(dense).module()(batch(5)), make_engine().model(batch(5)))


def test_a_loaded_engine_may_be_trained_and_changed(dense: Path) -> None:
    engine, source = it3.load(dense), make_engine()
    for each in (engine, source):
        with torch.no_grad():
            each.model.get_parameter("layer.weight").mul_(1.5)
            each.embedder.get_parameter("weight1").mul_(0.5)
    check_alike(engine, source, batch(8))
    for each in (engine, source):
        each.neutral = 0.25  # which the programs are not for
    close(engine(batch(8))[0], source(batch(8))[0])
    assert not is_compiled(engine, batch(8))


@pytest.mark.cuda
@needs_binary
def test_on_a_cuda_device(tmp_path: Path, cache: Path) -> None:
    engine, x = make_engine().cuda(), batch(8).cuda()
    path = saved(engine, tmp_path, x, cache)
    read = it3.load(path)
    for inputs in (x, x, x, batch(5, seed=1).cuda()):  # tried, recorded as a graph, replayed
        close(read.adapt(inputs).prediction, engine.adapt(inputs).prediction)
        assert is_compiled(read, inputs)
    np.save(tmp_path / "x.npy", x.cpu().numpy())
    run_binary(path, "--input", tmp_path / "x.npy", "--output", tmp_path / "y.npy", "--device", "cuda")
    close(torch.from_numpy(np.load(tmp_path / "y.npy")), engine.adapt(x).prediction.cpu())
    assert not next(iter(torch.export.load(path).state_dict.values())).is_cuda  # for machines that have none
    with pytest.warns(UserWarning, match="compiled for a device of type cuda, but the engine is on cpu"):
        on_cpu = it3.load(path, device="cpu")
    close(on_cpu.adapt(x.cpu()).prediction, engine.adapt(x).prediction.cpu())


def test_threads_share_a_loaded_engine(dense: Path) -> None:
    engine, source = it3.load(dense), make_engine()
    results: dict[int, Tensor] = {}

    def work(seed: int) -> None:
        results[seed] = engine(batch(8, seed=seed))[0]

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed, result in results.items():
        close(result, source(batch(8, seed=seed))[0])
    assert len(results) == 8


@needs_binary
@pytest.mark.parametrize("arguments", [(), ("--steps", "1", "--lr", "0.1"), ("--online",), ("--set", "threshold=0.2")])
def test_the_shell(dense: Path, tmp_path: Path, arguments: tuple[str, ...]) -> None:
    np.save(tmp_path / "x.npy", batch(8).numpy())
    done = run_binary(
        dense, "--input", tmp_path / "x.npy", "--output", tmp_path / "y.npy", "--batch-size=3", *arguments
    )
    assert (done.returncode, done.stderr) == (0, "")
    options: dict[str, Any] = {
        "--steps": {"num_steps": 1, "lr": 0.1},
        "--online": {"online": True},
        "--set": {"threshold": 0.2},
    }.get(arguments[0] if arguments else "", {})
    source = make_engine()
    expected = torch.cat([source.adapt(each, **options).prediction for each in batch(8).split(3)])
    close(torch.from_numpy(np.load(tmp_path / "y.npy")), expected)
    described = json.loads(run_binary(dense, "--describe").stdout)
    assert described["compiled"] == {"torch": torch.__version__.split("+")[0], "device": "cpu"}


def test_a_program_in_cpp(dense: Path, consumer: Path, tmp_path: Path) -> None:
    torch.save(batch(5), tmp_path / "x.pt")
    said = run(consumer, dense, tmp_path / "x.pt", tmp_path / "y.pt")
    assert "compiled:    evaluated by programs of AOTInductor" in said
    close(torch.load(tmp_path / "y.pt"), make_engine()(batch(5))[0])
    changed = run(consumer.parent / "changes", dense, tmp_path / "x.pt").splitlines()
    assert {line.partition(": ")[0]: line.partition(": ")[2] for line in changed} == {
        "as loaded": "compiled",
        "after training": "compiled",
        "neutral": "passes",
        "feedback": "passes",
        "prediction layout": "passes",
        "in_dims": "passes",
        "parameters": "passes",
        "num_steps": "compiled",
    }


def test_threads_load_at_once(dense: Path, consumer: Path) -> None:
    said = run(consumer.parent / "threads", dense)  # torch's reader of packages is not for several threads
    assert said == "all loaded\n"


def with_description(path: Path, change: Any, to: Path) -> Path:
    """Copy a file, with another dictionary in it."""
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(to, "w") as target:
        for info in source.infolist():
            content = source.read(info)
            if info.filename.endswith("it3/engine"):
                content = change(content)
            target.writestr(info.filename, content)
    return to


def replaced(old: bytes, new: bytes) -> Any:
    """Return a change of the pickle in the dictionary's archive."""

    def change(content: bytes) -> bytes:
        made = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(content)) as source, zipfile.ZipFile(made, "w") as target:
            for info in source.infolist():
                target.writestr(info.filename, source.read(info).replace(old, new))
        assert made.getvalue() != content
        return made.getvalue()

    return change


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        (VERSION.encode(), OTHER.encode(), f"they were compiled by torch {OTHER}, but this is torch {VERSION}"),
        (b"\x04\x00\x00\x00avx2", b"\x04\x00\x00\x00avx7", r"another machine: cpu has no avx7"),
        (b"first.weight", b"worst.weight", r"has no tensor 'model\.worst\.weight'"),
    ],
)
def test_elsewhere_an_engine_runs_without_programs(
    dense: Path, tmp_path: Path, old: bytes, new: bytes, why: str
) -> None:
    path = with_description(dense, replaced(old, new), tmp_path / "other.pt2")
    with pytest.warns(UserWarning, match=f"compiled programs of the saved engine are not used: .*{why}.*slower"):
        engine = it3.load(path)
    close(engine(batch(8))[0], make_engine()(batch(8))[0])
    assert not is_compiled(engine, batch(8))
    if run_binary.__globals__["BINARY"]:
        np.save(tmp_path / "x.npy", batch(8).numpy())
        done = run_binary(path, "--input", tmp_path / "x.npy", "--output", tmp_path / "y.npy")
        assert done.returncode == 0
        assert "warning: the compiled programs of the saved engine are not used" in done.stderr
        close(torch.from_numpy(np.load(tmp_path / "y.npy")), make_engine()(batch(8))[0])


def test_a_damaged_file_is_refused(dense: Path, tmp_path: Path) -> None:
    content = dense.read_bytes()
    path = tmp_path / "damaged.pt2"
    with zipfile.ZipFile(dense) as archive:
        places = {info.filename.partition("/")[2]: info.header_offset + 200 for info in archive.infolist()}
    for record in ("it3/engine", "it3/programs.json", "it3/gradients.pt2", "models/model.json"):
        damaged = bytearray(content)
        damaged[places[record]] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(RuntimeError, match=r"damaged\.pt2 cannot be read as an engine"):
            it3.load(path)
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(RuntimeError, match=r"damaged\.pt2 cannot be read as an engine"):
        it3.load(path)


def test_a_plain_program_is_no_engine(tmp_path: Path) -> None:
    torch.export.save(torch.export.export(nn.Linear(2, 2), (torch.ones(3, 2),)), tmp_path / "plain.pt2")
    with pytest.raises(RuntimeError, match=r"plain\.pt2 cannot be read as an engine: it holds no engine"):
        it3.load(tmp_path / "plain.pt2")


@pytest.mark.parametrize(
    ("parts", "error"),
    [
        (
            {"model": torch.jit.script(Dense())},
            "the model is TorchScript; save the engine as TorchScript, by format='torchscript'",
        ),
        ({"output": lambda y: y}, "output is a function"),
    ],
)
def test_what_cannot_be_saved(tmp_path: Path, cache: Path, parts: dict[str, Any], error: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        engine = IT3Engine(**{"model": Dense(), "features_layer_name": "layer", **parts}).eval()
        with pytest.raises(ValueError, match=error):
            saved(engine, tmp_path, torch.randn(8, 6), cache)
    assert list(tmp_path.iterdir()) == []


def test_words_that_are_not_known(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"format must be 'torchscript' or 'aoti', not 'onnx'"):
        make_engine().save(tmp_path / "engine.pt2", batch(8), format="onnx")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"backend must be 'auto' or 'compiled', not 'fast'"):
        make_engine().save(tmp_path / "engine.pt2", batch(8), format="aoti", backend="fast")  # type: ignore[arg-type]


def test_without_a_temporary_folder(dense: Path, tmp_path: Path) -> None:
    code = f"""
import sys, warnings, torch, it3
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    engine = it3.load({str(dense)!r})
assert any("programs of the saved engine are not used" in str(w.message) for w in caught), caught
torch.save(engine(torch.load({str(tmp_path / "x.pt")!r}))[0], {str(tmp_path / "y.pt")!r})
"""
    torch.save(batch(8), tmp_path / "x.pt")
    run("env", f"TMPDIR={tmp_path / 'missing'}", sys.executable, "-W", "ignore", "-c", code)
    close(torch.load(tmp_path / "y.pt"), make_engine()(batch(8))[0])
