"""Engines in one file, which C++ reads too."""

import io
import os
from typing import Any

import torch
from torch import Tensor, nn

from it3 import _C
from it3.embedder import Embedder
from it3.engine import IT3Engine
from it3.export import (
    FunctionOfOne,
    FunctionOfTwo,
    Method,
    check_close,
    copy_of,
    quiet_torchscript,
    to_torchscript,
)

_FUNCTIONS = ("embedder", "combine", "distance")


def save(
    engine: IT3Engine,
    path: str | os.PathLike[str],
    example_inputs: Any,
    method: Method = "script",
) -> None:
    """Write an engine to one TorchScript archive: network, embedder, layer, options, functions and notes.

    ``torch.jit.load`` opens it as the plain network; :func:`it3.load` and, in C++, ``it3::Engine::load`` as the engine.

    Parameters
    ----------
    engine
        Its model, and an embedder, ``combine_fn`` or ``distance_fn`` of your own, are exported to TorchScript.
    path
        The file, which appears when it is complete.
    example_inputs
        What the model is called with. An eager model is exported, and compared with the export on them; they shape the
        embedder too if no call has. Their shapes are noted in the file.
    method
        How to export: "script" compiles the source, "trace" records one call. A traced function is right for shapes
        like those of the call.

    Raises
    ------
    ValueError
        For parts that cannot be exported, and if the exported engine gives other results than the eager one.
    """
    exported = _exported(engine, example_inputs, method)
    facts = {
        "feedback": engine.feedback,
        "is_trained": engine.is_trained,
        "learnt_probabilities": engine._learnt_probabilities,
    }
    _C.save_engine(os.fspath(path), exported._parts(), engine.optimization_parameters, example_inputs, facts)


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
    archives: dict[str, Any] = {f"it3_{name}": "" for name in _FUNCTIONS}
    with quiet_torchscript():
        model = torch.jit.load(os.fspath(path), map_location=device, _extra_files=archives)
        functions = {
            name: torch.jit.load(io.BytesIO(archive), map_location=device)
            for name, archive in zip(_FUNCTIONS, archives.values(), strict=True)
            if archive
        }
    engine = IT3Engine(
        model,
        saved["layer"],
        functions.get("embedder") or _default_embedder(saved, device or _device_of(model)),
        functions.get("combine"),
        functions.get("distance") or saved["distance"],
        optimization_parameters=saved["options"],
        neutral=saved["neutral"],
        feedback=saved["feedback"],
        in_dims=saved["in_dims"],
        prediction_layout=saved["prediction_layout"],
        features_layout=saved["features_layout"],
    )
    engine.is_trained, engine._learnt_probabilities = saved["is_trained"], saved["learnt_probabilities"]
    engine.notes = saved["notes"]
    return engine.eval()


def _default_embedder(saved: dict[str, Any], device: torch.device | str) -> Embedder:
    weights = dict(zip(("weight1", "bias1", "weight2", "bias2"), saved["embedder"], strict=True))
    # Its dtype comes first, as loading a state dict rounds to it.
    embedder = Embedder(saved["prediction_layout"], saved["features_layout"]).to(weights["weight1"].dtype)
    embedder.load_state_dict(weights)
    return embedder.to(device)


def _device_of(model: nn.Module) -> torch.device:
    return next((p.device for p in model.parameters()), torch.device("cpu"))


def _exported(engine: IT3Engine, example_inputs: Any, method: Method) -> IT3Engine:
    """Make an engine of TorchScript parts, and compare its adapted predictions with the engine's."""
    engine.uncertainty(example_inputs)  # shapes the embedder
    embeder = engine.embeder
    if isinstance(embeder, nn.Module) and not isinstance(embeder, Embedder):
        embeder = copy_of(embeder).eval()  # a copy, as the user's own stays in the mode that it is in
    eager = _of_parts(engine, copy_of(engine.model).eval(), embeder, engine.combine_fn, engine.distance_fn)
    calls = _calls_of(eager, example_inputs)
    exported = _of_parts(
        engine,
        _compiled("the model", eager.model, example_inputs, method),
        _compiled("embeder", eager.embeder, calls["embeder"], method),
        _compiled("combine_fn", eager.combine_fn, calls["combine_fn"], method),
        _compiled("distance_fn", eager.distance_fn, calls["distance_fn"], method),
    )
    for steps in (0, 1):
        # Without draws, and decisions that rounding could turn.
        options = {"num_steps": steps, "copy_model": True, "restore_probability": 0, "threshold": None}
        expected, actual = (e.adapt(example_inputs, **options) for e in (eager, exported))
        for name in ("prediction", "second"):
            what = f"exported by {method!r}, the engine gives other predictions than the eager one after {steps} steps"
            check_close(getattr(actual, name), getattr(expected, name), what)
    return exported


def _of_parts(engine: IT3Engine, model: nn.Module, embeder: Any, combine_fn: Any, distance_fn: Any) -> IT3Engine:
    """Make an engine like another one, of other parts."""
    other = IT3Engine(
        model,
        engine.features_layer_name,
        embeder,
        combine_fn,
        distance_fn,
        engine.optimization_parameters,
        engine.neutral,
        feedback=engine.feedback,
        in_dims=engine.in_dims,
        prediction_layout=engine.prediction_layout,
        features_layout=engine.features_layout,
    )
    other.is_trained, other._learnt_probabilities = True, engine._learnt_probabilities  # nobody is to be warned
    other._are_layouts_settled = True  # the engine has run
    return other


def _compiled(name: str, part: Any, example: Any, method: Method) -> Any:
    """Export one part of an engine; the default ones stay as they are."""
    if part is None or isinstance(part, str | Embedder):
        return part
    if not isinstance(part, nn.Module):
        part = FunctionOfOne(part) if name == "embeder" else FunctionOfTwo(part)
    try:
        return to_torchscript(part, example, method)
    except RuntimeError as error:
        other = {"script": "trace", "trace": "script"}[method]
        raise ValueError(
            f"{name} cannot be exported by method={method!r}; try method={other!r}, or write it in what TorchScript "
            f"takes: {str(error).strip().splitlines()[0]}"
        ) from error


def _calls_of(engine: IT3Engine, inputs: Any) -> dict[str, tuple[Tensor, ...]]:
    """Give the arguments with which an engine calls its functions."""
    calls: dict[str, tuple[Tensor, ...]] = {"combine_fn": ()}

    def recording(features: Tensor, embedding: Tensor) -> Tensor:
        calls["combine_fn"] = (features, embedding)
        combined: Tensor = combine_fn(features, embedding)
        return combined

    combine_fn = engine.combine_fn
    combine = None if combine_fn is None else recording
    recorder = _of_parts(engine, engine.model, engine.embeder, combine, engine.distance_fn)
    prediction = recorder.adapt(inputs, num_steps=0).prediction
    return {**calls, "embeder": (prediction,), "distance_fn": (prediction, prediction)}
