"""Uses of TorchScript modules that could go wrong without a word."""

import copy
import warnings
from functools import partial
from typing import NamedTuple

import pytest
import reference
import torch
import torch.nn.functional as F
from it3 import IT3Engine
from torch import Tensor, nn

close = partial(torch.testing.assert_close, rtol=1e-10, atol=1e-10)


class Embed(nn.Module):
    def __init__(self, width: int, features: int):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(width, features, dtype=torch.float64))

    def forward(self, prediction: Tensor) -> Tensor:
        return prediction @ self.weight


def engine_of(model: nn.Module, layer: str, embed: Embed, **places) -> IT3Engine:
    """An engine of the scripted module."""
    script = torch.jit.script(model)
    return IT3Engine(script, layer, embed, combine_fn=torch.add, **places).eval()


class LastState(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm, self.fc = nn.LSTM(4, 5, batch_first=True), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        _, (h, _) = self.lstm(x)
        return self.fc(h[-1])


def test_the_state_of_an_lstm_is_injected_into() -> None:
    torch.manual_seed(0)
    model, x, embed = LastState().double().eval(), torch.randn(3, 6, 4, dtype=torch.float64), Embed(2, 5)
    engine = engine_of(model, "lstm", embed, layer_output=(1, 0))
    expected, losses, _ = reference.adapt(
        model,
        "lstm",
        lambda y, _: y @ embed.weight.detach(),
        x,
        combine=lambda out, e: (out[0], (out[1][0] + e, out[1][1])),
    )
    adaptation = engine.adapt(x)
    close(adaptation.prediction, expected)
    close(adaptation.losses.tolist(), losses)
    with pytest.raises(ValueError, match="the prediction does not depend on the layer's output"):
        engine_of(model, "lstm", embed).adapt(x)


class Answer(NamedTuple):
    loss: Tensor
    logits: Tensor


class Named(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(4, 5), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Answer:
        h = self.first(x).tanh()
        y = self.last(h)
        return Answer(y.square().mean(), y)


class OnlyLogits(Named):
    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x).tanh())


@pytest.mark.parametrize("output", ["logits", 1, -1, ("logits",)])
def test_the_prediction_in_a_named_tuple(output) -> None:
    torch.manual_seed(0)
    model, x, embed = Named().double().eval(), torch.randn(3, 4, dtype=torch.float64), Embed(2, 5)
    plain = OnlyLogits().double().eval()
    plain.load_state_dict(model.state_dict())
    engine = engine_of(model, "first", embed, output=output)
    expected, _, _ = reference.adapt(plain, "first", lambda y, _: y @ embed.weight.detach(), x)
    close(engine.adapt(x).prediction, expected)
    with pytest.raises(ValueError, match=r"2 tensors.*loss of shape \(\), logits of shape \(3, 2\)"):
        engine_of(model, "first", embed).adapt(x)


def test_places_are_indices_and_keys() -> None:
    script = torch.jit.script(Named())
    for wrong in (1.5, True, [1], (1, None)):
        with pytest.raises(TypeError, match=r"output must be an index, a key, or a tuple of the(m|se) such as \(1, "):
            IT3Engine(script, "first", output=wrong).adapt(torch.randn(4, 6))


class MaxNorm(nn.Module):
    """As torch.nn.Embedding with max_norm, which torch.jit.script takes no notice of."""

    def __init__(self):
        super().__init__()
        self.table, self.layer, self.last = nn.Embedding(20, 6), nn.Linear(6, 5), nn.Linear(5, 2)

    def forward(self, ids: Tensor) -> Tensor:
        torch.embedding_renorm_(self.table.weight.detach(), ids, 1.0, 2.0)
        return self.last(self.layer(self.table(ids).sum(1)).tanh())


@pytest.mark.parametrize("steps", [0, 3])
def test_embeddings_with_a_greatest_norm(steps: int) -> None:
    torch.manual_seed(0)
    model, ids, embed = MaxNorm().double().eval(), torch.arange(12).view(3, 4), Embed(2, 5)
    with torch.no_grad():
        model.table.weight.mul_(10)
    before = copy.deepcopy(model.state_dict())
    engine = engine_of(model, "layer", embed)
    expected, losses, _ = reference.adapt(model, "layer", lambda y, _: y @ embed.weight.detach(), ids, num_steps=steps)
    for _ in range(2):
        adaptation = engine.adapt(ids, num_steps=steps)
        close(adaptation.prediction, expected)
        close(adaptation.losses.tolist(), losses)
        close(dict(model.state_dict()), dict(before), rtol=0, atol=0)


class NestedInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(4, 5), nn.Linear(5, 2)

    def forward(
        self, pair: tuple[Tensor, Tensor], several: list[Tensor], named: dict[str, Tensor], scales: list[float]
    ) -> Tensor:
        x = pair[0] * scales[0] + pair[1]
        for other in several:
            x = x + other
        return self.last(self.first(x).tanh() * named["gate"])


@pytest.mark.parametrize("per_sample", [False, True])
def test_nested_inputs(per_sample: bool) -> None:
    torch.manual_seed(0)
    model, embed = NestedInputs().double().eval(), Embed(2, 5)
    a, b, c, d = torch.randn(4, 3, 4, dtype=torch.float64)
    gate = torch.rand(3, 5, dtype=torch.float64)
    inputs = ((a, b), [c, d], {"gate": gate}, [2.0, 1.0])
    engine = engine_of(model, "first", embed, in_dims=0)
    adapt = reference.adapt_each if per_sample else reference.adapt

    class Flat(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = model.first, model.last

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.first(x[:, :4]).tanh() * x[:, 4:])

    x = torch.cat([2 * a + b + c + d, gate], 1)
    expected = adapt(Flat(), "first", lambda y, _: y @ embed.weight.detach(), x)
    adaptation = engine.adapt(inputs, per_sample=per_sample)
    close(adaptation.prediction, expected[0])
    close(adaptation.losses.tolist(), expected[1].tolist() if per_sample else expected[1])


def test_a_module_that_cannot_be_vectorized_is_told_without_a_traceback() -> None:
    class Edges(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(4, 5), nn.Linear(5, 2)

        def forward(self, x: Tensor) -> Tensor:
            h = self.first(x)
            if bool(h.sum() > 0):
                h = h * 2
            return self.last(h.tanh())

    torch.manual_seed(0)
    engine = engine_of(Edges().double().eval(), "first", Embed(2, 5))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        engine.adapt(torch.randn(3, 4, dtype=torch.float64), per_sample=True)
    text = str(caught[-1].message)
    assert "one after another" in text
    assert "Traceback" not in text


def test_frozen_modules_predict() -> None:
    torch.manual_seed(0)
    model, x = OnlyLogits().double().eval(), torch.randn(3, 4, dtype=torch.float64)
    frozen = torch.jit.freeze(torch.jit.script(model))
    engine = IT3Engine(frozen, "", Embed(2, 2)).eval()
    close(engine.adapt(x, num_steps=0).prediction, model(x))
    with pytest.raises(ValueError, match="no trainable parameters"):
        engine.adapt(x)


def test_a_parameter_and_a_transposed_buffer() -> None:
    class Transposed(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.randn(4, 4))
            self.layer = nn.Linear(4, 4)
            self.register_buffer("wt", self.w.detach().t())

        def forward(self, x: Tensor) -> Tensor:
            return F.linear(self.layer(x @ self.w).tanh(), self.wt)

    torch.manual_seed(0)
    model, x, embed = Transposed(), torch.randn(3, 4), Embed(4, 4).float()
    engine = engine_of(model.eval(), "layer", embed)
    close(engine.adapt(x, num_steps=0).prediction, model(x), rtol=1e-5, atol=1e-6)
    weights = {name: p.detach().clone() for name, p in model.named_parameters()}
    adaptation = engine.adapt(x)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-5)
    for _ in range(3):
        y0 = model(x)
        h = model.layer(x @ model.w) + y0 @ embed.weight.detach()
        loss = F.mse_loss(F.linear(h.tanh(), model.wt), y0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    close(adaptation.prediction, model(x), rtol=1e-4, atol=1e-4)
    assert not torch.equal(weights["w"], model.w)
