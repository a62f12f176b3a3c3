from pathlib import Path

import pytest
import torch
from server.serving import mlp, save
from torch import Tensor


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One whose steps change predictions by far more than rounding."""
    return save(tmp_path_factory.mktemp("engine") / "engine.pt", mlp(), torch.randn(4, 13))


@pytest.fixture(scope="session")
def samples() -> Tensor:
    return torch.randn(1000, 1, 13, generator=torch.Generator().manual_seed(1))
