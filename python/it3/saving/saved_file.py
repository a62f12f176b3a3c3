"""What a saved engine's file holds."""

import io
import os
import warnings
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.export.passes import move_to_device_pass

from it3 import _C
from it3.cutting.export import quiet_torchscript
from it3.cutting.exported_model import model_of
from it3.embedder import Embedder
from it3.support.devices import device_of

ATTRIBUTES = {"embedder": "embedder", "combine": "combine_fn", "distance": "distance_fn"}
"""Of an engine, by the names that its functions have in files."""


@dataclass(frozen=True)
class SavedEngine:
    """An engine as a file holds it."""

    arguments: dict[str, Any]
    """Of :class:`it3.IT3Engine`."""
    is_trained: bool
    learned_probabilities: bool
    calibrated_range: tuple[str, float, int] | None
    """What the engine compares predictions with after adapting."""
    notes: dict[str, Any]
    programs: _C.SavedPrograms | None
    """Compiled ones."""
    example_inputs: Any
    """What they were compiled with; None where there are none."""


def read_engine(path: str | os.PathLike[str], device: torch.device | str | None = None) -> SavedEngine:
    """Read an engine that :func:`it3.save` or C++ wrote; see :func:`it3.load`."""
    path = os.fsdecode(path)
    saved = _C.load_engine(path)
    example_inputs = None
    functions: dict[str, Any] = {}
    if saved["is_script"]:
        model, functions = _modules_in(path, device)
    else:
        device = device or _device_of_programs(path, saved["programs"])
        model, example_inputs = _program_in(path, device)
        functions = _programs_of_functions(path, device)
    arguments = {
        "model": model,
        "features_layer_name": saved["layer"],
        "embedder": functions.get("embedder") or _default_embedder(saved, device or device_of(model) or "cpu"),
        "combine_fn": functions.get("combine"),
        "distance_fn": functions.get("distance") or saved["distance"],
        "optimization_parameters": saved["options"],
    }
    same = ("neutral", "output", "layer_output", "feedback", "in_dims", "prediction_layout", "features_layout")
    arguments |= {name: saved[name] for name in same}
    return SavedEngine(
        arguments,
        saved["is_trained"],
        saved["learned_probabilities"],
        saved["calibrated_range"],
        saved["notes"],
        saved["programs"],
        example_inputs,
    )


def _modules_in(path: str, device: torch.device | str | None) -> tuple[nn.Module, dict[str, Any]]:
    """Return the network, and functions of the user's own by their names."""
    archives: dict[str, Any] = {f"it3_{name}": "" for name in ATTRIBUTES}
    with quiet_torchscript():
        model = torch.jit.load(path, map_location=device, _extra_files=archives)
        functions = {
            name: torch.jit.load(io.BytesIO(archive), map_location=device)
            for name, archive in zip(ATTRIBUTES, archives.values(), strict=True)
            if archive
        }
    return model, functions


def _device_of_programs(path: str, programs: _C.SavedPrograms | None) -> str:
    device = programs.device_type if programs is not None else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise RuntimeError(
            f"{path} was saved on a CUDA device, and none can be used here; give another device, such as 'cpu'"
        )
    return device


def _program_in(path: str, device: torch.device | str) -> tuple[nn.Module, Any]:
    """Return the network, and the inputs that it was exported with."""
    with Path(path).open("rb") as file:
        program = _program_from(file, device)
    args, kwargs = program.example_inputs
    return model_of(program), kwargs or args


def _programs_of_functions(path: str, device: torch.device | str) -> dict[str, Any]:
    """Return functions of the user's own by their names."""
    with zipfile.ZipFile(path) as archive:
        root = archive.namelist()[0].partition("/")[0]
        records = {name: f"{root}/it3/{name}.pt2" for name in ATTRIBUTES}
        files = {
            name: io.BytesIO(archive.read(record)) for name, record in records.items() if record in archive.NameToInfo
        }
    return {name: model_of(_program_from(file, device)) for name, file in files.items()}


def _program_from(file: Any, device: torch.device | str) -> torch.export.ExportedProgram:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's about itself
        return moved_to(torch.export.load(file), device)


def moved_to(program: torch.export.ExportedProgram, device: torch.device | str) -> torch.export.ExportedProgram:
    """Move a program, of which tensors over one memory share it then too, unlike by torch's own function."""
    tensors = [t for t in (*program.state_dict.values(), *program.constants.values()) if isinstance(t, torch.Tensor)]
    if tensors and all(tensor.device == torch.device(device) for tensor in tensors):
        return program  # whatever makes tensors in it makes them there too
    memory: dict[int, torch.UntypedStorage] = {}
    for named in (program.state_dict, program.constants):
        for name, tensor in named.items():
            if isinstance(tensor, torch.Tensor):
                named[name] = _over_moved(tensor, device, memory)
    return move_to_device_pass(program, torch.device(device))  # all else


def _over_moved(
    tensor: torch.Tensor, device: torch.device | str, memory: dict[int, torch.UntypedStorage]
) -> torch.Tensor:
    own = tensor.untyped_storage()
    if own._cdata not in memory:
        memory[own._cdata] = torch.empty(0, dtype=torch.uint8, device=own.device).set_(own).to(device).untyped_storage()
    moved = torch.empty(0, dtype=tensor.dtype, device=device)
    moved.set_(memory[own._cdata], tensor.storage_offset(), tensor.size(), tensor.stride())
    is_parameter = isinstance(tensor, nn.Parameter)
    return nn.Parameter(moved, requires_grad=tensor.requires_grad) if is_parameter else moved


def _default_embedder(saved: dict[str, Any], device: torch.device | str) -> Embedder:
    if isinstance(saved["embedder"], int):
        return Embedder(saved["prediction_layout"], saved["features_layout"], extra_channels=saved["embedder"])
    weights = dict(zip(("weight1", "bias1", "weight2", "bias2"), saved["embedder"], strict=True))
    # Its dtype comes first, as loading a state dict rounds to it.
    embedder = Embedder(saved["prediction_layout"], saved["features_layout"]).to(weights["weight1"].dtype)
    embedder.load_state_dict(weights)
    return embedder.to(device)
