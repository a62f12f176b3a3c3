"""A device that runs out of memory in the middle of a call leaves model, engine and random state as they were."""

import gc
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from it3 import IT3Engine
from kinds_of_network import NETWORKS
from test_transaction import Snapshot
from torch import Tensor, nn

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.filterwarnings("ignore:adaptation cannot be recorded"),
    pytest.mark.filterwarnings("ignore:per_sample. the samples adapt one after another"),
]

POINTS = 12
WIDTH, SAMPLES = 2048, 4096  # tensors of 16 and 32 MiB, which torch asks CUDA for one by one
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "frozen": {"anchor": "frozen"},
    "online, ema": {"copy_model": False, "anchor": "ema"},
    "threshold": {"threshold": 0.0},
    "no graphs": {"cuda_graphs": "off"},
    "per_sample": {"per_sample": True, "num_steps": 1, "parameters": ["4.*"]},
}


@pytest.fixture(autouse=True)
def all_memory() -> Iterator[None]:
    yield
    torch.cuda.set_per_process_memory_fraction(1.0)
    torch.cuda.empty_cache()


def make_engine(network: str, **options: Any) -> tuple[IT3Engine, Tensor]:
    torch.manual_seed(0)
    layers = [nn.Linear(WIDTH, WIDTH), nn.Tanh(), nn.Dropout(0.1), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 8)]
    model = nn.Sequential(*layers).cuda().eval()
    parameters = {"num_steps": 2, "optimizer_name": "sgd", "lr": 1e-3, **options}
    engine = IT3Engine(NETWORKS[network](model), "0", optimization_parameters=parameters).eval()
    engine.is_trained = True
    samples = 64 if options.get("per_sample") else SAMPLES
    return engine, torch.randn(samples, WIDTH, device="cuda")


def free_what_is_unused() -> None:
    gc.collect()
    torch.cuda.empty_cache()


def shortages() -> int:
    """How often torch has found no memory on the device."""
    count: int = torch.cuda.memory_stats()["num_ooms"]
    return count


def peak_of(call: Callable[[], object]) -> tuple[int, int]:
    """Bytes that torch has reserved before a call, and at most in it."""
    free_what_is_unused()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_reserved()
    call()
    return before, torch.cuda.max_memory_reserved()


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("is_fresh", [True, False])
def test_any_allocation_can_fail(is_fresh: bool, network: str, options: str) -> None:
    total = torch.cuda.get_device_properties(0).total_memory

    def prepared() -> tuple[IT3Engine, Tensor]:
        engine, x = make_engine(network, **OPTIONS[options])
        if not is_fresh:
            engine.adapt(x[:8])
            engine.reset()
        return engine, x

    engine, x = prepared()
    expected: list[Tensor] = []

    def adapt() -> None:
        torch.manual_seed(1)
        expected.append(engine.adapt(x).prediction)

    before, peak = peak_of(adapt)
    engine.reset()
    assert peak > before
    short = 0
    for i in range(POINTS):
        engine, x = prepared()
        torch.manual_seed(1)
        snapshot = Snapshot(engine)
        free_what_is_unused()
        shortages_before = shortages()
        limit = torch.cuda.memory_reserved() + (peak - before) * i // POINTS
        torch.cuda.set_per_process_memory_fraction(limit / total)
        try:
            engine.adapt(x)
        except torch.OutOfMemoryError:
            torch.cuda.set_per_process_memory_fraction(1.0)
            snapshot.check(random=True)
            assert engine.drift().distance == 0
        torch.cuda.set_per_process_memory_fraction(1.0)
        short += shortages() > shortages_before
        engine.reset()
        for _ in range(3):  # is recorded, and replayed
            torch.manual_seed(1)
            torch.testing.assert_close(engine.adapt(x).prediction, expected[0], rtol=1e-4, atol=1e-5)
            engine.reset()
        assert network == "hooks" or engine.explain(x).runs.startswith("cut at the layer")
    assert short > POINTS // 3, "an error, or another way: smaller chunks of samples, no recording"
