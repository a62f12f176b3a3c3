"""Arrays and numbers in place of tensors: one error says so, unless the model takes them."""

from collections.abc import Callable
from typing import Any

import it3
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from it3 import IT3Engine
from torch import Tensor, nn

ARRAY = np.zeros((5, 4), dtype=np.float32)
X, Y = torch.randn(5, 4), torch.randn(5, 1)
GIVE = r"Give tensors: torch\.from_numpy\(array\), or torch\.tensor\(numbers\)"


class TakesMore(nn.Module):
    """Makes a tensor of whatever it is given, and takes more that is no tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 8), nn.Linear(8, 1)

    def forward(self, x: Any, scale: Any = 1.0, name: str | None = None) -> Tensor:
        x = torch.as_tensor(x, dtype=torch.float32) * torch.as_tensor(scale, dtype=torch.float32)
        return self.last(self.first(x).relu())


@pytest.fixture
def engine() -> IT3Engine:
    torch.manual_seed(0)
    engine = IT3Engine(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1)), "0").eval()
    engine.is_trained = True
    return engine


@pytest.mark.parametrize("is_looked_at", [False, True])
@pytest.mark.parametrize(
    "call",
    [
        lambda engine: engine(ARRAY),
        lambda engine: engine.train()(ARRAY, target=Y),
        lambda engine: engine.adapt({"input": ARRAY}),
        lambda engine: engine.uncertainty((ARRAY,)),
        lambda engine: engine.explain(ARRAY) if not engine.embedder.is_built else engine(ARRAY),
        lambda engine: engine.calibrate([ARRAY]),
        lambda engine: engine.predict([ARRAY]),
        lambda engine: engine.fit([(ARRAY, Y)], F.mse_loss),
        lambda engine: it3.evaluate(engine, [(ARRAY, Y)], metric="mse"),
        lambda engine: it3.layers(engine.model, ARRAY),
    ],
)
def test_every_call_says_that_it_was_given_an_array(
    engine: IT3Engine, call: Callable[[IT3Engine], Any], is_looked_at: bool
) -> None:
    if is_looked_at:
        engine.adapt(X)
    weights = {name: weight.clone() for name, weight in engine.model.state_dict().items()}
    with pytest.raises(TypeError, match=rf"a numpy\.ndarray of float32 in place of a tensor .*{GIVE}") as raised:
        call(engine)
    assert isinstance(raised.value.__cause__, TypeError)
    assert "must be Tensor, not numpy.ndarray" in str(raised.value.__cause__)
    assert all(torch.equal(weight, weights[name]) for name, weight in engine.model.state_dict().items())


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ([1.0, 2.0, 3.0, 4.0], "a list of float and no tensor"),
        ([[1.0, 2.0, 3.0, 4.0]], "a list of list and no tensor"),
        (3.0, "a float and no tensor"),
        (None, "a NoneType and no tensor"),
        ((), "a tuple and no tensor"),
    ],
)
def test_numbers_are_no_tensors(engine: IT3Engine, inputs: Any, said: str) -> None:
    with pytest.raises(TypeError, match=rf"{said} .*{GIVE}"):
        engine.adapt(inputs)


def test_models_may_take_what_is_no_tensor() -> None:
    engine = IT3Engine(TakesMore(), "first").eval()
    engine.is_trained = True
    expected = engine.adapt(X).prediction
    for inputs in (X.numpy(), (X, np.ones(())), (X.numpy(), 1.0, "a"), {"x": X, "scale": np.ones(1), "name": None}):
        torch.testing.assert_close(engine.adapt(inputs).prediction, expected)


def test_other_errors_stay_what_they_are(engine: IT3Engine) -> None:
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        engine.adapt(torch.randn(5, 3))
    with pytest.raises(TypeError, match="takes 2 positional arguments") as raised:
        engine.adapt((X, X))
    assert "Give tensors" not in str(raised.value)
    with pytest.raises(TypeError, match="the target must be a tensor, or None, not a ndarray"):
        engine.train()(X, target=Y.numpy())
