"""What torch itself leaves behind when it compiles a model, which no caller can take back."""

import io
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from endurance.uses import Use, Way, X, independent, mlp


def _compile(folder: Path, *, exports: int = 0, scripts: int = 0) -> Use:
    """Export a model, as a cut of it does, and compile it, as saving does."""
    model = mlp()
    shapes = ({0: torch.export.Dim.AUTO},)

    def call() -> Tensor:
        for _ in range(exports):
            torch.export.export(model, (X,), dynamic_shapes=shapes, strict=False)
        for _ in range(scripts):
            torch.jit.script(model)
        return X

    return independent(call)


def _save_export(_: Path) -> Use:
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
    "torch: export": Way(partial(_compile, exports=1), 0.1),
    "torch: export twice": Way(partial(_compile, exports=2), 0.1),
    "torch: export and script": Way(partial(_compile, exports=1, scripts=1), 0.1),
    "torch: save an export": Way(_save_export, 0.05),
}
OF = {
    "save and load, cut": "torch: export and script",
    "copy and adapt, cut": "torch: export",
    "new engine, cut": "torch: export",
    "save adapted, export": "torch: save an export",
    "attributes": "torch: export twice",
}
"""Of ways that compile a model at each call, what they may grow by."""
