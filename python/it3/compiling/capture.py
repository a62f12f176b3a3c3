"""What an engine computes in one kind of call, as graphs of torch's operations that can be compiled.

The core does it once, by its own code, while torch records it.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import sympy
import torch
from torch import Tensor, fx
from torch._dynamo.source import ConstantSource
from torch._functorch.compile_utils import fx_graph_cse
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.func import functionalize
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._sympy.printers import PythonPrinter

from it3 import _C
from it3.compiling.cut_program import CutProgram, is_mutable
from it3.compiling.hoisting import hoist
from it3.compiling.pure_function import Function
from it3.cutting.exported_graph import open_sizes

Recorded = TypeVar("Recorded")


@dataclass
class Captured:
    """The functions of one kind of call, and examples of the values that they are all run on; see ``Compiled``."""

    functions: dict[str, Function]
    values: list[Tensor]


class _Constants(TorchDispatchMode):
    """Puts stand-ins into the place of tensors that are read beside a function's arguments, and notes unknown ones."""

    def __init__(self, constants: list[Tensor], stand_ins: list[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.stand_ins = {tensor._cdata: stand_in for tensor, stand_in in zip(constants, stand_ins, strict=True)}
        self.unknown: dict[int, Tensor] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func not in (torch.ops.aten.lift_fresh.default, torch.ops.aten.lift_fresh_copy.default):
            args, kwargs = torch.utils._pytree.tree_map_only(Tensor, self._stand_in, (args, kwargs or {}))
        return func(*args, **(kwargs or {}))

    def _stand_in(self, tensor: Tensor) -> Tensor:
        if isinstance(tensor, FakeTensor):
            return tensor
        if tensor._cdata not in self.stand_ins:
            self.unknown[tensor._cdata] = tensor
        return self.stand_ins.get(tensor._cdata, tensor)


def constants_of(capture: _C.Capture) -> list[Tensor]:
    """Return what such a call reads beside what adapts: other weights of the model, and what its functions read."""
    adapted = {tensor._cdata for tensor in capture.adapted}
    known = {tensor._cdata: tensor for tensor in [*_tensors_of(capture.program), *capture.reads]}
    constants = [tensor for key, tensor in known.items() if key not in adapted]
    if capture.has_functions:
        constants += _Capturing(capture, constants, any_sizes=False, rows=False).unknown()
    return constants


def _tensors_of(program: torch.export.ExportedProgram) -> list[Tensor]:
    own = {**program.constants, **program.state_dict}
    return [own[spec.target] for spec in program.graph_signature.input_specs if spec.target is not None]


def capture(capture: _C.Capture, constants: list[Tensor], *, any_sizes: bool, with_rows: bool) -> Captured:
    """Record what the core computes in such a call.

    Parameters
    ----------
    capture
        The call.
    constants
        See :func:`constants_of`.
    any_sizes
        Whether the sizes that are open in the program stay so, and the number of samples that are adapted each by
        itself.
    with_rows
        Whether some samples may count that are not all.

    Raises
    ------
    ValueError
        For what would not be a function: where random numbers are drawn, or values decide.
    """
    return _Capturing(capture, constants, any_sizes, with_rows).run()


class _Capturing:
    def __init__(self, capture: _C.Capture, constants: list[Tensor], any_sizes: bool, rows: bool) -> None:
        self.capture = capture
        self.graph = capture.program.graph_module
        self.any_sizes = any_sizes
        self.rows = rows
        self.adapted = list(capture.adapted)
        self.lifted = _tensors_of(capture.program)
        self.constants = constants
        self.in_channels_last = False
        sizes = [node.meta["val"].shape for node in self.graph.graph.find_nodes(op="placeholder")][len(self.lifted) :]
        self.sizes = [tuple(each) for each in sizes]

    def run(self) -> Captured:
        """Record all functions."""
        functions: dict[str, Callable[[list[Any]], list[Tensor | None]]] = {
            "gradients": lambda v: self._step(v, None),
            "first": lambda v: self._answer(v, False),
            "both": lambda v: self._answer(v, True),
        }
        if self.rows:
            functions["gradients_of_rows"] = lambda v: self._step(v, v[-1])

        def record() -> dict[str, Function]:
            return {name: self._record(function) for name, function in functions.items()}

        # Of open sizes, torch would note that batches have more than one sample. On GPUs Inductor's choice is faster.
        self.in_channels_last = self.adapted[0].is_cpu and not any(self._open_dims()[:-1])
        try:
            recorded = record()
        except RuntimeError:  # of the layout, or of torch
            self.in_channels_last = False
            recorded = self._tried(record)
        values = self._examples()
        hoist(recorded, values, fixed=set(range(len(self.adapted), len(values) - 1)))
        return Captured(recorded, values)

    def unknown(self) -> list[Tensor]:
        """Return the tensors that are read beside those that are known."""
        examples = self._examples()
        with FakeTensorMode(allow_non_fake_inputs=True) as mode, open_sizes():
            values: list[Tensor] = [mode.from_tensor(example) for example in examples]
            constants = _Constants(self.constants, self._split(values)[2])
            with constants:
                self._tried(lambda: (self._step(values, None), self._answer(values, True)))
        return list(constants.unknown.values())

    def _tried(self, record: Callable[[], Recorded]) -> Recorded:
        try:
            return record()
        except RuntimeError as error:
            advice = "; compile it for inputs of one size, by dynamic_batch=False" if self.any_sizes else ""
            raise ValueError(f"torch cannot record this engine: {str(error).splitlines()[0]}{advice}") from error

    def _examples(self) -> list[Tensor]:
        weights = list(self.adapted)
        if self.capture.per_sample:
            samples = self.capture.inputs[0].shape[0]
            weights = [w.detach().expand(samples, *w.shape) for w in weights]
        anchor = weights if self.capture.has_anchor else []
        device = weights[0].device
        rows = torch.zeros(2, dtype=torch.int64, device=device)  # which every batch has
        values = [*weights, *anchor, *self.constants, *self.capture.inputs, rows]
        return [value.detach().clone(memory_format=torch.contiguous_format) for value in values]

    def _open_dims(self) -> list[set[int]]:
        """Return the dimensions of all values that stay open."""
        count = len(self.adapted) * (2 if self.capture.has_anchor else 1)
        samples = {0} if self.capture.per_sample and self.any_sizes else set()
        dims = [set(samples) for _ in range(count)] + [set[int]() for _ in self.constants]
        for sizes, example in zip(self.sizes, self.capture.inputs, strict=True):
            # What is 1 stays so: torch's operations take other ways there.
            own = {d for d, size in enumerate(sizes) if isinstance(size, torch.SymInt) and example.shape[d] != 1}
            dims.append(samples if self.capture.per_sample else own if self.any_sizes else set())
        return [*dims, {0}]

    def _split(self, values: list[Tensor]) -> tuple[list[Tensor], list[Tensor], list[Tensor], list[Tensor]]:
        count = len(self.adapted)
        anchor = count if self.capture.has_anchor else 0
        inputs = count + anchor + len(self.constants)
        return values[:count], values[count : count + anchor], values[count + anchor : inputs], values[inputs:-1]

    def _step(self, values: list[Tensor], rows: Tensor | None) -> list[Tensor | None]:
        weights, anchor, constants, inputs = self._split(values)
        # Gradients in the order of the weights, as optimizers take them: else each would be copied.
        return _contiguous(self.capture.step(self._network(constants), weights, anchor, inputs, rows))

    def _answer(self, values: list[Tensor], with_second: bool) -> list[Tensor | None]:
        weights, _, constants, inputs = self._split(values)
        return _contiguous(self.capture.answer(self._network(constants), weights, inputs, with_second))

    def _network(self, constants: list[Tensor]) -> CutProgram:
        places = {tensor._cdata: i for i, tensor in enumerate(self.adapted)}
        stand_ins = {tensor._cdata: constant for tensor, constant in zip(self.constants, constants, strict=True)}

        def tensors(weights: list[Tensor]) -> list[Tensor]:
            return [weights[places[t._cdata]] if t._cdata in places else stand_ins[t._cdata] for t in self.lifted]

        return CutProgram(self.graph, self.capture, tensors, self.in_channels_last)

    def _record(self, function: Callable[[list[Any]], list[Tensor | None]]) -> Function:
        env = ShapeEnv()
        examples, dims = self._examples(), self._open_dims()
        is_defined: list[bool] = []

        def recorded(*values: Tensor) -> tuple[Tensor, ...]:
            constants = _Constants(self.constants, self._split(list(values))[2])
            with constants:
                results = function(list(values))
            if constants.unknown:
                raise ValueError(
                    "a function of the engine makes tensors anew in each call of what torch does not record, such as "
                    "NumPy arrays; make them once, outside of it"
                    if self.capture.has_functions
                    else "the model reads tensors that are none of its parameters and buffers"
                )
            is_defined[:] = [result is not None for result in results]
            return tuple(result for result in results if result is not None)

        with FakeTensorMode(shape_env=env, allow_non_fake_inputs=True) as mode, open_sizes():
            fakes = [_fake(mode, f"v{i}", t, d) for i, (t, d) in enumerate(zip(examples, dims, strict=True))]
            graph = make_fx(recorded, decomposition_table=_DECOMPOSITIONS)(*fakes)
            if any(is_mutable(node) for node in graph.graph.nodes):
                # By an interpreter, as a module within a module would take its constants with it.
                graph = make_fx(functionalize(fx.Interpreter(graph).run))(*fakes)
        _check_is_function(graph)
        graph = fx.GraphModule(graph, fx_graph_cse(graph.graph))
        symbols = {}
        for place in range(len(examples)):
            for d in dims[place]:
                size: Any = fakes[place].shape[d]
                symbols[size.node._expr] = f"L['args'][{place}].size()[{d}]"
        places = list(range(len(examples)))
        return Function.of(graph, places, dict(enumerate(dims)), _conditions(env, symbols), is_defined)


def _contiguous(results: list[Tensor | None]) -> list[Tensor | None]:
    return [result if result is None else result.contiguous() for result in results]


def _product(a: Tensor, b: Tensor) -> Any:
    """Multiply matrices by loops that Inductor can put into those around them, where one is a vector."""

    def is_one(size: int | torch.SymInt) -> bool:
        return isinstance(size, int) and size == 1

    if a.dtype in (torch.float32, torch.float64):
        if is_one(a.shape[-1]):
            return a * b
        if a.device.type != "cpu" and (is_one(a.shape[-2]) or is_one(b.shape[-1])):  # on CPUs Inductor knows when
            return (a.unsqueeze(-1) * b.unsqueeze(-3)).sum(-2)
    return NotImplemented


def _sum_and_product(c: Tensor, a: Tensor, b: Tensor, *, beta: float = 1, alpha: float = 1) -> Any:
    if beta == 0:  # when c may be anything
        return NotImplemented
    product = _product(a, b)
    return product if product is NotImplemented else beta * c + alpha * product


def _gradient_of_relu(gradient: Tensor, result: Tensor, threshold: float) -> Any:
    """Select by bits on GPUs, as Triton 3.6 mixes booleans up where threads hand them to one another."""
    if gradient.device.type == "cpu":
        return NotImplemented
    whole = {2: torch.int16, 4: torch.int32, 8: torch.int64}[gradient.itemsize]
    bits = (result <= threshold).to(whole) - 1  # none or all; a product would make NaN of an infinite gradient
    return (gradient.view(whole) & bits).view(gradient.dtype)


_DECOMPOSITIONS: dict[Any, Callable[..., Any]] = {
    torch.ops.aten.mm.default: _product,
    torch.ops.aten.bmm.default: _product,
    torch.ops.aten.addmm.default: _sum_and_product,
    torch.ops.aten.threshold_backward.default: _gradient_of_relu,
}


def _fake(mode: FakeTensorMode, name: str, tensor: Tensor, open_dims: set[int]) -> Tensor:
    dims = [DimDynamic.DYNAMIC if d in open_dims else DimDynamic.STATIC for d in range(tensor.dim())]
    context: Any = StatelessSymbolicContext(dynamic_sizes=dims, constraint_sizes=[None] * len(dims))
    return mode.from_tensor(tensor, symbolic_context=context, source=ConstantSource(name))


def _conditions(env: ShapeEnv, sizes: dict[sympy.Symbol, str]) -> list[str]:
    """Return what was taken for granted of sizes while recording."""
    printer = PythonPrinter()
    known = [guard.expr for guard in env.guards]
    known += [sympy.Eq(symbol, value) for symbol, value in env.replacements.items() if symbol in sizes]
    names = {symbol: sympy.Symbol(f"_size_{i}") for i, symbol in enumerate(sizes)}
    texts = [printer.doprint(expression.xreplace(names)) for expression in known]
    by_name = {str(names[symbol]): size for symbol, size in sizes.items()}
    return [re.sub(r"_size_\d+", lambda match: by_name[match[0]], text) for text in texts]


def _check_is_function(graph: fx.GraphModule) -> None:
    for node in graph.graph.nodes:
        operation = node.target
        if not isinstance(operation, torch._ops.OpOverload) or torch.Tag.nondeterministic_seeded not in operation.tags:
            continue
        given = dict(zip((each.name for each in operation._schema.arguments), node.args, strict=False)) | node.kwargs
        if given.get("dropout_p", 0 if "attention" in str(operation) else 1) != 0:
            raise ValueError(f"the engine draws random numbers, by {node.target}, so that it cannot be compiled")
