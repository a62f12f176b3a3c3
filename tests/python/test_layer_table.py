"""What it3.layers tells of a model's layers, and which one it3.suggest_layer takes."""

import it3
import pytest
import torch
from it3 import IT3Engine
from torch import Tensor, nn


class Tied(nn.Module):
    """Uses a weight by itself, one layer twice, one never, and the first layer's weight again in the end."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(5, 6, bias=False)
        self.scale = nn.Parameter(torch.ones(6))
        self.twice = nn.Tanh()
        self.norm = nn.BatchNorm1d(6)
        self.last = nn.Linear(6, 3)
        self.unused = nn.Linear(2, 2)
        self.calls = 0

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        self.calls += 1
        features = self.twice(self.first(x))
        features = self.norm(self.twice(features * self.scale))
        return {"rest": features @ self.first.weight, "prediction": self.last(features)}


class Works(nn.Module):
    """Does so many like operations."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.times, self.linear = times, nn.Linear(128, 128)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(self.times - 1):
            x = x.tanh() @ self.linear.weight
        return self.linear(x)


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.relu = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(x + self.norm(self.conv(x)))


def test_what_is_before_and_behind() -> None:
    model, x = Tied(), torch.randn(7, 5)
    table = it3.layers(model, x, output="prediction")
    assert [layer.name for layer in table] == ["first", "twice", "norm", "last", "unused"]
    around = [(layer.weights_before, layer.weights_behind) for layer in table]
    # first has 30, scale 6, norm 12, last 21; those of first are used again at the end, and those of unused never.
    assert around == [(0, 69), (0, 69), (18, 51), (69, 0), (0, 0)]
    assert [layer.times_called for layer in table] == [1, 2, 1, 1, 0]
    assert [layer.batch_norms_behind for layer in table] == [1, 1, 0, 0, 0]
    assert [layer.kind for layer in table] == ["Linear", "Tanh", "BatchNorm1d", "Linear", "Linear"]
    assert [layer.output_shape for layer in table] == [(7, 6), (7, 6), (7, 6), (7, 3), ()]
    assert [layer.channel_dim for layer in table] == [1, 1, 1, 1, None]
    assert str(table["unused"].share_behind) == "nan"
    assert table["unused"].embedder_weights is None


def test_the_embedder_is_as_large_as_the_engine_s() -> None:
    net = nn.Sequential(nn.Conv2d(2, 6, 3), nn.ReLU(), nn.Conv2d(6, 3, 1))
    tokens = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 5), nn.Linear(5, 2))
    for model, x in ((net, torch.randn(3, 2, 8, 8)), (tokens, torch.randint(9, (3, 7)))):
        for layer in it3.layers(model, x):
            engine = IT3Engine(model, layer.name)
            engine.uncertainty(x)
            assert layer.embedder_weights == sum(weight.numel() for weight in engine.embedder.parameters())
            assert layer.channel_dim == engine.explain(x).features.layout.channel_dim


def test_the_share_is_of_what_is_computed() -> None:
    table = it3.layers(nn.Sequential(Works(20), Works(60)), torch.randn(256, 128))
    product, tanh = 2 * 256 * 128 * 128, 256 * 128
    behind, all_of_it = 60 * product + 59 * tanh, 80 * product + 78 * tanh
    assert table["0"].share_behind == behind / all_of_it
    assert table["1"].share_behind == 0


def test_what_is_computed_of_convolutions_attention_and_recurrence() -> None:
    class Attends(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            heads = x.view(2, 5, 2, 4).transpose(1, 2)
            return nn.functional.scaled_dot_product_attention(heads, heads, heads)

    convolutions = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 1))
    counts = 2 * 2 * 4 * 6 * 6 * 3 * 9, 2 * 2 * 2 * 6 * 6 * 4
    share = it3.layers(convolutions, torch.randn(2, 3, 8, 8))["0"].share_behind
    assert share == counts[1] / sum(counts)

    attention = nn.Sequential(nn.Linear(8, 8), Attends())
    counts = 2 * 2 * 5 * 8 * 8, 2 * 2 * (2 * 2 * 5 * 5 * 4)  # two products of each of 2 samples' 2 heads
    assert it3.layers(attention, torch.randn(2, 5, 8))["0"].share_behind == counts[1] / sum(counts)

    recurrence = nn.Sequential(nn.Linear(8, 8), nn.LSTM(8, 16, batch_first=True))
    counts = 2 * 2 * 5 * 8 * 8, 2 * 2 * 5 * (4 * 16 * 8 + 4 * 16 * 16)
    table = it3.layers(recurrence, torch.randn(2, 5, 8), output=0)
    torch.testing.assert_close(table["0"].share_behind, counts[1] / sum(counts), rtol=0.05, atol=0)  # and copies


def test_each_run_tells_the_same() -> None:
    model, x = nn.Sequential(nn.Conv2d(3, 4, 3), Residual(), nn.Flatten(), nn.Linear(144, 2)), torch.randn(2, 3, 8, 8)
    tables = [str(it3.layers(model, x)) for _ in range(3)]
    assert tables[0] == tables[1] == tables[2]


def test_views_compute_nothing_and_other_operations_as_many_numbers_as_they_return() -> None:
    class Sums(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.view(-1).view(3, 8).T.sum(1)  # 8 numbers

    model = nn.Sequential(nn.Tanh(), Sums(), nn.ReLU())  # 24, 8 and 8 of them
    assert it3.layers(model, torch.randn(4, 6))["0"].share_behind == 16 / 40


def test_the_model_is_as_before() -> None:
    class Changes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear, self.norm, self.drop = nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Dropout()
            self.register_buffer("seen", torch.zeros(()))
            self.calls = 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            self.seen += 1
            self.norm.running_mean.add_(1)
            x.mul_(2)
            return self.drop(self.norm(self.linear(x))) + torch.rand(())

    model, x = Changes(), torch.randn(4, 5)
    model.norm.eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    given, state = x.clone(), torch.get_rng_state()
    it3.layers(model, x, explain=True)
    assert [model.training, model.norm.training, model.drop.training] == [True, False, True]
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert torch.equal(x, given)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.calls == 0
    assert not any(module._forward_hooks for module in model.modules())


def test_a_model_that_raises_is_as_before() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(5, 2)).train()
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        it3.layers(model, torch.randn(2, 4))
    assert all(module.training and not module._forward_hooks for module in model.modules())


def test_it_says_how_engines_would_run() -> None:
    model, x = Tied(), torch.randn(7, 5)
    table = it3.layers(model, x, explain=True, output="prediction")
    runs = {layer.name: layer.runs for layer in table}
    assert runs["norm"] == "run whole, with a hook on the layer: forward() assigns attributes"
    assert runs["unused"] == ""
    linear = nn.Sequential(nn.Linear(5, 6), nn.Linear(6, 3))
    assert it3.layers(linear, x, explain=True)["0"].runs == "cut at the layer, exported by torch.export"
    apart = nn.ModuleDict({"used": nn.Linear(5, 2), "aside": nn.Linear(5, 2)})
    apart.forward = lambda x: apart["used"](x) + 0 * apart["aside"](x).detach()
    refused = it3.layers(apart, x, explain=True)["aside"].runs
    assert refused.startswith("refused: ")


class Branches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.other, self.last = nn.Linear(4, 6), nn.Linear(4, 6), nn.Linear(6, 2)
        self.norm = nn.BatchNorm1d(6)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.one(x) + self.norm(self.other(x)))


def test_branches_beside_a_layer_are_not_behind_it() -> None:
    table = it3.layers(Branches(), torch.randn(5, 4))
    assert (table["one"].weights_before, table["one"].weights_behind) == (30 + 30 + 12, 14)
    assert (table["other"].weights_before, table["other"].weights_behind) == (60, 12 + 14)
    assert (table["one"].batch_norms_behind, table["other"].batch_norms_behind) == (0, 1)


def test_normalization_by_functions_and_without_running_statistics() -> None:
    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 2)
            self.register_buffer("mean", torch.zeros(6))
            self.register_buffer("variance", torch.ones(6))

        def forward(self, x: Tensor) -> Tensor:
            return self.last(nn.functional.batch_norm(self.first(x), self.mean, self.variance))

    x = torch.randn(5, 4)
    assert it3.layers(Functional(), x)["first"].batch_norms_behind == 1
    of_batch = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6, track_running_stats=False), nn.Linear(6, 2))
    assert it3.layers(of_batch, x)["0"].batch_norms_behind == 0


def test_writing_in_place_hangs_on_what_is_written() -> None:
    class Writes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two, self.last = nn.Linear(4, 3), nn.Linear(4, 3), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            both = x.new_zeros(len(x), 6)
            both[:, :3] = self.one(x)
            both[:, 3:] = self.two(x)
            return self.last(both.relu_())

    table = it3.layers(Writes(), torch.randn(5, 4))
    assert (table["one"].weights_before, table["one"].weights_behind) == (30, 14)
    assert (table["two"].weights_before, table["two"].weights_behind) == (30, 14)


def test_weights_in_one_storage_are_told_apart() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 2))
    nn.utils.vector_to_parameters(nn.utils.parameters_to_vector(model.parameters()).detach(), model.parameters())
    table = it3.layers(model, torch.randn(5, 4))
    assert (table["0"].weights_before, table["0"].weights_behind) == (30, 14)


def test_models_that_need_gradients_or_more_than_tensors() -> None:
    class Forces(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = x.requires_grad_()
            return torch.autograd.grad(self.last(self.first(x).tanh()).sum(), x, create_graph=True)[0]

    assert it3.layers(Forces(), torch.randn(5, 4))["first"].weights_behind > 0

    class Graph:
        def __init__(self) -> None:
            self.x = torch.randn(5, 4)

    class OfGraphs(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 1)

        def forward(self, graph: Graph) -> Tensor:
            graph.x = self.first(graph.x)
            return self.last(graph.x)

    graph = Graph()
    before = graph.x.clone()
    assert it3.layers(OfGraphs(), graph)["first"].weights_behind == 7
    assert torch.equal(graph.x, before)


def test_memory_and_flags_of_weights_are_as_before() -> None:
    class Moves(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 1)
            self.register_buffer("seen", torch.zeros(1, 4))
            self.register_buffer("wide", torch.ones(1, 4).expand(3, 4))

        def forward(self, x: Tensor) -> Tensor:
            self.seen.data = torch.cat([self.seen, x])
            self.first.weight.data = torch.renorm(self.first.weight, 2, 0, 0.1)
            self.last.weight.requires_grad_(False)
            return self.last(self.first(x + self.wide[0]))

    model = Moves()
    places = [tensor.data_ptr() for tensor in (*model.parameters(), *model.buffers())]
    values = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    it3.layers(model, torch.randn(5, 4))
    assert places == [tensor.data_ptr() for tensor in (*model.parameters(), *model.buffers())]
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, values[name])
    assert model.last.weight.requires_grad


def test_scripted_parts_keep_their_flags() -> None:
    model = nn.Sequential(torch.jit.script(nn.Sequential(nn.Linear(4, 6), nn.Dropout())), nn.Linear(6, 2)).train()
    table = it3.layers(model, torch.randn(5, 4))
    assert table["1"].weights_before == 30 + 14
    assert model[0].training


def test_layers_that_cannot_be_adapted_are_not_suggested() -> None:
    class Checkpointed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block, self.last = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 6)), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(torch.utils.checkpoint.checkpoint(self.block, x, use_reentrant=False))

    x = torch.randn(5, 4)
    assert it3.layers(Checkpointed(), x, explain=True)["block.0"].runs.startswith("refused: ")
    assert it3.suggest_layer(Checkpointed(), x).name == "block"


def test_arguments_of_the_engine() -> None:
    model, x = nn.Sequential(nn.Linear(5, 6), nn.Linear(6, 3)), torch.randn(7, 4, 5)
    assert it3.layers(model, x, features_layout=it3.Layout(channel_dim=1))["0"].channel_dim == 1
    wide = it3.layers(model, x, prediction_layout=it3.Layout(channel_dim=1))["0"]
    assert wide.embedder_weights == (4 + 1) * 6 + (6 + 1) * 6
    with pytest.raises(TypeError, match="outptu"):
        it3.layers(model, x, outptu=1)
    flat = nn.Sequential(nn.Linear(5, 6), nn.Linear(6, 1), nn.Flatten(0))
    assert it3.layers(flat, torch.randn(7, 5))["0"].embedder_weights == (1 + 1) * 6 + (6 + 1) * 6


def test_a_model_without_layers() -> None:
    table = it3.layers(nn.Linear(4, 2), torch.randn(3, 4))
    assert (len(table), len(table.to_frame())) == (0, 0)


def test_tables() -> None:
    table = it3.layers(nn.Sequential(nn.Linear(5, 6), nn.Linear(6, 3)), torch.randn(7, 5))
    lines = str(table).splitlines()
    assert lines[0].split() == [
        *(
            "layer",
            "kind",
            "output",
            "channels",
            "calls",
            "weights",
            "before",
            "weights",
            "behind",
            "batch",
            "norms",
            "behind",
        ),
        *("compute", "behind", "embedder"),
    ]
    assert lines[1].split()[:2] == ["0", "Linear"]
    assert len(set(map(len, lines))) == 1
    assert list(table.to_frame().index) == ["0", "1"]
    assert "<td>Linear</td>" in table._repr_html_()
    with pytest.raises(KeyError, match="no layer is called '2'; the layers are '0', '1'"):
        table["2"]


@pytest.mark.parametrize("name", ["layers", "suggest_layer"])
def test_what_is_refused(name: str) -> None:
    ask, x = getattr(it3, name), torch.randn(2, 4)
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    with pytest.raises(TypeError, match=r"must be an eager torch.nn.Module, not a TopLevelTracedModule"):
        ask(torch.jit.trace(model, x), x)
    with pytest.raises(TypeError, match=r"must be a torch.nn.Module .*, not a str"):
        ask("model", x)
    with pytest.raises(ValueError, match="lazy parameters, which have no shape yet; call it once before"):
        ask(nn.Sequential(nn.LazyLinear(3)), x)


def test_suggestions_avoid_batch_normalization_behind() -> None:
    blocks = nn.Sequential(Residual(), Residual())
    model = nn.Sequential(nn.Conv2d(3, 4, 3), blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    suggested = it3.suggest_layer(model, torch.randn(2, 3, 16, 16))
    assert suggested.name == "1"
    assert "no batch normalization is behind it" in suggested.reason
    assert suggested.explanation.is_cut
    assert str(suggested).startswith("'1': ")


def test_suggestions_where_all_have_batch_normalization_behind() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2), nn.BatchNorm1d(2))
    suggested = it3.suggest_layer(model, torch.randn(5, 4))
    assert suggested.layer.batch_norms_behind == 1
    assert "train with neutral" in suggested.reason


def test_suggestions_leave_half_of_the_compute_behind() -> None:
    x = torch.randn(256, 128)
    model = nn.Sequential(Works(5), Works(40), Works(10), Works(1))
    assert it3.suggest_layer(model, x).name == "1"
    assert it3.suggest_layer(nn.Sequential(Works(1), Works(60)), x).name == "0"


def test_there_may_be_no_layer() -> None:
    with pytest.raises(ValueError, match="features_layer_name='input' feeds y0 back at its input"):
        it3.suggest_layer(nn.Linear(4, 2), torch.randn(2, 4))
    with pytest.raises(ValueError, match="returned a dict with 2 tensors; say which is the prediction"):
        it3.suggest_layer(Tied(), torch.randn(7, 5))
