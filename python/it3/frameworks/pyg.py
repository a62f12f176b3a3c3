"""Graphs of PyTorch Geometric: batches of them, and models that predict for a graph."""

import copy
from collections.abc import Callable, Iterable, Iterator, Sized
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch_geometric.data import Batch, Data, HeteroData

from it3.support.devices import device_of

__all__ = ["Batches", "GraphModel", "graphs_in"]


def graphs_in(data: Any) -> tuple[Tensor, Any]:
    """Return a batch of graphs as inputs of an engine around a :class:`GraphModel`.

    Parameters
    ----------
    data
        What a ``torch_geometric.loader.DataLoader`` gives, a ``Batch``, or one graph, a ``Data`` or
        ``HeteroData``.

    Returns
    -------
    graphs, data
        The numbers of the graphs, (B,), along which the engine finds its samples; and the batch.

    Raises
    ------
    TypeError
        For anything else.
    """
    if isinstance(data, Data | HeteroData) and not isinstance(data, Batch):
        data = Batch.from_data_list([data])
    if not isinstance(data, Batch):
        raise TypeError(
            f"data must be a Batch or a Data of torch_geometric, not a {type(data).__name__}; a "
            "torch_geometric.loader.DataLoader gives batches of graphs"
        )
    return torch.arange(data.num_graphs), data


def _graph_arguments(model: nn.Module, data: Any) -> Any:
    return model(data.x, data.edge_index, data.batch)


def _labels(data: Any) -> Any:
    return data.y


class GraphModel(nn.Module):
    """A model that predicts for each graph of a batch, for an :class:`it3.IT3Engine`.

    Its inputs are those of :func:`graphs_in`. The graphs are the engine's samples, so that ``per_sample`` adapts to
    each graph alone, and ``threshold`` chooses among graphs.

    Parameters
    ----------
    model
        The model, which returns a prediction for each graph, (B, outputs).
    layer
        The dotted name of a layer of `model` that returns features of nodes, (nodes, channels). The engine's layer is
        then "signal": what the embedder makes of a graph's prediction, (B, channels), is added to all nodes of the
        graph there. None: name a layer after the pooling to the engine, such as "model.head".
    call
        A function of (model, data) that calls the model. Default: ``model(data.x, data.edge_index, data.batch)``.

    Raises
    ------
    ValueError
        For a layer that the model does not have and, when it is called, for one that returns no features of nodes.
    """

    def __init__(
        self, model: nn.Module, layer: str | None = None, call: Callable[[nn.Module, Any], Tensor] = _graph_arguments
    ) -> None:
        super().__init__()
        names = [name for name, _ in model.named_modules() if name]
        if layer is not None and layer not in names:
            raise ValueError(f"the model has no layer {layer!r}; it has {', '.join(map(repr, names))}")
        self.model = model
        self.signal = nn.Identity()
        self._layer, self._call = layer, call

    def forward(self, graphs: Tensor, data: Any) -> Tensor:
        """Predict for some graphs of a batch, by their numbers, in their order."""
        if graphs.tolist() != list(range(data.num_graphs)):
            data = _picked(data, graphs.tolist())
        data = copy.copy(data).to(device_of(self.model))  # a Data's to() moves the Data itself
        if self._layer is None:
            return self._call(self.model, data)

        if isinstance(data, HeteroData):
            raise ValueError(
                f"layer={self._layer!r} is for graphs of one kind of node; for HeteroData leave layer away, and name a "
                "layer after the pooling to the engine"
            )

        def add_signal(_layer: nn.Module, _inputs: Any, features: Any) -> Tensor:
            if not isinstance(features, Tensor) or features.dim() != 2 or len(features) != data.num_nodes:
                raise ValueError(
                    f"the layer {self._layer!r} must return features of nodes, ({data.num_nodes}, channels), for this "
                    f"batch, not {_described(features)}; name another layer, or give layer=None and name one after "
                    "the pooling to the engine"
                )
            signal: Tensor = self.signal(features.new_zeros(len(graphs), features.shape[1]))
            return features + signal[data.batch]

        handle = self.model.get_submodule(self._layer).register_forward_hook(add_signal)
        try:
            return self._call(self.model, data)
        finally:
            handle.remove()


class Batches:
    """The batches of a PyG loader as pairs (inputs, target), for ``engine.fit``, ``engine.predict`` and it3.evaluate.

    Parameters
    ----------
    loader
        A ``torch_geometric.loader.DataLoader``, or another iterable of batches; it is gone through anew each time.
    inputs
        A function of a batch that returns what the engine is called with. Default: :func:`graphs_in`.
    target
        A function of a batch that returns the labels. Default: ``data.y``.
    """

    def __init__(
        self,
        loader: Iterable[Any],
        inputs: Callable[[Any], Any] = graphs_in,
        target: Callable[[Any], Tensor | None] = _labels,
    ) -> None:
        self.loader, self._inputs, self._target = loader, inputs, target

    def __iter__(self) -> Iterator[tuple[Any, Tensor | None]]:
        """Give the pairs."""
        return ((self._inputs(data), self._target(data)) for data in self.loader)

    def __len__(self) -> int:
        """Return how many there are. Raises TypeError where the loader does not tell."""
        return len(cast("Sized", self.loader))


def _picked(data: Any, graphs: list[int]) -> Any:
    """Return a batch of some of a batch's graphs.

    Raises
    ------
    ValueError
        For what is no longer as the loader put it together: nobody knows which graph has which part of it.
    """
    names = set(data.keys())
    followed = [name for name in names if f"{name}_ptr" in names]
    known = {"num_nodes", "batch", "ptr", *(f"{name}_{what}" for name in followed for what in ("batch", "ptr"))}
    for store in data.stores:
        slices = data._slice_dict if store._key is None else data._slice_dict.get(store._key, {})
        changed = [name for name in store if name not in known and not _is_sliced(data, store, name, slices.get(name))]
        if changed:
            raise ValueError(
                f"{changed[0]!r} of the batch was set or changed after its graphs had been put together, so that "
                "nobody knows which graph has which part of it; set it in each graph, as by the data set's transform, "
                "or let the graphs adapt together"
            )
    return Batch.from_data_list(data.index_select(graphs), follow_batch=followed)


def _is_sliced(data: Any, store: Any, name: str, slices: Any) -> bool:
    """Whether slices, which tell where each graph's part begins, are of the value that a batch has now."""
    value = store[name]
    if not isinstance(value, Tensor) or not isinstance(slices, Tensor) or slices.dim() != 1:
        return slices is not None
    return int(slices[-1]) == value.size(data.__cat_dim__(name, value, store) or 0)


def _described(value: object) -> str:
    return f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
