"""Gray and white matter on slices of a brain template, under noise and a bias field; chosen on blur and contrast."""

import it3
import torch
import torch.nn.functional as F
from nilearn.datasets import load_mni152_gm_mask, load_mni152_template, load_mni152_wm_mask
from study import Study, batches_of
from study_run import run
from torch import Tensor, nn

BATCH = 4
CLASSES = 3  # neither, gray, white


def block(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """Make a convolution with batch normalization."""
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1), nn.BatchNorm2d(outputs), nn.ReLU())


class SmallUNet(nn.Module):
    """Slices, (B, 1, H, W), to class scores, (B, 3, H, W)."""

    def __init__(self) -> None:
        super().__init__()
        self.top = block(1, 8)
        self.middle = block(8, 16, stride=2)
        self.bottom = block(16, 32, stride=2)
        self.up_middle = block(32 + 16, 16)
        self.up_top = block(16 + 8, 8)
        self.features = nn.Conv2d(8, 16, 3, padding=1)
        self.head = nn.Conv2d(16, CLASSES, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Segment."""
        top = self.top(x)
        middle = self.middle(top)
        bottom = self.bottom(middle)
        middle = self.up_middle(torch.cat([F.interpolate(bottom, scale_factor=2.0), middle], 1))
        top = self.up_top(torch.cat([F.interpolate(middle, scale_factor=2.0), top], 1))
        scores: Tensor = self.head(self.features(top).relu())
        return scores


def dice(prediction: Tensor, targets: Tensor) -> Tensor:
    """Return the Dice coefficient of each slice, the mean of gray and white matter: (B,)."""
    found = F.one_hot(prediction.argmax(1), CLASSES)[..., 1:].flatten(1, 2)
    truth = F.one_hot(targets, CLASSES)[..., 1:].flatten(1, 2)
    both = (found * truth).sum(1)
    return ((2 * both + 1) / (found.sum(1) + truth.sum(1) + 1)).mean(1)


def noisy_and_biased(slices: Tensor) -> Tensor:
    """Add Gaussian noise and multiply by a smooth field between 0.5 and 1.5, both drawn for each slice."""
    generator = torch.Generator().manual_seed(0)
    field = 0.5 + torch.rand(len(slices), 1, 3, 3, generator=generator)
    field = F.interpolate(field, slices.shape[2:], mode="bicubic", align_corners=True)
    return slices * field + 0.12 * torch.randn(slices.shape, generator=generator)


def blurred_and_dulled(slices: Tensor) -> Tensor:
    """Blur, and shift the gray values of each slice."""
    generator = torch.Generator().manual_seed(1)
    power = 0.6 + 0.8 * torch.rand(len(slices), 1, 1, 1, generator=generator)
    return 0.7 * F.avg_pool2d(slices, 3, stride=1, padding=1).clamp(0) ** power + 0.1


def build() -> Study:
    """Read the template and cut it into slices, in blocks: neighbors are alike."""
    volume = torch.tensor(load_mni152_template(resolution=2).get_fdata(), dtype=torch.float32)
    gray = torch.tensor(load_mni152_gm_mask(resolution=2).get_fdata()) > 0.5
    white = torch.tensor(load_mni152_wm_mask(resolution=2).get_fdata()) > 0.5
    slices = F.pad(volume.permute(1, 0, 2)[:, None], (0, 1, 0, 1))  # coronal: (117, 1, 100, 96)
    labels = F.pad((gray & ~white).long() + 2 * white.long(), (0, 1, 0, 0, 0, 1)).permute(1, 0, 2)
    kept = (labels > 0).flatten(1).float().mean(1) > 0.03
    slices, labels = slices[kept], labels[kept]
    block_of = torch.arange(len(slices)) // 4 % 4  # of each 16 neighbors, 8 to train, 4 to choose, 4 to test
    train, choose, test = (block_of % 2 == 0), (block_of == 1), (block_of == 3)
    seen = torch.cat([labels[train], labels[train].flip(1)])
    return Study(
        script="tissue_segmentation",
        title="Brain tissue under noise and a bias field",
        make_network=SmallUNet,
        layers=["features", "top.0", "bottom"],
        inputs=torch.cat([slices[train], slices[train].flip(2)]),
        targets=seen,
        metric=dice,
        reference=F.one_hot(seen, CLASSES).float().mean(0).movedim(-1, 0),  # how often each tissue is at each place
        validation=batches_of(blurred_and_dulled(slices[choose]), labels[choose], BATCH),
        clean=batches_of(slices[test], labels[test], BATCH),
        shifts={"noise and bias": batches_of(noisy_and_biased(slices[test]), labels[test], BATCH)},
        repairs={"filtered": it3.median_filter(3)},
        epochs=25,
        batch=8,
        learning_rate=2e-3,
    )


if __name__ == "__main__":
    run(build, __doc__)
