"""Functions that compute with weights of the model: those of before the call, or an error where that cannot be."""

import copy
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from it3 import IT3Engine
from torch import Tensor, nn

X = torch.randn(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


class Cut(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.layer, self.last = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.layer(self.first(x).tanh()).tanh())


class Whole(Cut):
    def forward(self, x: Tensor) -> Tensor:
        h = self.layer(self.first(x).tanh())
        if bool(h.sum() > 1e9):
            h = -h
        return self.last(h.tanh())


class Tied(nn.Module):
    """Embeds by the weights of the model's last layer, as language models do."""

    def __init__(self, last: nn.Linear) -> None:
        super().__init__()
        self.last = last

    def forward(self, prediction: Tensor) -> Tensor:
        return prediction @ self.last.weight


def embed(prediction: Tensor) -> Tensor:
    return prediction.sum(1, keepdim=True).expand(-1, 8)


FUNCTIONS: dict[str, Callable[[nn.Linear], dict[str, Any]]] = {
    "a module": lambda last: {"embedder": Tied(last)},
    "a closure": lambda last: {"embedder": lambda y: y @ last.weight},
    "without gradients": lambda last: {"embedder": lambda y: y @ last.weight.data},
    "in a list": lambda last: {"embedder": lambda y: y @ torch.cat([last.weight, last.weight]).narrow(0, 0, 2)},
    "combine_fn": lambda last: {"embedder": embed, "combine_fn": lambda f, e: f + e * last.weight.mean()},
    "distance_fn": lambda last: {
        "embedder": embed,
        "distance_fn": lambda a, b: nn.functional.mse_loss(last(a @ last.weight), last(b @ last.weight)),
    },
}


def fresh(kind: type[nn.Module]) -> Any:
    torch.manual_seed(0)
    return kind().double().eval()


def adapted(model: Any, functions: dict[str, Any], **options: Any) -> Tensor:
    return IT3Engine(model, "layer", **functions).eval().adapt(X, num_steps=3, lr=0.1, **options).prediction


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_cut_model_gives_them_the_weights_of_before(function: str) -> None:
    model = fresh(Cut)
    actual = adapted(model, FUNCTIONS[function](model.last))
    expected = adapted(model, FUNCTIONS[function](copy.deepcopy(model.last)))
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_model_that_runs_whole_says_that_it_cannot(function: str) -> None:
    model = fresh(Whole)
    before = copy.deepcopy(model.state_dict())
    functions = FUNCTIONS[function](model.last)
    with pytest.raises(ValueError, match=r"computes with the model's weight 'last\.\w+', which adapts") as error:
        adapted(model, functions)
    assert "with the option 'parameters'" in str(error.value)
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    # What the message advises.
    by_copy = adapted(model, FUNCTIONS[function](copy.deepcopy(model.last)))
    torch.testing.assert_close(by_copy, adapted(fresh(Cut), FUNCTIONS[function](fresh(Cut).last)), rtol=0, atol=1e-12)
    without = {"parameters": ("first", "layer")}
    expected = adapted(fresh(Cut), FUNCTIONS[function](fresh(Cut).last), **without)
    torch.testing.assert_close(adapted(model, functions, **without), expected, rtol=0, atol=1e-12)


def test_the_model_itself_is_not_called_by_its_functions() -> None:
    model = fresh(Whole)
    start = copy.deepcopy(model)

    def by(network: nn.Module) -> Any:
        return {"embedder": embed, "distance_fn": lambda a, b: nn.functional.mse_loss(a, network(X).detach())}

    with pytest.raises(ValueError, match=r"'layer' is called by the embedder or distance_fn.* a copy of the model"):
        adapted(model, by(model))
    cut = fresh(Cut)
    torch.testing.assert_close(adapted(model, by(start)), adapted(cut, by(cut)), rtol=0, atol=1e-12)


LIKENESSES: dict[str, Callable[[Tensor, nn.Linear], Tensor]] = {
    "type_as": lambda y, last: y.type_as(last.weight),
    "zeros_like": lambda y, last: y + torch.zeros_like(last.bias),
    "new_ones": lambda y, last: y * last.bias.new_ones(2),
    "to": lambda y, last: y.to(last.weight),
    "shape": lambda y, last: y / last.weight.shape[0],
}


@pytest.mark.parametrize("how", LIKENESSES)
def test_to_make_a_tensor_like_a_weight_is_no_such_use(how: str) -> None:
    model = fresh(Whole)
    engine = IT3Engine(model, "layer", lambda y: embed(LIKENESSES[how](y, model.last))).eval()
    assert engine.adapt(X, num_steps=1).losses.isfinite().all()


def test_a_function_that_returns_a_weight_uses_it() -> None:
    model = fresh(Whole)
    with pytest.raises(ValueError, match=r"computes with the model's weight 'last\.weight'"):
        adapted(model, {"embedder": lambda y: model.last.weight[:1].detach().expand(len(y), -1)})


def test_features_that_are_a_weight_are_no_such_use() -> None:
    class Learned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(1, 8, dtype=torch.float64))

        def forward(self, x: Tensor) -> Tensor:
            return self.weight

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.last = Learned(), nn.Linear(12, 2).double()

        def forward(self, x: Tensor) -> Tensor:
            if bool(x.sum() > 1e9):
                x = -x
            return self.last(torch.cat([x, self.layer(x).expand(len(x), -1)], 1))

    def spread(features: Tensor, embedding: Tensor) -> Tensor:
        return features + embedding.mean(0, keepdim=True)

    torch.manual_seed(0)
    model = Model().eval()
    engine = IT3Engine(model, "layer", embed, spread).eval()
    assert not engine.explain(X).is_cut
    assert torch.isfinite(engine.adapt(X, num_steps=2).prediction).all()


@pytest.mark.parametrize("kind", [Cut, Whole])
@pytest.mark.parametrize("what", ["a call", "a reset"])
def test_weights_are_not_kept_from_inside_of_a_call(kind: type[nn.Module], what: str) -> None:
    model = fresh(kind)
    keeps = IT3Engine(model, "layer", embed, optimization_parameters={"copy_model": False, "lr": 0.1}).eval()
    start = copy.deepcopy(model.state_dict())
    keeps.adapt(X)
    kept = copy.deepcopy(model.state_dict())

    def distance(a: Tensor, b: Tensor) -> Tensor:
        keeps.adapt(X) if what == "a call" else keeps.reset()
        return nn.functional.mse_loss(a, b)

    calls = IT3Engine(model, "layer", embed, distance_fn=distance).eval()
    with pytest.raises(RuntimeError, match="inside of another call on the same model"):
        calls.adapt(X)
    torch.testing.assert_close(model.state_dict(), kept, rtol=0, atol=0)
    keeps.reset()
    torch.testing.assert_close(model.state_dict(), start, rtol=0, atol=0)


def test_first_calls_with_a_tied_embedder_beside_other_threads() -> None:
    model = fresh(Cut)
    tied = Tied(model.last)
    engine = IT3Engine(model, "layer", tied).eval()
    expected = engine.adapt(X).prediction
    ends = threading.Event()
    wrong: list[Any] = []

    def adapt() -> None:
        while not ends.is_set():
            try:
                if not torch.equal(engine.adapt(X).prediction, expected):
                    wrong.append("another result")
            except RuntimeError as error:
                wrong.append(error)

    threads = [threading.Thread(target=adapt) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(20):
            assert torch.equal(IT3Engine(model, "layer", tied).eval().adapt(X).prediction, expected)
    finally:
        ends.set()
        for thread in threads:
            thread.join()
    assert not wrong
