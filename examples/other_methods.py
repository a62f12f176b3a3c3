"""Other methods of test-time adaptation, as torch-ttt 0.0.2 implements them, beside which a study shows IT3."""

import contextlib
import copy
import sys
from collections.abc import Callable
from typing import Any
from unittest.mock import MagicMock

import torch
from it3 import IT3Engine
from study import Study, batches_of, first_layer_in
from study_search import Choice
from torch import Tensor, nn

# torch-ttt imports torchvision for augmentations, which are not used here.
_ABSENT = [
    name
    for name in ("torchvision", "torchvision.transforms", "torchvision.transforms.functional", "torchvision.models")
    if name not in sys.modules
]
sys.modules.update({name: MagicMock() for name in _ABSENT})
try:
    from torch_ttt.engine.actmad_engine import ActMADEngine
    from torch_ttt.engine.eata_engine import EataEngine
    from torch_ttt.engine.memo_engine import MemoEngine
    from torch_ttt.engine.tent_engine import TentEngine
finally:
    for _name in _ABSENT:
        del sys.modules[_name]


def methods_of_torch_ttt(study: Study, choice: Choice) -> Callable[[IT3Engine], dict[str, nn.Module]]:
    """Return a function that makes the methods that can run a study's networks, for it3.evaluate.

    They take the steps and the learning rate that were chosen for IT3. torch-ttt's TENT and EATA adapt the weights of
    2-D batch normalization, and predict classes, EATA one for each sample, as MEMO does, which cannot run batch
    normalization. ActMAD compares activations with those of training, and needs none of this.
    """
    budget = {name: choice.adaptation[name] for name in ("num_steps", "lr")}

    def make(engine: IT3Engine) -> dict[str, nn.Module]:
        kinds = {type(module) for module in engine.model.modules()}
        makers: dict[str, Callable[[nn.Module], Any]] = {"ActMAD": actmad}
        has_one_class = study.is_of_classes and study.targets.dim() < 3  # else one for each position
        if study.is_of_classes and nn.BatchNorm2d in kinds:
            makers["TENT"] = lambda model: TentEngine(model, budget)
        if has_one_class and nn.BatchNorm2d in kinds:
            makers["EATA"] = lambda model: EataEngine(model, budget)
        if has_one_class and not kinds & {nn.BatchNorm1d, nn.BatchNorm2d} and study.inputs.is_floating_point():
            makers["MEMO"] = lambda model: MemoEngine(model, budget, augmentations=jittered)
        return {
            f"{name} of torch-ttt": Quiet(make(copy.deepcopy(engine.model))).eval() for name, make in makers.items()
        }

    def actmad(model: nn.Module) -> Any:
        layer = choice.training["layer"]
        if layer == "input":  # whose output depends on no weights
            layer = first_layer_in(study, model)
        method = ActMADEngine(model, [layer], budget)
        method.compute_statistics(batches_of(study.inputs, study.targets, study.batch))
        return method

    return make


class Quiet(nn.Module):
    """A method without what it prints, which some do at each step."""

    def __init__(self, method: nn.Module) -> None:
        super().__init__()
        self.method = method

    def forward(self, inputs: Any) -> Any:
        """Adapt and predict."""
        with contextlib.redirect_stdout(None):
            return self.method(inputs)


def jittered(inputs: Tensor) -> Tensor:
    """Add noise of a tenth of the inputs' standard deviation."""
    return inputs + 0.1 * inputs.std() * torch.randn_like(inputs)
