"""
Adapt to a stream, and keep what was learned
============================================

What you get: a network that adapts to batch after batch, each time from where the last batch left it, and the means
to see when that goes wrong. Streams of noisy digits come in four orders; the weights are kept, watched, restored and
reset. The data are scikit-learn's 8 x 8 digits. What comes of keeping weights depends on the order of the data, so it
is compared with controls in two of the orders.

The network predicts y0. An *embedder*, a small network that is trained with it, feeds y0 back into one layer, which
gives a second prediction, y1. Adapting takes a few optimizer steps that bring the two together, without labels.
:doc:`/terms` explains the words.
"""

import it3
import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn

digits = load_digits()
order = torch.randperm(len(digits.target), generator=torch.Generator().manual_seed(0))
images = torch.tensor(digits.images, dtype=torch.float32)[order, None] / 16
classes = torch.tensor(digits.target)[order]

# %%
# A network for clean digits
# --------------------------

torch.manual_seed(0)
model = nn.Sequential(
    *(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2)),
    *(nn.Conv2d(8, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten()),
    *(nn.Linear(16 * 4 * 4, 32), nn.ReLU(), nn.Linear(32, 10)),
)
options = {"num_steps": 1, "lr": 1e-3}
engine = it3.IT3Engine(model, "8", distance_fn="cross_entropy", optimization_parameters=options)
clean = list(zip(images[:1200].split(60), classes[:1200].split(60), strict=True))
history = engine.fit(clean, F.cross_entropy, epochs=3, optimizer=lambda parameters: torch.optim.Adam(parameters, 3e-3))
engine.eval()
print(history)

# %%
# Four orders
# -----------
#
# :func:`it3.stream` puts the test's samples of several shifts into an order, each sample once. Here the shifts are
# noise of three strengths. "gradual" needs to know which of them are severities of one kind, so names are pairs of a
# kind and a severity.

shifts = {}
for place, strength in enumerate((0.1, 0.25, 0.4)):
    x, y = images[1200 + 120 * place :][:120], classes[1200 + 120 * place :][:120]
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(place))
    shifts["noise", strength] = (x + strength * noise, y)

orders = ("continual", "gradual", "mixed", "correlated")
streams = {order: it3.stream(shifts, order, batch_size=60) for order in orders}
figure, axes = plt.subplots(4, 1, figsize=(8, 6), sharex=True, layout="constrained")
for ax, (order, stream) in zip(axes, streams.items(), strict=True):
    strengths = [strength for of_batch in stream.groups for _, strength in of_batch]
    labels = torch.cat([targets for _, targets in stream.batches])
    drawn = ax.scatter(range(len(labels)), labels, c=strengths, s=8)
    ax.set(title=order, ylabel="class")
axes[-1].set_xlabel("sample")
figure.colorbar(drawn, ax=axes, label="noise")
for stream in streams.values():
    print(stream)

# %%
# Keep weights, or start anew
# ---------------------------
#
# With ``copy_model=True``, the default, each batch adapts from the same weights. With ``copy_model=False`` weights,
# optimizer and anchor are kept: the next batch goes on from there. The anchor is the network that makes y1: with
# ``anchor="ema"`` one whose weights are a slow moving average. ``restore_probability`` sets a random share of the
# weights back to their start after each step.

kept = {"copy_model": False, "norm_statistics": "batch"}
variants = {
    "each batch anew": {"norm_statistics": "batch"},
    "kept": kept,
    "kept, restored": {**kept, "anchor": "ema", "restore_probability": 0.02},
}
shown = ["0 steps", "0 steps, batch statistics", "0 steps, balanced classes", *variants]
for order in ("mixed", "correlated"):
    batches, groups = streams[order].batches, streams[order].groups
    evaluation = it3.evaluate(engine, batches, "accuracy", variants, groups=groups)
    frame = evaluation.to_frame()
    print(f"{order}: the best control is {evaluation.best_control!r}, {frame.score[evaluation.best_control]:.3f}")
    print(frame.loc[shown, ["score", "worst", "verdict"]].round(3), evaluation.verdict, sep="\n\n", end="\n\n")

# %%
# No variant gains beyond the best control, which minimizes entropy with the same steps. And what is good depends on the
# order: balancing the classes gains where batches are mixed, and loses where classes come one after another, as each
# batch has few of them. So compare in the order in which your data will come.
#
# One sample at a time
# --------------------
#
# A camera gives one image at a time, and adapting takes a step on each. ``norm_statistics="blend"`` mixes the
# statistics of one image with the running ones. Each way begins from the same weights.

one_by_one = it3.stream(shifts, "mixed", batch_size=1).batches[:80]
online = {"copy_model": False, "norm_statistics": "blend"}
ways = {
    "0 steps": {**online, "num_steps": 0},
    "kept": online,
    "kept, recovery_factor 3": {**online, "recovery_factor": 3.0},
    "kept, restored": {**online, "anchor": "ema", "restore_probability": 0.02},
    "kept, reset by drift": online,
}
figure, (of_accuracy, of_drift) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
for name, options in ways.items():
    right, drifts, resets = [], [], 0
    for x, y in one_by_one:
        adaptation = engine.adapt(x, **options)
        right.append(bool(adaptation.prediction.argmax(1) == y))
        drifts.append(engine.drift().relative)
        resets += adaptation.recovered
        if name == "kept, reset by drift" and drifts[-1] > 0.04:
            engine.reset()
            resets += 1
    if name == "kept":
        farthest = engine.drift()
    engine.reset()  # for the next way
    so_far = torch.tensor(right).float().cumsum(0) / torch.arange(1, len(right) + 1)
    of_accuracy.plot(so_far, label=name)
    of_drift.plot([100 * drift for drift in drifts])
    print(f"{name}: {so_far[-1]:.2f} right, drift {drifts[-1]:.1%}, {resets} resets")
of_accuracy.set(xlabel="digit", ylabel="share of right digits so far", ylim=(0, 1))
of_drift.set(xlabel="digit", ylabel="drift of the weights, %")
of_accuracy.legend(fontsize="small")

# %%
# When to reset
# -------------
#
# A network that keeps what it learned from single images soon calls all of them alike: then y1 and y0 agree, and the
# loss is small. ``recovery_factor`` goes back to the start where the *loss* rises far above its least, so it finds
# networks whose loss grows, and not those that call all digits alike. The drift of the weights shows these. There are
# three remedies, which limit the harm. If one network gets a few digits more right than with 0 steps, that is no gain
# until :func:`it3.evaluate` says so.
#
# - ``restore_probability`` and ``anchor="ema"`` hold the weights near their start, all the time;
# - ``engine.reset()`` goes back to it: where the drift passes a bound that you found on held-out data, as here, and
#   whenever you know that the data have changed, as with another camera;
# - with a small ``lr`` it takes longer to do good and to do harm.
#
# Which layers moved, :func:`it3.plots.drift` shows, here of the way "kept". ``engine.drift().by_parameter`` has the
# numbers.

it3.plots.drift(farthest, ax=plt.figure(figsize=(8, 3), layout="constrained").gca())
print(f"after the last reset: {engine.drift().distance}")

# %%
# Where to go on: :doc:`plot_why_it_may_not_help` tells more of why a small loss is no good sign, and what to do
# instead of adapting. :doc:`/results` has ten larger streams, of several orders and sizes of batches, with three
# networks: in none does adapting gain clearly beyond the best control.
