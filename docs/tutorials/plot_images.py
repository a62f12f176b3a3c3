"""
Images: digits under noise
==========================

You have a network for images, and at test time they are noisy. In some ten seconds this page trains a small CNN with
:meth:`it3.IT3Engine.fit`, chooses a layer with batch normalization in view, adapts the network to noisy digits, shows
what that changed, compares it with the controls that a gain has to beat, and saves the engine for a program in C++.

The network predicts y0. An *embedder*, a small network that is trained with it, feeds y0 back into one layer, which
gives a second prediction, y1. Adapting takes a few optimizer steps that bring the two together, without labels.
:doc:`/terms` explains the words.

The digits are scikit-learn's, of 8 x 8 pixels.
"""

import tempfile
from pathlib import Path

import it3
import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

# %%
# The data
# --------
# 1,100 digits to train with, 200 to choose by, and 200 to test with. Those of the test are noisy. Those to choose by
# are blurred, because in use nobody knows the shift exactly: settings that are chosen under the very shift of the test
# look better than they are.

images, classes = (torch.tensor(each) for each in load_digits(return_X_y=True))
order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
x, y = images[order].float().view(-1, 1, 8, 8) / 16, classes[order]
clean, labels = x[1300:1500], y[1300:1500]
noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(1))
noisy = {sd: clean + sd * noise for sd in (0.3, 0.6)}
blurred = F.avg_pool2d(x[1100:1300], 3, stride=1, padding=1)


def batches_of(inputs: Tensor, targets: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Cut data into batches of 50."""
    return list(zip(inputs.split(50), targets.split(50), strict=True))


figure, rows = plt.subplots(3, 10, figsize=(9, 3), layout="constrained")
for row, (name, digits) in zip(rows, {"none": clean, **noisy}.items(), strict=True):
    row[0].set_title(f"noise: {name}", loc="left", fontsize="medium")
    for ax, digit in zip(row, digits[:, 0].numpy(), strict=False):
        ax.imshow(digit, cmap="gray_r", vmin=0, vmax=1)
        ax.axis("off")
plt.show()

# %%
# Which layer?
# ------------
# Batch normalization *behind* the layer at which the prediction is fed back is a trap: its running statistics are those
# of the pass that gives y0, into which nothing was fed, and do not fit the pass that gives y1. :func:`it3.layers`
# counts such batch normalization, and :func:`it3.suggest_layer` names a layer behind the last of it.


class DigitCNN(nn.Module):
    """8 x 8 digits to 10 class scores."""

    def __init__(self) -> None:
        super().__init__()
        self.block1 = nn.Sequential(nn.Conv2d(1, 16, 3), nn.BatchNorm2d(16), nn.ReLU())
        self.block2 = nn.Sequential(nn.Conv2d(16, 16, 3), nn.BatchNorm2d(16), nn.ReLU())
        self.hidden = nn.Linear(16 * 4 * 4, 32)
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Return scores, (B, 10), for digits, (B, 1, 8, 8)."""
        return self.head(self.hidden(self.block2(self.block1(x)).flatten(1)).relu())


table = it3.layers(DigitCNN(), x[:50]).to_frame()
print(table[["kind", "output_shape", "weights_behind", "batch_norms_behind"]])
suggestion = it3.suggest_layer(DigitCNN(), x[:50])
print(f"\n{suggestion.name}: {suggestion.reason}")

# %%
# Training
# --------
# Targets are class indices, and predictions are logits. With the distance "js", of Jensen and Shannon, what is fed back
# is the softmax of the logits, which has the form of the one-hot targets that are fed back in training. Three seeds, as
# one network proves little. Validation is on clean digits, without adaptation.


def train(seed: int) -> tuple[it3.IT3Engine, it3.History]:
    """Train a network on clean digits."""
    torch.manual_seed(seed)
    engine = it3.IT3Engine(DigitCNN(), suggestion.name, distance_fn="js")
    history = engine.fit(
        batches_of(x[:1100], y[:1100]),
        F.cross_entropy,
        epochs=2,
        optimizer=lambda parameters: torch.optim.Adam(parameters, lr=5e-3),
        validation=batches_of(x[1100:1300], y[1100:1300]),
        metric="accuracy",
    )
    return engine, history


engines, histories = zip(*[train(seed) for seed in range(3)], strict=True)
print(histories[0])

# %%
# Choosing how to adapt
# ---------------------
# Each candidate is a set of options, which override those of the engine: the statistics by which batch normalization
# normalizes, the learning rate, and the anchor, which network makes y1 ("frozen": the network before it adapts). The
# best on *blurred* digits is taken.

candidates = {
    "running statistics, lr 1e-4": {"norm_statistics": "running", "lr": 1e-4},
    "batch statistics, lr 1e-4": {"norm_statistics": "batch", "lr": 1e-4},
    "batch statistics, lr 1e-3, frozen": {
        "norm_statistics": "batch",
        "lr": 1e-3,
        "anchor": "frozen",
    },
}
held_out = batches_of(blurred, y[1100:1300])
scores = it3.evaluate(engines[0], held_out, "accuracy", candidates).to_frame()["score"]
best = scores[list(candidates)].idxmax()
print(scores[list(candidates)], f"chosen: {best}", sep="\n")

# %%
# Adapting to a batch
# -------------------
# ``adapt`` begins at the trained weights with each batch, and leaves them as they were. On the left, the distance
# between y1 and y0 over ten steps, where three are the default; on the right, the probability of the right class before
# and after.

inputs, targets = noisy[0.3][:50], labels[:50]
before = engines[0].adapt(inputs, num_steps=0)
adapted = engines[0].adapt(inputs, **candidates[best], num_steps=10)
print(adapted)
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
it3.plots.losses(adapted, ax=left)
it3.plots.before_and_after(before, adapted, targets, ax=right)
plt.show()

# %%
# Does it help?
# -------------
# For classes, :func:`it3.evaluate` adds controls by itself: the batch's statistics, balanced classes, and entropy
# minimization, alone and with diversity, with the steps and learning rate of each variant. ``repairs`` are what one
# would do to the image instead. ``groups`` asks for the worst noise, and ``clusters`` says that the same digits come
# under each noise.

test = [batch for digits in noisy.values() for batch in batches_of(digits, labels)]
evaluation = it3.evaluate(
    engines,
    test,
    "accuracy",
    {"defaults": {}, "chosen": candidates[best]},
    reference=y[:1100],
    repairs={"filtered": it3.median_filter(3), "clipped": it3.clip_to(x[:1100])},
    groups=[f"sd {sd}" for sd in noisy for _ in range(4)],
    clusters=[digits for _ in noisy for digits in range(4)],
)
print(evaluation)

# %%
# The last lines are the verdict. Much of what adapting gains against 0 steps may be the batch's statistics, which need
# no step, and entropy minimization may gain as much: the verdict is about the gain *beyond* the best control.
# ``report`` writes all of it as one page for the browser.

it3.plots.gains(evaluation, ax=plt.figure(figsize=(9, 6), layout="constrained").gca())
plt.show()
folder = Path(tempfile.mkdtemp())
evaluation.report(folder / "report.html")

# %%
# For a program in C++
# --------------------
# One file holds network, embedder and options. Python reads it with :func:`it3.load`, C++ with
# ``it3::Engine::load("engine.pt")``, and ``it3-adapt engine.pt --input x.npy --output y.npy`` needs no program at all.

engines[0].optimization_parameters.update(candidates[best])
engines[0].save(folder / "engine.pt", example_inputs=inputs)
loaded = it3.load(folder / "engine.pt")
print(
    "the same predictions:",
    torch.allclose(loaded.adapt(inputs).prediction, engines[0].adapt(inputs).prediction),
)

# %%
# Where to go on
# --------------
# - MNIST, Fashion-MNIST and photos, 5 seeds and all controls: :doc:`/results`.
# - Digits that come one after another: ``copy_model=False`` keeps weights from batch to batch, and :func:`it3.stream`
#   puts test data into such an order.
# - :func:`it3.compile` makes programs of the steps, and :func:`it3.search` chooses how to train.
