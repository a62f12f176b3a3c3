"""
Graphs: fewer nodes than in training
====================================

You have a graph network, and at test time its graphs are sparser. In some ten seconds this page tells it3 what the
samples are in a batch of graphs, feeds predictions back at the nodes, adapts to a batch together and to each graph
alone, and compares both with controls, one of which needs no network.

The network predicts y0. An *embedder*, a small network that is trained with it, feeds y0 back into one layer, which
gives a second prediction, y1. Adapting takes a few optimizer steps that bring the two together, without labels.
:doc:`/terms` explains the words.

A graph here is a place with measuring stations around it, and the question is how high the place lies. The terrain is
real: it is that around the fault at Jacksboro, Tennessee. Its map comes with matplotlib.
"""

import it3
import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from matplotlib.cbook import get_sample_data
from torch import Tensor, nn

elevation = get_sample_data("jacksboro_fault_dem.npz")["elevation"]  # (344, 403), in m
terrain = torch.tensor(elevation.astype("float32"))
RADIUS, MOST = (
    12,
    16,
)  # of the surroundings, in points of the map, which are about 80 m apart; of stations

# %%
# Graphs as tensors
# -----------------
# it3 needs one dimension along which samples lie, and here a sample is a *graph*. So graphs are padded to as many nodes
# as the largest has: nodes are (B, N, 4), and edges are a matrix of weights, (B, N, N). Node 0 is the place, whose
# height is not known; the other nodes are stations, or padding. Of each node the network is given where it lies, its
# height above the mean of its graph's stations, in units of 100 m, and whether it is a station. Its edges come from the
# four nearest stations.


Range = tuple[int, int]


def batches(count: int, columns: Range, stations: Range, noise: float = 0.0) -> list:
    """Draw places in these columns of the map, and stations: ((nodes, edges), heights)."""
    row = torch.randint(RADIUS, len(terrain) - RADIUS, (count, 1))
    column = torch.randint(columns[0] + RADIUS, columns[1] - RADIUS, (count, 1))
    offsets = torch.randint(-RADIUS, RADIUS + 1, (2, count, 1 + MOST))
    offsets[:, :, 0] = 0
    number, node = (
        torch.randint(stations[0], stations[1] + 1, (count, 1)),
        torch.arange(1 + MOST),
    )
    is_station = (node > 0) & (node <= number)
    heights = terrain[row + offsets[0], column + offsets[1]] / 100
    heights = heights - (heights * is_station).sum(1, keepdim=True) / number
    x, y = offsets / RADIUS
    measured = heights + noise * torch.randn(heights.shape)
    nodes = torch.stack([x, y, measured, torch.ones_like(x)], dim=2) * is_station[..., None]
    places = torch.stack([x, y], dim=2)
    distances = torch.cdist(places, places).masked_fill(~is_station[:, None], torch.inf)
    near = distances.topk(4, largest=False)
    weights = (-5 * near.values).softmax(2)
    edges = torch.zeros_like(distances).scatter(2, near.indices, weights)
    split = zip(nodes.split(40), edges.split(40), heights[:, :1].split(40), strict=True)
    return [((nodes, edges), target) for nodes, edges, target in split]


torch.manual_seed(0)
training = batches(1200, columns=(0, 200), stations=(8, 16))  # the west of the map
held_out = batches(320, columns=(200, 300), stations=(8, 16), noise=0.5)
test = batches(320, columns=(300, 403), stations=(4, 6))  # the east

(nodes, edges), heights = test[0]
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
left.imshow(terrain.numpy(), cmap="terrain")
left.vlines([200, 300], 0, 343, color="black", linestyle="--")
left.set(title="training | held out | test", xticks=[], yticks=[])
right.set(
    title=f"a graph of the test: the star is {100 * heights[0, 0]:.0f} m above the mean",
    xticks=[],
    yticks=[],
)
for x, y, weight in zip(nodes[0, :, 1], -nodes[0, :, 0], edges[0, 0], strict=True):
    right.plot([0, x], [0, y], color="gray", linewidth=6 * weight)  # the edges to the place
stations = nodes[0, nodes[0, :, 3] > 0].numpy()
x, y, height = stations[:, 1], -stations[:, 0], 100 * stations[:, 2]
points = right.scatter(x, y, c=height, cmap="terrain", zorder=2)
right.scatter(0, 0, marker="*", color="black", s=120, zorder=2)
figure.colorbar(points, ax=right, label="m above the stations' mean")
plt.show()

# %%
# A graph network, and where to feed back
# ---------------------------------------
# ``encoder`` returns the nodes' features. What is fed back there is the prediction for the whole graph: its embedding
# is added to each node of that graph.


class TerrainNet(nn.Module):
    """Nodes, (B, N, 4), and edges, (B, N, N), to the height of node 0, (B, 1)."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(4, 32)
        self.own = nn.ModuleList(nn.Linear(32, 32) for _ in range(2))
        self.neighbors = nn.ModuleList(nn.Linear(32, 32, bias=False) for _ in range(2))
        self.head = nn.Linear(32, 1)

    def forward(self, nodes: Tensor, edges: Tensor) -> Tensor:
        """Predict."""
        h = self.encoder(nodes)
        for own, neighbors in zip(self.own, self.neighbors, strict=True):
            h = h + (own(h) + neighbors(edges @ h)).relu()
        return self.head(h[:, 0])


# %%
# Several inputs are a tuple. Dimension 0 of both is that of the graphs, which ``in_dims=0`` says, as it would to
# ``torch.vmap``. With a matrix of edges that all graphs share it would be ``in_dims=(0, None)``. After training,
# ``explain`` tells what it3 takes for samples and channels: dimension 1 of the features, that of the nodes, is neither.
#
# ``plain`` are networks into which nothing is ever fed back in training. They are a control: something simpler that
# adaptation has to beat.


def train(seed: int, recipe: it3.TrainingRecipe) -> it3.IT3Engine:
    """Train a network on places in the west, with many stations."""
    torch.manual_seed(seed)
    engine = it3.IT3Engine(TerrainNet(), "encoder", in_dims=0, training_recipe=recipe)
    engine.fit(
        training,
        F.l1_loss,
        epochs=2,
        optimizer=lambda parameters: torch.optim.Adam(parameters, lr=5e-3),
    )
    return engine


engines = [train(seed, it3.TrainingRecipe()) for seed in range(3)]
plain = [train(seed, it3.TrainingRecipe(second_pass="none")) for seed in range(3)]
print(engines[0].explain(test[0][0]))

# %%
# Choosing on another shift
# -------------------------
# How to adapt is chosen on places in the middle of the map, where the stations are many but noisy. To choose are the
# number of steps, the learning rate, and the *anchor*, the network that makes y1: "self", the adapting one, or
# "frozen", the network before it adapts. The metric is the mean absolute error, in units of 100 m. The best candidate
# is taken even where 0 steps is better, so that there is one to judge.

candidates = {
    f"{steps} steps, {anchor}, {lr}": {"num_steps": steps, "anchor": anchor, "lr": lr}
    for steps, anchor, lr in [
        (1, "self", 1e-4),
        (1, "self", 1e-3),
        (3, "self", 1e-3),
        (3, "frozen", 1e-3),
    ]
}
scores = it3.evaluate(engines[0], held_out, "mae", candidates).to_frame()["score"]
print(scores)
chosen = candidates[scores[list(candidates)].idxmin()]

# %%
# Together, or each graph alone
# -----------------------------
# By default a batch adapts one set of weights. With ``per_sample=True`` each graph has its own, as if it were alone,
# and all adapt at once; the losses are then (steps, B). On the left, these over ten steps; on the right, what adapting
# changed of each prediction.

nodes_and_edges, heights = test[0]
before = engines[0].adapt(nodes_and_edges, num_steps=0)
alone = engines[0].adapt(nodes_and_edges, **{**chosen, "per_sample": True, "num_steps": 10})
print(alone)
figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
it3.plots.losses(alone, ax=left)
it3.plots.before_and_after(before, alone, heights, ax=right)
plt.show()

# %%
# Does it help?
# -------------
# What needs no network is here the mean of the four nearest stations, weighted by their edges. ``others`` takes it, as
# it takes other methods of adaptation; ``reference`` makes a control of the training targets, their median.


def nearest_stations(inputs: tuple[Tensor, Tensor]) -> Tensor:
    """Predict the height of node 0, (B, 1), from the edges that lead to it."""
    nodes, edges = inputs
    return (edges[:, 0] * nodes[..., 2]).sum(1, keepdim=True)


evaluation = it3.evaluate(
    engines,
    test,
    "mae",
    {
        "defaults": {},
        "chosen": chosen,
        "chosen, each alone": {**chosen, "per_sample": True},
    },
    without_second_term=plain,
    reference=torch.cat([targets for _, targets in training]),
    others={"nearest stations": nearest_stations},
)
print(evaluation)

# %%
# The last lines are the verdict: each variant against the best control, with an interval that says how sure this is
# after three networks and eight batches. A variant that is "worse" or has "no clear gain" is not worth its time, which
# is in the column ``ms``, for a batch.

it3.plots.gains(evaluation, ax=plt.figure(figsize=(9, 4), layout="constrained").gca())
plt.show()

# %%
# Where to go on
# --------------
# - A batch as one large graph, (nodes of all graphs, features), has no dimension of samples. Pad as here, or call the
#   engine with one graph at a time.
# - Molecules and airfoils, with more controls: ``examples/molecule_graphs.py`` and ``examples/airfoil_graph.py``, and
#   what came of them in :doc:`/results`.
# - :class:`it3.IT3Engine` with ``"input"`` and ``extra_channels`` feeds the prediction back as further node features.
# - :func:`it3.search` chooses layer and training too.
