"""
Tables: entries that are missing
================================

You have a network for rows of a table, and at test time some entries are missing. In some ten seconds this page trains
such a network with :meth:`it3.IT3Engine.fit`, chooses a layer and how to adapt, adapts the network to rows with missing
entries, and compares that with what needs no adaptation, such as filling the entries in.

The network predicts y0. An *embedder*, a small network that is trained with it, feeds y0 back into one layer, which
gives a second prediction, y1. Adapting takes a few optimizer steps that bring the two together, without labels.
:doc:`/terms` explains the words.

The table is scikit-learn's of 442 patients with diabetes: ten measurements, and how far the disease went in a year.
"""

import it3
import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from sklearn.datasets import load_diabetes
from torch import Tensor, nn

# %%
# The data
# --------
# 262 patients to train with, 60 to choose by, and 120 to test with. Batches are pairs of inputs and targets: a list of
# them here, a ``DataLoader`` for larger data. The targets of a regression have the prediction's shape, (B, 1).

table = load_diabetes(scaled=False)
features, progression = torch.tensor(table.data).float(), torch.tensor(table.target).float()
order = torch.randperm(len(features), generator=torch.Generator().manual_seed(0))
x, y = features[order], progression[order, None]
y = (y - y[:262].mean()) / y[:262].std()  # so that the training mean has an error of about 1
(x_train, x_held_out, x_test), (y_train, y_held_out, y_test) = (
    x.split([262, 60, 120]),
    y.split([262, 60, 120]),
)


def batches_of(inputs: Tensor, targets: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Cut data into batches of 20."""
    return list(zip(inputs.split(20), targets.split(20), strict=True))


# %%
# The network
# -----------
# It takes the measurements as they are, and scales them itself.


class TableNet(nn.Module):
    """Ten measurements to one number."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", x_train.mean(0))
        self.register_buffer("sd", x_train.std(0))
        self.encoder = nn.Linear(10, 32)
        self.hidden = nn.Linear(32, 32)
        self.head = nn.Linear(32, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return predictions, (B, 1), for measurements, (B, 10)."""
        encoded = self.encoder((x - self.mean) / self.sd).relu()
        return self.head(self.hidden(encoded).relu())


# %%
# Which layer?
# ------------
# The prediction y0 is fed back at the output of one layer. :func:`it3.layers` lists them, with the weights before and
# behind each, and :func:`it3.suggest_layer` names one to begin with: an early one that has at most half of the compute
# behind it. No rule tells which predicts best.

print(it3.layers(TableNet(), x_train[:20]))
suggestion = it3.suggest_layer(TableNet(), x_train[:20])
print(suggestion)


# %%
# Training
# --------
# ``fit`` trains the network and the embedder, which turns a prediction into what is added to the layer's output. The
# loss has two terms: the criterion, for y0, and a second term, for y1 when the target is fed back. With
# ``second_pass="none"`` there is no second term, and nothing is ever fed back. Such networks are a control, something
# simpler that adaptation has to beat, as the second term may change how well a network predicts without any
# adaptation. Three seeds of each, as one network proves little.


def train(seed: int, recipe: it3.TrainingRecipe) -> tuple[it3.IT3Engine, it3.History]:
    """Train a network on complete rows."""
    torch.manual_seed(seed)
    engine = it3.IT3Engine(TableNet(), suggestion.name, training_recipe=recipe)
    optimizer = torch.optim.Adam(engine.parameters(), lr=3e-3)
    validation = batches_of(x_held_out, y_held_out)
    batches = batches_of(x_train, y_train)
    return engine, engine.fit(
        batches,
        F.mse_loss,
        epochs=8,
        optimizer=optimizer,
        validation=validation,
        metric="mse",
    )


trained = [train(seed, it3.TrainingRecipe()) for seed in range(3)]
engines, histories = zip(*trained, strict=True)
plain = [train(seed, it3.TrainingRecipe(second_pass="none"))[0] for seed in range(3)]
print(histories[0])

# %%
# Missing entries
# ---------------
# Where nothing was measured, this table holds 0, which no patient has: the network takes it for a very low value.


def with_missing(inputs: Tensor, share: float) -> Tensor:
    """Take a share of the entries away."""
    draws = torch.rand(inputs.shape, generator=torch.Generator().manual_seed(1))
    return inputs.masked_fill(draws < share, 0.0)


# %%
# Choosing how to adapt
# ---------------------
# The number of steps, the learning rate and the *anchor*, which network makes y1 while the network adapts, are choices.
# Choosing them on the test would flatter adaptation. So they are chosen on other patients, and under another shift:
# measurements that are noisy.

noise = torch.randn(x_held_out.shape, generator=torch.Generator().manual_seed(2))
noisy = x_held_out + 0.7 * x_train.std(0) * noise
tuning = it3.tune(
    engines[0],
    batches_of(noisy, y_held_out),
    "mse",
    budget=8,
    search={
        "num_steps": [1, 3, 10],
        "lr": [1e-5, 1e-4, 1e-3],
        "anchor": ["self", "frozen"],
    },
)
print(tuning)

# %%
# Adapting
# --------
# ``adapt`` starts from the trained weights with each batch, and leaves them as they were. On the left, the distance
# between y1 and y0 over the steps; on the right, what adapting changed of each patient's prediction.

x_missing = with_missing(x_test, 0.2)
before = tuning.engine.adapt(x_missing, num_steps=0)
adapted = tuning.engine.adapt(x_missing)
print(adapted)
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
it3.plots.losses(adapted, ax=left)
it3.plots.before_and_after(before, adapted, y_test, ax=right)
plt.show()

# %%
# Does it help?
# -------------
# :func:`it3.evaluate` runs the variants beside the controls: 0 steps, y1, the networks without the second term, the
# training mean as everybody's prediction, and 0 steps on rows whose entries are filled in by the mean of their column.
# Each patient is tested with three shares of missing entries: ``groups`` asks for the worst of these, and ``clusters``
# tells that batches of the same patients hang together.

shares = [0.1, 0.2, 0.4]
test = []
for share in shares:
    test += batches_of(with_missing(x_test, share), y_test)
evaluation = it3.evaluate(
    engines,
    test,
    "mse",
    {"defaults": {}, "chosen": tuning.choice},
    without_second_term=plain,
    reference=y_train,
    repairs={"imputed": it3.impute(x_train, marker=0.0)},
    groups=[f"{share:.0%} missing" for share in shares for _ in range(6)],
    clusters=[patients for _ in shares for patients in range(6)],
)
print(evaluation)

# %%
# How to read it
# --------------
# The metric is an error, so less is better; a ``gain`` is above 0 for better, whichever way the metric goes. The last
# lines are the verdict, each variant against the *best* control. Its interval resamples networks and patients, and is
# wider than 95 % where several variants are judged. A variant may gain against 0 steps and be "worse" all the same,
# because filling entries in gains more. On three other tables, too, filling entries in beat every other row:
# :doc:`/results`.

it3.plots.gains(evaluation, ax=plt.figure(figsize=(9, 3.5), layout="constrained").gca())
plt.show()

# %%
# Where to go on
# --------------
# - If your table has ``NaN`` for what is missing, :func:`it3.impute` fills that without a ``marker``. Samples that are
#   not finite never adapt.
# - :func:`it3.search` chooses how to *train*, the layer and the embedder too.
# - ``evaluation.report("report.html")`` writes the comparison as one page, and ``evaluation.to_frame()`` is for pandas.
# - For inputs of other kinds see :doc:`plot_images`, :doc:`plot_tokens` and :doc:`plot_graphs`.
