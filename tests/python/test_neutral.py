"""The neutral signal, at test time and in training."""

from functools import partial
from pathlib import Path

import pytest
import reference
import torch
import torch.nn.functional as F
from it3 import DrawnLabels, IT3Engine, Layout, RandomOneHot, TrainingRecipe, load
from it3 import compile as compile_engine
from kinds_of_network import NETWORKS, build, state_of
from models import KINDS, make_case
from torch import Tensor

close = partial(torch.testing.assert_close, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("anchor", ["self", "frozen", "ema"])
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("kind", KINDS)
def test_adapting_agrees_with_the_formula(kind: str, network: str, anchor: str, device: str) -> None:
    case = make_case(kind, device=device)
    engine, embed = build(case, network, neutral=-3.0, optimization_parameters={"anchor": anchor})
    neutral = torch.full_like(case.target, -3.0)
    expected, losses, model = reference.adapt(
        case.model, case.layer, embed, case.inputs, anchor=anchor, neutral=neutral
    )
    adaptation = engine.adapt(case.inputs)
    close(adaptation.prediction, expected)
    close(adaptation.losses.tolist(), losses)
    second = reference.second_prediction
    with torch.no_grad():
        y1 = second(model, case.layer, embed, reference.add, case.inputs, expected)
        y0 = second(case.model, case.layer, embed, reference.add, case.inputs, neutral)
        y1_before = second(case.model, case.layer, embed, reference.add, case.inputs, y0)
    close(adaptation.second, y1)
    close(engine.adapt(case.inputs, num_steps=0).prediction, y0)
    close(engine.uncertainty(case.inputs), (y1_before - y0).flatten(1).norm(dim=1))


@pytest.mark.parametrize("network", NETWORKS)
def test_training_terms(network: str, device: str) -> None:
    case = make_case("mlp", device=device)
    neutral = torch.tensor([9.0, 8.0, 7.0])
    engine, embed = build(case, network, neutral=neutral)
    y0, loss = engine.train()(case.inputs, target=case.target)
    second = partial(reference.second_prediction, case.model, case.layer, embed, reference.add, case.inputs)
    close(y0, second(neutral.to(case.target).expand_as(case.target)))
    close(loss, F.mse_loss(second(case.target), case.target))
    gradients = torch.autograd.grad(loss + y0.sum(), list(engine.parameters()))
    assert all(g.abs().sum() > 0 for g in gradients)


@pytest.mark.parametrize("network", NETWORKS)
def test_signals_are_drawn_for_each_sample(network: str, device: str) -> None:
    case = make_case("mlp", device=device)
    engine, embed = build(
        case, network, neutral=9.0, training_recipe=TrainingRecipe(first_pass="drawn", second_pass="none")
    )
    second = partial(reference.second_prediction, case.model, case.layer, embed, reference.add, case.inputs)
    with_target = second(case.target)
    with_neutral = second(torch.full_like(case.target, 9.0))
    shares = []
    engine.train()
    for _ in range(60):
        prediction, loss = engine(case.inputs, target=case.target)
        assert loss.item() == 0
        assert not loss.requires_grad
        has_target = torch.isclose(prediction, with_target).all(1)
        assert (has_target | torch.isclose(prediction, with_neutral).all(1)).all()
        shares.append(has_target.double().mean().item())
    assert 0.4 < sum(shares) / len(shares) < 0.6
    assert any(0 < share < 1 for share in shares)
    for probability, expected in ((0.0, with_neutral), (1.0, with_target)):
        engine.training_recipe = TrainingRecipe(first_pass="drawn", second_pass="none", target_probability=probability)
        close(engine(case.inputs, target=case.target)[0], expected)


def test_without_a_neutral_signal_the_draw_is_for_the_batch() -> None:
    case = make_case("mlp")
    engine, embed = build(
        case, "traced", training_recipe=TrainingRecipe(first_pass="drawn", second_pass="none", target_probability=0.3)
    )
    with_target = reference.second_prediction(case.model, case.layer, embed, reference.add, case.inputs, case.target)
    plain = case.model(case.inputs)
    engine.train()
    drawn = [torch.allclose(engine(case.inputs, target=case.target)[0], with_target) for _ in range(200)]
    assert 0.2 < sum(drawn) / 200 < 0.4
    engine.training_recipe = TrainingRecipe(first_pass="drawn", second_pass="none", target_probability=0.0)
    close(engine(case.inputs, target=case.target)[0], plain)


def test_running_statistics_are_updated_once_a_training_step() -> None:
    case = make_case("cnn")
    engine, _ = build(case, "traced", neutral=5.0)
    engine.train()
    for second_pass in ("target", "prediction", "detached_prediction", "drawn", "none"):
        first_pass = "drawn" if second_pass in ("prediction", "none") else "neutral"
        engine.training_recipe = TrainingRecipe(first_pass=first_pass, second_pass=second_pass)
        before = int(case.model.norm.num_batches_tracked)
        engine(case.inputs, target=case.target)
        assert int(case.model.norm.num_batches_tracked) == before + 1


@pytest.mark.parametrize(
    ("neutral", "target", "message"),
    [
        (0.0, torch.tensor([[-1.0, -2.0, -1.0], [1.0, 2.0, 1.0]]), "lies within the range of the labels, -2 to 2"),
        (torch.tensor([0.0, 5.0, 0.0]), torch.tensor([[-1.0, -2.0, -1.0], [1.0, 2.0, 1.0]]), None),
        (0.1, torch.tensor([0, 2]), None),
        (0.0, torch.tensor([0, 2]), None),
        (torch.tensor([0.0, 1.0, 0.0]), torch.tensor([0, 2]), "is one of the labels"),
        (0.0, torch.tensor([[1.0, 1.0, 0.0], [0.0, 1.0, 0.0]]), "is one of the labels"),
        (0.5, torch.tensor([[1.0, 1.0, 0.0], [0.0, 1.0, 0.0]]), None),
    ],
)
def test_a_neutral_signal_that_could_be_a_label(neutral: Tensor | float, target: Tensor, message: str | None) -> None:
    case = make_case("mlp")
    engine, _ = build(case, "traced", neutral=neutral)
    engine.train()
    if message is None:
        engine(case.inputs[:2], target=target)
    else:
        before = state_of(engine)
        with pytest.raises(ValueError, match=message):
            engine(case.inputs[:2], target=target)
        assert all(torch.equal(value, before[name]) for name, value in engine.state_dict().items())


def test_errors() -> None:
    case = make_case("mlp")
    engine = IT3Engine(case.model, case.layer, neutral=torch.zeros(4)).eval()
    with pytest.raises(
        ValueError, match=r"neutral signal of shape \[4\] cannot be broadcast to a prediction of shape \[7, 3\]"
    ):
        engine(case.inputs)


def test_files_keep_it(tmp_path) -> None:
    case = make_case("mlp")
    engine, _ = build(case, "traced", neutral=torch.tensor([9.0, 8.0, 7.0]), optimization_parameters={"anchor": "ema"})
    engine.save(tmp_path / "engine.pt", case.inputs)
    loaded = load(tmp_path / "engine.pt")
    close(loaded.adapt(case.inputs).prediction, engine.adapt(case.inputs).prediction)
    assert loaded.optimization_parameters["anchor"] == "ema"
    with pytest.raises(ValueError, match="injecting a neutral signal"):
        engine.adapt(case.inputs).save(tmp_path / "adapted.pt", case.inputs)


def first_signals(engine: IT3Engine, inputs: Tensor, calls: int) -> Tensor:
    """Return the neutral signals of some calls, (calls, B, ...), as an embedder of one's own is given them."""
    given: list[Tensor] = []

    def embedder(prediction: Tensor) -> Tensor:
        given.append(prediction.detach().clone())
        return torch.tanh(prediction.sum(1, keepdim=True))

    engine.embedder = embedder
    engine.uncertainty(inputs)
    signals = []
    for _ in range(calls):
        given.clear()
        engine.adapt(inputs, num_steps=0)
        signals.append(given[0])
    return torch.stack(signals)


@pytest.mark.parametrize("network", NETWORKS)
def test_a_neutral_signal_can_be_a_random_class(network: str) -> None:
    case = make_case("mlp")
    engine, _ = build(case, network, neutral=RandomOneHot())
    signals = first_signals(engine, case.inputs, 100)
    close(signals.sum(-1), torch.ones_like(signals[..., 0]))
    assert ((signals == 0) | (signals == 1)).all()
    draws = signals.shape[0] * signals.shape[1]
    assert ((signals.mean((0, 1)) - 1 / 3).abs() < 5 * (2 / 9 / draws) ** 0.5).all()
    assert len({tuple(signal.flatten().tolist()) for signal in signals}) > 50


def test_a_neutral_signal_can_be_drawn_from_labels() -> None:
    case = make_case("mlp")
    engine, _ = build(case, "traced", neutral=DrawnLabels(torch.tensor([0, 0, 0, 2])))
    shares = first_signals(engine, case.inputs, 100).mean((0, 1))
    assert abs(shares[0] - 0.75) < 0.1
    assert shares[1] == 0
    labels = torch.randn(5, 3, dtype=torch.double)
    engine.neutral = DrawnLabels(labels)
    signals = first_signals(engine, case.inputs, 20).flatten(0, 1)
    assert (signals[:, None] == labels).all(-1).any(-1).all()


def test_a_neutral_signal_can_be_a_function() -> None:
    case = make_case("mlp")
    engine, embed = build(case, "traced", neutral=lambda prediction: torch.full_like(prediction, -3.0))
    expected, losses, _ = reference.adapt(
        case.model, case.layer, embed, case.inputs, neutral=torch.full_like(case.target, -3.0)
    )
    adaptation = engine.adapt(case.inputs)
    close(adaptation.prediction, expected)
    close(adaptation.losses.tolist(), losses)
    engine.neutral = lambda prediction: prediction[:2]
    with pytest.raises(ValueError, match=r"a neutral signal of shape \[2, 3\] cannot be broadcast"):
        engine.adapt(case.inputs)
    engine.neutral = lambda prediction: "nothing"
    with pytest.raises((TypeError, RuntimeError)):
        engine.adapt(case.inputs)


@pytest.mark.parametrize("network", NETWORKS)
def test_one_draw_holds_for_a_whole_call(network: str) -> None:
    case = make_case("mlp")
    engine, embed = build(case, network, neutral=RandomOneHot())
    engine.uncertainty(case.inputs)
    torch.manual_seed(3)
    adaptation = engine.adapt(case.inputs)
    torch.manual_seed(3)
    classes = torch.randint(3, (len(case.inputs), 1))
    neutral = torch.zeros_like(case.target).scatter(1, classes, 1.0)
    expected, losses, _ = reference.adapt(case.model, case.layer, embed, case.inputs, neutral=neutral)
    close(adaptation.prediction, expected)
    close(adaptation.losses.tolist(), losses)
    if network == "hooks":
        return  # where samples adapt one after another, and draw so
    torch.manual_seed(3)
    each = engine.adapt(case.inputs, per_sample=True).prediction
    for sample in range(len(case.inputs)):
        rows = slice(sample, sample + 1)
        alone = reference.adapt(case.model, case.layer, embed, case.inputs[rows], neutral=neutral[rows])[0]
        close(each[rows], alone)


def test_drawn_signals_in_files(tmp_path: Path) -> None:
    case = make_case("mlp")
    for neutral in (RandomOneHot(), DrawnLabels(torch.tensor([2, 1]))):
        engine, _ = build(case, "traced", neutral=neutral)
        path = tmp_path / "engine.pt"
        engine.save(path, case.inputs)
        read = load(path)
        assert repr(read.neutral) == repr(neutral)
        predictions = []
        for each in (engine, read):
            torch.manual_seed(5)
            predictions.append(each.adapt(case.inputs).prediction)
        close(*predictions)
    engine.neutral = lambda prediction: prediction
    with pytest.raises(ValueError, match="neutral is a function, which a file cannot hold"):
        engine.save(path, case.inputs)


@pytest.mark.parametrize("labels", [torch.zeros(0), torch.tensor(1.0), torch.tensor([float("nan")])])
def test_labels_that_cannot_be_drawn_from(labels: Tensor) -> None:
    with pytest.raises(ValueError, match=r"labels to draw from|finite"):
        DrawnLabels(labels)


def test_labels_are_drawn_for_samples_wherever_these_are() -> None:
    """Of sequences, (T, B, C), as many steps as samples: a label holds for all steps of its sample."""
    model = torch.nn.Linear(3, 4).double()
    labels = torch.tensor([[0] * 5, [1] * 5, [3] * 5])
    engine = IT3Engine(model, "", neutral=DrawnLabels(labels), prediction_layout=Layout(channel_dim=-1, batch_dim=1))
    engine.eval()
    seen = []

    def embedder(prediction: Tensor) -> Tensor:
        seen.append(prediction.detach())
        return prediction

    engine.embedder = embedder
    x = torch.randn(5, 5, 3, dtype=torch.double)
    for _ in range(20):
        seen.clear()
        engine.adapt(x, num_steps=0)
        classes = seen[0].argmax(-1)  # (T, B)
        assert (classes == classes[:1]).all()
    pixels = DrawnLabels(torch.randint(3, (6, 2, 2)))
    segmenting = IT3Engine(torch.nn.Conv2d(1, 3, 1).double(), "", neutral=pixels).eval()
    segmenting.embedder = embedder
    seen.clear()
    segmenting.adapt(torch.randn(4, 1, 2, 2, dtype=torch.double), num_steps=0)
    drawn = seen[0].argmax(1)
    assert (drawn[:, None] == pixels.labels).flatten(2).all(-1).any(-1).all()


def test_a_random_class_needs_several() -> None:
    engine = IT3Engine(torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 1)), "0", neutral=RandomOneHot())
    with pytest.raises(ValueError, match="for predictions of two classes or more"):
        engine.eval().adapt(torch.randn(5, 3))


def test_a_neutral_signal_may_be_a_module_and_be_replaced() -> None:
    class Nothing(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.value = torch.nn.Parameter(torch.zeros(3))

        def forward(self, prediction: Tensor) -> Tensor:
            return self.value - 3

    case = make_case("mlp")
    engine, _ = build(case, "traced", neutral=Nothing().double())
    assert all("neutral" not in name for name, _ in engine.named_parameters())
    with_module = engine.adapt(case.inputs).prediction
    engine.neutral = -3.0
    close(engine.adapt(case.inputs).prediction, with_module)


def test_what_cannot_be_compiled() -> None:
    case = make_case("mlp")
    engine, _ = build(case, "traced", neutral=RandomOneHot())
    with pytest.raises(ValueError, match="a neutral signal that is drawn for each call cannot be compiled"):
        compile_engine(engine, case.inputs)
    engine.neutral = None
    engine.optimization_parameters["anchor"] = "frozen_tail"
    with pytest.raises(ValueError, match="anchor='frozen_tail' cannot be compiled"):
        compile_engine(engine, case.inputs)
