"""What torch itself leaves behind when it compiles a model, which no caller can take back."""

import io
from pathlib import Path

import torch
from torch import Tensor

from endurance.uses import Use, Way, X, independent, mlp


def _compile(times: int, folder: Path) -> Use:
    """Trace a model by torch.fx and compile it, as a cut of a model does."""
    model = mlp()

    def call() -> Tensor:
        for _ in range(times):
            torch.jit.script(torch.fx.symbolic_trace(model))
        return X

    return independent(call)


def _export(_: Path) -> Use:
    """Export a model, write it and read it twice, as it is compared when it is saved."""
    model = mlp()
    shapes = ({0: torch.export.Dim.AUTO},)

    def call() -> Tensor:
        content = io.BytesIO()
        torch.export.save(torch.export.export(model, (X,), dynamic_shapes=shapes, strict=False), content)
        for _ in range(2):
            content.seek(0)
            read = torch.export.load(content).module()
        return read(X).detach()

    return independent(call)


BASELINES = {
    "torch: compile": Way(lambda folder: _compile(1, folder), 0.1),
    "torch: compile twice": Way(lambda folder: _compile(2, folder), 0.1),
    "torch: export": Way(_export, 0.05),
}
OF = {
    "save and load, cut": "torch: compile twice",
    "copy and adapt, cut": "torch: compile",
    "new engine, cut": "torch: compile",
    "save adapted, export": "torch: export",
    "attributes": "torch: compile twice",
}
"""Of ways that compile a model at each call, what they may grow by."""
