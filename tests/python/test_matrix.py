"""Every kind of network adapts by every combination of options as the formula does, in float64."""

import itertools
from functools import partial

import pytest
import reference
import torch
from kinds_of_network import NETWORKS, build
from models import make_case

close = partial(torch.testing.assert_close, rtol=1e-8, atol=1e-10)
PATHS = {
    "hooks": "run whole, with a hook on the layer",
    "traced": "cut at the layer, exported by torch.export",
}
PATHS["script"] = "cut at the layer, a TorchScript module"
OPTIMIZERS = {
    "adam": {},
    "adamw": {"weight_decay": 0.1},
    "sgd": {"momentum": 0.9, "lr": 0.1},
    "rmsprop": {"momentum": 0.5, "lr": 1e-3},
    "adagrad": {},
}
COMBINATIONS = list(itertools.product(("self", "frozen", "ema"), ("running", "batch", "blend"), OPTIMIZERS))


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.filterwarnings("ignore:per_sample. the samples adapt one after another")
def test_agrees_with_the_formula(network: str, per_sample: bool, device: str) -> None:
    case = make_case("cnn", device=device)
    case.layer = "conv2"  # right before batch normalization, one sample's statistics would take the injection away
    engine, embed = build(case, network)
    assert engine.explain(case.inputs).runs == PATHS[network]
    for anchor, statistics, optimizer in COMBINATIONS:
        options = {"anchor": anchor, "optimizer_name": optimizer, "max_grad_norm": 0.1, **OPTIMIZERS[optimizer]}
        model = reference.with_statistics(case.model, statistics)
        adaptation = engine.adapt(case.inputs, norm_statistics=statistics, per_sample=per_sample, **options)
        if per_sample:
            expected, losses = reference.adapt_each(model, case.layer, embed, case.inputs, **options)
        else:
            expected, losses, _ = reference.adapt(model, case.layer, embed, case.inputs, **options)
        close(adaptation.prediction, expected, msg=lambda text, options=options: f"{options}: {text}")
        close(adaptation.losses, torch.as_tensor(losses, dtype=torch.float64, device=device))
