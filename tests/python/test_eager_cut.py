"""Eager modules are cut like TorchScript ones where that gives the same, and run with hooks where it does not."""

import copy
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
import reference
import torch
from it3 import IT3Engine
from models import KINDS, make_case
from torch import Tensor, nn

close = partial(torch.testing.assert_close, rtol=1e-10, atol=1e-10)


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.layer, self.last = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.scale = 2.0
        self.calls = 0
        self.outputs = []
        self.register_buffer("mask", torch.arange(8) % 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.layer(self.first(x).tanh() * (self.mask + 1)).tanh() * self.scale)


def engine_of(model: nn.Module, inputs: object = None, layer: str = "layer", **arguments) -> IT3Engine:
    engine = IT3Engine(model.double().eval(), layer, **arguments).eval()
    engine.adapt(X if inputs is None else inputs)
    return engine


def why_not(engine: IT3Engine, inputs: object = None) -> str:
    return engine.explain(X if inputs is None else inputs).why_whole


def agrees(engine: IT3Engine, x: Tensor | None = None) -> None:
    """With the formula, run on the model as it is now."""
    x = X if x is None else x
    weights = [w.detach() for w in engine.embedder.parameters()]

    def embed(y: Tensor, features: Tensor) -> Tensor:
        return reference.embed(y, features, *weights)

    torch.manual_seed(1)
    expected, losses, _ = reference.adapt(engine.model, engine.features_layer_name, embed, x)
    torch.manual_seed(1)
    actual = engine.adapt(x)
    close(actual.losses.tolist(), losses)
    close(actual.prediction, expected)


X = torch.randn(5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("kind", KINDS)
def test_plain_models_are_cut(kind: str, device: str) -> None:
    case = make_case(kind, device=device)
    engine = engine_of(case.model, case.inputs, case.layer)
    assert why_not(engine, case.inputs) == ""
    agrees(engine, case.inputs)


def test_the_model_is_not_run_again() -> None:
    engine = engine_of(Plain())
    ran = set()
    sys.setprofile(lambda frame, event, _: ran.add(frame.f_code))
    try:
        engine.adapt(X)
    finally:
        sys.setprofile(None)
    assert IT3Engine.adapt.__code__ in ran
    assert Plain.forward.__code__ not in ran


def test_batches_of_any_size_share_a_cut() -> None:
    engine = engine_of(Plain())
    for n in (1, 9, 5):
        agrees(engine, torch.randn(n, 6, dtype=torch.float64))


class AssignsAttribute(Plain):
    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return super().forward(x)


class KeepsOutput(Plain):
    def forward(self, x: Tensor) -> Tensor:
        self.outputs.append(x)
        return super().forward(x)


class NoGradInside(Plain):
    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            early = self.first(x)
        return super().forward(x + early.mean(1, keepdim=True))


class ChecksType(Plain):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if torch.compiler.is_exporting() else x * 0.5)


class Branches(Plain):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if x.sum() > 0 else -x)


class Draws(Plain):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * torch.rand(3, dtype=torch.float64)


class Detaches(Plain):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * float(self.last.bias.detach().abs().sum())


class OwnGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * 2


class CustomFunction(Plain):
    def forward(self, x: Tensor) -> Tensor:
        return OwnGradient.apply(super().forward(x))


class DropsBefore(Plain):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(nn.functional.dropout(x, 0.5, training=True))


class Recurrent(Plain):
    """Whose dropout is 0, which torch's operation does not tell."""

    def __init__(self) -> None:
        super().__init__()
        self.recurrent = nn.LSTM(6, 6).double()

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.recurrent(x)[0])


class CalledTwice(Plain):
    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.layer(self.layer(self.first(x))))


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (AssignsAttribute, "forward() assigns attributes"),
        (KeepsOutput, "forward() assigns attributes"),
        (NoGradInside, "wrap_with_set_grad_enabled, which is not supported"),
        (ChecksType, "the traced model predicts something else"),
        (Branches, "forward() depends on the values of tensors"),
        (Draws, "what comes before the layer may draw random numbers, as torch says of rand"),
        (Detaches, "forward() depends on the values of tensors"),
        (CustomFunction, "the traced model has other gradients"),
        (DropsBefore, "what comes before the layer may draw random numbers, as torch says of dropout"),
        (Recurrent, "what comes before the layer may draw random numbers, as torch says of lstm"),
        (CalledTwice, "forward() calls the layer 2 times"),
    ],
)
def test_what_cannot_be_cut_runs_with_hooks(model: type[Plain], why: str) -> None:
    engine = engine_of(model())
    assert why in why_not(engine)
    assert "TorchScript" not in why_not(engine)
    agrees(engine)
    assert all(type(o) is Tensor for o in engine.model.outputs)


class IdentityBehind(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.same = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(self.first(x))
        return self.last(torch.tanh(y) + self.same(y))


class Attends(Plain):
    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)[None]
        return self.last(self.layer(nn.functional.scaled_dot_product_attention(x, x, x)[0]))


@pytest.mark.parametrize("model", [IdentityBehind, Attends])
def test_layers_around(model: type[Plain]) -> None:
    engine = engine_of(model())
    assert why_not(engine) == ""
    agrees(engine)
    del engine.model.outputs  # which TorchScript cannot have
    scripted = IT3Engine(torch.jit.script(engine.model), "layer", engine.embedder).eval()
    close(scripted(X), engine(X))


def test_draws_behind_the_layer_are_those_of_the_model() -> None:
    class DropsAfter(Plain):
        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.dropout(super().forward(x), 0.5, training=True)

    engine = engine_of(DropsAfter())
    assert why_not(engine) == ""
    agrees(engine)


def set_attribute(model: Plain) -> None:
    model.scale = 0.5


def replace_weight(model: Plain) -> None:
    model.last.weight = nn.Parameter(torch.randn(3, 8, dtype=torch.float64))


def replace_layer(model: Plain) -> None:
    model.layer = nn.Linear(8, 8).double()


def load_values(model: Plain) -> None:
    model.load_state_dict({k: v + 1 for k, v in model.state_dict().items()})


def replace_buffer(model: Plain) -> None:
    model.mask = torch.arange(8)


CHANGES: list[Callable[[Plain], object]] = [set_attribute, replace_weight, replace_layer, load_values, replace_buffer]


@pytest.mark.parametrize("change", CHANGES)
def test_changes_of_the_model_are_seen(change: Callable[[Plain], object]) -> None:
    engine = engine_of(Plain())
    change(engine.model)
    agrees(engine)
    assert why_not(engine) == ""


def test_modes_make_no_difference() -> None:
    case = make_case("cnn")
    engine = engine_of(case.model, case.inputs, case.layer)
    expected = engine.adapt(case.inputs).prediction
    for batch_statistics in (False, True, False):
        engine.model.norm.train(batch_statistics)
        close(engine.adapt(case.inputs).prediction, expected)
        assert engine.model.norm.training is batch_statistics
    agrees(engine, case.inputs)


@pytest.mark.parametrize("where", ["layer", "first", ""])
def test_hooks_of_the_user_run(where: str) -> None:
    engine = engine_of(Plain())
    handle = engine.model.get_submodule(where).register_forward_hook(lambda _, __, output: output * 2)
    assert why_not(engine) == "a module of the model has hooks"
    expected = copy.deepcopy(engine)
    del expected.model.get_submodule(where)._forward_hooks[handle.id]
    assert not torch.allclose(engine.adapt(X).prediction, expected.adapt(X).prediction)
    handle.remove()
    agrees(engine)
    assert why_not(engine) == ""


def test_hooks_of_gradients_run() -> None:
    engine = engine_of(Plain())
    before = engine.adapt(X)
    handle = engine.model.first.weight.register_hook(torch.zeros_like)
    assert why_not(engine) == "a parameter has gradient hooks"
    close(engine.adapt(X).state_dict()["first.weight"], engine.model.first.weight.detach(), rtol=0, atol=0)
    handle.remove()
    close(engine.adapt(X).state_dict(), before.state_dict(), rtol=0, atol=0)


class ManyInputs(Plain):
    def forward(self, x: Tensor, scale: float = 1.0, mask: Tensor | None = None, flags: tuple = (True,)) -> dict:
        if mask is not None:
            x = x * mask
        if flags[0]:
            x = -x
        return {"size": 3, "prediction": super().forward(x * scale)}


@pytest.mark.parametrize(
    "inputs",
    [
        (X,),
        (X, 2.0),
        [X, 2.0, X > 0],
        {"x": X, "flags": (False,)},
        {"mask": X > 0, "x": X, "scale": 0.5},
    ],
)
def test_inputs_of_all_kinds(inputs: object) -> None:
    engine = engine_of(ManyInputs())
    assert why_not(engine, inputs) == ""
    actual = engine.adapt(inputs)
    engine.model.register_forward_hook(lambda *_: None)
    assert why_not(engine, inputs) == "a module of the model has hooks"
    expected = engine.adapt(inputs)
    close(actual.prediction, expected.prediction)
    close(actual.losses, expected.losses)


def test_inputs_that_are_no_tensors_run_with_hooks() -> None:
    class TakesObject(Plain):
        def forward(self, batch: object) -> Tensor:
            return super().forward(batch.x)

    class Batch:
        x = X

    engine = engine_of(TakesObject(), Batch())
    assert why_not(engine, Batch()) == "the inputs hold objects other than tensors, numbers and strings"


def test_an_error_of_one_call_is_none_of_the_next() -> None:
    engine = IT3Engine(Plain().double(), "layer").eval()
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        engine(X[:, :5])
    engine(X)
    assert why_not(engine) == ""


def test_the_model_is_as_it_was() -> None:
    model = Plain().double().eval()
    before = [(id(m), {k: id(v) for k, v in vars(m).items()}) for m in model.modules()]
    state = torch.get_rng_state()
    engine_of(model, optimization_parameters={"num_steps": 0})
    assert [(id(m), {k: id(v) for k, v in vars(m).items()}) for m in model.modules()] == before
    embedder = IT3Engine(model, "layer").eval()
    torch.set_rng_state(state)
    embedder.embedder = engine_of(model).embedder
    torch.set_rng_state(state)
    embedder(X)
    assert torch.equal(torch.get_rng_state(), state)


def test_threads_may_share_an_engine_from_the_first_call_on() -> None:
    engine = engine_of(Plain())
    batches = [X * (1 + i / 10) for i in range(32)]
    expected = [engine.adapt(x).prediction for x in batches]
    fresh = IT3Engine(engine.model, "layer", engine.embedder).eval()
    with ThreadPoolExecutor(8) as pool:
        actual = list(pool.map(lambda x: fresh(x)[0], batches))
    assert all(torch.equal(a, e) for a, e in zip(actual, expected, strict=True))


def test_weights_and_names_are_those_of_the_model() -> None:
    class Unused(Plain):
        def __init__(self) -> None:
            super().__init__()
            self.unused = nn.Linear(2, 2)
            self.tied = self.first

    engine = engine_of(Unused())
    assert why_not(engine) == ""
    adaptation = engine.adapt(X)
    assert list(adaptation._weights) == [name for name, _ in engine.model.named_parameters()]
    close(adaptation.state_dict()["unused.weight"], engine.model.unused.weight.detach())
    close(adaptation.model()(X), adaptation.prediction)


def test_attributes_that_always_change_end_in_hooks() -> None:
    engine = engine_of(Plain())
    for step in range(20):
        engine.model.scale = 1.0 + step
        agrees(engine)
    assert why_not(engine) == "the model's attributes change in almost every call"


def test_convolutions_are_cut_on_every_device(device: str) -> None:
    """TF32, in which cuDNN computes them, rounds gradients of a first layer by some percent."""
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Conv2d(1, 16, 3), nn.ReLU(), nn.Conv2d(16, 32, 3), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(32 * 144, 64), nn.ReLU(), nn.Linear(64, 10)),
    )
    engine = IT3Engine(model.to(device).eval(), "0").eval()
    x = torch.randn(256, 1, 28, 28, device=device)
    engine.uncertainty(x)
    assert engine.explain(x).why_whole == ""
