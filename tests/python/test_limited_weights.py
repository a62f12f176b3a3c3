"""Models whose forward() holds weights to a limit, by writing to them: nothing shows while they keep it."""

import copy
from functools import partial
from pathlib import Path

import it3
import pytest
import torch
import torch.nn.functional as F
from it3 import IT3Engine
from torch import Tensor, nn

close = partial(torch.testing.assert_close, rtol=1e-9, atol=1e-9)
TOKENS = torch.arange(7).repeat(3, 1)
STEPS = {"optimizer_name": "sgd", "lr": 2.0, "num_steps": 3}


class Limited(nn.Module):
    """With a layer `fc` behind something that limits weights."""

    def __init__(self) -> None:
        super().__init__()
        self.table = self.make()
        self.fc = nn.Linear(4, 5)
        self.head = nn.Linear(5, 2)

    def make(self) -> nn.Module:
        return nn.Embedding(7, 4, max_norm=0.5)

    def look_up(self, x: Tensor) -> Tensor:
        return self.table(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.fc(self.look_up(x))))


class Bag(Limited):
    def make(self) -> nn.Module:
        return nn.EmbeddingBag(7, 4, max_norm=0.5)


class Functional(Limited):
    def make(self) -> nn.Module:
        return nn.Embedding(7, 4)

    def look_up(self, x: Tensor) -> Tensor:
        return F.embedding(x, self.table.weight, None, 0.5)


class Behind(Limited):
    """Limits weights behind the layer."""

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.fc(self.table(x).detach()) + F.pad(self.table(x), (0, 1)))


class Assigned(Limited):
    """Limits weights by giving the parameter other data."""

    def forward(self, x: Tensor) -> Tensor:
        self.head.weight.data = self.head.weight.data.clamp(-0.2, 0.2)
        return self.head(self.fc(self.table.weight[x]))


def kept_to_limits(kind: type[Limited]) -> Limited:
    """A model that was called before, as all are that were trained."""
    torch.manual_seed(3)
    model = kind().double().eval()
    with torch.no_grad():
        model(TOKENS)
    return model


def by_hand(engine: IT3Engine, x: Tensor) -> nn.Module:
    """The model after STEPS."""
    engine.uncertainty(x)  # shapes the embedder
    model = copy.deepcopy(engine.model)
    optimizer = torch.optim.SGD(model.parameters(), STEPS["lr"])
    layer = model.get_submodule(engine.features_layer_name)
    for _ in range(STEPS["num_steps"]):
        first = model(x)
        hook = layer.register_forward_hook(lambda _, __, out, y=first: out + engine.embedder(y, out))
        second = model(x)
        hook.remove()
        optimizer.zero_grad()
        F.mse_loss(second, first).backward()
        optimizer.step()
    return model


@pytest.mark.parametrize("kind", [Limited, Bag, Functional, Behind, Assigned])
@pytest.mark.parametrize("layer", ["fc", "table"])
def test_steps_beyond_the_limit(kind: type[Limited], layer: str) -> None:
    if layer == "table" and kind in (Functional, Assigned):
        layer = "head"  # the table is not called
    model = kept_to_limits(kind)
    engine = IT3Engine(model, layer, optimization_parameters=STEPS).eval()
    expected = by_hand(engine, TOKENS)
    adapted = engine.adapt(TOKENS)
    close(adapted.prediction, expected(TOKENS).detach())
    if kind is not Assigned:
        limited = torch.linalg.vector_norm(adapted.state_dict()["table.weight"], dim=1)
        assert bool((limited <= 0.5 + 1e-6).all())
    with torch.no_grad():
        close(model(TOKENS), kept_to_limits(kind)(TOKENS))


def test_a_second_engine_around_the_model_goes_on_from_there() -> None:
    """The anchor is the start, beyond the limit; the model is at it."""
    torch.manual_seed(3)
    model = Limited().double().eval()
    options = {"optimizer_name": "sgd", "lr": 0.0, "num_steps": 1, "anchor": "frozen", "copy_model": False}
    first = IT3Engine(model, "table", optimization_parameters=options).eval()
    expected = first.adapt(TOKENS).losses
    second = IT3Engine(model, "table", first.embedder, optimization_parameters=options).eval()
    close(second.adapt(TOKENS).losses, expected)


@pytest.mark.parametrize("kind", [Limited, Bag, Functional])
@pytest.mark.parametrize("is_kept", [True, False])
def test_torch_jit_script_drops_limits(kind: type[Limited], is_kept: bool, tmp_path: Path) -> None:
    torch.manual_seed(3)
    model = kept_to_limits(kind) if is_kept else kind().double().eval()
    engine = IT3Engine(model, "fc", optimization_parameters=STEPS).eval()
    x = TOKENS[:, :3]
    message = r"ignores the max_norm of 'table'" if kind is not Functional else "gives other predictions"
    with pytest.raises(ValueError, match=message):
        engine.save(tmp_path / "engine.pt", x)
    adapted = engine.adapt(x)
    with pytest.raises(ValueError, match=message):
        adapted.save(tmp_path / "adapted.pt", x)
    assert list(tmp_path.iterdir()) == []
    adapted.save(tmp_path / "adapted.pt", x, "trace")
    exported, others = torch.jit.load(tmp_path / "adapted.pt"), TOKENS[:, 4:]
    with torch.no_grad():
        close(exported(others), adapted.model()(others))


def test_a_scripted_model_is_taken_as_it_is() -> None:
    """It has no limit, as torch.jit.script dropped it."""
    script = torch.jit.script(kept_to_limits(Limited))
    engine = IT3Engine(script, "fc", it3.Embedder(), optimization_parameters=STEPS).eval()
    free = nn.Embedding(7, 4).double()
    model = kept_to_limits(Limited)
    free.load_state_dict(model.table.state_dict())
    model.table = free
    other = IT3Engine(model, "fc", engine.embedder, optimization_parameters=STEPS).eval()
    expected = by_hand(other, TOKENS)
    close(engine.adapt(TOKENS).prediction, expected(TOKENS).detach())


class Hidden(nn.Module):
    """Limits weights whose size no prediction tells: normalized, two features are as far from their mean as they go."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 2)
        self.norm = nn.LayerNorm(2, eps=0.0)
        self.head = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        self.fc.weight.data = self.fc.weight.data.clamp(-0.3, 0.3)
        return self.head(self.norm(self.fc(x)))


def test_a_limit_that_no_prediction_shows(tmp_path: Path) -> None:
    torch.manual_seed(3)
    model, x = Hidden().double().eval(), torch.randn(3, 4, dtype=torch.float64)
    model(x)
    engine = IT3Engine(model, "fc", optimization_parameters={**STEPS, "optimizer_name": "adam"}).eval()
    adapted = engine.adapt(x)
    assert float(adapted.state_dict()["fc.weight"].abs().max()) <= 0.3
    message = r"other weights.*, where forward\(\) writes to 'fc.weight'"
    with pytest.raises(ValueError, match=message):
        adapted.save(tmp_path / "adapted.pt", x, "trace")
    with pytest.raises(ValueError, match=message):
        engine.save(tmp_path / "engine.pt", x, "trace")
    assert list(tmp_path.iterdir()) == []
