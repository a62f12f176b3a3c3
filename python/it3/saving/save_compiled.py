"""Engines in one file with compiled programs, which C++ runs too."""

import io
import os
import zipfile
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from it3 import _C
from it3.compiling.compile import check_backend, compiled_for
from it3.compiling.function_watch import functions_of
from it3.cutting.export import FunctionOfOne, FunctionOfTwo, to_exported_program
from it3.cutting.exported_graph import with_open_sizes
from it3.cutting.exported_model import model_of
from it3.embedder import Embedder
from it3.engine import IT3Engine
from it3.engine_siblings import sibling
from it3.saving.load import engine_of
from it3.saving.save import calls_of, check_apart, check_embedder, check_finite, check_same, copy_to_export, of_parts
from it3.saving.saved_file import ATTRIBUTES, moved_to, read_engine
from it3.support.checks import eager as eager_of
from it3.support.kept import KeptRandomState, own_copy

_ADVICE = "save the engine as TorchScript, by format='torchscript'"


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
    functions_of(engine)  # which refuses TorchScript
    with _C.NewFile(path) as file, KeptRandomState():
        check_finite(engine.uncertainty(own_copy(example_inputs)))  # shapes the embedder too
        eager = copy_to_export(engine)
        check_embedder(engine, eager, example_inputs)
        functions = _programs_of_functions(engine, eager, example_inputs)
        check_apart(engine, {ATTRIBUTES[name]: _tensors_in(program) for name, program in functions.items()})
        kept_calls = [] if engine.layer_output is None else [eager.features_layer_name]
        program = _program_of(eager.model, example_inputs, kept_calls)
        parts = {name: model_of(functions.get(name, part)) for name, part in _parts(engine).items()}
        exported = of_parts(engine, model_of(program), *parts.values())
        setup = exported._setup_for(own_copy(example_inputs))  # which fails before compilers take their time
        _, (place, programs) = compiled_for(
            engine,
            example_inputs,
            lambda call, read, place: (place, _named(engine, functions, call, read.constants, backend)),
            dynamic_batch=dynamic_batch,
            with_rows=True,  # for whatever threshold
            cache=cache,
            progress=True,
        )
        options = engine.optimization_parameters
        description = exported._core.description(setup, own_copy(example_inputs), options, programs)
        file.write(_archive(program, functions, description, place))
        saved = engine_of(read_engine(file.partial))
        original = sibling(engine, {})
        for each in (original, saved):
            each.is_trained = True  # nobody is to be warned here
        check_same(saved, original, example_inputs, "exported by torch.export, the engine")


def _program_of(model: nn.Module, example_inputs: Any, kept_calls: list[str]) -> torch.export.ExportedProgram:
    tensors = torch.utils._pytree.tree_leaves(example_inputs)
    export = partial(to_exported_program, model, example_inputs, advice=_ADVICE, kept_calls=kept_calls)
    return with_open_sizes(export, tensors)


def _parts(engine: IT3Engine) -> dict[str, Any]:
    """Return an engine's functions by the names that they have in files."""
    return {name: getattr(engine, attribute) for name, attribute in ATTRIBUTES.items()}


def _programs_of_functions(
    engine: IT3Engine, eager: IT3Engine, example_inputs: Any
) -> dict[str, torch.export.ExportedProgram]:
    """Export the functions of the user's own, from a copy of the engine."""
    calls = calls_of(eager, example_inputs)
    open_dims = {0, engine.prediction_layout.batch_dim, engine.features_layout.batch_dim}
    programs = {}
    for name, argument in ATTRIBUTES.items():
        part = _parts(eager)[name]
        if part is None or isinstance(part, str) or type(part) is Embedder:
            continue
        given = tuple(tensor.detach().clone() for tensor in calls[argument])
        module = (
            part if isinstance(part, nn.Module) else FunctionOfTwo(part) if len(given) == 2 else FunctionOfOne(part)
        )
        export = partial(to_exported_program, module, given, argument, _ADVICE, open_dims)
        programs[name] = with_open_sizes(export, given)
        odd = [n.target for n in programs[name].graph.nodes if isinstance(n.target, torch._ops.HigherOrderOperator)]
        if odd:
            raise ValueError(
                f"{argument} cannot be in a file of format='aoti', as it calls {odd[0]}; in the place of "
                f"torch.no_grad(), use .detach(), or {_ADVICE}"
            )
    return programs


def _tensors_in(program: torch.export.ExportedProgram) -> dict[str, Tensor]:
    return {n: t for n, t in {**program.state_dict, **program.constants}.items() if isinstance(t, Tensor)}


def _names_of_tensors(functions: dict[str, torch.export.ExportedProgram], engine: IT3Engine) -> Callable[[Tensor], str]:
    """Return what names a tensor of the user's functions, as the file has it; "" for others."""
    by_identity: dict[int, str] = {}
    by_memory: dict[Any, str] = {}  # of what a function has in closures
    for name, program in functions.items():
        for target, tensor in _tensors_in(program).items():
            by_memory.setdefault(_memory_of(tensor), f"{name}.{target}")
            with suppress(AttributeError):
                by_identity.setdefault(attrgetter(target)(_parts(engine)[name])._cdata, f"{name}.{target}")
    return lambda tensor: by_identity.get(tensor._cdata) or by_memory.get(_memory_of(tensor), "")


def _memory_of(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride()


def _named(
    engine: IT3Engine,
    functions: dict[str, torch.export.ExportedProgram],
    call: _C.Capture,
    constants: list[Tensor],
    backend: str,
) -> _C.SavedPrograms:
    """Return programs with the names of the tensors that they are run on."""
    names: dict[int, str] = {}
    model = eager_of(engine.model)
    for name, tensor in [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]:
        # Exported without the wrappers of torch.compile.
        names.setdefault(tensor._cdata, "model." + ".".join(part for part in name.split(".") if part != "_orig_mod"))
    if type(engine.embedder) is Embedder:
        names |= {weight._cdata: f"embedder.{name}" for name, weight in engine.embedder.named_parameters()}
    if call.neutral is not None:
        names[call.neutral._cdata] = "neutral"
    name_of = _names_of_tensors(functions, engine)
    return _C.SavedPrograms(
        options=engine.optimization_parameters,
        device=call.adapted[0].device,
        is_measured=backend == "auto",
        layer=engine.features_layer_name,
        adapted=[names[tensor._cdata].removeprefix("model.") for tensor in call.adapted],
        constants=[names.get(tensor._cdata) or name_of(tensor) or tensor.detach() for tensor in constants],
    )


def _archive(
    program: torch.export.ExportedProgram,
    functions: dict[str, torch.export.ExportedProgram],
    description: bytes,
    programs: Path,
) -> bytes:
    """Return an exported program as torch writes it, with the engine's records beside its own."""
    content = _content_of(program)
    with zipfile.ZipFile(content, "a") as archive:
        root = archive.namelist()[0].partition("/")[0]
        archive.writestr(f"{root}/it3/engine", description)
        for name, function in functions.items():
            archive.writestr(f"{root}/it3/{name}.pt2", _content_of(function).getvalue())
        for path in sorted(programs.iterdir()):
            archive.write(path, f"{root}/it3/{path.name}")
    return content.getvalue()


def _content_of(program: torch.export.ExportedProgram) -> io.BytesIO:
    content = io.BytesIO()  # torch's own writers end the process when a disk is full
    torch.export.save(moved_to(program, "cpu"), content)  # which all machines can read
    return content
