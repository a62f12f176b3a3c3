"""predict() gives what engine.adapt() gives for each batch, and its files go on where they were ended."""

import os
import resource
import subprocess
import sys
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import it3
import numpy as np
import pytest
import torch
from it3 import IT3Engine
from it3.training.predict import Together
from kinds_of_network import build, state_of
from models import KINDS, make_case
from test_calibration import TwoInputs
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

SIZES = (3, 3, 3, 2, 1)


def make_engine(**options: Any) -> IT3Engine:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4))
    engine = IT3Engine(model, "0", optimization_parameters={"lr": 0.05, "num_steps": 2, **options})
    engine.is_trained = True
    engine.uncertainty(batches()[0])
    return engine


def batches() -> list[Tensor]:
    return list(torch.linspace(-1, 1, 6 * sum(SIZES)).sin().reshape(-1, 6).split(SIZES))


def by_hand(engine: IT3Engine, inputs: list[Any], **overrides: Any) -> Tensor:
    return torch.cat([engine.adapt(x, **overrides).prediction for x in inputs])


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_adapt_batch_by_batch(kind: str, device: str) -> None:
    case = make_case(kind, device=device)
    engine, _ = build(case, "traced", optimization_parameters={"lr": 0.02})
    inputs = list(case.inputs.split(2))
    before = state_of(engine)
    for overrides in ({}, {"num_steps": 1, "anchor": "frozen"}, {"num_steps": 0}, {"per_sample": True}):
        predicted = engine.predict([x.cpu() for x in inputs], **overrides)
        assert predicted.device.type == "cpu"
        expected = by_hand(engine, inputs, **overrides).cpu()
        # cuDNN's convolutions round otherwise from call to call.
        torch.testing.assert_close(predicted, expected, rtol=0, atol=0 if device == "cpu" else 1e-12)
    assert all(torch.equal(value, before[name]) for name, value in engine.state_dict().items())


def test_weights_that_are_kept_go_from_batch_to_batch() -> None:
    engine, twin = make_engine(), make_engine()
    options = {"copy_model": False, "anchor": "ema", "restore_probability": 0.1}
    torch.manual_seed(3)
    expected = by_hand(twin, batches(), **options)
    torch.manual_seed(3)
    assert torch.equal(engine.predict(batches(), **options), expected)
    assert engine.drift().distance == twin.drift().distance > 0
    assert not torch.equal(expected, by_hand(make_engine(), batches()))


def test_everything_is_in_eval_mode_for_the_time() -> None:
    torch.manual_seed(0)
    embedder = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5))
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4))
    engine = IT3Engine(model, "0", embedder, optimization_parameters={"lr": 0.05}).train()
    model[1].eval()
    predicted = engine.predict(batches())
    assert [module.training for module in (engine, model, model[1], embedder[1])] == [True, True, False, True]
    assert torch.equal(predicted, by_hand(engine.eval(), batches()))


def test_inputs_and_targets_are_told_apart() -> None:
    engine = make_engine()
    expected = by_hand(engine, batches())
    for given in ([(x, torch.zeros(len(x))) for x in batches()], [[x] for x in batches()], iter(batches())):
        assert torch.equal(engine.predict(given), expected)
    loader = DataLoader(TensorDataset(torch.cat(batches()), torch.zeros(12)), 3)
    assert torch.equal(engine.predict(loader), by_hand(engine, [x for x, _ in loader]))
    two = IT3Engine(TwoInputs(), "layer").eval()
    pair = (torch.randn(5, 6), torch.rand(5, 1))
    right = two.adapt(pair).prediction
    assert torch.equal(two.predict([pair], has_targets=False), right)
    assert torch.equal(two.predict([(*pair, torch.zeros(5))], has_targets=True), right)
    assert torch.equal(two.predict([{"x": pair[0], "scale": pair[1]}]), right)
    with pytest.raises(ValueError, match="can be called with two inputs; say has_targets=True"):
        two.predict([pair])


def test_samples_in_another_dimension(tmp_path: Path) -> None:
    """Sequences, (positions, samples, channels)."""
    torch.manual_seed(0)
    layout = it3.Layout(channel_dim=-1, batch_dim=1)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4))
    options = {"lr": 0.05, "num_steps": 1}
    engine = IT3Engine(
        model, "0", optimization_parameters=options, prediction_layout=layout, features_layout=layout, in_dims=1
    )
    inputs = [torch.randn(5, size, 6) for size in SIZES]
    predicted = engine.predict(inputs)
    assert predicted.shape == (5, 12, 4)
    assert torch.equal(predicted, torch.cat([engine.adapt(x).prediction for x in inputs], 1))
    match = r"grows along its first dimension, but the samples .* are in dimension 1; leave"
    with pytest.raises(ValueError, match=match):
        engine.predict(inputs, path=tmp_path / "y.npy")
    assert os.listdir(tmp_path) == []


def test_errors() -> None:
    engine = make_engine()
    with pytest.raises(ValueError, match="the loader gave no batches"):
        engine.predict([])
    with pytest.raises(TypeError, match=r"predict\(\) takes batches, such as a DataLoader, not a Tensor; put a single"):
        engine.predict(batches()[0])
    with pytest.raises(TypeError, match="a Dataset, which gives single samples"):
        engine.predict(TensorDataset(*batches()[:1]))
    with pytest.raises((TypeError, ValueError), match="steps"):
        engine.predict(batches(), steps=3)
    segmenting, _ = build(make_case("segmentation", torch.float32), "hooks")
    sizes = [torch.randn(2, 2, 8, 8), torch.randn(2, 2, 16, 16)]
    with pytest.raises(ValueError, match=r"batch 1 is torch.float32 of shape \(2, 3, 16, 16\), which cannot be put"):
        segmenting.predict(sizes)
    broken = batches()
    broken[2] = broken[2] * float("nan")
    with pytest.raises(ValueError, match="not finite") as raised:
        engine.predict(broken)
    assert raised.value.__notes__ == ["in batch 2, counted from 0"]


def test_callbacks_and_progress(capsys: pytest.CaptureFixture[str]) -> None:
    class Told(it3.Callback):
        def __init__(self) -> None:
            self.all: list[Any] = []

        def on_prediction(self, batch: int, adaptation: it3.Adaptation) -> None:
            self.all.append((batch, adaptation.prediction))

        def on_end(self, error: BaseException | None) -> None:
            self.all.append(error)

    told = Told()
    predicted = make_engine().predict(batches(), callbacks=[told], progress=True)
    assert [number for number, _ in told.all[:-1]] == [0, 1, 2, 3, 4]
    assert torch.equal(torch.cat([prediction for _, prediction in told.all[:-1]]), predicted)
    assert told.all[-1] is None
    assert capsys.readouterr().err == "predicting: 5 batches\n"
    with pytest.raises(ValueError, match="gave no batches"):
        make_engine().predict([], progress=True)
    assert capsys.readouterr().err == ""  # nothing was predicted


def test_nothing_of_an_earlier_batch_is_held() -> None:
    class Watching(it3.Callback):
        def __init__(self) -> None:
            self.alive: list[weakref.ref[it3.Adaptation]] = []

        def on_prediction(self, batch: int, adaptation: it3.Adaptation) -> None:
            assert all(reference() is None for reference in self.alive)
            self.alive.append(weakref.ref(adaptation))

    class Part(nn.Sequential):
        """Predicts a few of many columns."""

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x)[:, :2]

    torch.manual_seed(0)
    engine = IT3Engine(Part(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 1000)), "0").eval()
    watching, kept = Watching(), []
    together = Together.add
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Together, "add", lambda self, p, *rest: (kept.append(p), together(self, p, *rest)))
        engine.predict(batches(), callbacks=[watching])
    assert len(watching.alive) == 5
    assert [p.untyped_storage().nbytes() for p in kept] == [4 * 2 * size for size in SIZES]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_files_hold_what_is_returned_without(dtype: torch.dtype, tmp_path: Path) -> None:
    engine = make_engine().to(dtype)
    inputs = [x.to(dtype) for x in batches()]
    path = tmp_path / "y.npy"
    path.write_bytes(b"what was there before")
    mapped = engine.predict(inputs, path=path)
    assert isinstance(mapped, np.memmap)
    expected = engine.predict(inputs)
    kept = expected.float() if dtype == torch.bfloat16 else expected
    assert np.array_equal(np.load(path), kept.numpy())
    assert np.load(path).dtype == kept.numpy().dtype
    assert os.listdir(tmp_path) == ["y.npy"]


class Stops(it3.Callback):
    """Does something at a batch; counts those that it is told of."""

    def __init__(self, batch: int = -1, how: Callable[[], Any] = lambda: None) -> None:
        self._batch, self._how = batch, how
        self.batches: list[int] = []

    def on_prediction(self, batch: int, adaptation: it3.Adaptation) -> None:
        self.batches.append(batch)
        if batch == self._batch:
            self._how()


def stop() -> None:
    raise KeyboardInterrupt


class Shuffled:
    """Draws its order from torch's generator, as a DataLoader that shuffles does."""

    def __iter__(self) -> Iterator[Tensor]:
        return iter([batches()[i] for i in torch.randperm(5).tolist()])


WAYS: dict[str, dict[str, Any]] = {
    "plain": {},
    "restoring": {"restore_probability": 0.3},
    "drawn": {"neutral": it3.RandomOneHot()},
    "shuffled": {"restore_probability": 0.3, "loader": Shuffled()},
}


def way(name: str) -> tuple[IT3Engine, Any]:
    given = dict(WAYS[name])
    loader = given.pop("loader", batches())
    neutral = given.pop("neutral", None)
    engine = make_engine(**given)
    engine.neutral = neutral
    return engine, loader


@pytest.mark.parametrize("name", WAYS)
def test_a_run_that_was_interrupted_goes_on(name: str, tmp_path: Path) -> None:
    engine, loader = way(name)
    torch.manual_seed(7)
    expected, after = engine.predict(loader), torch.rand(1)
    path = tmp_path / "y.npy"
    for batch in (2, 3):
        engine, loader = way(name)
        torch.manual_seed(7 if batch == 2 else 9)
        with pytest.raises(KeyboardInterrupt):
            engine.predict(loader, path=path, callbacks=[Stops(batch, stop)])
        assert sorted(os.listdir(tmp_path)) == ["y.npy.partial", "y.npy.resume"]
    engine, loader = way(name)
    torch.manual_seed(9)
    told = Stops()
    mapped = engine.predict(loader, path=path, callbacks=[told])
    assert np.array_equal(mapped, expected.numpy())
    assert told.batches == [3, 4]
    assert torch.rand(1) == after
    assert os.listdir(tmp_path) == ["y.npy"]


KILLED = """
import os, signal, sys, torch
torch.set_num_threads(1)
import test_predicting as t
engine = t.make_engine(**eval(sys.argv[2]))
engine.predict(t.batches(), path=sys.argv[1], callbacks=[t.Stops(3, lambda: os.kill(os.getpid(), signal.SIGKILL))])
"""


@pytest.mark.parametrize("online", [False, True])
def test_a_killed_process_goes_on_unless_it_lost_weights(online: bool, tmp_path: Path) -> None:
    path = tmp_path / "y.npy"
    options = {"copy_model": not online}
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", KILLED, str(path), repr(options)]
    assert subprocess.run(command, env=environment, check=False).returncode == -9
    assert not path.exists()
    engine, told = make_engine(**options), Stops()
    if online:
        with pytest.raises(ValueError, match=r"copy_model=False weights are carried .* Delete .*y.npy.partial, bring"):
            engine.predict(batches(), path=path)
        (tmp_path / "y.npy.partial").unlink()
    mapped = engine.predict(batches(), path=path, callbacks=[told])
    assert np.array_equal(mapped, make_engine(**options).predict(batches()).numpy())
    assert (
        len(told.batches) == 5 if online else 2 <= len(told.batches) < 5
    )  # what was noted, at most, is not done again
    assert os.listdir(tmp_path) == ["y.npy"]


def test_a_full_disk_is_an_error_from_which_it_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "y.npy"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill() -> None:
        size = os.path.getsize(f"{path}.partial")
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 5, hard))

    try:
        with pytest.raises((OSError, RuntimeError), match=r"cannot write .*y.npy.*: File too large"):
            make_engine().predict(batches(), path=path, callbacks=[Stops(2, fill)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    told = Stops()
    mapped = make_engine().predict(batches(), path=path, callbacks=[told])
    assert told.batches[-1] == 4
    assert told.batches[0] in (1, 2)
    assert np.array_equal(mapped, make_engine().predict(batches()).numpy())
    with pytest.raises(RuntimeError, match=r"cannot write .*nowhere/y.npy': No such file or directory"):
        make_engine().predict(batches(), path=tmp_path / "nowhere/y.npy")


def test_it_does_not_go_on_with_something_else(tmp_path: Path) -> None:
    path = tmp_path / "y.npy"
    with pytest.raises(KeyboardInterrupt):
        make_engine().predict(batches(), path=path, callbacks=[Stops(3, stop)])
    kept = {name: (tmp_path / name).read_bytes() for name in os.listdir(tmp_path)}
    other = make_engine()
    with torch.no_grad():
        other.model[0].weight[0, 0] += 1e-6
    changed = batches()
    changed[1] = changed[1] + 1e-6
    state = torch.get_rng_state()
    wrong: list[tuple[IT3Engine, list[Tensor], dict[str, Any], str]] = [
        (other, batches(), {}, "the network, by a hash of its weights and layers, was"),
        (make_engine(), batches(), {"num_steps": 1}, "the option num_steps was 2, and is 1"),
        (make_engine(), batches(), {"copy_model": False}, "the option copy_model was True, and is False"),
        (make_engine(), changed, {}, "the first 3 batches hold other inputs than those that were predicted"),
        (make_engine(), batches()[::-1], {}, "or come in another order"),
        (make_engine(), batches()[:2], {}, "the loader gave 2 batches, and 3 were predicted"),
    ]
    for engine, given, overrides, match in wrong:
        with pytest.raises(ValueError, match=match):
            engine.predict(given, path=path, **overrides)
        assert {name: (tmp_path / name).read_bytes() for name in os.listdir(tmp_path)} == kept
    make_engine()  # which seeds
    assert torch.equal(torch.get_rng_state(), state)
    note = tmp_path / "y.npy.resume"
    note.write_bytes(kept[note.name][:-50])
    with pytest.raises(ValueError, match="is damaged, or does not hold what predict"):
        make_engine().predict(batches(), path=path)
    note.write_bytes(kept[note.name])
    (tmp_path / "y.npy.partial").write_bytes(kept["y.npy.partial"][:-1])
    with pytest.raises(ValueError, match=r"is shorter than .* says"):
        make_engine().predict(batches(), path=path)
    (tmp_path / "y.npy.partial").unlink()  # to begin anew
    assert np.array_equal(make_engine().predict(batches(), path=path), make_engine().predict(batches()).numpy())


def test_one_process_a_file(tmp_path: Path) -> None:
    path = tmp_path / "y.npy"

    def another() -> None:
        with pytest.raises(RuntimeError, match="another process is predicting into"):
            make_engine().predict(batches(), path=path)

    mapped = make_engine().predict(batches(), path=path, callbacks=[Stops(1, another)])
    assert np.array_equal(mapped, make_engine().predict(batches()).numpy())


def test_paths(tmp_path: Path) -> None:
    for path in (tmp_path / "y.pt", tmp_path):
        with pytest.raises(ValueError, match=r"must be the name of a .npy file, not '/"):
            make_engine().predict(batches(), path=path)
    (tmp_path / "folder.npy").mkdir()
    with pytest.raises(RuntimeError, match="it is a folder"):
        make_engine().predict(batches(), path=tmp_path / "folder.npy")
    unshaped = IT3Engine(nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 4)), "0")
    with pytest.raises(ValueError, match="parameters without a shape, which would be drawn anew"):
        unshaped.predict(batches(), path=tmp_path / "y.npy")
    for given in ([], [torch.ones(2, 5)]):
        with pytest.raises((ValueError, RuntimeError), match=r"gave no batches|mat1 and mat2"):
            make_engine(copy_model=False).predict(given, path=tmp_path / "y.npy")
        assert os.listdir(tmp_path) == ["folder.npy"]  # nothing was done that could go on
    (tmp_path / "there").mkdir()
    (tmp_path / "link.npy").symlink_to(tmp_path / "there/y.npy")
    make_engine().predict(batches(), path=tmp_path / "link.npy")
    assert (tmp_path / "link.npy").is_symlink()
    assert np.load(tmp_path / "there/y.npy").shape == (12, 4)
