"""The picture of a cut shows what depends on the layer, in the order of calls."""

import pytest
import torch
from it3 import IT3Engine, plots
from it3.layer_choice.calls_around_layer import parts_of
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from test_plots import texts_of
from torch import Tensor, nn


class Branching(nn.Module):
    """Its layers are registered in another order than they run in, and one branch is called behind but apart."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 2)
        self.unused = nn.Linear(9, 9)
        self.late_branch = nn.Linear(6, 4)
        self.block = nn.ModuleDict({"last": nn.Linear(4, 4), "first": nn.Linear(6, 4)})
        self.activations = nn.ModuleList([nn.ReLU(inplace=True), nn.ReLU()])
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        h = self.activations[0](self.block["first"](x))
        h = self.activations[0](self.block["last"](h)) + self.late_branch(x)
        return self.head(self.activations[1](h)) * self.scale


def rows_in(ax: Axes) -> list[tuple[str, str, str]]:
    """Name, number of parameters and color of each box."""
    texts = texts_of(ax)
    return [
        (name, parameters, to_hex(box.get_facecolor()))
        for name, parameters, box in zip(texts[::2], texts[1::2], ax.patches, strict=True)
    ]


ONCE, LAYER, TWICE = "#56b4e9", "#e69f00", "#808080"


def test_the_cut_goes_by_what_depends_on_the_layer() -> None:
    engine = IT3Engine(Branching(), "block.first").train()
    engine.is_trained = True
    x = torch.randn(5, 6)
    before = {name: value.clone() for name, value in engine.state_dict().items()}
    state = torch.get_rng_state()
    ax = plots.cut(engine, x)
    assert rows_in(ax) == [
        ("block.first: Linear", "28", LAYER),
        ("activations.0: ReLU", "0", TWICE),
        ("block.last: Linear", "20", TWICE),
        ("late_branch: Linear", "28", ONCE),
        ("activations.1: ReLU", "0", TWICE),
        ("head: Linear", "10", TWICE),
    ]
    assert ax.get_title(loc="left") == "177 parameters, of which 91 are in no box"
    assert [text.get_text() for text in ax.get_legend().get_texts()] == [
        "the layer, at whose output y0 is fed back",
        "runs once, as does the layer: 56 parameters",
        "runs twice: 30 parameters",
    ]
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in engine.state_dict().items())
    assert all(module.training and not module._forward_hooks for module in engine.model.modules())
    assert all(parameter.requires_grad for parameter in engine.model.parameters())


def test_a_module_that_is_called_on_both_sides_says_so() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shared, self.layer = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.shared(self.layer(self.shared(x)))

    ax = plots.cut(IT3Engine(Twice(), "layer"), torch.randn(5, 4))
    assert texts_of(ax)[0] == "shared: Linear, called before the layer and behind it"


def test_large_modules_on_one_side_are_one_box() -> None:
    model = nn.Sequential(nn.Sequential(nn.Linear(4, 4), nn.ReLU()), nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 2)))
    ax = plots.cut(IT3Engine(model, "1"), torch.randn(3, 4))
    assert rows_in(ax) == [
        ("0: Sequential", "20", ONCE),
        ("1: Linear", "20", LAYER),
        ("2: Sequential", "10", TWICE),
    ]


def test_a_model_that_is_not_cut_runs_twice() -> None:
    class Reads(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(-x if bool(x.sum() > 0) else x)

    engine = IT3Engine(Reads(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)), "1")
    ax = plots.cut(engine, torch.randn(3, 4))
    assert [color for *_, color in rows_in(ax)] == [TWICE, LAYER, TWICE]
    assert ax.get_legend().get_texts()[-1].get_text() == "the model is not cut: all of it runs twice"


def test_the_cut_at_the_input_and_of_inputs_with_names() -> None:
    engine = IT3Engine(nn.Linear(5, 2), "input", extra_channels=2)
    assert rows_in(plots.cut(engine, torch.randn(4, 3))) == [
        ("input: InputLayer", "0", LAYER),
        ("model: Linear", "12", TWICE),
    ]

    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 2)

        def forward(self, *, table: Tensor, scale: Tensor) -> Tensor:
            return self.b(self.a(table) * scale)

    ax = plots.cut(IT3Engine(Named(), "a"), {"table": torch.randn(4, 3), "scale": torch.ones(4, 1)})
    assert [color for *_, color in rows_in(ax)] == [LAYER, TWICE]


def test_of_a_layers_outputs_the_chosen_one_alone_is_injected_into() -> None:
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.recurrent = nn.GRU(3, 4, batch_first=True)
            self.of_outputs, self.of_state = nn.Linear(4, 2), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            outputs, state = self.recurrent(x)
            return self.of_outputs(outputs[:, -1]) + self.of_state(state[0])

    x = torch.randn(5, 6, 3)
    for choice, places in ((None, ["layer", "behind", "before"]), (1, ["layer", "before", "behind"])):
        engine = IT3Engine(Pair(), "recurrent", layer_output=choice)
        with torch.inference_mode():
            assert [part.place for part in parts_of(engine, x)] == places


def test_the_cut_of_what_cannot_be_seen() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    exported = torch.export.export(model, (torch.randn(3, 4),))
    for opaque in (torch.jit.script(model), exported):
        with pytest.raises(ValueError, match=r"needs an eager model .* engine.explain\(inputs\) tells"):
            plots.cut(IT3Engine(opaque, "0"), torch.randn(3, 4))
    with pytest.raises(TypeError, match="engine must be an IT3Engine, not a Sequential"):
        plots.cut(model, torch.randn(3, 4))
