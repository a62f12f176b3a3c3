"""The files that it3-adapt reads and writes, beside NumPy's and torch's own reading of them."""

import signal
import subprocess
import time
from pathlib import Path

import it3
import numpy as np
import pytest
import torch
from binary import BINARY, adapt, close, needs_binary, result, run, saved_engine, trained
from fuzz.process import run_program
from it3 import IT3Engine
from torch import Tensor, nn

pytestmark = needs_binary


@pytest.mark.parametrize(
    "dtype", ["float32", "float64", "float16", "int64", "int32", "uint8", "uint16", "uint32", "bool", "int16", "int8"]
)
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_of_all_kinds(dtype: str, order, tmp_path: Path) -> None:
    class Floating(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x.flatten(1).float())

    torch.manual_seed(0)
    x = np.random.default_rng(0).integers(0, 2, (5, 2, 3)).astype(dtype)
    engine = trained(IT3Engine(Floating(), "layer").eval())
    as_torch = torch.from_numpy(x.astype({"uint16": "int32", "uint32": "int64"}.get(dtype, dtype)))
    engine.save(tmp_path / "engine.pt", as_torch)
    np.save(tmp_path / "x.npy", np.asarray(x, order=order))
    adapt(tmp_path)
    close(result(tmp_path / "y.npy"), engine(as_torch)[0])


def test_files_of_tensors(tmp_path: Path) -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 2)

        def forward(self, x: Tensor, scale: Tensor) -> Tensor:
            return self.layer(x) * scale

    torch.manual_seed(0)
    x, scale = torch.randn(6, 3), torch.rand(6, 1)
    engine = trained(IT3Engine(Scaled().double(), "layer").eval())
    engine.save(tmp_path / "engine.pt", (x.double(), scale.double()))
    expected = torch.cat([engine(batch)[0] for batch in zip(x.double().split(4), scale.double().split(4), strict=True)])
    for inputs in ((x, scale), [x, scale], {"scale": scale, "x": x}):
        torch.save(inputs, tmp_path / "x.pt")
        files = ("--input", tmp_path / "x.pt", "--output", tmp_path / "y.pt")
        assert run(tmp_path / "engine.pt", *files, "--batch-size", 4, "--in-dims", 0).stderr == ""
        close(result(tmp_path / "y.pt"), expected)  # in the network's dtype


@pytest.mark.parametrize(
    ("options", "other"),
    [
        (["--save-adapted", "y.npy"], "--save-adapted"),
        (["--uncertainty", "./y.npy"], "--uncertainty"),
        (["--output", "engine.pt"], "the engine"),
        (["--output", "link.pt"], "the engine"),
        (["--save-adapted", "engine.pt"], "the engine"),
        (["--output", "x.npy"], "--input"),
        (["--calibrate", "y.npy"], "--calibrate"),
    ],
)
def test_files_that_would_replace_others_are_refused(
    options: list[str], other: str, tmp_path: Path, monkeypatch
) -> None:
    saved_engine(tmp_path)
    monkeypatch.chdir(tmp_path)
    Path("y.npy").write_bytes(b"before")
    Path("link.pt").symlink_to("engine.pt")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    output = [] if "--output" in options else ["--output", "y.npy"]
    done = run("engine.pt", "--input", "x.npy", *output, *options)
    assert done.returncode == 2
    assert f"this file would replace that of {other}" in done.stderr
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def with_header(array: np.ndarray, version: tuple[int, int], length: int) -> bytes:
    """A .npy file whose header, with what comes before it, has a given length."""
    order, shape, descr = False, array.shape, array.dtype.str
    text = f"{{'descr': '{descr}', 'fortran_order': {order}, 'shape': {shape}, }}"
    width = 2 if version == (1, 0) else 4
    text = text.ljust(length - 8 - width - 1) + "\n"
    return b"\x93NUMPY" + bytes(version) + len(text).to_bytes(width, "little") + text.encode() + array.tobytes()


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
@pytest.mark.parametrize("length", [80, 128, 192, 255, 256, 4096])
def test_headers_of_arrays(version: tuple[int, int], length: int, tmp_path: Path) -> None:
    engine, x = saved_engine(tmp_path)
    (tmp_path / "x.npy").write_bytes(with_header(x.numpy(), version, length))
    assert np.array_equal(np.load(tmp_path / "x.npy"), x.numpy())
    adapt(tmp_path)
    close(result(tmp_path / "y.npy"), engine(x)[0])


class Steps(nn.Module):
    """(T, B, 4) to (T, B, 3)."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x).tanh())


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("suffix", ["npy", "pt"])
def test_samples_along_the_second_dimension(order, suffix: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    layout = it3.Layout(channel_dim=-1, batch_dim=1)
    engine = trained(IT3Engine(Steps(), "layer", prediction_layout=layout, features_layout=layout).eval())
    x = torch.randn(5, 7, 4)
    engine.save(tmp_path / "engine.pt", x)
    np.save(tmp_path / "x.npy", np.asarray(x.numpy(), order=order))
    y, u = tmp_path / f"y.{suffix}", tmp_path / f"u.{suffix}"
    done = run(tmp_path / "engine.pt", "-i", tmp_path / "x.npy", "-o", y, "--uncertainty", u, "--batch-size", 3)
    assert done.returncode == 0, done.stderr
    batches = [engine.adapt(batch) for batch in x.split(3, dim=1)]
    close(result(y), torch.cat([batch.prediction for batch in batches], dim=1))
    close(result(u), torch.cat([batch.uncertainty for batch in batches]))


def of_shape(content: bytes, shape: bytes) -> bytes:
    """The same array with another shape in its header, which is as long as before."""
    text = content[10:128].replace(b"(7, 6)", shape).rstrip()
    return content[:10] + text.ljust(117) + b"\n" + content[128:]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda b: b[:5], "it is no .npy file"),
        (lambda b: b[:9], "it is cut off in its header"),
        (lambda b: b[:40], "it is cut off in its header"),
        (lambda b: b[:-1], "it is cut off: 167 bytes are left for an array of the shape [7, 6]"),
        (lambda b: b + b"abc", "it goes on for 3 bytes behind an array of the shape [7, 6]"),
        (
            lambda b: b.replace(b"NUMPY\x01", b"NUMPY\x04"),
            "it is of version 4.0 of NumPy's format; accepted are 1.0, 2.0 and 3.0",
        ),
        (lambda b: of_shape(b, b"(-7, 6)"), "its header is damaged"),
        (lambda b: of_shape(b, b"(7.9, 6)"), "its header is damaged"),
        (lambda b: of_shape(b, b"(7, 6"), "its header is damaged"),
        (lambda b: of_shape(b, b"7, 6"), "its header is damaged"),
        (lambda b: of_shape(b, b"(9999999999, 6)"), "it is cut off: 168 bytes are left for an array of the shape [99"),
        (lambda b: of_shape(b, b"(4294967296, 4294967296, 7, 6)"), "it is cut off: 168 bytes are left for an array"),
        (lambda b: of_shape(b, b"(99999999999999999999, 6)"), "its header is damaged"),
        (lambda b: of_shape(b, b"(0, 6)"), "it goes on for 168 bytes behind an array of the shape [0, 6]"),
        (lambda b: of_shape(b, b"(" + b"1," * 30 + b")"), "it goes on for 164 bytes"),
        (lambda b: b.replace(b"'shape'", b"'descr'"), "its header is damaged"),
        (lambda b: b.replace(b"'shape'", b"'sharp'"), "its header is damaged"),
        (lambda b: b.replace(b"False", b"Maybe"), "its header is damaged"),
        (lambda b: b.replace(b"<f4", b">f4"), "its elements are of NumPy's type '>f4', of another byte order"),
        (lambda b: b.replace(b"<f4", b"<u8"), "its elements are of NumPy's type '<u8'; accepted are bool, int8 to"),
        (lambda b: b.replace(b"<f4", b"|O "), "its elements are of NumPy's type '|O '"),
    ],
)
def test_damaged_arrays(spoil, message: str, tmp_path: Path) -> None:
    saved_engine(tmp_path)
    file = tmp_path / "x.npy"
    before = file.read_bytes()
    file.write_bytes(spoil(before))
    assert file.read_bytes() != before
    done = run(tmp_path / "engine.pt", "--input", file, "--output", tmp_path / "y.npy")
    assert done.returncode == 1
    assert f"x.npy cannot be read: {message}" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "y.npy").exists()


@pytest.mark.memory
def test_inputs_larger_than_memory(tmp_path: Path) -> None:
    """A file of 2.4 GB, most of which is a hole, in a process with less."""
    torch.manual_seed(0)
    engine = trained(IT3Engine(nn.Sequential(nn.Linear(1024, 4), nn.Tanh(), nn.Linear(4, 2)), "0").eval())
    x = torch.randn(8, 1024)
    engine.save(tmp_path / "engine.pt", x)
    count = 600_000
    with (tmp_path / "x.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": (count, 1024)})
        begin = file.tell()
        file.write(x.numpy().tobytes())
        file.truncate(begin + count * 4096)
        file.seek(-8 * 4096, 2)
        file.write(x.numpy().tobytes())
    options = ["--steps", "0", "--batch-size", "4096", "--uncertainty", "u.npy"]
    # Of memory that is written to; the libraries of CUDA alone take more addresses than that.
    command = ["bash", "-c", 'ulimit -d 2000000; exec "$@"', "bash", BINARY, "engine.pt"]
    done = run_program([*command, "--input", "x.npy", "--output", "y.npy", *options], tmp_path, seconds=300)
    assert done.code == 0, done.err
    y = np.load(tmp_path / "y.npy")
    assert y.shape == (count, 2)
    expected = engine.adapt(x, num_steps=0)
    for part in (slice(0, 8), slice(count - 8, count)):
        close(torch.from_numpy(y[part]), expected.prediction)
        close(torch.from_numpy(np.load(tmp_path / "u.npy")[part]), expected.uncertainty)
    close(torch.from_numpy(y[1000:1001]), engine.adapt(torch.zeros(1, 1024), num_steps=0).prediction)


class Pooled(nn.Module):
    """(B, 5) to (B / 2, 2), or with a factor to (3 B, 2)."""

    def __init__(self, has_more: bool) -> None:
        super().__init__()
        self.layer, self.head, self.has_more = nn.Linear(5, 8), nn.Linear(8, 6 if has_more else 2), has_more

    def forward(self, x: Tensor) -> Tensor:
        y = self.head(self.layer(x).tanh())
        return y.reshape(-1, 2) if self.has_more else y.reshape(-1, 2, 2).mean(1)


class Spread(nn.Module):
    """Features for as many samples as there are."""

    def __init__(self, has_more: bool) -> None:
        super().__init__()
        self.linear, self.has_more = nn.Linear(2, 8), has_more

    def forward(self, prediction: Tensor) -> Tensor:
        y = self.linear(prediction)
        return y.reshape(-1, 3, 8).mean(1) if self.has_more else y.repeat_interleave(2, 0)


@pytest.mark.parametrize("suffix", ["npy", "pt"])
@pytest.mark.parametrize("has_more", [True, False])
def test_other_numbers_of_predictions_than_samples(has_more: bool, suffix: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    layout = it3.Layout(channel_dim=1, batch_dim=0)
    layouts = {"prediction_layout": layout, "features_layout": layout}
    engine = trained(IT3Engine(Pooled(has_more), "layer", Spread(has_more), **layouts).eval())
    x = torch.randn(10, 5)
    engine.save(tmp_path / "engine.pt", x)
    np.save(tmp_path / "x.npy", x.numpy())
    y = tmp_path / f"y.{suffix}"
    done = run(tmp_path / "engine.pt", "--input", tmp_path / "x.npy", "--output", y, "--batch-size", 4)
    assert done.returncode == 0, done.stderr
    close(result(y), torch.cat([engine.adapt(batch).prediction for batch in x.split(4)]))


@pytest.mark.parametrize("way", ["many batches", "many steps"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_leaves_nothing(number: signal.Signals, way: str, tmp_path: Path) -> None:
    _, x = saved_engine(tmp_path)
    np.save(tmp_path / "x.npy", x.repeat(20000, 1).numpy())
    before = {path.name for path in tmp_path.iterdir()}
    command = [BINARY, "engine.pt", "--input", "x.npy", "--output", "y.npy"]
    command += ["--batch-size", "1"] if way == "many batches" else ["--steps", "1000000"]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
        while {path.name for path in tmp_path.iterdir()} == before:
            time.sleep(0.01)
        process.send_signal(number)
        error = process.communicate(timeout=60)[1]
    assert process.returncode == 1
    assert error == f"it3-adapt: interrupted by the signal {number.value}; nothing was written\n"
    assert {path.name for path in tmp_path.iterdir()} == before


class Mean(nn.Module):
    """(B, 5) to one number."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.Linear(5, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x).tanh()).mean()


@pytest.mark.parametrize("suffix", ["npy", "pt"])
def test_a_prediction_for_all_samples_at_once(suffix: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    engine, x = trained(IT3Engine(Mean(), "layer").eval()), torch.randn(6, 5)
    engine.save(tmp_path / "engine.pt", x)
    np.save(tmp_path / "x.npy", x.numpy())
    y = tmp_path / f"y.{suffix}"
    files = (tmp_path / "engine.pt", "--input", tmp_path / "x.npy", "--output", y)
    assert run(*files).returncode == 0
    close(result(y), engine(x)[0])
    y.unlink()
    done = run(*files, "--batch-size", 2)
    assert done.returncode == 1
    assert "the prediction is one number for a whole batch" in done.stderr
    assert not y.exists()
