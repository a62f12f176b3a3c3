"""``it3 adapt`` on a folder of images: the numbers are those of the pixels, in the order of the names."""

import struct
import subprocess
import sys
import zlib
from pathlib import Path

import it3
import numpy as np
import pytest
import torch
from it3 import IT3Engine
from numpy.typing import NDArray
from torch import Tensor, nn

pytest.importorskip("typer")
pytest.importorskip("PIL")

from command_line import answer, call, error, options_of
from PIL import Image

PHOTOS = Path("photos")
NAMES = ("10.png", "2.PNG", "a.png", "b.png", "c.png")
FILES = ["adapt", "engine.pt", "--input", PHOTOS, "--output", "y.npy"]


def save_engine(channels: int) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(channels, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 3 * 4, 2))
    engine = IT3Engine(model, "0", optimization_parameters={"num_steps": 2, "lr": 0.05}).eval()
    engine.is_trained = True
    engine.save("engine.pt", torch.rand(2, channels, 5, 6))


@pytest.fixture
def pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> NDArray[np.uint8]:
    """Return colors, (N, H, W, C), which the folder holds in the order of names, and other things beside them."""
    monkeypatch.chdir(tmp_path)
    save_engine(3)
    PHOTOS.mkdir()
    colors = np.random.default_rng(0).integers(0, 256, (5, 5, 6, 3), dtype=np.uint8)
    for name, image in reversed(list(zip(NAMES, colors, strict=True))):
        Image.fromarray(image).save(PHOTOS / name)
    (PHOTOS / "labels.csv").write_text("file,label\n")
    (PHOTOS / ".hidden.png").write_text("no image")
    (PHOTOS / "d.png").mkdir()
    return colors


def written_for(inputs: NDArray[np.floating], batch_size: int = 5) -> None:
    """Check that the predictions are those of an engine for these inputs, (N, H, W, C)."""
    x = torch.from_numpy(np.ascontiguousarray(inputs.transpose(0, 3, 1, 2), np.float32))
    engine = it3.load("engine.pt")
    expected = torch.cat([engine.adapt(batch).prediction for batch in x.split(batch_size)])
    np.testing.assert_allclose(np.load("y.npy"), expected.numpy(), rtol=1e-5, atol=1e-6)


def test_pixels_are_from_0_to_1(pixels: NDArray[np.uint8]) -> None:
    report = answer(*FILES)
    assert report["samples"] == 5
    written_for(pixels / 255)
    assert answer(*FILES, "--batch-size", "2")["batches"] == 3
    written_for(pixels / 255, batch_size=2)


def test_mean_and_std_are_of_channels(pixels: NDArray[np.uint8]) -> None:
    assert call(*FILES, "--image-mean", "0.4,0.5,0.6", "--image-std", "0.1,0.2,0.3").exit_code == 0
    written_for((pixels / 255 - np.array([0.4, 0.5, 0.6])) / np.array([0.1, 0.2, 0.3]))
    assert call(*FILES, "--image-mean", "0.5").exit_code == 0
    written_for(pixels / 255 - 0.5)


def test_gray_has_one_channel(pixels: NDArray[np.uint8]) -> None:
    said = error(*FILES, "--image-mode", "L", code=1)
    assert (
        "the images in photos are read as (5, 1, 5, 6), but the engine was saved with an input of (2, 3, 5, 6)" in said
    )
    save_engine(1)
    assert "give --image-mode RGB for 3 channels or L for 1" in error(*FILES, "--image-mode", "RGB", code=1)
    assert call(*FILES, "--image-mean", "0.1").exit_code == 0
    gray = pixels @ np.array([299, 587, 114]) / 1000  # of ITU-R 601
    x = torch.from_numpy(gray[:, None] / 255 - 0.1).float()
    close = {"rtol": 0, "atol": 2e-3}  # as gray is rounded to 8 bits
    np.testing.assert_allclose(np.load("y.npy"), it3.load("engine.pt").adapt(x).prediction.numpy(), **close)
    for name, image in zip(NAMES, gray.round().astype(np.uint8), strict=True):
        Image.fromarray(image).save(PHOTOS / name)
    assert call(*FILES, "--image-mode", "L").exit_code == 0
    written_for(gray.round().astype(np.uint8)[..., None] / 255)


def test_gray_palettes_and_jpeg_become_colors(pixels: NDArray[np.uint8]) -> None:
    """Of which gray repeats, a palette has exact colors, and a JPEG file has its own."""
    Image.fromarray(pixels[0, ..., 0]).save(PHOTOS / "10.png")
    palette = Image.fromarray(pixels[1]).quantize(256)
    palette.save(PHOTOS / "2.PNG")
    Image.fromarray(pixels[2]).save(PHOTOS / "a.jpeg")
    (PHOTOS / "a.png").unlink()
    with Image.open(PHOTOS / "a.jpeg") as image:
        jpeg = np.asarray(image)
    expected = pixels.copy()
    expected[0] = pixels[0, ..., :1]
    expected[1] = np.array(palette.getpalette()).reshape(-1, 3)[np.asarray(palette)]
    expected[2] = jpeg
    assert call(*FILES).exit_code == 0
    written_for(expected / 255)


def test_images_are_of_one_size(pixels: NDArray[np.uint8]) -> None:
    for place in range(3):
        Image.fromarray(pixels[0, :, :4]).save(PHOTOS / f"narrow {place}.png")
    Image.fromarray(pixels[0, :3]).save(PHOTOS / "b.png")
    said = error(*FILES, code=1)
    assert "the images in photos must be of one size: 4 are 6x5, but narrow 0.png 4x5, narrow 1.png 4x5, " in said
    assert "narrow 2.png 4x5, b.png 6x3; resize" in said
    for place in range(3):
        Image.fromarray(pixels[0, :1]).save(PHOTOS / f"low {place}.png")
    assert "and 2 more; resize" in error(*FILES, code=1)


def png_of_16_bits(pixels: NDArray[np.uint16]) -> bytes:
    """Return a file with 16 bits a channel of red, green and blue, as the PNG specification has it."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    height, width, _ = pixels.shape
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    parts = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


class OfBytes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 3 * 4, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x.float())


def test_images_are_no_inputs_of_whole_numbers(pixels: NDArray[np.uint8]) -> None:
    engine = IT3Engine(OfBytes(), "net.0").eval()
    engine.is_trained = True
    engine.save("engine.pt", torch.from_numpy(pixels[:2].transpose(0, 3, 1, 2).copy()))
    assert "the engine takes torch.uint8 inputs, and the images in photos become numbers from 0 to 1" in error(
        *FILES, code=1
    )


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (["--image-mode", "HSV"], 2, "--image-mode must be RGB or L, not 'HSV'"),
        (["--image-mean", "0.1,0.2"], 2, "--image-mean must be one number, or 3 with commas, one a channel, not 2"),
        (["--image-mode", "L", "--image-std", "1,1,1"], 2, "--image-std must be one number, not 3"),
        (["--image-mean", "half"], 2, "--image-mean must be numbers with commas, such as 0.5,0.5,0.5, not 'half'"),
        (["--image-std", "0"], 2, "--image-std must be above 0, not 0"),
        (["--image-mean", "nan"], 2, "--image-mean must be finite"),
        (["--image-mean", "0.5,0.5,104"], 2, "--image-mean must be from 0 to 1, as the channels are, not 104; divide"),
        (["--input", "x.npy", "--image-mode", "L"], 2, "are for a folder of images, not x.npy"),
        (["--input", "empty"], 2, "there are no .png, .jpg or .jpeg files in the folder empty"),
        (["--input", "deep"], 1, "deep/16 bits.png has more than 8 bits a channel, which"),
        (["--input", "deep colors"], 1, "deep colors/dark.png has more than 8 bits a channel, which"),
        (["--input", "broken"], 1, "broken/text.jpg is not an image, or is damaged"),
        (["--input", "cut"], 1, "cut/half.png is not an image, or is damaged"),
    ],
)
def test_errors_are_one_line_and_write_nothing(
    args: list[str], code: int, words: str, pixels: NDArray[np.uint8]
) -> None:
    np.save("x.npy", pixels / 255)
    for name in ("empty", "deep", "deep colors", "broken", "cut"):
        Path(name).mkdir()
    Image.fromarray(np.full((5, 6), 40_000, np.uint16)).save("deep/16 bits.png")
    Path("deep colors/dark.png").write_bytes(png_of_16_bits(np.full((5, 6, 3), 255, ">u2")))
    Path("broken/text.jpg").write_text("no image")
    Path("cut/half.png").write_bytes((PHOTOS / "10.png").read_bytes()[:80])
    assert words in error(*FILES, *args, code=code)
    assert not Path("y.npy").exists()


def test_pillow_is_imported_by_those_who_have_images(pixels: NDArray[np.uint8], tmp_path: Path) -> None:
    code = "import sys; sys.modules['PIL'] = None; from it3.command_line.application import app; app(sys.argv[1:])"
    command = [sys.executable, "-c", code, *map(str, FILES)]
    run = subprocess.run(command, check=False, **options_of(tmp_path, {}))
    assert run.returncode == 1
    assert run.stderr.splitlines() == [
        "it3: ModuleNotFoundError: folders of images need Pillow: pip install 'it3[images]'"
    ]
