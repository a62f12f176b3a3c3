"""
Predict a class for each pixel
==============================

What you get: a network that segments images and is fed back its own map of classes, the uncertainty of each pixel,
and an evaluation by the Dice coefficient that takes images of one place as one unit. The images are scikit-learn's
handwritten digits, laid on crops of its two photos: which pixels are ink?

The network predicts y0. An *embedder*, a small network that is trained with it, feeds y0 back into one layer, which
gives a second prediction, y1. Adapting takes a few optimizer steps that bring the two together, without labels.
:doc:`/terms` explains the words.
"""

import it3
import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits, load_sample_images
from torch import Tensor, nn

# %%
# Digits on photos
# ----------------
#
# Upper halves of the photos are for training, lower ones for the test. A digit of 16 x 16 pixels is written in white,
# of random opacity, at a random place on a gray crop of 20 x 20.

photos = [torch.tensor(photo.mean(2), dtype=torch.float32) / 255 for photo in load_sample_images().images]
digits = F.interpolate(torch.tensor(load_digits().images)[:, None] / 16, scale_factor=2, mode="bilinear")[:, 0].float()


def write_on(region: Tensor, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Write digits on crops of a region, (H, W): images, (count, 1, 20, 20), and where ink is, (count, 20, 20)."""
    torch.manual_seed(seed)
    images, targets = [], []
    for digit in digits[torch.randint(len(digits), (count,))]:
        top, left = (int(torch.randint(size - 19, ())) for size in region.shape)
        right, down = torch.randint(5, (2,)).tolist()
        ink = F.pad(digit, (right, 4 - right, down, 4 - down))
        crop = region[top : top + 20, left : left + 20]
        images.append(torch.lerp(crop, torch.ones(()), ink * (0.5 + 0.5 * torch.rand(()))))
        targets.append((ink > 0.5).long())
    return torch.stack(images)[:, None], torch.stack(targets)


train_x, train_y = map(torch.cat, zip(*(write_on(photo[:213], 80, seed=0) for photo in photos), strict=True))

# %%
# Train
# -----
#
# Targets are class indices, (B, H, W), for scores, (B, 2, H, W). What is fed back, softmax(y0), is a map too: the
# embedder sees it pixel by pixel, and what it makes of it is added to the output of the third convolution, which lies
# behind the last batch normalization.


def train(seed: int) -> it3.IT3Engine:
    """Train a small network on clean images."""
    torch.manual_seed(seed)
    model = nn.Sequential(
        *(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()),
        *(nn.Conv2d(8, 8, 3, padding=2, dilation=2), nn.BatchNorm2d(8), nn.ReLU()),
        *(nn.Conv2d(8, 8, 3, padding=2, dilation=2), nn.ReLU(), nn.Conv2d(8, 2, 1)),
    )
    options = {"num_steps": 2, "lr": 1e-3, "norm_statistics": "batch"}
    engine = it3.IT3Engine(model, "6", distance_fn="cross_entropy", optimization_parameters=options)
    rows = torch.randperm(len(train_x)).split(16)
    batches = [(train_x[of_batch], train_y[of_batch]) for of_batch in rows]
    criterion = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 3.0]))  # there is less ink than photo
    engine.fit(batches, criterion, epochs=6, optimizer=lambda parameters: torch.optim.Adam(parameters, 1e-2))
    return engine.eval()


engines = [train(seed) for seed in range(3)]
print(engines[0].explain(train_x[:8]))

# %%
# Shifted images
# --------------
#
# From each of six regions of the photos' lower halves come six images, once with noise and once darker. What is
# wrong with one image of a region is likely wrong with the others, and with the same ones under the other shift. So a
# region is a *cluster*: the intervals below draw regions, not batches, or they would be too narrow.

batches, clusters, groups = [], [], []
for name, photo in zip(("temple", "flower"), photos, strict=True):
    for place, region in enumerate(photo[214:].split(214, dim=1)):
        x, y = write_on(region, 6, seed=place)
        noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(place))
        for shift, shifted in (("noise", x + 0.15 * noise), ("dark", 0.4 * x)):
            batches.append((shifted, y))
            clusters.append(f"{name} {place}")
            groups.append(shift)


def dice(prediction: Tensor, targets: Tensor) -> Tensor:
    """Return the Dice coefficient of each image's ink, (B,)."""
    found = prediction.argmax(1)
    return (2 * (found * targets).sum((1, 2)) + 1) / (found.sum((1, 2)) + targets.sum((1, 2)) + 1)


often = F.one_hot(train_y, 2).float().mean(0).movedim(-1, 0)  # how often each place has ink: no network
evaluation = it3.evaluate(
    engines,
    batches,
    dice,
    {"adapted": {}},
    reference=often,
    repairs={"filtered": it3.median_filter(3)},
    clusters=clusters,
    groups=groups,
)
print(evaluation)
it3.plots.gains(evaluation, ax=plt.figure(figsize=(9, 5), layout="constrained").gca())

# %%
# With 0 steps the network loses the ink of dark images, and adapting finds most of it. But the batch's statistics do
# that too, without any step, and so does entropy minimization with as many steps: there is no gain beyond the best
# control. Here a batch is of one shift and one region. Batches that mix them have other statistics, so evaluate on
# batches like those to come.
#
# How sure is each pixel?
# -----------------------
#
# ``engine.uncertainty(x)`` is one number an image, which grows with the number of pixels in doubt. Of each pixel it
# is the distance of the two predictions that ``adapt`` returns with 0 steps.

(x, y), engine = batches[0], engines[0]
unadapted, adapted = engine.adapt(x, num_steps=0), engine.adapt(x)
of_pixels = (unadapted.second.softmax(1) - unadapted.first.softmax(1)).norm(dim=1)
torch.testing.assert_close(of_pixels.flatten(1).norm(dim=1), engine.uncertainty(x))
columns = {
    "image": x[:, 0],
    "ink": y,
    "0 steps": unadapted.prediction.softmax(1)[:, 1],
    "adapted": adapted.prediction.softmax(1)[:, 1],
    "uncertainty": of_pixels / of_pixels.max(),
}
figure, axes = plt.subplots(3, len(columns), figsize=(9, 5.5), layout="constrained")
for row, of_image in enumerate(axes):
    for ax, (title, maps) in zip(of_image, columns.items(), strict=True):
        ax.imshow(maps[row].numpy(), cmap="gray" if title == "image" else "viridis", vmin=0, vmax=1)
        ax.set_axis_off()
        ax.set_title(title if row == 0 else "")

# %%
# Does it tell wrong pixels? Keep those that the network is surest of, and see how many of them are wrong, by this
# uncertainty and by the entropy, which needs neither embedder nor second pass.

wrong = (unadapted.prediction.argmax(1) != y).float().flatten()
entropy = torch.special.entr(unadapted.prediction.softmax(1)).sum(1)
figure, axes = plt.subplots(1, 2, figsize=(9, 4), sharey=True, layout="constrained")
for ax, (name, uncertainty) in zip(axes, {"‖y1 - y0‖": of_pixels, "entropy": entropy}.items(), strict=True):
    it3.plots.risk_coverage(uncertainty.flatten(), wrong, ax=ax).text(5, 0.9 * wrong.mean(), name)

# %%
# Both do, and the entropy somewhat better. The pixels that are in doubt are those at the rim of the ink and the
# bright ones of the photo.
#
# Where to go on: :doc:`/results` has brain tissue, with three classes, five networks and a search for settings, where
# adapting gains nothing beyond entropy minimization either. :doc:`plot_why_it_may_not_help` tells what to try first,
# and :doc:`plot_cpp_deployment` takes a network to C++.
