"""Engines in one file with compiled programs, which C++ runs too."""

import io
import os
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from it3 import _C
from it3.checks import eager as eager_of
from it3.compilation import check_backend, compiled_for
from it3.embedder import Embedder
from it3.engine import IT3Engine
from it3.export import to_exported_program
from it3.exported import with_open_sizes
from it3.exported_model import model_of
from it3.kept import KeptRandomState, own_copy
from it3.looking import sibling
from it3.saved_file import moved_to, read_engine
from it3.saving import check_finite, check_same, copy_to_export, of_parts


def save_compiled(
    engine: IT3Engine,
    path: str | os.PathLike[str],
    example_inputs: Any,
    dynamic_batch: bool,
    backend: str,
    cache: str | os.PathLike[str] | None,
) -> None:
    """Write an engine and its compiled programs to a file; see :func:`it3.save`."""
    check_backend(backend)
    if engine.layer_output is not None:
        raise ValueError("layer_output is given, which a file of format='aoti' cannot hold; save it as TorchScript")
    if type(engine.embedder) is not Embedder or engine.combine_fn is not None or callable(engine.distance_fn):
        raise ValueError(
            "a file of format='aoti' holds the default embedder and combine_fn, and a distance by its name, not "
            "functions of your own; save the engine as TorchScript"
        )
    with _C.NewFile(path) as file, KeptRandomState():
        check_finite(engine.uncertainty(own_copy(example_inputs)))  # shapes the embedder too
        _, (place, programs) = compiled_for(
            engine,
            example_inputs,
            lambda call, read, place: (place, _named(engine, call, read.constants, backend)),
            dynamic_batch=dynamic_batch,
            with_rows=True,  # for whatever threshold
            cache=cache,
            progress=True,
        )
        program = _program_of(copy_to_export(engine).model, example_inputs)
        exported = of_parts(engine, model_of(program), engine.embedder, engine.combine_fn, engine.distance_fn)
        setup = exported._setup_for(own_copy(example_inputs))
        options = engine.optimization_parameters
        description = exported._core.description(setup, own_copy(example_inputs), options, programs)
        file.write(_archive(moved_to(program, "cpu"), description, place))  # which all machines can read
        saved = engine._from_saved(read_engine(file.partial))
        original = sibling(engine, {})
        for each in (original, saved):
            each.is_trained = True  # nobody is to be warned here
        check_same(saved, original, example_inputs, "exported by torch.export, the engine")


def _program_of(model: nn.Module, example_inputs: Any) -> torch.export.ExportedProgram:
    tensors = torch.utils._pytree.tree_leaves(example_inputs)
    return with_open_sizes(lambda: to_exported_program(model, example_inputs), tensors)


def _named(engine: IT3Engine, call: _C.Capture, constants: list[Tensor], backend: str) -> _C.SavedPrograms:
    """Return programs with the names of the tensors that they are run on."""
    names: dict[int, str] = {}
    model = eager_of(engine.model)
    for name, tensor in [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]:
        # Exported without the wrappers of torch.compile.
        names.setdefault(tensor._cdata, "model." + ".".join(part for part in name.split(".") if part != "_orig_mod"))
    of_method = ("embedder.weight1", "embedder.bias1", "embedder.weight2", "embedder.bias2", "neutral")
    names |= {tensor._cdata: name for tensor, name in zip(call.reads, of_method, strict=False)}
    return _C.SavedPrograms(
        options=engine.optimization_parameters,
        device=call.adapted[0].device,
        is_measured=backend == "auto",
        layer=engine.features_layer_name,
        adapted=[names[tensor._cdata].removeprefix("model.") for tensor in call.adapted],
        constants=[names.get(tensor._cdata, tensor.detach()) for tensor in constants],
    )


def _archive(program: torch.export.ExportedProgram, description: bytes, programs: Path) -> bytes:
    """Return an exported program as torch writes it, with the engine's records beside its own."""
    content = io.BytesIO()  # torch's own writers end the process when a disk is full
    torch.export.save(program, content)
    with zipfile.ZipFile(content, "a") as archive:
        root = archive.namelist()[0].partition("/")[0]
        archive.writestr(f"{root}/it3/engine", description)
        for path in sorted(programs.iterdir()):
            archive.write(path, f"{root}/it3/{path.name}")
    return content.getvalue()
