"""Fashion-MNIST under the 15 corruptions of ImageNet-C, at severity 5; settings chosen on its 4 extra ones."""

import gzip
from pathlib import Path

import it3
import numpy as np
import torch
import torch.nn.functional as F
from imagecorruptions import corrupt, get_corruption_names
from study import Batches, Study, batches_of
from study_run import run
from torch import Tensor, nn

FOLDER = Path("/usr/share/datasets/fashion-mnist")
SEVERITY = 5
TRAIN, CLEAN, EACH = 10_000, 1500, 500
BATCH = 100


class ClothesCNN(nn.Module):
    """32 x 32 pictures to 10 class scores."""

    def __init__(self) -> None:
        super().__init__()
        self.block1 = nn.Sequential(nn.Conv2d(1, 16, 3, stride=2, padding=1), nn.BatchNorm2d(16), nn.ReLU())
        self.block2 = nn.Sequential(nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.BatchNorm2d(32), nn.ReLU())
        self.block3 = nn.Sequential(nn.Conv2d(32, 64, 3, stride=2, padding=1), nn.BatchNorm2d(64), nn.ReLU())
        self.hidden = nn.Linear(64 * 16, 64)
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Return scores, (B, 10), for pictures, (B, 1, 32, 32)."""
        features = self.hidden(self.block3(self.block2(self.block1(x))).flatten(1))
        scores: Tensor = self.head(features.relu())
        return scores


def read(part: str) -> tuple[np.ndarray, Tensor]:
    """Read pictures, (N, 28, 28) of bytes, and classes, (N,)."""
    if not FOLDER.exists():
        raise FileNotFoundError(f"there is no {FOLDER}; install Debian's package dataset-fashion-mnist")
    images = np.frombuffer(gzip.decompress((FOLDER / f"{part}-images-idx3-ubyte.gz").read_bytes()), np.uint8, offset=16)
    labels = np.frombuffer(gzip.decompress((FOLDER / f"{part}-labels-idx1-ubyte.gz").read_bytes()), np.uint8, offset=8)
    return images.reshape(-1, 28, 28), torch.tensor(labels, dtype=torch.long)


def to_tensor(images: np.ndarray) -> Tensor:
    """Return pictures in [0, 1], padded to (N, 1, 32, 32)."""
    return F.pad(torch.tensor(images, dtype=torch.float32)[:, None] / 255, (2, 2, 2, 2))


def corrupted(images: np.ndarray, name: str) -> Tensor:
    """Corrupt pictures: they become 32 x 32 with three equal channels for it, and one again."""
    np.random.seed(0)  # noqa: NPY002  (the library draws from it)
    padded = np.pad(images, ((0, 0), (2, 2), (2, 2)))[..., None].repeat(3, axis=3)
    done = [corrupt(image, corruption_name=name, severity=SEVERITY).mean(2) for image in padded]
    return torch.tensor(np.stack(done), dtype=torch.float32)[:, None] / 255


def under_each(names: list[str], images: np.ndarray, classes: Tensor) -> dict[str, Batches]:
    """Return batches of the same pictures under each corruption."""
    return {name: batches_of(corrupted(images[:EACH], name), classes[:EACH], BATCH) for name in names}


def build() -> Study:
    """Read and corrupt the data."""
    images, classes = read("train")
    test_images, test_classes = read("t10k")
    validation = under_each(get_corruption_names("validation"), images[-EACH:], classes[-EACH:])
    clean = batches_of(to_tensor(test_images[-CLEAN:]), test_classes[-CLEAN:], BATCH)
    return Study(
        script="fashion_corruptions",
        title="Fashion-MNIST under ImageNet-C's 15 corruptions",
        make_network=ClothesCNN,
        layers=["hidden", "block1.0", "block2", "block3"],
        inputs=to_tensor(images[:TRAIN]),
        targets=classes[:TRAIN],
        metric="accuracy",
        validation=[batch for batches in validation.values() for batch in batches],
        clean=clean,
        shifts=under_each(get_corruption_names("common"), test_images, test_classes),
        repairs={"filtered": it3.median_filter(3)},
        epochs=5,
    )


if __name__ == "__main__":
    run(build, __doc__)
