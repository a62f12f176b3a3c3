"""What is found out before an engine's first call."""

from typing import Any

import torch

from it3 import _C
from it3.cutting.keeping import Keeper
from it3.cutting.layouts import origins_of
from it3.cutting.reads import Reads


def look_at_first(engine: _C.Engine, setup: _C.EngineSetup, inputs: Any, is_training: bool) -> _C.EngineSetup:
    """Settle where channels and samples are, and check that what is injected reaches the prediction.

    The model runs for that, and everything that it writes of Python's state is put back.

    Raises
    ------
    ValueError
        For a layout that is needed and stays open; where the injection has no effect.
    IndexError
        For a layout that was given, but that the tensor does not have.
    """
    model = setup.model
    keeper = None if isinstance(model, torch.jit.ScriptModule) else Keeper(Reads(model))
    try:
        return engine.look_at_first(setup, inputs, *origins_of(model, setup.layer_name, inputs, is_training))
    finally:
        if keeper is not None:
            keeper.put_back()
