"""The two engines that the benchmarks compare, over equal models."""

import copy
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from it3 import IT3Engine
from torch import Tensor, nn

# torch-ttt can only be imported with stand-ins, which the tests have.
sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "python"))
from torch_ttt_reference import TorchTTTEngine


def make_engines(model: nn.Module, layer: str, inputs: Tensor, **options: Any) -> dict[str, nn.Module]:
    """Give the engines in eval mode, each with its own copy of the model and its own default embedder, equal ones."""
    theirs = TorchTTTEngine(copy.deepcopy(model), layer, optimization_parameters=dict(options)).train()
    theirs.model.eval()
    theirs(inputs)  # builds its embedder
    theirs.embeder.to(inputs.device)
    ours = IT3Engine(model, layer, optimization_parameters=options)
    ours.load_state_dict(theirs.state_dict())
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`torch.jit")
        script = IT3Engine(torch.jit.script(copy.deepcopy(model).eval()), layer, optimization_parameters=options)
    script.load_state_dict(ours.state_dict())
    return {"it3": ours.eval(), "it3, TorchScript": script.eval(), "torch-ttt": theirs.eval()}
