"""Engines in one file, which C++ reads too."""

import copy
import os
import warnings
from typing import Any, Literal

import torch
from torch import Tensor, nn

from it3 import _C
from it3.embedder import Embedder
from it3.engine import IT3Engine


def save(
    engine: IT3Engine,
    path: str | os.PathLike[str],
    example_inputs: Any,
    method: Literal["script", "trace"] = "script",
) -> None:
    """Write an engine to one TorchScript archive: network, embedder, layer, options and distance.

    ``torch.jit.load`` opens it as the plain network; :func:`it3.load` and, in C++, ``it3::Engine::load`` as the engine.

    Parameters
    ----------
    engine
        With the default embedder and combination, and a distance by its name.
    path
        The file, which appears when it is complete.
    example_inputs
        What the model is called with. An eager model is exported, and compared with the export on them; they shape the
        embedder too if no call has.
    method
        How to export an eager model: "script" compiles its source, "trace" records one call.

    Raises
    ------
    ValueError
        For parts that cannot be saved, and if the exported model or engine gives other results than the eager one.
    """
    if not isinstance(engine.embeder, Embedder):
        raise ValueError("only an engine with the default embedder, it3.Embedder, can be saved")
    if engine.combine_fn is not None or not isinstance(engine.distance_fn, str):
        raise ValueError("functions of your own cannot be saved; use the default combine_fn and a distance by its name")
    engine.uncertainty(example_inputs)  # shapes the embedder
    script = (
        engine.model if isinstance(engine.model, torch.jit.ScriptModule) else _export(engine, example_inputs, method)
    )
    embedder = engine.embeder
    layouts = (embedder.prediction_layout or _C.Layout(), embedder.features_layout or _C.Layout())
    network = _C.ScriptNetwork(script, engine.features_layer_name)
    weights = (embedder.weight1, embedder.bias1, embedder.weight2, embedder.bias2)
    _C.save_engine(os.fspath(path), network, weights, *layouts, engine.distance_fn, engine.optimization_parameters)


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
        Naming the file, if it is missing, damaged, no engine, or of a newer format.
    """
    saved = _C.load_engine(os.fspath(path))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of all of TorchScript; the format is ours to choose
        model = torch.jit.load(os.fspath(path), map_location=device)
    embedder = Embedder(saved["prediction_layout"], saved["features_layout"])
    names = ("weight1", "bias1", "weight2", "bias2")
    embedder.load_state_dict(dict(zip(names, saved["embedder"], strict=True)))
    first = next(model.parameters(), None)
    embedder.to(device if first is None else first.device, saved["embedder"][0].dtype)
    return IT3Engine(
        model, saved["layer"], embedder, distance_fn=saved["distance"], optimization_parameters=saved["options"]
    ).eval()


def _export(engine: IT3Engine, example_inputs: Any, method: str) -> torch.jit.ScriptModule:
    """Export an eager model, and compare the adapted predictions."""
    if method not in ("script", "trace"):
        raise ValueError(f"method must be 'script' or 'trace', not {method!r}")
    model = copy.deepcopy(engine.model).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        script: torch.jit.ScriptModule
        script = torch.jit.script(model) if method == "script" else _trace(model, example_inputs)
    # Not put into eval mode, which would reach the embedder that they share with the user's engine.
    eager, exported = (
        IT3Engine(
            network,
            engine.features_layer_name,
            engine.embeder,
            None,
            engine.distance_fn,
            engine.optimization_parameters,
        )
        for network in (model, script)
    )
    for steps in (0, 1):
        expected, actual = (e.adapt(example_inputs, num_steps=steps, copy_model=True) for e in (eager, exported))
        if not torch.allclose(actual.prediction, expected.prediction, rtol=1e-3, atol=1e-5):
            raise ValueError(
                f"the model exported by {method!r} gives other predictions than the eager one after {steps} steps, by "
                f"{_difference(actual.prediction, expected.prediction):.3g}; nothing was written. Try the other method"
            )
    return script


def _trace(model: nn.Module, example_inputs: Any) -> torch.jit.ScriptModule:
    if isinstance(example_inputs, dict):
        traced = torch.jit.trace(model, example_kwarg_inputs=example_inputs)
    else:
        positional = example_inputs if isinstance(example_inputs, Tensor) else tuple(example_inputs)
        traced = torch.jit.trace(model, positional)
    script: torch.jit.ScriptModule = traced
    return script


def _difference(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max())
