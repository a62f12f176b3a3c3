"""Functions of the user's own among an engine's, watched while the engine is compiled for them."""

from types import CodeType
from typing import Any

import torch
from torch import Tensor, nn

from it3 import _C
from it3.cutting.reads import Reads
from it3.cutting.recording import Recorder
from it3.cutting.tracing import ValueReads
from it3.engine import IT3Engine
from it3.engine_siblings import sibling
from it3.support.kept import own_copy

Codes = dict[int, tuple[CodeType, dict[str, Any]]]


def functions_of(engine: IT3Engine) -> dict[str, Any]:
    """Return the functions that an engine was given, by the names of its attributes.

    Raises
    ------
    ValueError
        For TorchScript, whose operations torch cannot record.
    """
    given = {"embedder": engine.embedder, "combine_fn": engine.combine_fn, "distance_fn": engine.distance_fn}
    functions = {name: part for name, part in given.items() if part is not None and not isinstance(part, str)}
    for name, function in functions.items():
        if isinstance(function, torch.jit.ScriptModule | torch.jit.ScriptFunction):
            raise ValueError(f"{name} is TorchScript, which cannot be compiled; give the function that it was made of")
    return functions


def codes_of_functions(engine: IT3Engine, example_inputs: Any) -> Codes:
    """Return the code of an engine's functions that runs when it adapts to these inputs; see :class:`Recorder`.

    Raises
    ------
    ValueError
        Where it asks for what is outside of Python's objects, such as the time, or for the values of tensors.
    """
    other = sibling(engine, {"num_steps": 1, "threshold": None, "copy_model": True, "cuda_graphs": "off"})
    other.is_trained = True  # nobody is to be warned here
    other.adapt(own_copy(example_inputs))  # the model is exported at the first call, which is no function's doing
    recorder = Recorder(_subject(engine))
    with ValueReads(recorder):
        recorder.run(lambda: other.adapt(own_copy(example_inputs)))
    _check(recorder.objection)
    return recorder.codes


def watch_functions(engine: IT3Engine, codes: Codes, constants: list[Tensor]) -> _C.Watch:
    """Return what tells whether an engine's functions, or what they read, have changed.

    Parameters
    ----------
    codes
        See :func:`codes_of_functions`.
    constants
        The tensors that programs read as they are at each call.

    Raises
    ------
    ValueError
        For what cannot be watched.
    """
    reads = Reads(nn.Module(), codes, functions_of(engine), constants)
    _check(reads.obstacle)
    return _C.Watch(reads.facts)


def check_unchanged(engine: IT3Engine, watch: _C.Watch) -> None:
    """Raise ValueError where an engine's functions have changed what they read."""
    _check(f"{_subject(engine)} changes Python variables that it reads" if watch.has_changed() else "")


def _subject(engine: IT3Engine) -> str:
    return " or ".join(functions_of(engine))


def _check(objection: str) -> None:
    if objection:
        raise ValueError(f"the engine cannot be compiled: {objection}")
