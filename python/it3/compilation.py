"""Engines whose evaluations are compiled ahead, by torch's AOTInductor, and kept on disk."""

import contextlib
import hashlib
import json
import os
import platform
import shutil
import tempfile
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch._inductor.exc import CppCompileError, InvalidCxxCompiler

from it3 import _C
from it3.capture import Captured, Function, capture, constants_of, open_sizes
from it3.embedder import Embedder
from it3.exported import conditions_of
from it3.kept import KeptRandomState, own_copy

if TYPE_CHECKING:
    from it3.engine import IT3Engine

_FORMAT = 1
"""Of what is kept; another one where what was kept before would be wrong."""


def compile(  # noqa: A001  (as torch.compile)
    engine: "IT3Engine",
    example_inputs: Any,
    *,
    dynamic_batch: bool = True,
    backend: Literal["auto", "compiled"] = "auto",
    cache: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> "IT3Engine":
    """Compile what an engine computes at each step of adaptation, ahead of time.

    The loss and its gradients, and the predictions, become programs of torch's AOTInductor, which the inner loop calls
    in the place of the network's passes. Numbers of steps, optimizers, stopping, thresholds and online adaptation stay
    as they are, and may change without compiling anew. The first call with inputs of each sizes is evaluated in both
    ways; where they differ by more than rounding, or the programs are slower, such calls run as before.
    :meth:`IT3Engine.explain` says what runs, and why.

    Parameters
    ----------
    engine
        Around an eager model that torch.export takes, with the default embedder and ``combine_fn`` and a distance by
        its name. It is compiled for its options ``parameters``, ``anchor``, ``norm_statistics``, ``norm_prior``,
        ``per_sample`` and ``amp`` as they are now, and for ``threshold`` if it is set. Calls with others of these, of
        a changed model or by changed attributes of the engine run as before.
    example_inputs
        What the engine will be called with. Compile the engine for several examples, one after another, where calls
        differ in more than the sizes that ``dynamic_batch`` leaves open.
    dynamic_batch
        Whether batches may have other sizes than the example, if that has more than one sample. Programs for one size,
        and those for one sample, can be faster.
    backend
        "auto": on a CPU, the faster way is found out at the first call of each sizes, so that results can differ by
        rounding from one process to the next. "compiled": the programs wherever they are right.
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
    if backend not in ("auto", "compiled"):
        raise ValueError(f"backend must be 'auto' or 'compiled', not {backend!r}")
    folder = Path(cache) if cache is not None else _default_cache()
    without_autocast = torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False)
    with torch.inference_mode(False), without_autocast[0], without_autocast[1]:
        with KeptRandomState():
            example = own_copy(example_inputs)
            if isinstance(engine.embedder, Embedder) and not engine.embedder.is_built:
                engine.uncertainty(example)  # which gives it its shape
            setup = engine._setup_for(example)
            options = engine.optimization_parameters
            call = _C.Capture(setup, example, options)
        try:
            compiled = _compiled(call, folder, dynamic_batch, options, backend, progress)
        finally:
            call.close()  # also where an exception is kept, whose frames hold the call
    _C.use_compiled(engine._core, setup, compiled)
    return engine


def _compiled(
    call: _C.Capture, folder: Path, dynamic_batch: bool, options: dict[str, Any], backend: str, progress: bool
) -> _C.Compiled:
    with_rows = options.get("threshold") is not None and not call.per_sample
    constants = constants_of(call)
    call.check(constants)
    place = folder / _key(call, dynamic_batch, with_rows)
    kept = _kept(place, call, constants, backend)
    if kept is not None:
        return kept
    with _C.TracingHold(), KeptRandomState(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        captured = capture(call, any_sizes=dynamic_batch, with_rows=with_rows)
    call.close()  # other threads may change the model while compilers run
    _make(place, captured, progress)
    return _load(place, call, constants, backend)


def _default_cache() -> Path:
    given = os.environ.get("IT3_CACHE_DIR")
    return Path(given) if given else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "it3"


def _key(call: _C.Capture, dynamic_batch: bool, with_rows: bool) -> str:
    """Return a name for all that the programs depend on."""
    program = call.program
    facts = [_FORMAT, _code_of_it3(), torch.__version__, torch.version.git_version]
    facts += [*_machine(call.adapted[0].device), torch.get_num_threads() > 1]
    facts += [dynamic_batch, with_rows, call.description]
    for node in program.graph.nodes:
        facts += [node.op, node.name, node.target, node.args, node.kwargs, node.meta.get("val")]
    facts += [[spec.kind, spec.target] for spec in program.graph_signature.input_specs]
    tensors = [*program.state_dict.values(), *program.constants.values(), *call.adapted, *call.reads, *call.inputs]
    facts += [[tuple(t.shape), t.dtype, t.device] for t in tensors if isinstance(t, Tensor)]
    facts += [*program._guards_code, *program.range_constraints.items()]
    return hashlib.sha256("\n".join(map(str, facts)).encode()).hexdigest()[:32]


def _code_of_it3() -> str:
    """Return what is another one wherever this library computes something else."""
    here = Path(__file__).parent
    digest = hashlib.sha256()
    for file in (*sorted(here.glob("*.py")), Path(_C.__file__), *sorted(here.glob("lib/libit3*"))):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _machine(device: torch.device) -> list[Any]:
    if device.type == "cuda":
        return [torch.cuda.get_device_name(device), torch.cuda.get_device_capability(device), torch.version.cuda]
    flags = ""
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        flags = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return [platform.machine(), torch.backends.cpu.get_cpu_capability(), flags]


def _kept(place: Path, call: _C.Capture, constants: list[Tensor], backend: str) -> _C.Compiled | None:
    """Load what was compiled before; None if there is none, or it is damaged, which it then is no more."""
    if not place.exists():
        return None
    try:
        return _load(place, call, constants, backend)
    except Exception:  # of whatever kind damage makes
        shutil.rmtree(place) if place.is_dir() else place.unlink()
        return None


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _load(place: Path, call: _C.Capture, constants: list[Tensor], backend: str) -> _C.Compiled:
    record = json.loads((place / "programs.json").read_text())

    def program(name: str) -> _C.CompiledProgram:
        known = record["programs"][name]
        package = place / f"{name}.pt2"
        if _digest(package) != known["sha256"]:
            raise ValueError(f"{package} is damaged")
        arguments = [(i, getattr(torch, t), torch.device(d), sizes) for i, t, d, sizes in known["arguments"]]
        return _C.CompiledProgram(str(package), arguments, known["conditions"])

    rows = program("gradients_of_rows") if "gradients_of_rows" in record["programs"] else None
    has_gradient = record["has_gradient"]
    first, both = program("first"), program("both")
    is_measured = backend == "auto"
    return _C.Compiled(call, constants, program("gradients"), rows, has_gradient, first, both, is_measured)


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
    try:
        from tqdm.auto import tqdm  # noqa: PLC0415  (which is not needed)
    except ImportError:
        return items
    bar: Iterable[Any] = tqdm(items, "it3.compile", disable=not progress, leave=False, unit="program")
    return bar


class _Programmed(nn.Module):
    """A recorded function as a module, which torch.export takes."""

    def __init__(self, graph: nn.Module) -> None:
        super().__init__()
        self.graph = graph

    def forward(self, *args: Tensor) -> tuple[Tensor, ...]:
        """Compute."""
        results: tuple[Tensor, ...] = self.graph(*args)
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
    # Half precision rounds where torch's operations do, as in the passes that programs are compared with.
    configs["emulate_precision_casts"] = True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's about itself
            torch._inductor.aoti_compile_and_package(program, package_path=str(path), inductor_configs=configs)
    except (CppCompileError, InvalidCxxCompiler) as error:
        raise RuntimeError(
            "the programs could not be compiled, for which torch's AOTInductor needs a C++ compiler, such as g++, that "
            f"the environment variable CXX may name: {str(error).strip().splitlines()[0]}"
        ) from error
    placeholders = program.graph.find_nodes(op="placeholder")[-len(args) :]
    arguments = [
        (place, str(t.dtype).removeprefix("torch."), str(t.device), [str(size) for size in node.meta["val"].shape])
        for place, t, node in zip(function.values, args, placeholders, strict=True)
    ]
    return {
        "sha256": _digest(path),
        "arguments": arguments,
        "conditions": [*function.conditions, *conditions_of(program)],
    }
