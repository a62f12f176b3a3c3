"""What a saved engine's file holds."""

import io
import os
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from it3 import _C
from it3.embedder import Embedder
from it3.export import quiet_torchscript

_FUNCTIONS = ("embedder", "combine", "distance")


@dataclass(frozen=True)
class SavedEngine:
    """An engine as a file holds it."""

    arguments: dict[str, Any]
    """Of :class:`it3.IT3Engine`."""
    is_trained: bool
    learned_probabilities: bool
    notes: dict[str, Any]


def read_engine(path: str | os.PathLike[str], device: torch.device | str | None = None) -> SavedEngine:
    """Read an engine that :func:`it3.save` or C++ wrote; see :func:`it3.load`."""
    path = os.fsdecode(path)
    saved = _C.load_engine(path)
    archives: dict[str, Any] = {f"it3_{name}": "" for name in _FUNCTIONS}
    with quiet_torchscript():
        model = torch.jit.load(path, map_location=device, _extra_files=archives)
        functions = {
            name: torch.jit.load(io.BytesIO(archive), map_location=device)
            for name, archive in zip(_FUNCTIONS, archives.values(), strict=True)
            if archive
        }
    arguments = {
        "model": model,
        "features_layer_name": saved["layer"],
        "embedder": functions.get("embedder") or _default_embedder(saved, device or _device_of(model)),
        "combine_fn": functions.get("combine"),
        "distance_fn": functions.get("distance") or saved["distance"],
        "optimization_parameters": saved["options"],
    }
    same = ("neutral", "output", "layer_output", "feedback", "in_dims", "prediction_layout", "features_layout")
    arguments |= {name: saved[name] for name in same}
    return SavedEngine(arguments, saved["is_trained"], saved["learned_probabilities"], saved["notes"])


def _default_embedder(saved: dict[str, Any], device: torch.device | str) -> Embedder:
    weights = dict(zip(("weight1", "bias1", "weight2", "bias2"), saved["embedder"], strict=True))
    # Its dtype comes first, as loading a state dict rounds to it.
    embedder = Embedder(saved["prediction_layout"], saved["features_layout"]).to(weights["weight1"].dtype)
    embedder.load_state_dict(weights)
    return embedder.to(device)


def _device_of(model: nn.Module) -> torch.device:
    return next((p.device for p in model.parameters()), torch.device("cpu"))
