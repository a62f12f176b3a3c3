"""Programs of torch.export, run in two parts while torch records them: up to their layer, and behind it."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx

from it3 import _C


def is_mutable(node: fx.Node) -> bool:
    """Return whether an operation writes to what it is given."""
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable


class CutProgram:
    """An exported program, cut at its layer: what the core calls for its passes.

    Parameters
    ----------
    graph
        It takes the program's tensors, in their order, and then the inputs.
    capture
        Says how batch normalization normalizes.
    tensors
        Gives the program's tensors for some weights.
    in_channels_last
        Whether to have convolutions in channels_last, as oneDNN likes them best, if that is possible. Running
        a part then raises RuntimeError where the layout would decide what is computed.
    """

    def __init__(
        self,
        graph: fx.GraphModule,
        capture: _C.Capture,
        tensors: Callable[[list[Tensor]], list[Tensor]],
        in_channels_last: bool,
    ) -> None:
        self.graph = graph
        self.capture = capture
        self.tensors = tensors
        self.in_channels_last = in_channels_last and not capture.per_sample and _takes_any_layout(graph)
        self.behind: set[fx.Node] = set()
        self.writes_behind = False  # after which other operations may read what was written
        for node in graph.graph.nodes:
            is_layer = node.target is torch.ops.it3.features.default
            reads_behind = any(source in self.behind for source in node.all_input_nodes)
            if is_layer or reads_behind or (self.writes_behind and node.op == "call_function"):
                self.behind.add(node)
                self.writes_behind = self.writes_behind or is_mutable(node)
        sources = {source: None for node in graph.graph.nodes if node in self.behind for source in node.all_input_nodes}
        self.crossing = [node for node in sources if node not in self.behind]
        self.writes = any(is_mutable(node) for node in graph.graph.nodes)

    def head(self, weights: list[Tensor], inputs: list[Tensor]) -> list[Any]:
        """Run what does not depend on the layer's output."""
        part = _Part(self, None)
        for node, value in zip(
            self.graph.graph.find_nodes(op="placeholder"), [*self.tensors(weights), *inputs], strict=True
        ):
            part.env[node] = value
        part.run_nodes(lambda node: node not in self.behind and node.op != "placeholder")
        carried = [part.env[node] for node in self.crossing]
        viewed = {_memory(tensor) for tensor, _ in part.views}
        if self.writes_behind and sum(_memory(value) in viewed for value in carried) > 1:
            raise RuntimeError("forward() may write, behind the layer, to a view from before it")
        return carried

    def tail(self, carried: list[Any], inject: Callable[[Tensor], Tensor] | None) -> Tensor:
        """Run the rest, which leaves what it is given as it is: it runs more than once."""
        part = _Part(self, inject)
        own = [self._copied(node, value) for node, value in zip(self.crossing, carried, strict=True)]
        versions = [_version(value) for value in own]
        part.env.update(zip(self.crossing, own, strict=True))
        part.run_nodes(lambda node: node in self.behind and node.op != "output")
        written = [value for value, copied, old in zip(carried, own, versions, strict=True) if _version(copied) != old]
        memory = [_memory(value) for value in carried]
        if any(memory.count(_memory(value)) > 1 for value in written):
            raise ValueError(
                "forward() writes in place, behind the layer, to a tensor from before it that shares memory with "
                "others; use operations that are not in place, such as nn.ReLU(inplace=False)"
            )
        output: Any = self.graph.graph.output_node().args[0]
        return part.usual(part.env[output[0]])

    def _copied(self, node: fx.Node, value: Any) -> Any:
        """Return a copy of what the head has computed, if anything is written in place; the core sees to the rest."""
        is_computed = isinstance(value, Tensor) and node.op != "placeholder"
        return value.clone() if self.writes and is_computed else value


def _unwrapped(tensor: Tensor) -> Tensor:
    """Return the tensor of all samples, where vmap shows one of them."""
    while torch._C._functorch.is_batchedtensor(tensor):
        tensor = torch._C._functorch.get_unwrapped(tensor)
    return tensor


def _version(value: Any) -> int | None:
    """Return what changes when something writes to a tensor."""
    return _unwrapped(value)._version if isinstance(value, Tensor) else None


def _memory(value: Any) -> int | None:
    """Return where a tensor's values are, as an address."""
    return _unwrapped(value).untyped_storage()._cdata if isinstance(value, Tensor) else None


class _Part(fx.Interpreter):
    """Some operations of a program, with something else in the place of the layer's output.

    Parameters
    ----------
    program
        The whole.
    inject
        Gives what takes the place of the layer's output; None: nothing does.
    """

    def __init__(self, program: CutProgram, inject: Callable[[Tensor], Tensor] | None) -> None:
        super().__init__(program.graph, garbage_collect_values=False)
        self.capture = program.capture
        self.in_channels_last = program.in_channels_last
        self.inject = inject
        # What are views in one layout and copies in another, and their sources.
        self.views: list[tuple[Tensor, int | None]] = []

    def run_nodes(self, are_run: Callable[[fx.Node], bool]) -> None:
        """Run some nodes, in their order."""
        for node in self.module.graph.nodes:  # type: ignore[union-attr]
            if are_run(node):
                self.env[node] = self.run_node(node)
        if any(_version(tensor) != version for tensor, version in self.views):
            raise RuntimeError("forward() writes to a view of what convolutions give")

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call an operation."""
        if target is torch.ops.it3.features.default:
            return args[0] if self.inject is None else self.inject(self.usual(args[0]))
        if target is torch.ops.aten.batch_norm.default and self.capture.normalizes_by_batch:
            x, weight, bias, mean, var, is_training, _, eps = args[:8]
            if not is_training and mean is not None:
                return self.capture.batch_norm(x, weight, bias, mean, var, eps)
        if not self.in_channels_last:
            return super().call_function(target, args, kwargs)
        if target in _CONVOLUTIONS and args[1].dim() == 4:
            args = (args[0], args[1].contiguous(memory_format=torch.channels_last), *args[2:])
        if target is torch.ops.aten.view.default:
            target = torch.ops.aten.reshape.default
        result = super().call_function(target, args, kwargs)
        if target in _VIEWS_OR_COPIES:
            self.views += [(tensor, _version(tensor)) for tensor in (args[0], result)]
        return result

    def usual(self, tensor: Tensor) -> Tensor:
        """Return what functions of the user's own may get: not in channels_last, which their views could not take."""
        return tensor.contiguous() if self.in_channels_last and self.capture.has_functions else tensor


_CONVOLUTIONS = {torch.ops.aten.conv2d.default, torch.ops.aten.conv2d.padding}
_VIEWS_OR_COPIES = {
    torch.ops.aten.reshape.default,
    torch.ops.aten.reshape_as.default,
    torch.ops.aten.flatten.using_ints,
    torch.ops.aten.ravel.default,
    torch.ops.aten.contiguous.default,
}
_OF_ONE_LAYOUT = {"as_strided", "view_as", "view_as_complex", "view_as_real", "sym_stride", "sym_storage_offset"}


def _takes_any_layout(graph: fx.GraphModule) -> bool:
    """Return whether operations give the same values for whatever strides, as far as their kinds tell."""
    nodes = graph.graph.nodes
    if any(isinstance(given, torch.memory_format) for node in nodes for given in (*node.args, *node.kwargs.values())):
        return False
    operations = {node.target for node in nodes if isinstance(node.target, torch._ops.OperatorBase)}
    return all(
        isinstance(operation, torch._ops.OpOverload)
        and operation.namespace == "aten"
        and operation.overloadpacket.__name__ not in _OF_ONE_LAYOUT
        and operation is not torch.ops.aten.view.dtype
        for operation in operations - {torch.ops.it3.features.default}
    )
