"""Graphs of PyTorch Geometric, beside the method written plainly, in a loop over graphs one by one."""

import copy
from collections.abc import Callable
from pathlib import Path

import it3
import pytest
import torch
from it3.frameworks.pyg import Batches, GraphModel, graphs_in
from reference import adapt, embed
from torch import Tensor, nn
from torch.nn import functional as F
from torch_geometric.data import Batch, Data, HeteroData
from torch_geometric.loader import DataLoader
from torch_geometric.nn import GCN, GCNConv, GINEConv, global_mean_pool
from torch_geometric.utils import scatter

pytestmark = pytest.mark.filterwarnings("ignore:per_sample. the samples adapt one after another")
OPTIONS = {"num_steps": 3, "lr": 1e-2}
SIZES = (3, 7, 4, 5)


def ring(nodes: int) -> Data:
    """Return a graph of nodes in a circle."""
    here = torch.arange(nodes)
    edges = torch.stack([torch.cat([here, (here + 1) % nodes]), torch.cat([(here + 1) % nodes, here])])
    x, edge_attr = torch.randn(nodes, 4).double(), torch.rand(2 * nodes, 2).double()
    return Data(x=x, edge_index=edges, edge_attr=edge_attr, y=torch.randint(3, (1,)))


class Molecules(nn.Module):
    """Graphs to (B, 3)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2, self.head = GCNConv(4, 8), GCNConv(8, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor, edge_index: Tensor, batch: Tensor) -> Tensor:
        h = self.conv2(self.conv1(x, edge_index).relu(), edge_index).relu()
        return self.head(global_mean_pool(h, batch))


class Bonds(nn.Module):
    """Graphs with features of edges to (B, 3)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.head = GINEConv(nn.Linear(4, 8), edge_dim=2), nn.Linear(8, 3)

    def forward(self, data: Data) -> Tensor:
        h = self.conv1(data.x, data.edge_index, data.edge_attr).relu()
        return self.head(global_mean_pool(h, data.batch, data.num_graphs))


class OfData(nn.Module):
    """A model that is called with a batch alone, for the reference."""

    def __init__(self, model: nn.Module, call: Callable) -> None:
        super().__init__()
        self.model, self.call = model, call

    def forward(self, data: Batch) -> Tensor:
        return self.call(self.model, data)


def call_by_nodes(model: nn.Module, data: Batch) -> Tensor:
    return model(data.x, data.edge_index, data.batch)


def call_by_data(model: nn.Module, data: Batch) -> Tensor:
    return model(data)


CALLS = {Molecules: call_by_nodes, Bonds: call_by_data}


@pytest.fixture
def graphs() -> list[Data]:
    torch.manual_seed(0)
    return [ring(nodes) for nodes in SIZES]


@pytest.fixture(params=CALLS, ids=lambda kind: kind.__name__)
def engine(request: pytest.FixtureRequest, graphs: list[Data]) -> it3.IT3Engine:
    model = GraphModel(request.param().double(), "conv1", CALLS[request.param])
    engine = it3.IT3Engine(model, "signal", distance_fn="mse", optimization_parameters=OPTIONS).eval()
    engine.adapt(graphs_in(Batch.from_data_list(graphs)), num_steps=0)  # which shapes the embedder
    with torch.no_grad():
        engine.embedder.bias2 += 1.0  # so that what is fed back shows
    return engine


def plainly(engine: it3.IT3Engine, data: Batch) -> tuple[Tensor, list[float]]:
    """Adapt by the method as its formulas, which know nothing of GraphModel."""
    model = engine.model.model
    e = engine.embedder

    def embedded(signal: Tensor, features: Tensor) -> Tensor:
        return embed(signal, features, e.weight1, e.bias1, e.weight2, e.bias2)

    return adapt(
        OfData(model, CALLS[type(model)]),
        "model.conv1",
        embedded,
        data,
        combine=lambda features, embedding: features + embedding[data.batch],
        **OPTIONS,
    )[:2]


def test_a_batch_adapts_together(engine: it3.IT3Engine, graphs: list[Data]) -> None:
    data = Batch.from_data_list(graphs)
    expected, losses = plainly(engine, data)
    adaptation = engine.adapt(graphs_in(data))
    torch.testing.assert_close(adaptation.prediction, expected)
    assert adaptation.losses.tolist() == pytest.approx(losses)
    assert (expected - call(engine, data)).abs().max() > 1e-2


def call(engine: it3.IT3Engine, data: Batch) -> Tensor:
    model = engine.model.model
    return CALLS[type(model)](model, data)


def test_each_graph_adapts_alone(engine: it3.IT3Engine, graphs: list[Data]) -> None:
    alone = [plainly(engine, Batch.from_data_list([graph])) for graph in graphs]
    before = copy.deepcopy(engine.model.state_dict())
    adaptation = engine.adapt(graphs_in(Batch.from_data_list(graphs)), per_sample=True)
    torch.testing.assert_close(adaptation.prediction, torch.cat([prediction for prediction, _ in alone]))
    torch.testing.assert_close(adaptation.losses.T, torch.tensor([losses for _, losses in alone]).double())
    together = engine.adapt(graphs_in(Batch.from_data_list(graphs))).prediction
    assert (adaptation.prediction - together).abs().max() > 1e-3
    assert all(torch.equal(value, before[name]) for name, value in engine.model.state_dict().items())


def test_graphs_are_chosen_by_their_uncertainty(engine: it3.IT3Engine, graphs: list[Data]) -> None:
    data = Batch.from_data_list(graphs)
    uncertainty = engine.uncertainty(graphs_in(data))
    assert uncertainty.shape == (4,)
    alone = engine.adapt(graphs_in(data), per_sample=True)
    threshold = float(uncertainty.sort().values[1:3].mean())
    chosen = engine.adapt(graphs_in(data), per_sample=True, threshold=threshold)
    adapted = uncertainty > threshold
    assert adapted.sum() == 2
    assert torch.equal(chosen.adapted_samples, adapted)
    torch.testing.assert_close(chosen.prediction[adapted], alone.prediction[adapted])
    torch.testing.assert_close(chosen.prediction[~adapted], call(engine, data)[~adapted])


def test_graphs_that_are_chosen_in_any_order_and_twice(engine: it3.IT3Engine, graphs: list[Data]) -> None:
    model, data = engine.model, Batch.from_data_list(graphs)
    chosen = model(torch.tensor([2, 0, 2]), data)
    torch.testing.assert_close(chosen, call(engine, data)[[2, 0, 2]])


class Pairs(Data):
    def __inc__(self, key: str, value: Tensor, *rest: object) -> int:
        return len(self.other) if key == "other_edge_index" else super().__inc__(key, value, *rest)


class OfPairs(Molecules):
    def forward(self, data: Batch) -> Tensor:
        one, other = self.conv1(data.x, data.edge_index), self.conv1(data.other, data.other_edge_index)
        return self.head(global_mean_pool(one, data.batch) + global_mean_pool(other, data.other_batch))


def test_what_a_loader_was_told_to_follow_is_there_for_each_graph() -> None:
    torch.manual_seed(0)
    rings = [(ring(nodes), ring(nodes + 1)) for nodes in SIZES]
    pairs = [Pairs(x=a.x, edge_index=a.edge_index, other=b.x, other_edge_index=b.edge_index) for a, b in rings]
    data = next(iter(DataLoader(pairs, batch_size=4, follow_batch=["other"])))
    engine = it3.IT3Engine(GraphModel(OfPairs().double(), call=call_by_data), "model.head").eval()
    one_by_one = [next(iter(DataLoader([pair], follow_batch=["other"]))) for pair in pairs]
    expected = torch.cat([engine.adapt(graphs_in(each), **OPTIONS).prediction for each in one_by_one])
    torch.testing.assert_close(engine.adapt(graphs_in(data), per_sample=True, **OPTIONS).prediction, expected)


def test_what_was_set_in_the_batch_is_no_graphs_own(graphs: list[Data]) -> None:
    def weighted(model: nn.Module, data: Batch) -> Tensor:
        h = model.conv1(data.x, data.edge_index, data.edge_weight).relu()
        return model.head(global_mean_pool(h, data.batch))

    engine = it3.IT3Engine(GraphModel(Molecules().double(), "conv1", weighted), "signal").eval()
    for graph in graphs:
        graph.num_nodes = len(graph.x)
        graph.edge_weight = torch.rand(graph.num_edges).double()
    alone = torch.cat([engine.adapt(graphs_in(graph)).prediction for graph in graphs])
    data = Batch.from_data_list(graphs)
    torch.testing.assert_close(engine.adapt(graphs_in(data), per_sample=True).prediction, alone)
    for name, value in {"edge_weight": data.edge_weight[1:], "later": data.edge_weight}.items():
        changed = data.clone()
        changed[name] = value
        with pytest.raises(ValueError, match=f"'{name}' of the batch was set or changed after its graphs had been put"):
            engine.adapt(graphs_in(changed), per_sample=True)


def test_trains_as_by_hand(graphs: list[Data]) -> None:
    torch.manual_seed(1)
    model = Molecules().double()
    engine = it3.IT3Engine(GraphModel(copy.deepcopy(model), "conv1"), "signal", distance_fn="js")
    data, target = Batch.from_data_list(graphs), torch.tensor([0, 2, 1, 1])
    engine.adapt(graphs_in(data), num_steps=0)
    e = engine.embedder
    prediction, loss_ttt = engine.train()(graphs_in(data), target=target)
    one_hot = F.one_hot(target, 3).double()
    signal = embed(one_hot, prediction, e.weight1, e.bias1, e.weight2, e.bias2)
    handle = model.conv1.register_forward_hook(lambda _m, _i, h: h + signal[data.batch])
    y1 = model(data.x, data.edge_index, data.batch).softmax(1)
    handle.remove()
    middle = (y1 + one_hot) / 2
    js = ((y1 * (y1 / middle).log()).sum(1) + (1 / middle).log().mul(one_hot).sum(1)).mean() / 2
    torch.testing.assert_close(prediction, model(data.x, data.edge_index, data.batch))
    torch.testing.assert_close(loss_ttt, js)


def test_the_loops_over_a_loader(graphs: list[Data]) -> None:
    torch.manual_seed(1)
    engine = it3.IT3Engine(GraphModel(Molecules().double(), "conv1"), "signal", distance_fn="js")
    batches = Batches(DataLoader(graphs, batch_size=3))
    assert len(batches) == 2
    history = engine.fit(batches, F.cross_entropy, epochs=30, validation=batches, metric="accuracy")
    assert history.rows[-1]["loss_criterion"] < history.rows[0]["loss_criterion"]
    one_by_one = engine.predict(Batches(DataLoader(graphs, batch_size=1)), **OPTIONS)
    torch.testing.assert_close(engine.predict(batches, per_sample=True, **OPTIONS), one_by_one)
    options = {"together": OPTIONS, "alone": {**OPTIONS, "per_sample": True}}
    rows = it3.evaluate(engine, batches, "accuracy", options, resamples=100).to_frame()["score"]
    labels = torch.cat([graph.y for graph in graphs])
    assert rows["alone"] == pytest.approx((one_by_one.argmax(1) == labels).double().mean().item())


def test_training_goes_on_with_the_order_of_its_loader(graphs: list[Data], tmp_path: Path) -> None:
    def train(epochs: list[int], path: Path) -> dict[str, Tensor]:
        for count in epochs:
            torch.manual_seed(1)
            engine = it3.IT3Engine(GraphModel(Molecules().double(), "conv1"), "signal", distance_fn="js")
            order = torch.Generator().manual_seed(2)
            batches = Batches(DataLoader(graphs, batch_size=1, shuffle=True, generator=order))
            engine.fit(batches, F.cross_entropy, epochs=count, checkpoint=path)
        return engine.model.state_dict()

    at_once, in_two = train([4], tmp_path / "a.pt"), train([2, 4], tmp_path / "b.pt")
    assert all(torch.equal(value, in_two[name]) for name, value in at_once.items())


def test_a_layer_behind_the_pooling(graphs: list[Data]) -> None:
    engine = it3.IT3Engine(GraphModel(Molecules().double()), "model.head", optimization_parameters=OPTIONS).eval()
    alone = torch.cat([engine.adapt(graphs_in(graph)).prediction for graph in graphs])
    data = Batch.from_data_list(graphs)
    torch.testing.assert_close(engine.adapt(graphs_in(data), per_sample=True).prediction, alone)


class OfKinds(nn.Module):
    """Graphs with two kinds of node to (B, 3)."""

    def __init__(self) -> None:
        super().__init__()
        self.atoms, self.rings, self.head = nn.Linear(4, 8), nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, data: Batch) -> Tensor:
        kinds = (("atom", self.atoms), ("ring", self.rings))
        pooled = [global_mean_pool(layer(data[kind].x).relu(), data[kind].batch) for kind, layer in kinds]
        return self.head(sum(pooled))


def test_several_kinds_of_node() -> None:
    torch.manual_seed(0)
    graphs = [HeteroData(atom={"x": torch.randn(n, 4)}, ring={"x": torch.randn(n - 1, 4)}) for n in SIZES]
    engine = it3.IT3Engine(GraphModel(OfKinds(), call=call_by_data), "model.head", optimization_parameters=OPTIONS)
    alone = torch.cat([engine.adapt(graphs_in(graph)).prediction for graph in graphs])
    data = Batch.from_data_list(graphs)
    torch.testing.assert_close(engine.adapt(graphs_in(data), per_sample=True).prediction, alone)


def test_predictions_for_nodes_need_no_more_than_the_engine(graphs: list[Data]) -> None:
    torch.manual_seed(1)
    model = GCN(4, 8, 2, out_channels=3).double()
    engine = it3.IT3Engine(model, "convs.0", distance_fn="js", optimization_parameters=OPTIONS)
    for graph in graphs:
        graph.y = torch.randint(3, (graph.num_nodes,))
    of_nodes = {"inputs": lambda data: {"x": data.x, "edge_index": data.edge_index}}
    batches = Batches(DataLoader(graphs, batch_size=2), **of_nodes)
    engine.fit(batches, F.cross_entropy, epochs=2)
    each = [engine.eval().adapt({"x": graph.x, "edge_index": graph.edge_index}).prediction for graph in graphs]
    predicted = engine.predict(Batches(DataLoader(graphs, batch_size=1), **of_nodes))
    torch.testing.assert_close(predicted, torch.cat(each))
    data = Batch.from_data_list(graphs)
    by_node = engine.uncertainty({"x": data.x, "edge_index": data.edge_index})
    by_graph = scatter(by_node, data.batch, reduce="mean")
    assert by_graph[1].item() == pytest.approx(by_node[3:10].mean().item())


def test_a_graph_that_is_not_finite(engine: it3.IT3Engine, graphs: list[Data]) -> None:
    graphs[1].x[0, 0] = torch.nan
    data = Batch.from_data_list(graphs)
    with pytest.raises(ValueError, match="not finite"):
        engine.adapt(graphs_in(data))
    adaptation = engine.adapt(graphs_in(data), threshold=0.0)
    assert adaptation.adapted_samples.tolist() == [True, False, True, True]
    without = plainly(engine, Batch.from_data_list([graphs[0], *graphs[2:]]))[0]
    torch.testing.assert_close(adaptation.prediction[[0, 2, 3]], without)


def test_the_batch_is_left_as_it_is(engine: it3.IT3Engine, graphs: list[Data]) -> None:
    data = Batch.from_data_list(graphs)
    before = data.clone()
    engine.adapt(graphs_in(data), per_sample=True)
    assert data.keys() == before.keys()
    assert all(torch.equal(data[name], before[name]) for name in ("x", "edge_index", "batch", "y"))
    assert not engine.model.model.conv1._forward_hooks


def test_wrong_uses(graphs: list[Data]) -> None:
    with pytest.raises(ValueError, match="the model has no layer 'conv3'; it has 'conv1'"):
        GraphModel(Molecules(), "conv3")
    with pytest.raises(TypeError, match="data must be a Batch or a Data of torch_geometric, not a Tensor"):
        graphs_in(graphs[0].x)
    engine = it3.IT3Engine(GraphModel(Molecules().double(), "head"), "signal").eval()
    with pytest.raises(ValueError, match=r"'head' must return features of nodes, \(19, channels\), for this batch"):
        engine.adapt(graphs_in(Batch.from_data_list(graphs)))
    of_kinds = HeteroData(atom={"x": torch.randn(3, 4).double()})
    with pytest.raises(ValueError, match="layer='head' is for graphs of one kind of node; for HeteroData"):
        engine.adapt(graphs_in(of_kinds))
    with pytest.raises(TypeError, match="len"):
        len(Batches(iter(graphs)))
