"""On which devices tests run."""

import pytest
import torch


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def device(request: pytest.FixtureRequest) -> str:
    return request.param


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "cuda: needs a CUDA device")
    config.addinivalue_line("markers", "two_cuda_devices: needs two")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    # Deselected rather than skipped: where there is no CUDA device, these are not tests that should have run.
    devices = torch.cuda.device_count()
    needs = {"cuda": 1, "two_cuda_devices": 2}
    can_run = [item for item in items if all(n <= devices or not item.get_closest_marker(m) for m, n in needs.items())]
    config.hook.pytest_deselected(items=[item for item in items if item not in can_run])
    items[:] = can_run
