"""Which output of the model is the prediction, and which of the layer's is injected into."""

import copy
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import pytest
import reference
import torch
from it3 import IT3Engine
from torch import Tensor, nn

close = partial(torch.testing.assert_close, rtol=1e-10, atol=1e-10)
X = torch.randn(5, 4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


class ModelOutput(OrderedDict):
    """As transformers has it: entries by key, by attribute, and by place among those that are not None."""

    def __init__(self, **entries: Any) -> None:
        super().__init__(entries)

    def __getattr__(self, name: str) -> Any:
        return self[name]

    def to_tuple(self) -> tuple:
        return tuple(value for value in self.values() if value is not None)


class Pair(NamedTuple):
    logits: Tensor
    aux: Tensor


@dataclass(frozen=True)
class Record:
    aux: Tensor
    logits: Tensor
    name: str = "x"


def as_list_of_dicts(y: Tensor, aux: Tensor) -> Any:
    return [{"boxes": aux, "scores": y}, {"boxes": aux + 1, "scores": y + 1}]


KINDS: list[tuple[Callable, Any]] = [
    (lambda y, aux: (aux, y), 1),
    (lambda y, aux: (aux, y), -1),
    (lambda y, aux: [aux, {"logits": y}], (1, "logits")),
    (lambda y, aux: {"loss": aux.mean(), "logits": y}, "logits"),
    (lambda y, aux: ModelOutput(loss=None, aux=aux, logits=y), "logits"),
    (lambda y, aux: ModelOutput(loss=None, aux=aux, logits=y), 1),
    (Pair, "logits"),
    (Pair, 0),
    (lambda y, aux: Record(aux, y), "logits"),
    (as_list_of_dicts, (0, "scores")),
    (as_list_of_dicts, lambda outputs: torch.stack([o["scores"] for o in outputs]).sum(0)),
]


class Returns(nn.Module):
    """Returns what a function makes of its prediction and another tensor. `whole` makes it run whole."""

    def __init__(self, pack: Callable, whole: bool = False) -> None:
        super().__init__()
        self.first, self.layer, self.last, self.pack, self.whole = (
            nn.Linear(6, 8),
            nn.Linear(8, 8),
            nn.Linear(8, 3),
            pack,
            whole,
        )

    def forward(self, x: Tensor) -> Any:
        x = self.first(x).tanh()
        if self.whole and bool(x.sum() > 1e9):
            x = -x
        return self.pack(self.last(self.layer(x).tanh()), x)


class Chosen(nn.Module):
    def __init__(self, model: nn.Module, choose: Callable) -> None:
        super().__init__()
        self.model, self.choose = model, choose

    def forward(self, x: Tensor) -> Tensor:
        return self.choose(self.model(x))


def along(path: Any) -> Callable:
    if callable(path):
        return path

    def choose(output: Any) -> Any:
        for step in path if isinstance(path, tuple) else (path,):
            if isinstance(output, ModelOutput) and isinstance(step, int):
                output = output.to_tuple()
            named = isinstance(step, str) and not isinstance(output, dict)
            output = getattr(output, step) if named else output[step]
        return output

    return choose


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize(("pack", "path"), KINDS)
def test_the_chosen_output_is_the_prediction(pack: Callable, path: Any, whole: bool) -> None:
    x = X[:, 0]
    model = Returns(pack, whole).double().eval()
    engine = IT3Engine(model, "layer", output=path).eval()
    plain = IT3Engine(Chosen(model, along(path)), "model.layer", engine.embedder).eval()
    actual = engine.adapt(x)
    weights = [w.detach() for w in engine.embedder.parameters()]
    expected, losses, _ = reference.adapt(
        Chosen(model, along(path)), "model.layer", lambda y, f: reference.embed(y, f, *weights), x
    )
    close(actual.prediction, expected)
    close(actual.losses.tolist(), losses)
    close(plain.adapt(x).prediction, expected)
    why = engine.explain(x).why_whole
    assert (why != "") is (whole or callable(path)) or isinstance(pack(x, x), Record | ModelOutput), why
    engine.train()
    close(engine(x)[0], along(path)(model(x)))


@pytest.mark.parametrize(
    ("pack", "message"),
    [
        (lambda y, aux: (aux, y), r"output=0. There are 0 of shape \[5, 8\], 1 of shape \[5, 3\]"),
        (
            lambda y, aux: {"a": aux, "b": [y]},
            r"output='a'. There are 'a' of shape \[5, 8\], \('b', 0\) of shape \[5, 3\]",
        ),
        (lambda y, aux: Record(aux, y), "output='aux'"),
        (as_list_of_dicts, r"\(0, 'boxes'\)"),
    ],
)
def test_several_candidates_are_listed(pack: Callable, message: str) -> None:
    engine = IT3Engine(Returns(pack).double(), "layer")
    for call in (engine.adapt, engine.uncertainty, engine.train()):
        with pytest.raises(ValueError, match=message):
            call(X[:, 0])


@pytest.mark.parametrize(
    "pack",
    [lambda y, aux: [y], lambda y, aux: {"loss": None, "y": y}, lambda y, aux: Record(None, y), lambda y, aux: (y, y)],
)
def test_one_candidate_needs_no_choice(pack: Callable) -> None:
    model = Returns(pack).double().eval()
    engine = IT3Engine(model, "layer", optimization_parameters={"num_steps": 0}).eval()
    close(engine(X[:, 0])[0], first(model))


def first(model: Returns) -> Tensor:
    plain = copy.copy(model)
    plain.pack = lambda y, aux: y
    return plain(X[:, 0]).detach()


@pytest.mark.parametrize("path", [2, "x", (0, "x"), (0, 0)])
def test_a_path_that_leads_nowhere(path: Any) -> None:
    engine = IT3Engine(Returns(lambda y, aux: (aux, y)).double(), "layer", output=path)
    with pytest.raises(ValueError, match=r"output is .* it has tensors at 0 of shape"):
        engine.adapt(X[:, 0])


@pytest.mark.parametrize("path", [1.5, (0, None), True, dict])
def test_what_is_no_path(path: Any) -> None:
    with pytest.raises(TypeError, match="output must be an index, a key, or a tuple of these"):
        IT3Engine(Returns(lambda y, aux: y), "layer", output=path)
    with pytest.raises(TypeError, match="layer_output must be an index"):
        IT3Engine(Returns(lambda y, aux: y), "layer", layer_output=path)


def test_a_function_must_return_a_tensor() -> None:
    engine = IT3Engine(Returns(lambda y, aux: (aux, y)).double(), "layer", output=lambda o: o)
    with pytest.raises(TypeError, match="the function given as output must return a tensor, but returned a tuple"):
        engine.adapt(X[:, 0])


class Recurrent(nn.Module):
    """Its prediction depends on the layer's last state alone."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.fc = nn.LSTM(6, 8, batch_first=True), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        _, (h, _) = self.lstm(x)
        return self.fc(h[-1])


def hooked_adapt(model: nn.Module, engine: IT3Engine, steps: int) -> tuple[Tensor, list[float]]:
    """The formula, with a hook on the state."""
    model = copy.deepcopy(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        y0 = model(X)

        def inject(_: Any, __: Any, output: Any, y0: Tensor = y0) -> Any:
            out, (h, c) = output
            return out, (engine.combine_fn(h, engine.embedder(y0)), c)

        handle = model.lstm.register_forward_hook(inject)
        y1 = model(X)
        handle.remove()
        loss = nn.functional.mse_loss(y1, y0)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return model(X).detach(), losses


def test_injects_into_the_chosen_output_of_a_layer() -> None:
    model = Recurrent().double().eval()
    embedder = nn.Linear(3, 8).double()
    engine = IT3Engine(
        model,
        "lstm",
        embedder,
        lambda h, e: h + e,
        optimization_parameters={"lr": 1e-4},
        layer_output=(1, 0),
    )
    actual = engine.adapt(X)
    expected, losses = hooked_adapt(model, engine, 3)
    close(actual.prediction, expected)
    close(actual.losses.tolist(), losses)
    assert losses[0] > 0
    engine.train()
    _, loss = engine(X, target=torch.zeros(5, 3, dtype=torch.float64))
    loss.backward()
    assert embedder.weight.grad.abs().sum() > 0


def test_an_injection_without_effect_is_refused() -> None:
    engine = IT3Engine(Recurrent().double(), "lstm")
    with pytest.raises(ValueError, match="what is injected at the layer does not reach the prediction"):
        engine.explain(X)


@pytest.mark.parametrize("pack", [Pair, lambda a, b: Record(b, a), lambda a, b: ModelOutput(aux=b, logits=a)])
def test_containers_of_layers_keep_their_types(pack: Callable) -> None:
    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(6, 8)

        def forward(self, x: Tensor) -> Any:
            return pack(self.fc(x), x)

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.last = Layer(), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            output = self.layer(x)
            assert type(output) in (Pair, Record, ModelOutput)
            return self.last(output.logits.tanh()) + output.aux.sum()

    engine = IT3Engine(Model().double(), "layer", layer_output="logits").eval()
    engine.adapt(X[:, 0])
    weights = [w.detach() for w in engine.embedder.parameters()]

    def combine(output: Any, embedding: Tensor) -> Any:
        return pack(output.logits + embedding, output.aux)

    expected, losses, _ = reference.adapt(
        engine.model, "layer", lambda y, o: reference.embed(y, o.logits, *weights), X[:, 0], combine=combine
    )
    actual = engine.adapt(X[:, 0])
    close(actual.losses.tolist(), losses)
    close(actual.prediction, expected)
