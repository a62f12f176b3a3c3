"""Lift and drag of airfoils by a graph network on the outline: trained on NACA profiles, tested on unusual ones.

The truth is NeuralFoil, a network fitted to XFoil, at an angle of attack of 4 degrees and a Reynolds number of 1e6.
Settings are chosen on NACA profiles that are thicker and more cambered than those of training.
"""

import functools
from pathlib import Path

import aerosandbox as asb
import aerosandbox.geometry.airfoil
import neuralfoil
import numpy as np
import torch
import torch.nn.functional as F
from study import Study, batches_of
from study_run import run
from torch import Tensor, nn

SIDE = 25  # points on each side of an outline
TRAIN, CLEAN, VALIDATION, TEST = 2000, 480, 320, 640
BATCH = 32
LEAST_CONFIDENCE = 0.7  # of NeuralFoil in its own answer


class RingConvolution(nn.Module):
    """A graph convolution: each node's features, and the mean of its neighbors'."""

    edges: Tensor

    def __init__(self, inputs: int, outputs: int, edges: Tensor) -> None:
        super().__init__()
        self.own = nn.Linear(inputs, outputs)
        self.neighbors = nn.Linear(inputs, outputs, bias=False)
        self.register_buffer("edges", edges)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, N, outputs) for (B, N, inputs)."""
        source, target = self.edges
        degree = torch.bincount(target, minlength=x.shape[1]).to(x.dtype)
        mean = torch.zeros_like(x).index_add(1, target, x[:, source]) / degree[:, None]
        features: Tensor = self.own(x) + self.neighbors(mean)
        return features.relu()


class AirfoilNet(nn.Module):
    """Outlines of `nodes` nodes with `inputs` features each, (B, N, inputs), to numbers, (B, outputs)."""

    def __init__(self, nodes: int, inputs: int = 2, outputs: int = 2) -> None:
        super().__init__()
        ring = torch.arange(nodes)
        around = torch.cat([torch.stack([ring, ring.roll(k)]) for k in (-4, -1, 1, 4)], dim=1)
        self.encoder = nn.Linear(inputs, 32)
        self.layers = nn.ModuleList(RingConvolution(32, 32, around) for _ in range(3))
        self.head = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Predict."""
        x = self.encoder(x)
        for layer in self.layers:
            x = x + layer(x)
        prediction: Tensor = self.head(torch.cat([x.mean(1), x.amax(1)], dim=1))
        return prediction


def describe(airfoil: asb.Airfoil) -> tuple[np.ndarray, np.ndarray] | None:
    """Return an outline's points and its lift and log drag; nothing if NeuralFoil does not trust its answer."""
    outline = airfoil.repanel(n_points_per_side=SIDE).coordinates
    aero = neuralfoil.get_aero_from_coordinates(outline, alpha=4.0, Re=1e6, model_size="large")
    if not np.isfinite(outline).all() or float(aero["analysis_confidence"][0]) < LEAST_CONFIDENCE:
        return None
    return outline[:-1], np.array([float(aero["CL"][0]), np.log(float(aero["CD"][0]))])


def naca(
    count: int, rng: np.random.Generator, camber: tuple[int, int], thickness: tuple[int, int]
) -> list[asb.Airfoil]:
    """Draw NACA profiles of four digits."""
    digits = zip(rng.integers(*camber, count), rng.integers(2, 7, count), rng.integers(*thickness, count), strict=True)
    return [asb.Airfoil(f"naca{m}{p if m else 0}{t:02d}") for m, p, t in digits]


def unusual() -> list[asb.Airfoil]:
    """Return the profiles of the UIUC database, in a drawn order."""
    folder = Path(aerosandbox.geometry.airfoil.__file__).parent / "airfoil_database"
    names = sorted(path.stem for path in folder.glob("*.dat"))
    order = np.random.default_rng(0).permutation(len(names))
    return [asb.Airfoil(names[i]) for i in order[: 2 * TEST]]


def to_tensors(airfoils: list[asb.Airfoil], count: int) -> tuple[Tensor, Tensor]:
    """Return outlines, (count, N, 2), and lift and log drag, (count, 2)."""
    found = []
    for airfoil in airfoils:
        try:
            described = describe(airfoil)
        except (ValueError, IndexError, RuntimeError):  # some of the database's files are no closed outlines
            continue
        if described is not None:
            found.append(described)
        if len(found) == count:
            break
    outlines, values = zip(*found, strict=True)
    return torch.tensor(np.stack(outlines), dtype=torch.float32), torch.tensor(np.stack(values), dtype=torch.float32)


def build() -> Study:
    """Draw the profiles and compute their lift and drag."""
    rng = np.random.default_rng(0)
    usual = to_tensors(naca(TRAIN + CLEAN + 400, rng, (0, 5), (8, 16)), TRAIN + CLEAN)
    thick = to_tensors(naca(VALIDATION + 400, rng, (4, 8), (16, 24)), VALIDATION)
    strange = to_tensors(unusual(), TEST)
    mean, sd = usual[1][:TRAIN].mean(0), usual[1][:TRAIN].std(0)
    scale = torch.tensor([0.5, 0.1])

    def scaled(outlines: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        return (outlines - torch.tensor([0.5, 0.0])) / scale, (values - mean) / sd

    x, y = scaled(*usual)
    return Study(
        script="airfoil_graph",
        title="Lift and drag of unusual airfoils",
        make_network=functools.partial(AirfoilNet, x.shape[1]),
        layers=["encoder", "layers.1", "head.0"],
        neutral=10.0,
        inputs=x[:TRAIN],
        targets=y[:TRAIN],
        criterion=F.mse_loss,
        metric="mae",
        higher_is_better=False,
        validation=batches_of(*scaled(*thick), BATCH),
        clean=batches_of(x[TRAIN:], y[TRAIN:], BATCH),
        shifts={"unusual shapes": batches_of(*scaled(*strange), BATCH)},
        epochs=25,
        batch=BATCH,
    )


if __name__ == "__main__":
    run(build, __doc__)
