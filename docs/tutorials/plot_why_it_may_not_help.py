"""
Why adapting may not help
=========================

What you get: the ways in which adapting disappoints, each in a few lines on real data, so that you recognize them on
yours. In :doc:`eleven comparisons </results>` settings were searched for long, and adapting was then compared with
controls, which are simpler ways to predict. **In none of the eleven does it gain beyond the best control.** This page
shows why, and what to do instead. Its data are scikit-learn's 8 x 8 digits and mlxtend's houses of Boston.

The network predicts y0. An *embedder*, a small network that is trained with it, feeds y0 back into one layer, which
gives a second prediction, y1. Adapting takes a few optimizer steps that bring the two together, without labels.
:doc:`/terms` explains the words.
"""

import warnings

import it3
import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from mlxtend.data import boston_housing_data
from sklearn.datasets import load_digits
from sklearn.impute import KNNImputer
from torch import Tensor, nn

# %%
# A gain that something simpler gives too
# ---------------------------------------
#
# Three networks with batch normalization learn clean digits by both terms of the method's loss: the criterion for y0,
# and how far y1 is from the target when the target is fed back. Three others learn by the first term alone. The test's
# digits have noise, which training did not show.

digits = load_digits()
order = torch.randperm(len(digits.target), generator=torch.Generator().manual_seed(0))
images = torch.tensor(digits.images, dtype=torch.float32)[order, None] / 16
classes = torch.tensor(digits.target)[order]
train_x, train_y, test_x, test_y = images[:1200], classes[:1200], images[1200:1500], classes[1200:1500]
noisy_x = test_x + 0.4 * torch.randn(test_x.shape, generator=torch.Generator().manual_seed(1))
noisy = list(zip(noisy_x.split(100), test_y.split(100), strict=True))


def make_engine(seed: int, weight: float) -> it3.IT3Engine:
    """Make an untrained network, whose second term of the loss counts so much."""
    torch.manual_seed(seed)
    model = nn.Sequential(
        *(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(8, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten()),
        *(nn.Linear(16 * 4 * 4, 32), nn.ReLU(), nn.Linear(32, 10)),
    )
    recipe = it3.TrainingRecipe(weight=weight)
    return it3.IT3Engine(model, "8", distance_fn="cross_entropy", training_recipe=recipe)


engines = [make_engine(seed, weight=1.0) for seed in range(3)]
plain_engines = [make_engine(seed, weight=0.0) for seed in range(3)]
clean = list(zip(train_x.split(60), train_y.split(60), strict=True))
for engine in engines + plain_engines:
    engine.fit(clean, F.cross_entropy, epochs=2, optimizer=lambda parameters: torch.optim.Adam(parameters, 3e-3))

evaluation = it3.evaluate(
    engines,
    noisy,
    "accuracy",
    {"adapted": {"lr": 1e-3, "norm_statistics": "batch"}},
    without_second_term=plain_engines,
    reference=train_y,
    repairs={"clipped": it3.clip_to(train_x)},
)
print(evaluation)
it3.plots.gains(evaluation, ax=plt.figure(figsize=(9, 5), layout="constrained").gca())

# %%
# Compared with "0 steps", the network as it is, the variant would look like a success. But "0 steps, batch statistics"
# has its gain too, without a step and without y1. To clip pixels to the range of the training, to balance the classes
# as well, or to minimize entropy gives as much or more. With three networks intervals are wide, too. Only what goes
# beyond the *best* control, the dashed line, is a gain of adapting.
#
# A smaller loss is not a better prediction
# -----------------------------------------
#
# Adapting minimizes the distance between y1 and y0. Both come from the same network, so they can agree on a wrong
# answer. Here one batch adapts with several learning rates. The loss falls in all cases, and faster with larger ones.

x, y = noisy[0]
_, (of_loss, of_accuracy) = plt.subplots(1, 2, figsize=(9, 3.5), layout="constrained")
steps = [1, 2, 5, 15]
for lr in (1e-5, 1e-4, 1e-3, 1e-2):
    adaptations = [engines[0].adapt(x, num_steps=number, lr=lr) for number in steps]
    accuracies = [(adapted.prediction.argmax(1) == y).float().mean().item() for adapted in adaptations]
    of_loss.plot(range(steps[-1]), adaptations[-1].losses, label=f"lr {lr:g}")
    of_accuracy.plot(steps, accuracies, "o-")
    fallen = adaptations[-1].losses[[0, -1]].tolist()
    print(f"lr {lr:g}: loss {fallen[0]:.3f} to {fallen[1]:.3f}, accuracy {accuracies[0]:.2f} to {accuracies[-1]:.2f}")
of_loss.set(xlabel="step", ylabel="distance of y1 and y0")
of_accuracy.set(xlabel="steps", ylabel="accuracy", ylim=(0, 1))
of_loss.legend()

# %%
# The loss becomes 0 with 1e-2, torch-ttt's default, and the network is ruined: it calls every digit the same. So the
# loss cannot choose the learning rate, nor tell that adapting works. it3's default is 1e-5, which does next to
# nothing, good or bad. An engine that was calibrated with clean batches warns where predictions collapse, and one
# whose embedder was never trained warns that y1 is random:

engines[0].calibrate(clean)
untrained = it3.IT3Engine(make_engine(0, 1.0).model, "8", distance_fn="cross_entropy")
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    engines[0].adapt(x, lr=1e-2, num_steps=15, threshold=None)  # all samples adapt, not only those above the threshold
    untrained.adapt(x)
for warning in caught:
    print("-", str(warning.message).split(". ")[0])

# %%
# What is missing is better filled in
# -----------------------------------
#
# Of the test's houses 30 % of the entries are missing, and hold the training's mean, 0. The other columns say more
# about what is missing than this mean.

rows, prices = (torch.tensor(part, dtype=torch.float32) for part in boston_housing_data())
shuffled = torch.randperm(len(rows), generator=torch.Generator().manual_seed(2))
known, asked = shuffled[:350], shuffled[350:]
rows = (rows - rows[known].mean(0)) / rows[known].std(0)
prices = ((prices - prices[known].mean()) / prices[known].std())[:, None]
is_missing = torch.rand(rows[asked].shape, generator=torch.Generator().manual_seed(3)) < 0.3
holed = rows[asked].where(~is_missing, 0.0)
imputer = KNNImputer(n_neighbors=10).fit(rows[known])


def imputed(x: Tensor) -> Tensor:
    """Fill in what is missing from the houses that are nearest in the other columns."""
    return torch.tensor(imputer.transform(x.where(x != 0, torch.nan))).float()


torch.manual_seed(0)
house_model = nn.Sequential(nn.Linear(13, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1))
house_engine = it3.IT3Engine(house_model, "0")
house_engine.fit(list(zip(rows[known].split(35), prices[known].split(35), strict=True)), F.mse_loss, epochs=30)
houses = list(zip(holed.split(26), prices[asked].split(26), strict=True))
repairs = {"imputed": imputed}
print(it3.evaluate(house_engine, houses, "mse", {"adapted": {"lr": 1e-3}}, reference=prices[known], repairs=repairs))

# %%
# What the uncertainty is worth
# -----------------------------
#
# The uncertainty is the distance between y1 and y0, which needs no step. Does it tell errors? Keep the digits that the
# network is surest of, and see whether fewer of them are wrong; and ask the same of the entropy, which any classifier
# has.

with torch.no_grad():
    scores = engines[0].eval().model(noisy_x)
wrong = (scores.argmax(1) != test_y).float()
entropy = torch.distributions.Categorical(logits=scores).entropy()
_, axes = plt.subplots(1, 2, figsize=(9, 4), sharey=True, layout="constrained")
for ax, name, uncertainty in zip(
    axes, ("y1 and y0", "entropy"), (engines[0].uncertainty(noisy_x), entropy), strict=True
):
    it3.plots.risk_coverage(uncertainty, wrong, ax=ax).text(98, 0.02, name, ha="right")

# %%
# It does tell errors, about as well as the entropy, which needs neither embedder nor second pass.
#
# What to do instead
# ------------------
#
# - Try the controls first, on data like yours: the batch's statistics, balanced classes, entropy minimization,
#   filters, imputing. One of them may be all that you need, for a fraction of the time.
# - Train on the shift, if you can name it: what was in the training data is no shift any more.
# - Use the uncertainty without adapting, to hand over what the network is not sure of, where it tells errors of
#   yours.
# - Adapt only if :func:`it3.evaluate` finds a gain beyond the best control, on held-out data with a shift like the
#   one to be expected, with settings that :func:`it3.tune` chose under another one.
#
# Where to go on: :doc:`/results` has the eleven comparisons with all their rows; :doc:`plot_streams` shows what
# happens when weights are kept from batch to batch, and :doc:`plot_segmentation` predictions of a class for each
# pixel.
