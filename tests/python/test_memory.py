"""What adaptation takes of memory, beside activations."""

import resource

import pytest
import torch
from it3 import _C, IT3Engine
from kinds_of_network import NETWORKS, build
from models import make_case
from torch import nn


@pytest.mark.parametrize("network", NETWORKS)
def test_at_most_four_times_the_parameters(network: str) -> None:
    """Weights, gradients and Adam's two moments; activations are nothing beside these."""
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(256, 256) for _ in range(24))).eval()
    engine = IT3Engine(NETWORKS[network](model), "12", optimization_parameters={"lr": 1e-4}).eval()
    x = torch.randn(1, 256)
    engine(x)
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    summed = 2 * 256 * 256 * 4  # a layer's gradients of the two passes
    activations = 8 * 24 * 256 * 4
    assert _C.peak_memory(lambda: engine(x)) < 4 * size + summed + activations


@pytest.mark.memory
@pytest.mark.parametrize("network", NETWORKS)
def test_flat_over_many_calls(network: str) -> None:
    case = make_case("mlp", torch.float32)
    engine, _ = build(case, network, optimization_parameters={"num_steps": 1})

    def resident(calls: int) -> int:
        for _ in range(calls):
            engine(case.inputs)
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    before = resident(1000)
    assert resident(1000 if network == "hooks" else 9000) - before < 2**21
