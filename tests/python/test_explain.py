"""How an engine says that its calls run."""

import torch
from it3 import IT3Engine, Layout
from torch import nn

REST = """
CUDA graph:  none, it does not run on a CUDA device
fed back:    y0
features:    (5, 8), channels in dimension 1 (8), samples in dimension 0
prediction:  (5, 3), channels in dimension 1 (3), samples in dimension 0"""


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))


def test_of_a_model_that_is_cut() -> None:
    engine, x = IT3Engine(network(), "0"), torch.randn(5, 6)
    explanation = engine.explain(x)
    assert str(explanation) == "runs:        cut at the layer, exported by torch.export" + REST
    assert explanation.is_cut
    assert explanation.why_whole == explanation.compiled == explanation.why_not_shared == ""
    assert not explanation.is_compiled
    assert explanation.features.shape == (5, 8)
    assert explanation.features.layout == Layout(channel_dim=1)
    engine.distance_fn = "js"
    assert engine.explain(x).fed_back == "softmax(y0)"
    engine.feedback = "prediction"
    assert engine.explain(x).fed_back == "y0"


def test_of_a_model_that_runs_whole() -> None:
    model = network()
    model.register_forward_hook(lambda *_: None)
    explanation = IT3Engine(model, "0").explain(torch.randn(5, 6))
    assert (
        str(explanation) == "runs:        run whole, with a hook on the layer: a module of the model has hooks" + REST
    )
    assert not explanation.is_cut
    assert explanation.why_whole == "a module of the model has hooks"


def test_of_a_torchscript_module() -> None:
    explanation = IT3Engine(torch.jit.script(network()), "0").explain(torch.randn(5, 6))
    assert str(explanation) == "runs:        cut at the layer, a TorchScript module" + REST
    assert explanation.is_cut


def test_of_tensors_of_one_and_of_four_dimensions() -> None:
    images = nn.Sequential(nn.Conv2d(2, 6, 3), nn.Conv2d(6, 3, 1))
    explanation = IT3Engine(images, "0").explain(torch.randn(4, 2, 9, 9))
    assert str(explanation.features) == "(4, 6, 7, 7), channels in dimension 1 (6), samples in dimension 0"
    flat = nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 1), nn.Flatten(0))
    explanation = IT3Engine(flat, "0").explain(torch.randn(5, 6))
    assert str(explanation.prediction) == "(5,), samples in dimension 0"
    assert explanation.prediction.layout.channel_dim is None
