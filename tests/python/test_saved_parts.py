"""What TorchScript hardly takes: compiled models, subclasses of Embedder, odd names, source that it cannot read."""

import copy
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import it3
import pytest
import torch
from it3 import Embedder, IT3Engine
from models import make_case
from torch import Tensor, nn

exactly = torch.testing.assert_close
pytestmark = pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")


def assert_adapts_like(loaded: IT3Engine, engine: IT3Engine, inputs: Tensor) -> None:
    for steps in (0, 3):
        expected, actual = (e.adapt(inputs, num_steps=steps) for e in (engine, loaded))
        for name in ("prediction", "second", "losses"):
            torch.testing.assert_close(getattr(actual, name), getattr(expected, name), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("method", ["script", "trace"])
@pytest.mark.parametrize("layer", ["0", "_orig_mod.0"])
def test_an_engine_around_a_compiled_model(layer: str, method: str, tmp_path: Path) -> None:
    case = make_case("mlp", torch.float32)
    model = torch.compile(case.model, backend="eager")
    engine = IT3Engine(model, layer).eval()
    engine.save(tmp_path / "engine.pt", case.inputs, method)
    assert_adapts_like(it3.load(tmp_path / "engine.pt"), engine, case.inputs)
    assert isinstance(engine.model, type(model))


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # as the compiler looks at it
def test_a_compiled_part_of_a_model(tmp_path: Path) -> None:
    case = make_case("mlp", torch.float32)
    body = torch.compile(nn.Sequential(*case.model[1:]), backend="eager")
    engine = IT3Engine(nn.Sequential(case.model[0], body), "0").eval()
    engine.save(tmp_path / "engine.pt", case.inputs)
    plain = IT3Engine(case.model, "0", engine.embedder).eval()
    assert_adapts_like(it3.load(tmp_path / "engine.pt"), plain, case.inputs)
    assert engine.model[1] is body


class AddedBy(nn.Module):
    """A combine_fn with a layer that it is given."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, features: Tensor, embedding: Tensor) -> Tensor:
        return features + self.layer(embedding)


@pytest.mark.parametrize("how", [{}, {"format": "aoti"}])
def test_a_function_that_computes_with_a_layer_of_the_model_is_refused(how: dict[str, Any], tmp_path: Path) -> None:
    model, x = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 8)), torch.randn(6, 4)
    engine = IT3Engine(model, "0", combine_fn=AddedBy(model[2])).eval()
    with pytest.raises(ValueError, match=r"combine_fn computes with the model's '2\.weight'.* give it a clone"):
        engine.save(tmp_path / "engine.pt2", x, **how)
    assert list(tmp_path.iterdir()) == []
    engine.combine_fn = AddedBy(copy.deepcopy(model[2]))
    engine.save(tmp_path / "engine.pt", x)
    assert_adapts_like(it3.load(tmp_path / "engine.pt"), engine, x)


class Doubled(Embedder):
    """Embeds otherwise, with a weight of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(2.0))

    def forward(self, prediction: Tensor, features: Tensor) -> Tensor:
        return self.scale * prediction.sum(1, keepdim=True) * torch.ones_like(features)


class Negated(Embedder):
    """The default one, negated."""

    def forward(self, prediction: Tensor, features: Tensor) -> Tensor:
        return -super().forward(prediction, features)


@pytest.mark.parametrize(("kind", "method"), [(Doubled, "script"), (Doubled, "trace"), (Negated, "trace")])
def test_a_subclass_of_embedder_is_saved_as_what_it_is(kind, method: str, tmp_path: Path) -> None:
    case = make_case("mlp", torch.float32)
    engine = IT3Engine(case.model, case.layer, kind()).eval()
    engine.save(tmp_path / "engine.pt", case.inputs, method)
    loaded = it3.load(tmp_path / "engine.pt")
    assert_adapts_like(loaded, engine, case.inputs)
    default = IT3Engine(case.model, case.layer, Embedder()).eval()
    default.embedder.load_state_dict(engine.embedder.state_dict(), strict=False)
    other = default.adapt(case.inputs, num_steps=0).second
    assert (loaded.adapt(case.inputs, num_steps=0).second - other).abs().max() > 0.05
    loaded.save(tmp_path / "again.pt", case.inputs)
    exactly(it3.load(tmp_path / "again.pt")(case.inputs), loaded(case.inputs), rtol=0, atol=0)


def test_a_subclass_that_cannot_be_scripted_is_refused(tmp_path: Path) -> None:
    case = make_case("mlp", torch.float32)
    engine = IT3Engine(case.model, case.layer, Negated()).eval()
    with pytest.raises(ValueError, match="embedder cannot be exported by method='script'; try method='trace'"):
        engine.save(tmp_path / "engine.pt", case.inputs)
    assert list(tmp_path.iterdir()) == []


def test_an_error_leaves_the_weights_of_a_subclass() -> None:
    case = make_case("mlp", torch.float32)
    engine = IT3Engine(case.model, case.layer, Doubled()).eval()
    with pytest.raises(Exception, match=r"shapes cannot be multiplied|size"):
        engine.adapt(torch.zeros(2, 5))
    assert engine.embedder.scale.item() == 2.0


def with_name(name: str, kind: str) -> nn.Module:
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))

    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = model[0]
            if kind == "layer":
                self.add_module(name, model[2])
            else:
                self.layer2 = model[2]
                tensor = torch.ones(3)
                self.register_buffer(name, tensor) if kind == "buffer" else self.register_parameter(
                    name, nn.Parameter(tensor)
                )

        def forward(self, x: Tensor) -> Tensor:
            x = torch.tanh(self.layer(x))
            return getattr(self, name)(x) if kind == "layer" else self.layer2(x) * getattr(self, name)

    return Named()


def saves_of(engine: IT3Engine, x: Tensor, folder: Path) -> list[Callable[[], None]]:
    return [
        lambda: engine.save(folder / "engine.pt", x, "trace"),
        lambda: engine.adapt(x).save(folder / "adapted.pt", x, "trace"),
    ]


@pytest.mark.parametrize("kind", ["layer", "buffer", "parameter"])
@pytest.mark.parametrize("name", ["größe", "class", "层", "None", "in"])
def test_names_that_torchscript_cannot_read_are_refused(name: str, kind: str, tmp_path: Path) -> None:
    x = torch.randn(4, 6)
    engine = IT3Engine(with_name(name, kind), "layer").eval()
    for save in saves_of(engine, x, tmp_path):
        with pytest.raises(ValueError, match=f"(rename|does not hold the name) '{name}'"):
            save()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["layer", "buffer", "parameter"])
@pytest.mark.parametrize("name", ["0", "ok", "print", "lambda", "a b"])
def test_other_names_work(name: str, kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    x = torch.randn(4, 6)
    engine = IT3Engine(with_name(name, kind), "layer").eval()
    for save in saves_of(engine, x, tmp_path):
        save()
    assert_adapts_like(it3.load(tmp_path / "engine.pt"), engine, x)
    torch.testing.assert_close(torch.jit.load(tmp_path / "adapted.pt")(x), engine.adapt(x).prediction)


def test_source_that_is_not_there(tmp_path: Path) -> None:
    """Where TorchScript raises OSError, as for classes that were made at run time."""
    space: dict = {"nn": nn}
    source = "class Made(nn.Module):\n def __init__(self):\n  super().__init__()\n  self.layer = nn.Linear(6, 3)\n"
    exec(source + " def forward(self, x):\n  return self.layer(x)\n", space)
    engine = IT3Engine(space["Made"](), "layer").eval()
    x = torch.randn(4, 6)
    with pytest.raises(ValueError, match="the model cannot be exported by method='script'; try method='trace'"):
        engine.save(tmp_path / "engine.pt", x)
    with pytest.raises(ValueError, match="the model cannot be exported by method='script'; try method='trace'"):
        engine.adapt(x).save(tmp_path / "adapted.pt", x)
    engine.save(tmp_path / "engine.pt", x, "trace")
    assert_adapts_like(it3.load(tmp_path / "engine.pt"), engine, x)


def test_a_model_that_neither_method_takes(tmp_path: Path) -> None:
    class Neither(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(6, 3)

        def forward(self, x: Tensor):
            same = lambda y: y  # noqa: E731
            return {"y": same(self.layer(x)), "how": "by a function without a name"}

    engine = IT3Engine(Neither(), "layer").eval()
    with pytest.raises(ValueError, match=r"cannot be exported by method='script', nor by 'trace'; .*method='export'"):
        engine.save(tmp_path / "engine.pt", torch.randn(4, 6))
    assert list(tmp_path.iterdir()) == []


def test_a_model_of_transformers(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = transformers.BertConfig(vocab_size=50, num_labels=3, **sizes)
    engine = IT3Engine(transformers.BertForSequenceClassification(config), "bert.embeddings").eval()
    inputs = {"input_ids": torch.randint(0, 50, (4, 7)), "attention_mask": torch.ones(4, 7, dtype=torch.long)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ValueError, match="cannot be exported by method='script'; try method='trace'"):
            engine.save(tmp_path / "engine.pt", inputs, "script")
        engine.save(tmp_path / "engine.pt", inputs, "trace")
    loaded = it3.load(tmp_path / "engine.pt")
    torch.testing.assert_close(loaded(inputs), engine(inputs), rtol=1e-4, atol=1e-6)
    assert [path.name for path in tmp_path.iterdir()] == ["engine.pt"]
