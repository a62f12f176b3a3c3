"""Programs of torch.export, described as the core takes them."""

import dataclasses
import operator
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.export.graph_signature import ExportGraphSignature, InputKind, OutputKind, OutputSpec, TensorArgument
from torch.fx.experimental import _config as shapes_config
from torch.utils import _pytree as pytree

from it3 import _C

_IN_VALUES = re.compile(r"\bz?u[fi]?\d+")
"""What torch.export calls sizes that depend on values, as of ``x[x > 0]``: their limits hold by themselves."""


@dataclass(frozen=True)
class Value:
    """A value of a program, by its name."""

    name: str


@dataclass(frozen=True)
class Operation:
    """One call. Arguments with their parameters' names, which are empty for those that go by position."""

    target: str
    arguments: list[tuple[str, Any]]
    results: list[str]
    gives_list: bool
    modules: list[str]


class Graph:
    """An exported program that returns one tensor; see ``ExportedGraph`` in exported_graph.h.

    Parameters
    ----------
    program
        It may have been exported for inputs of any sizes.
    tensors
        Its parameters and buffers by name, if they are others than the program's own.
    layer
        The name of a module whose output is to be marked, if no operation in the program marks it.
    output
        Which of the program's outputs is the prediction.
    layer_output
        Which of the layer's outputs is to be marked; None: the only one.

    Raises
    ------
    ValueError
        For programs that hold objects other than tensors, or write to their inputs at their end.
    """

    Value = Value

    def __init__(
        self,
        program: torch.export.ExportedProgram,
        tensors: Mapping[str, Tensor] | None = None,
        layer: str | None = None,
        output: Any = None,
        layer_output: Any = None,
    ) -> None:
        self.program = program
        self.layer = layer
        self.layer_output = layer_output
        self.calls = [] if layer_output is None else _calls_of(program, layer)
        self.inputs: list[tuple[str, list[str]]] = []
        self.tensors: list[tuple[str, str, Tensor, bool]] = []
        self._by_name = {**program.constants, **program.state_dict, **(tensors or {})}
        self._take_placeholders(program, self._by_name)
        calls = [node for node in program.graph.nodes if node.op == "call_function"]
        parts = {node for node in calls if _is_part(node)}
        self.layers: list[tuple[str, str]] = []
        self.operations = [_operation(node, self._modules_around(node)) for node in calls if node not in parts]
        if any(spec.kind is not OutputKind.USER_OUTPUT for spec in program.graph_signature.output_specs):
            raise ValueError("the exported program writes to what it is given")
        outputs = program.call_spec.out_spec.unflatten(program.graph.output_node().args[0])
        self.output = _C.chosen_output(outputs, output, fx.Node).name
        self.conditions = conditions_of(program)

    def marked(self, features: str) -> torch.export.ExportedProgram:
        """Return the program with the mark in it, these tensors, and the prediction as all that it returns.

        Parameters
        ----------
        features
            The name of the value that the core puts the mark behind.
        """
        old = self.program
        if self.layer is None:
            return old
        graph, copies = fx.Graph(), dict[fx.Node, fx.Node]()
        graph.graph_copy(old.graph, copies)
        nodes = {node.name: copied for node, copied in copies.items()}  # which may have got other names
        layer_output, prediction = nodes[features], nodes[self.output]
        output = graph.output((prediction,))
        is_behind = {
            user: not self.layer or self.layer not in self._modules_around(user) for user in layer_output.users
        }
        behind = [node for node in graph.nodes if is_behind.get(node)]
        with graph.inserting_before(behind[0]):  # until then, the layer may write to its output through a view
            mark = graph.call_function(torch.ops.it3.features.default, (layer_output,))
        mark.meta["val"] = layer_output.meta["val"]
        for node in behind:
            node.replace_input_with(layer_output, mark)
        specs = []
        for node, spec in zip(graph.find_nodes(op="placeholder"), old.graph_signature.input_specs, strict=True):
            if isinstance(spec.arg, TensorArgument):
                specs.append(dataclasses.replace(spec, arg=TensorArgument(node.name)))
            else:
                graph.erase_node(node)
        module = fx.GraphModule(old.graph_module, graph)
        returned = OutputSpec(OutputKind.USER_OUTPUT, TensorArgument(output.args[0][0].name), None)
        return program_like(old, module, ExportGraphSignature(specs, [returned]), self._by_name)

    def _modules_around(self, node: fx.Node) -> list[str]:
        """Return the names of the modules that an operation is called in, where a layer is looked for by name."""
        if self.layer is None:
            return []
        stack = [(name, str(kind)) for name, kind in (node.meta.get("nn_module_stack") or {}).values()]
        stack = [(name, kind) for name, kind in stack if not name.startswith("_empty_nn_module_stack")]
        self.layers += [each for each in stack if each not in self.layers]
        return [name for name, _ in stack]

    def _take_placeholders(self, program: torch.export.ExportedProgram, tensors: Mapping[str, Tensor]) -> None:
        placeholders = [node for node in program.graph.nodes if node.op == "placeholder"]
        for node, spec in zip(placeholders, program.graph_signature.input_specs, strict=True):
            if spec.kind is InputKind.USER_INPUT:
                if isinstance(spec.arg, TensorArgument):
                    self.inputs.append((node.name, [str(size) for size in node.meta["val"].shape]))
            elif spec.kind in (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR):
                is_parameter = spec.kind is InputKind.PARAMETER
                self.tensors.append((node.name, spec.target, tensors[spec.target], is_parameter))
            else:
                raise ValueError(f"the exported program holds {spec.target!r}, which is no tensor")


def _calls_of(program: torch.export.ExportedProgram, layer: str | None) -> list[tuple[str, list[str], str]]:
    """Return what each call of a layer returned, if the program tells: see ``ExportedCall`` in exported_graph.h."""
    return [
        (entry.fqn, [value.name for value in entry.signature.outputs], pytree.treespec_dumps(entry.signature.out_spec))
        for entry in program.module_call_graph
        if (entry.fqn == layer or entry.fqn.startswith(f"{layer}@")) and entry.signature is not None
    ]


def program_like(
    old: torch.export.ExportedProgram,
    module: fx.GraphModule,
    signature: ExportGraphSignature,
    tensors: Mapping[str, Tensor],
) -> torch.export.ExportedProgram:
    """Return a program for the same sizes, with these operations, and with these tensors where they have its names."""
    new = torch.export.ExportedProgram(
        root=module,
        graph=module.graph,
        graph_signature=signature,
        state_dict={name: tensors.get(name, tensor) for name, tensor in old.state_dict.items()},
        range_constraints=old.range_constraints,
        module_call_graph=old.module_call_graph,
        example_inputs=old.example_inputs,
        constants={name: tensors.get(name, constant) for name, constant in old.constants.items()},
        verifiers=old.verifiers,
    )
    new._guards_code = old._guards_code
    return new


def conditions_of(program: torch.export.ExportedProgram) -> list[str]:
    """Return what must be true of the sizes of a program's inputs."""
    conditions = [*program._guards_code, *_limits(program.range_constraints)]
    calls = program.graph.nodes
    conditions += [condition for node in calls for condition in _conditions_of_squeeze(node)]
    return [condition for condition in conditions if not _IN_VALUES.search(condition)]


def open_sizes() -> Any:
    """Return a context in which torch takes open sizes neither for 0 nor for 1, whatever the example has."""
    return shapes_config.patch(backed_size_oblivious=True)  # type: ignore[attr-defined]


def with_open_sizes(
    export: Callable[[], torch.export.ExportedProgram], example: Iterable[Any]
) -> torch.export.ExportedProgram:
    """Export by a function so that sizes stay open that are 1 in the example, unless the program squeezes any away."""
    with open_sizes():
        program = export()
    has_one = any(1 in tensor.shape for tensor in example if isinstance(tensor, Tensor))
    return export() if has_one and _has_squeeze(program) else program


_SQUEEZES = (torch.ops.aten.squeeze.default, torch.ops.aten.squeeze.dim, torch.ops.aten.squeeze.dims)


def _conditions_of_squeeze(node: fx.Node) -> list[str]:
    """Return the conditions under which an operation takes away the dimensions that it took away in the export."""
    return [f"({size}) != 1" for size in _squeezed_sizes(node)]


def _squeezed_sizes(node: fx.Node) -> list[torch.SymInt]:
    """Return sizes that must not be 1: where sizes are open, torch takes them for others without noting it."""
    if node.target not in _SQUEEZES or not isinstance(node.args[0], fx.Node):
        return []
    sizes = node.args[0].meta["val"].shape
    dims: Any = node.args[1] if len(node.args) > 1 else range(len(sizes))
    open_sizes = [sizes[dim] for dim in (dims if isinstance(dims, list | tuple | range) else [dims]) if len(sizes)]
    open_sizes = [size for size in open_sizes if isinstance(size, torch.SymInt)]
    if any(_IN_VALUES.search(str(size)) for size in open_sizes):
        raise ValueError("forward() squeezes a dimension whose size depends on values")
    return open_sizes


class SqueezeCheck:
    """Finds inputs of which a program would squeeze a dimension that it did not when it was exported."""

    def __init__(self, program: torch.export.ExportedProgram) -> None:
        self._squeezed = [size for node in program.graph.nodes for size in _squeezed_sizes(node)]
        specs = zip(program.graph.find_nodes(op="placeholder"), program.graph_signature.input_specs, strict=True)
        inputs = [n for n, s in specs if s.kind is InputKind.USER_INPUT and isinstance(s.arg, TensorArgument)]
        self._sizes = [tuple(node.meta["val"].shape) for node in inputs]

    def __call__(self, tensors: list[Tensor]) -> None:
        """Raise ValueError for such inputs."""
        if not self._squeezed:
            return
        known = {}
        for sizes, tensor in zip(self._sizes, tensors, strict=False):
            for size, own in zip(sizes, tensor.shape, strict=False):
                if isinstance(size, torch.SymInt):
                    known[size.node.expr] = own
        if any(size.node.expr.xreplace(known) == 1 for size in self._squeezed):
            raise ValueError(
                "forward() squeezes a dimension that is 1 for these inputs, which the program was not exported for"
            )


def _has_squeeze(program: torch.export.ExportedProgram) -> bool:
    """Return whether a program takes away dimensions of size 1."""
    return any(node.target in _SQUEEZES for node in program.graph.nodes)


def _is_part(node: fx.Node) -> bool:
    """Return whether a node stands for one of several results of another."""
    source = node.args[0] if node.target is operator.getitem else None
    return isinstance(source, fx.Node) and isinstance(source.meta.get("val"), list | tuple)


def _operation(node: fx.Node, modules: list[str]) -> Operation:
    gives_list = False
    results = [node.name]
    value = node.meta.get("val")
    if isinstance(value, list | tuple):
        results = [""] * len(value)
        for user in node.users:
            place = user.args[1] if _is_part(user) else None
            if isinstance(place, int):
                results[place] = user.name
        returns = node.target._schema.returns if isinstance(node.target, torch._ops.OpOverload) else []
        gives_list = len(returns) == 1
    arguments = [("", _argument(a)) for a in node.args] + [(name, _argument(a)) for name, a in node.kwargs.items()]
    return Operation(_target(node), arguments, results, gives_list, modules)


def _target(node: fx.Node) -> str:
    if isinstance(node.target, torch._ops.OpOverload):
        return f"torch.ops.{node.target}"
    return f"{getattr(node.target, '__module__', '')}.{getattr(node.target, '__name__', node.target)}"


def _argument(argument: Any) -> Any:
    return pytree.tree_map(lambda leaf: Value(leaf.name) if isinstance(leaf, fx.Node) else leaf, argument)


def _limits(ranges: Any) -> list[str]:
    """Return what is known of the sizes that symbols stand for."""
    limits = []
    for symbol, known in ranges.items():
        limits += [f"{symbol} >= {known.lower}"] if known.lower.is_Integer and known.lower > 0 else []
        limits += [f"{symbol} <= {known.upper}"] if known.upper.is_Integer else []
    return limits
