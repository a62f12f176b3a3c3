"""What recorded functions compute that no step of adaptation changes, moved into a function that is run once before."""

import operator
from typing import Any

import torch
from torch import SymInt, Tensor, fx, nn
from torch._functorch.compile_utils import fx_graph_cse
from torch.utils.flop_counter import flop_registry

from it3.compiling.pure_function import Function

_WORTH = 0.1
"""The least share of a step's floating-point operations that is moved."""


def hoist(functions: dict[str, Function], values: list[Tensor], fixed: set[int]) -> None:
    """Move what depends on fixed values alone into a further function, "prepare", if that is worth it.

    Its results are values of the other functions, behind those that there are.

    Parameters
    ----------
    functions
        By their names; "gradients" is run in each step. They are changed.
    values
        Examples, to which examples of the results are appended.
    fixed
        The places of values that stay the same from step to step.
    """
    parts = {name: _Part(function, _operations(function, values), fixed) for name, function in functions.items()}
    if parts["gradients"].share < _WORTH or any(part.depends_on_strides for part in parts.values()):
        return
    root, graph = nn.Module(), fx.Graph()
    places = sorted({place for function in functions.values() for place in function.values} & fixed)
    arguments = {place: graph.placeholder(f"v{place}") for place in places}
    copies = [part.copy_into(graph, root, arguments) for part in parts.values()]
    # Programs take what is contiguous.
    contiguous = torch.ops.aten.contiguous.default
    graph.output(tuple(graph.call_function(contiguous, (node,)) for each in copies for node in each))
    graph = fx_graph_cse(graph)
    output: Any = graph.output_node()
    results = iter(output.args[0])
    crossing = {name: [next(results) for _ in each] for name, each in zip(parts, copies, strict=True)}
    unique = list(dict.fromkeys(output.args[0]))
    output.args = (tuple(unique),)
    dims = {p: d for function in functions.values() for p, d in zip(function.values, function.open_dims, strict=True)}
    conditions = list(dict.fromkeys(each for function in functions.values() for each in function.conditions))
    prepare = Function.of(fx.GraphModule(root, graph), places, dims, conditions, [True] * len(unique))
    first = len(values)
    values += prepare.graph(*(values[place] for place in prepare.values))
    for name, part in parts.items():
        functions[name] = part.rest([first + unique.index(node) for node in crossing[name]])
    functions["prepare"] = prepare


class _Counting(fx.Interpreter):
    """Counts the floating-point operations of each node."""

    def __init__(self, graph: fx.GraphModule) -> None:
        super().__init__(graph)
        self.counts: dict[fx.Node, int] = {}

    def run_node(self, n: fx.Node) -> Any:
        """Run a node, and count."""
        result = super().run_node(n)
        count = flop_registry.get(getattr(n.target, "overloadpacket", None))
        if count is not None:
            args, kwargs = self.fetch_args_kwargs_from_env(n)
            self.counts[n] = count(*args, **kwargs, out_val=result)
        return result


def _operations(function: Function, values: list[Tensor]) -> dict[fx.Node, int]:
    counting = _Counting(function.graph)
    counting.run(*(values[place] for place in function.values))
    return counting.counts


class _Part:
    """A function, and what of it is moved: operations on fixed values that cost something, and what follows."""

    def __init__(self, function: Function, operations: dict[fx.Node, int], fixed: set[int]) -> None:
        self.function = function
        self.nodes = list(function.graph.graph.nodes)
        placeholders = function.graph.graph.find_nodes(op="placeholder")
        self.places = dict(zip(placeholders, function.values, strict=True))
        self.moved: set[fx.Node] = set()
        varying: set[fx.Node] = set()
        for node in self.nodes:
            sources = node.all_input_nodes
            is_given_anew = node.op == "placeholder" and self.places[node] not in fixed
            if node.op == "output" or is_given_anew or any(source in varying for source in sources):
                varying.add(node)
            elif not isinstance(node.meta.get("val"), SymInt) and (
                node in operations or any(source in self.moved for source in sources)
            ):
                self.moved.add(node)
        for node in reversed(self.nodes):
            if node in self.moved and _is_view(node) and not self.moved.issuperset(node.users):
                self.moved.remove(node)  # rather than to hand over its memory twice
        self.depends_on_strides = any(node.target is torch.ops.aten.as_strided.default for node in self.nodes)
        self.share = sum(operations.get(n, 0) for n in self.moved) / max(sum(operations.values()), 1)
        sources = [s for n in self.nodes if n not in self.moved for s in n.all_input_nodes]
        self.crossing = [node for node in dict.fromkeys(sources) if node in self.moved]

    def copy_into(self, graph: fx.Graph, root: nn.Module, arguments: dict[int, fx.Node]) -> list[fx.Node]:
        """Copy what is moved into a graph, and return the copies of what crosses."""
        needed = set(self.crossing)
        for node in reversed(self.nodes):
            if node in needed:
                needed.update(node.all_input_nodes)
        copies = {node: arguments[place] for node, place in self.places.items() if place in arguments}
        for node in self.nodes:
            if node in needed and node.op != "placeholder":
                copies[node] = graph.node_copy(node, copies.__getitem__)
                # By what is noted there torch would see that results share memory, and leave equal ones as they are.
                copies[node].meta = {}
                if node.op == "get_attr":
                    copies[node].target = _shared(root, getattr(self.function.graph, str(node.target)))
        return [copies[node] for node in self.crossing]

    def rest(self, values: list[int]) -> Function:
        """Return the function without what is moved, of which it takes the results as values of these places."""
        graph = fx.Graph()
        copies: dict[fx.Node, fx.Node] = {}
        own = [node for node in self.nodes if node.op == "placeholder"]
        for node in own:
            copies[node] = graph.node_copy(node)
        for node, value in zip(self.crossing, values, strict=True):
            copies[node] = graph.placeholder(f"v{value}")
        for node in self.nodes:
            if node.op != "placeholder" and node not in self.moved:
                copies[node] = graph.node_copy(node, copies.__getitem__)
                if node.target in _VIEWS:  # which may need a copy, as what crosses has become contiguous
                    copies[node].target = torch.ops.aten.reshape.default
        dims = dict(zip(self.function.values, self.function.open_dims, strict=True))
        for node, value in zip(self.crossing, values, strict=True):
            dims[value] = {d for d, size in enumerate(node.meta["val"].shape) if isinstance(size, SymInt)}
        return Function.of(
            fx.GraphModule(self.function.graph, graph),
            [*self.function.values, *values],
            dims,
            self.function.conditions,
            self.function.is_defined,
        )


_VIEWS = (torch.ops.aten.view.default, torch.ops.aten._unsafe_view.default)


def _is_view(node: fx.Node) -> bool:
    if node.target is operator.getitem:
        return _is_view(node.all_input_nodes[0])
    schema = getattr(node.target, "_schema", None)
    return schema is not None and any(each.alias_info is not None for each in schema.returns)


def _shared(root: nn.Module, tensor: Tensor) -> str:
    """Return the name of an equal constant of a module, which is made if there is none."""
    buffers = dict(root.named_buffers())
    for name, other in buffers.items():
        if other.dtype == tensor.dtype and other.device == tensor.device and torch.equal(other, tensor):
            return name
    root.register_buffer(name := f"constant{len(buffers)}", tensor)
    return name
