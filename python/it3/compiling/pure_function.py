"""A function of tensors that torch recorded."""

import re
from dataclasses import dataclass

from torch import fx


@dataclass
class Function:
    """A pure function, recorded.

    Attributes
    ----------
    graph
        It takes ``values`` of a call, and returns a tuple of tensors.
    values
        Which of the call's values it takes, by their places.
    open_dims
        In which dimensions each of them may have other sizes than the example.
    conditions
        On the sizes of the call's values, in Python: ``L['args'][0].size()[0]``. Those on other values than ``values``
        are left to the functions that take them.
    is_defined
        Which of its results there are; the others are left out.
    """

    graph: fx.GraphModule
    values: list[int]
    open_dims: list[set[int]]
    conditions: list[str]
    is_defined: list[bool]

    @classmethod
    def of(
        cls,
        graph: fx.GraphModule,
        values: list[int],
        open_dims: dict[int, set[int]],
        conditions: list[str],
        is_defined: list[bool],
    ) -> "Function":
        """Make one that takes no more values than it uses, of a graph that takes some, in their order."""
        graph.graph.eliminate_dead_code()
        placeholders = graph.graph.find_nodes(op="placeholder")
        used = [value for value, node in zip(values, placeholders, strict=True) if node.users]
        for node in placeholders:
            if not node.users:
                graph.graph.erase_node(node)
        graph.recompile()
        known = [each for each in conditions if {int(value) for value in _VALUE.findall(each)} <= set(used)]
        return cls(graph, used, [open_dims[value] for value in used], known, is_defined)

    def conditions_by_argument(self) -> list[str]:
        """Return the conditions on the sizes of its own arguments, in their order."""
        places = {value: place for place, value in enumerate(self.values)}
        return [_VALUE.sub(lambda match: f"L['args'][{places[int(match[1])]}]", each) for each in self.conditions]


_VALUE = re.compile(r"L\['args'\]\[(\d+)\]")
