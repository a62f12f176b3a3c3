"""Engines from files."""

import os
import warnings
from typing import Any

import torch
from torch import Tensor

from it3 import _C
from it3.cutting.exported_model import ExportedModel
from it3.embedder import Embedder
from it3.engine import IT3Engine
from it3.saving.saved_file import ATTRIBUTES, SavedEngine, read_engine
from it3.support.checks import eager
from it3.support.kept import KeptRandomState


def load(path: str | os.PathLike[str], device: torch.device | str | None = None) -> IT3Engine:
    """Read an engine that :func:`it3.save` or C++ wrote, in eval mode.

    Parameters
    ----------
    path
        The file.
    device
        Where its tensors go; by default, where they were.

    Raises
    ------
    RuntimeError
        Naming the file, if it is missing, damaged, no engine, or of another format.

    Examples
    --------
    >>> it3.save(engine, "engine.pt", example_inputs=x)
    >>> loaded = it3.load("engine.pt")
    >>> torch.allclose(loaded.adapt(x).prediction, engine.adapt(x).prediction)
    True
    """
    return engine_of(read_engine(path, device))


def engine_of(saved: SavedEngine) -> IT3Engine:
    """Make the engine that a file holds. Warns, with the reason, where its compiled programs cannot be run here."""
    engine = engine_without_programs(saved)
    if saved.programs is None:
        return engine
    why = saved.programs.why_not(next(eager(engine.model).parameters()).device)
    if not why:
        try:
            with KeptRandomState():
                _use(engine, saved.programs, saved.example_inputs)
        except (RuntimeError, ValueError) as error:
            why = str(error).splitlines()[0]
    if why:
        text = "the compiled programs of the saved engine are not used"
        warnings.warn(f"{text}: {why}; calls run without them, slower", stacklevel=3)
    return engine


def engine_without_programs(saved: SavedEngine) -> IT3Engine:
    """Make the engine that a file holds, in eval mode, without compiled programs."""
    engine = IT3Engine(**saved.arguments)
    engine.set_extra_state(torch.tensor([saved.is_trained, saved.learned_probabilities]))
    engine._core.calibrated_range = saved.calibrated_range
    engine.notes = saved.notes
    return engine.eval()


def _use(engine: IT3Engine, programs: _C.SavedPrograms, example_inputs: Any) -> None:
    """Have calls of an engine evaluated by programs from its file, while its functions are as they are."""
    from it3.compiling.function_watch import codes_of_functions, watch_functions  # noqa: PLC0415  (rarely needed)

    tensors: dict[str, Tensor] = {}
    functions = {name: getattr(engine, attribute) for name, attribute in ATTRIBUTES.items()}
    for name, function in functions.items():
        if isinstance(function, ExportedModel):
            places = function.places().items()
            tensors |= {f"{name}.{target}": namespace[key] for target, (namespace, key) in places}
        elif isinstance(function, Embedder):
            tensors |= {f"{name}.{key}": weight for key, weight in function.named_parameters()}
    setup = engine._setup_for(example_inputs)  # which tells the embedder where channels are
    watch = None
    if any(isinstance(function, ExportedModel) for function in functions.values()):
        read = [tensor for name, tensor in tensors.items() if name in programs.names]  # as they are at each call
        watch = watch_functions(engine, codes_of_functions(engine, example_inputs), read)
    _C.use_saved_programs(engine._core, setup, example_inputs, programs, tensors, watch)
