"""Engines whose evaluations are compiled ahead, by torch's AOTInductor, and kept on disk."""

import hashlib
import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, fx, nn

from it3 import _C
from it3.compiling.cache_folder import default_cache
from it3.compiling.capture import Captured, capture, constants_of
from it3.compiling.function_watch import check_unchanged, codes_of_functions, watch_functions
from it3.compiling.packages import write_package
from it3.compiling.pure_function import Function
from it3.cutting.exported_graph import conditions_of, open_sizes
from it3.embedder import Embedder
from it3.engine import IT3Engine
from it3.paths import package_folder
from it3.support.kept import KeptRandomState, own_copy
from it3.support.progress import tqdm_or_none

Used = TypeVar("Used")


@dataclass(frozen=True)
class Read:
    """What an engine's evaluations read beside what adapts and the inputs.

    Attributes
    ----------
    constants
        Tensors.
    watch
        What functions of the user's own read of Python; None if there are none.
    """

    constants: list[Tensor]
    watch: _C.Watch | None


_FORMAT = 1
"""Of what is kept; another one where what was kept before would be wrong."""


def compile(  # noqa: A001  (as torch.compile)
    engine: IT3Engine,
    example_inputs: Any,
    *,
    dynamic_batch: bool = True,
    backend: Literal["auto", "compiled"] = "auto",
    cache: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> IT3Engine:
    """Compile what an engine computes at each step of adaptation, ahead of time.

    The loss and its gradients, and the predictions, become programs of torch's AOTInductor, which the inner loop calls
    in place of the network's passes. Numbers of steps, optimizers, stopping and online adaptation stay as they are, and
    may change without compiling anew; so may a ``threshold``, if one is set when the engine is compiled. The first call
    with inputs of new sizes is evaluated both ways; where they differ by more than rounding, or the programs are
    slower, such calls run as before.
    :meth:`IT3Engine.explain` says what runs, and why.

    Parameters
    ----------
    engine
        Around an eager model that torch.export takes, or a program of torch.export. It is compiled for its options
        ``parameters``, ``anchor``, ``norm_statistics``, ``norm_prior``, ``per_sample`` and ``amp`` as they are now, and
        for ``threshold`` if it is set. Calls with others of these, of a changed model or by changed attributes of the
        engine run as before.

        Functions of your own are recorded: they may do what torch.export could follow, without drawing random numbers
        or depending on tensors' values. They are not called any more; calls after they, or the Python variables that
        they read, have changed run as before.
    example_inputs
        What the engine will be called with. Compile the engine for several examples, one after another, where calls
        differ in more than the sizes that ``dynamic_batch`` leaves open.
    dynamic_batch
        Whether batches may have other sizes than the example, if that has more than one sample. Programs for one size,
        and those for one sample, can be faster.
    backend
        "auto": the faster way is found out at the first call of each sizes, on CUDA as a CUDA graph where such calls
        become one, so that results can differ by rounding from one process to the next. "compiled": the programs
        wherever they are right.
    cache
        The folder where programs are kept, by all that they depend on: the model's operations, the options, torch and
        the machine. Default: the environment variable ``IT3_CACHE_DIR``, else ``it3`` in the user's cache folder.
        Nobody else may be able to write there, as what is in it is run.
    progress
        Whether to show a progress bar, if tqdm is there.

    Returns
    -------
    IT3Engine
        The engine itself. Copies of it are not compiled.

    Raises
    ------
    ValueError
        For what cannot be compiled, with the reason.
    RuntimeError
        If there is no C++ compiler, or it fails.

    Examples
    --------
    >>> model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 1))
    >>> engine = it3.IT3Engine(model, "0").eval()
    >>> x = torch.randn(32, 8)
    >>> engine = it3.compile(engine, x)  # doctest: +SKIP
    """
    check_backend(backend)
    if not isinstance(engine, IT3Engine):
        raise TypeError(
            f"compile() takes an it3.IT3Engine, not a {type(engine).__name__}; make one around the model first"
        )

    def use(call: _C.Capture, read: Read, place: Path) -> _C.Compiled:
        return _C.Compiled(call, read.constants, str(place), backend == "auto", read.watch)

    with_rows = engine.optimization_parameters.get("threshold") is not None
    setup, compiled = compiled_for(engine, example_inputs, use, dynamic_batch, with_rows, cache, progress)
    _C.use_compiled(engine._core, setup, compiled)
    return engine


def check_backend(backend: str) -> None:
    """Raise ValueError for another word."""
    if backend not in ("auto", "compiled"):
        raise ValueError(f"backend must be 'auto' or 'compiled', not {backend!r}")


def compiled_for(
    engine: IT3Engine,
    example_inputs: Any,
    use: Callable[[_C.Capture, Read, Path], Used],
    dynamic_batch: bool,
    with_rows: bool,
    cache: str | os.PathLike[str] | None,
    progress: bool,
) -> tuple[_C.EngineSetup, Used]:
    """Compile what an engine computes, or find it in the cache, and give it to a function.

    Parameters
    ----------
    use
        It takes the call that was recorded, what the programs read, and the folder with the programs. Where it raises,
        the folder counts as damaged, and is made anew.
    with_rows
        Whether some samples may count that are not all, as ``threshold`` has it.
    engine, example_inputs, dynamic_batch, cache, progress
        See :func:`compile`.

    Returns
    -------
    EngineSetup, Used
        The setup of such calls, and what the function returned.
    """
    tensors = [leaf for leaf in torch.utils._pytree.tree_leaves(example_inputs) if isinstance(leaf, Tensor)]
    if any(tensor.numel() == 0 for tensor in tensors):
        raise ValueError(
            f"the example has tensors of shapes {[tuple(t.shape) for t in tensors]}, of which one is empty; give a "
            "batch with samples"
        )
    folder = Path(cache) if cache is not None else default_cache()
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"cache must be a folder, but {folder} is a file")
    without_autocast = torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False)
    with torch.inference_mode(False), without_autocast[0], without_autocast[1]:
        with KeptRandomState():
            example = own_copy(example_inputs)
            if isinstance(engine.embedder, Embedder) and not engine.embedder.is_built:
                engine.uncertainty(example)  # which gives it its shape
            setup = engine._setup_for(example)
            call = _C.Capture(setup, example, engine.optimization_parameters)
        with_rows = with_rows and not call.per_sample

        def record(constants: list[Tensor]) -> Captured:
            with _C.TracingHold(), KeptRandomState(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return capture(call, constants, any_sizes=dynamic_batch, with_rows=with_rows)

        try:
            read, captured = _read_in(call, engine, example, record)
            place = folder / _key(call, read.constants, captured, dynamic_batch, with_rows)
            if place.exists():
                try:
                    _check_digests(place)
                    return setup, use(call, read, place)
                except Exception:  # of whatever kind damage makes
                    shutil.rmtree(place) if place.is_dir() else place.unlink()
            captured = captured or record(read.constants)
            call.close()  # other threads may change the model while compilers run
            _make(place, captured, progress)
            return setup, use(call, read, place)
        finally:
            call.close()  # also where an exception is kept, whose frames hold the call


def _read_in(
    call: _C.Capture, engine: IT3Engine, example: Any, record: Callable[[list[Tensor]], Captured]
) -> tuple[Read, Captured | None]:
    """Return what such a call reads, and what was recorded if that had to be, as of functions nothing else tells."""
    with _C.TracingHold(), KeptRandomState():
        constants = constants_of(call)
    call.check(constants)
    if not call.has_functions:
        return Read(constants, None), None
    with KeptRandomState():
        codes = codes_of_functions(engine, example)
    watch = watch_functions(engine, codes, constants)
    captured = record(constants)
    check_unchanged(engine, watch)
    return Read(constants, watch), captured


def _key(
    call: _C.Capture, constants: list[Tensor], captured: Captured | None, dynamic_batch: bool, with_rows: bool
) -> str:
    """Return a name for all that the programs depend on."""
    program = call.program
    facts = [_FORMAT, _code_of_it3(), torch.__version__, torch.version.git_version]
    facts += [*_C.machine_of(call.adapted[0].device), torch.version.cuda, torch.get_num_threads() > 1]
    facts += [dynamic_batch, with_rows, call.description]
    for node in program.graph.nodes:
        facts += [node.op, node.name, node.target, node.args, node.kwargs, node.meta.get("val")]
    facts += [[spec.kind, spec.target] for spec in program.graph_signature.input_specs]
    tensors = [*program.state_dict.values(), *program.constants.values(), *call.adapted, *constants, *call.inputs]
    facts += [[tuple(t.shape), t.dtype, t.device] for t in tensors if isinstance(t, Tensor)]
    facts += [*program._guards_code, *program.range_constraints.items()]
    for name, function in captured.functions.items() if captured is not None else ():
        facts += [name, function.graph.code, function.values, function.conditions, function.is_defined]
        facts += [[name, _values_of(tensor)] for name, tensor in function.graph.named_buffers()]
    return hashlib.sha256("\n".join(map(str, facts)).encode()).hexdigest()[:32]


def _values_of(tensor: Tensor) -> Any:
    return [tuple(tensor.shape), tensor.dtype, tensor.tolist()]


def _code_of_it3() -> str:
    """Return what is another one wherever this library computes something else."""
    here = Path(package_folder)
    digest = hashlib.sha256()
    for file in (*sorted(here.rglob("*.py")), Path(_C.__file__), *sorted(here.glob("lib/libit3*"))):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_digests(place: Path) -> None:
    record = json.loads((place / "programs.json").read_text())
    for name, known in record["programs"].items():
        if _digest(place / f"{name}.pt2") != known["sha256"]:
            raise ValueError(f"{place / name}.pt2 is damaged")


def _make(place: Path, captured: Captured, progress: bool) -> None:
    """Compile programs into a folder, which is there with all of them or not at all."""
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place.parent, prefix=".making-") as made:
        done = Path(made) / "done"
        done.mkdir()
        record: dict[str, Any] = {"has_gradient": captured.functions["gradients"].is_defined[2:], "programs": {}}
        for name, function in _with_progress(captured.functions.items(), progress):
            record["programs"][name] = _package(function, captured.values, done / f"{name}.pt2")
        (done / "programs.json").write_text(json.dumps(record))
        try:
            done.rename(place)
        except OSError:
            if not place.exists():  # by another process, which was faster
                raise


def _with_progress(items: Iterable[Any], progress: bool) -> Iterable[Any]:
    tqdm = tqdm_or_none()
    if tqdm is None:
        return items
    bar: Iterable[Any] = tqdm(items, "it3.compile", disable=not progress, leave=False, unit="program")
    return bar


class _Programmed(nn.Module):
    """A recorded function as a module, which torch.export takes."""

    def __init__(self, graph: fx.GraphModule) -> None:
        super().__init__()
        self.run = fx.Interpreter(graph).run  # a module within a module would lose its constants

    def forward(self, *args: Tensor) -> tuple[Tensor, ...]:
        """Compute."""
        results: tuple[Tensor, ...] = self.run(*args)
        return results


def _package(function: Function, values: list[Tensor], path: Path) -> dict[str, Any]:
    """Compile one function into a package, and return what a ``CompiledProgram`` has to know of it."""
    args = tuple(values[place] for place in function.values)
    dims = tuple(dict.fromkeys(each, torch.export.Dim.AUTO) for each in function.open_dims)
    with _C.TracingHold(), KeptRandomState(), open_sizes(), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(_Programmed(function.graph), args, dynamic_shapes={"args": dims}, strict=False)
    # A product with one row is faster as a loop that goes into those around it.
    configs: dict[str, Any] = {"post_grad_fusion_options": {"decompose_mm_pass": {}}}
    # An index that is out of range raises, which no exception can where OpenMP's threads work.
    has_indices = any(not t.is_floating_point() and not t.is_complex() for t in args)
    configs |= {"cpp.threads": 1} if has_indices else {"cpp.dynamic_threads": torch.get_num_threads() > 1}
    # Where a Triton kernel has fewer elements than threads, several threads read each. In a reduction that writes in
    # place, one of them may write before all have read, as Inductor puts no barrier between.
    configs["inplace_buffers"] = not any(t.is_cuda for t in args)
    # Half precision rounds where torch's operations do, as in the passes that programs are compared with.
    configs["emulate_precision_casts"] = True
    write_package(program, path, **configs)
    placeholders = program.graph.find_nodes(op="placeholder")[-len(args) :]
    arguments = [
        (place, str(t.dtype).removeprefix("torch."), str(t.device), [str(size) for size in node.meta["val"].shape])
        for place, t, node in zip(function.values, args, placeholders, strict=True)
    ]
    return {
        "sha256": _digest(path),
        "arguments": arguments,
        "conditions": [*function.conditions_by_argument(), *conditions_of(program)],
    }
