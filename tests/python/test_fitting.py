"""fit() is the loop that one would write by hand."""

import copy
import math
import sys
from collections.abc import Iterator
from typing import Any

import it3
import pytest
import torch
import torch.nn.functional as F
from it3 import IT3Engine
from kinds_of_network import state_of
from torch import Tensor, nn
from torch.utils.data import DataLoader
from trained import SGD, assert_same, by_hand, data, data_list, make_engine, shuffled


@pytest.mark.parametrize("max_grad_norm", [None, 0.1])
def test_it_is_the_loop_by_hand(max_grad_norm: float | None) -> None:
    engine, twin = make_engine(), make_engine()
    optimizer = torch.optim.Adam(twin.parameters(), lr=1e-3)
    torch.manual_seed(1)
    told = by_hand(twin, shuffled(), F.cross_entropy, 3, optimizer, max_grad_norm=max_grad_norm)
    state = torch.get_rng_state()
    torch.manual_seed(1)
    history = engine.fit(shuffled(), F.cross_entropy, epochs=3, max_grad_norm=max_grad_norm)
    assert_same(engine, twin)
    assert torch.equal(torch.get_rng_state(), state)
    for row, batches in zip(history.rows, told, strict=True):
        criterion, ttt = (sum(batch[i] * batch[2] for batch in batches) / 22 for i in (0, 1))
        assert [row["loss_criterion"], row["loss_ttt"]] == pytest.approx([criterion, ttt], rel=1e-6)
        assert row["loss"] == pytest.approx(criterion + ttt, rel=1e-6)
        assert math.isnan(row["score"])
        assert row["lr"] == 1e-3


def test_an_optimizer_and_a_scheduler_of_ones_own() -> None:
    for give_objects in (True, False):
        engine, twin = make_engine(), make_engine()
        ways = [SGD, lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5)]
        of_twin = ways[0](twin.parameters())
        by_hand(twin, data_list(), F.cross_entropy, 5, of_twin, ways[1](of_twin))
        if give_objects:
            ways[0] = ways[0](engine.parameters())
            ways[1] = ways[1](ways[0])
        torch.manual_seed(0)
        make_engine()  # as before the twin's loop
        history = engine.fit(data_list(), F.cross_entropy, epochs=5, optimizer=ways[0], scheduler=ways[1])
        assert [row["lr"] for row in history.rows] == [0.05, 0.05, 0.025, 0.025, 0.0125]
        assert_same(engine, twin)


def test_schedulers_that_count_batches_are_stepped_by_batch() -> None:
    class Rates(it3.Callback):
        def __init__(self) -> None:
            self.rates: list[float] = []

        def on_step(self, step: it3.TrainingStep) -> None:
            self.rates.append(step.lr)

    def one_cycle(optimizer: torch.optim.Optimizer) -> Any:
        return torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=6)

    def halving(optimizer: torch.optim.Optimizer) -> Any:
        return torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)

    for scheduler, interval in ((one_cycle, None), (halving, "batch"), (halving, None)):
        rates = Rates()
        history = make_engine().fit(
            data_list(),
            F.cross_entropy,
            epochs=2,
            optimizer=lambda parameters: torch.optim.SGD(parameters, lr=1.0),
            scheduler=scheduler,
            scheduler_interval=interval,
            callbacks=[rates],
        )
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
        made, expected = scheduler(optimizer), []
        for step in range(6):
            expected.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            if scheduler is one_cycle or interval == "batch" or step == 2:
                made.step()
        assert rates.rates == expected
        assert [row["lr"] for row in history.rows] == [expected[2], expected[5]]  # of the last steps


def test_a_plateau_is_looked_for_in_the_score() -> None:
    def plateau(optimizer: torch.optim.Optimizer) -> Any:
        return torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, "max", patience=0, threshold=0)

    x, y = data().tensors
    with pytest.raises(ValueError, match=r"mode='max', but of the score, or without .* lower is better; make it with"):
        make_engine().fit(data_list(), F.cross_entropy, scheduler=plateau)
    history = make_engine().fit(
        data_list(),
        F.cross_entropy,
        epochs=6,
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.5),
        scheduler=plateau,
        validation=[(x, y)],
        metric="accuracy",
    )
    best, rates = -1.0, [0.5]
    for row in history.rows:
        rates.append(rates[-1] if row["score"] > best else rates[-1] / 10)
        best = max(best, row["score"])
    assert [row["lr"] for row in history.rows] == pytest.approx(rates[:-1])
    assert rates[-1] < 0.5


def test_validation_scores_without_adaptation_and_changes_no_training() -> None:
    engine, plain = make_engine(), make_engine()
    validation = DataLoader(data(17), 5, shuffle=True)
    for each, given in ((engine, {"validation": validation, "metric": "accuracy"}), (plain, {})):
        torch.manual_seed(3)
        history = each.fit(shuffled(), F.cross_entropy, epochs=2, **given)
        if given:
            x, y = data(17).tensors
            each.model.eval()
            assert history.rows[-1]["score"] == (each.model(x).argmax(1) == y).double().mean().item()
            assert history.metric == "accuracy"
            assert "best validation accuracy" in str(history)
    assert_same(engine, plain)

    def squares(prediction: Tensor, target: Tensor) -> Tensor:
        return (prediction - target).square().mean()  # of a batch, of which one is smaller

    pairs = [(torch.ones(4, 6), torch.zeros(4, 3)), (torch.ones(1, 6), torch.ones(1, 3))]
    history = engine.fit(pairs, F.mse_loss, validation=pairs, metric=squares)
    engine.eval()
    scores = [squares(engine.model(x), y).item() for x, y in pairs]
    assert history.rows[0]["score"] == pytest.approx((4 * scores[0] + scores[1]) / 5, rel=1e-6)
    assert "best" not in str(history)  # as nobody said what is better


class Several(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.LazyLinear(8), nn.Linear(8, 2)

    def forward(self, x: Tensor, scale: Tensor) -> Tensor:
        return self.head(torch.tanh(self.layer(x) * scale))


@pytest.mark.parametrize("as_mapping", [False, True])
@pytest.mark.parametrize("optimizer", [None, lambda parameters: torch.optim.Adagrad(parameters, lr=0.1)])
def test_lazy_models_of_several_inputs(as_mapping: bool, optimizer: Any) -> None:
    def inputs(i: int) -> Any:
        x, scale = torch.full((3, 5), i / 10), torch.full((3, 1), 2.0)
        return {"x": x, "scale": scale} if as_mapping else (x, scale)

    loader = [(inputs(i), torch.ones(3, 2)) for i in range(3)]
    torch.manual_seed(0)
    engine = IT3Engine(Several().double().float(), "layer")
    twin = copy.deepcopy(engine)
    torch.manual_seed(0)
    history = engine.fit(loader, F.mse_loss, epochs=2, optimizer=optimizer)
    assert history.rows[1]["loss"] < history.rows[0]["loss"]
    torch.manual_seed(0)
    twin.train()(loader[0][0], target=loader[0][1])  # gives shapes
    make = optimizer or (lambda parameters: torch.optim.Adam(parameters, lr=1e-3))
    by_hand(twin, loader, F.mse_loss, 2, make(list(twin.parameters())))
    assert_same(engine, twin)


def test_an_optimizer_that_lacks_parameters_is_an_error() -> None:
    engine = make_engine()
    before = state_of(engine)
    only_model = torch.optim.Adam(engine.model.parameters())
    match = r"lacks 4 of the engine's 8 trainable parameters, .*: 'embedder.weight1', 'embedder.bias1'"
    with pytest.raises(ValueError, match=match):
        engine.fit(shuffled(), F.cross_entropy, optimizer=only_model)
    assert all(torch.equal(value, before[name]) for name, value in engine.state_dict().items())
    engine.embedder.requires_grad_(False)  # which says that it is meant so
    engine.fit(shuffled(), F.cross_entropy, optimizer=only_model)

    class Late(nn.Module):
        """An embedder that makes its parameters when it is called first."""

        def forward(self, prediction: Tensor) -> Tensor:
            if not hasattr(self, "linear"):
                self.linear = nn.Linear(3, 8)
            return self.linear(prediction)

    late = make_engine(embedder=Late())
    with pytest.raises(ValueError, match=r"lacks 2 of the engine's 6 .*: 'embedder.linear.weight', 'embedder.linear.b"):
        late.fit(shuffled(), F.cross_entropy)
    late.fit(shuffled(), F.cross_entropy)  # now they are there
    fresh = make_engine()
    with pytest.raises(ValueError, match=r"shaped its state when it was made, .* optimizer=lambda parameters: torch"):
        fresh.fit(shuffled(), F.cross_entropy, optimizer=torch.optim.Adagrad(fresh.parameters()))
    frozen = make_engine()
    frozen.requires_grad_(False)
    with pytest.raises(ValueError, match="nothing to train"):
        frozen.fit(shuffled(), F.cross_entropy)


def test_losses_that_are_not_finite_say_where() -> None:
    batches = data_list()
    batches[2] = (batches[2][0] * math.nan, batches[2][1])
    engine, twin = make_engine(), make_engine()
    by_hand(twin, batches[:2], F.cross_entropy, 1, torch.optim.Adam(twin.parameters(), lr=1e-3))
    torch.manual_seed(0)
    make_engine()
    with pytest.raises(ValueError, match=r"the loss of epoch 1, batch 2 .* is not finite: nan of the criterion and "):
        engine.fit(batches, F.cross_entropy, epochs=2)
    assert_same(engine, twin)  # as after the last good step

    def root(prediction: Tensor, _: Tensor) -> Tensor:
        return (prediction * 0).sum().sqrt()  # 0, whose slope is nan

    with pytest.raises(ValueError, match=r"after epoch 1 the weights .* are not finite, though the losses were"):
        make_engine(distance_fn="mse").fit([(torch.ones(2, 6), torch.ones(2, 3))], root)
    engine = make_engine(distance_fn="mse")
    engine.uncertainty(torch.ones(2, 6))
    before = state_of(engine)
    with pytest.raises(ValueError, match=r"the gradients of epoch 1, batch 0 .* are not finite, though its loss is"):
        engine.fit([(torch.ones(2, 6), torch.ones(2, 3))], root, max_grad_norm=1.0)
    assert all(torch.equal(value, before[name]) for name, value in engine.state_dict().items() if "extra" not in name)


def test_loaders() -> None:
    engine = make_engine()
    fit = engine.fit
    with pytest.raises(ValueError, match="loader is an iterator or generator, which is used up after the first of 2"):
        fit(iter(data_list()), F.cross_entropy, epochs=2)
    with pytest.raises(ValueError, match="validation is an iterator or generator"):
        fit(data_list(), F.cross_entropy, epochs=2, validation=iter(data_list()), metric="accuracy")

    class Once:
        def __init__(self) -> None:
            self.batches = iter(data_list())

        def __iter__(self) -> Iterator[Any]:
            return self.batches

    with pytest.raises(ValueError, match="loader gave no batches in epoch 2; an iterator is used up after one epoch"):
        fit(Once(), F.cross_entropy, epochs=2)
    with pytest.raises(ValueError, match="loader gave no batches in epoch 1"):
        fit([], F.cross_entropy)
    with pytest.raises(
        TypeError, match="loader is a TensorDataset, a Dataset, which gives single samples; put it into"
    ):
        fit(data(), F.cross_entropy)
    with pytest.raises(TypeError, match=r"loader must be an iterable of batches .* not a tensor of shape"):
        fit(torch.ones(3), F.cross_entropy)
    with pytest.raises(TypeError, match=r"loader must be an iterable .* not a int"):
        fit(3, F.cross_entropy)
    with pytest.raises(ValueError, match=r"batch 1 must be a pair \(inputs, targets\), but is a tensor of shape"):
        fit([data_list()[0], torch.ones(3, 6)], F.cross_entropy)
    with pytest.raises(TypeError, match=r"batch 0: the target must be a tensor, .*, or None, not a dict"):
        fit([(torch.ones(3, 6), {"y": 1})], F.cross_entropy)
    with pytest.raises(RuntimeError, match="mat1 and mat2") as raised:
        fit([data_list()[0], (torch.ones(3, 7), torch.zeros(3).long())], F.cross_entropy)
    assert raised.value.__notes__ == ["in epoch 1, batch 1 (counted from 0)"]
    asked = []
    history = fit(lambda epoch: asked.append(epoch) or data_list(), F.cross_entropy, epochs=3)
    assert asked == [row["epoch"] for row in history.rows] == [1, 2, 3]
    assert len(fit(iter(data_list()), F.cross_entropy)) == 1
    fit([(torch.randn(1, 6), torch.tensor([2]))], F.cross_entropy)  # a batch of one
    fit([(torch.randn(4, 6), None)], lambda prediction, _: prediction.square().mean())


def test_what_is_wrong_is_said() -> None:
    engine = make_engine()
    batches, loss = data_list(), F.cross_entropy
    other = torch.optim.Adam([torch.zeros(1, requires_grad=True)])
    wrong: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({"epochs": 0}, ValueError, "epochs must be a whole number, 1 or more, not 0"),
        ({"criterion": "mse"}, TypeError, "criterion must be a function"),
        ({"optimizer": "adam"}, TypeError, r"optimizer must be a torch.optim.Optimizer .* not 'adam'"),
        ({"optimizer": lambda parameters: 3}, TypeError, "optimizer returned a int"),
        ({"optimizer": torch.optim.LBFGS}, ValueError, "LBFGS evaluates the loss several times"),
        ({"scheduler": 1}, TypeError, "scheduler must be a torch.optim.lr_scheduler.LRScheduler"),
        ({"scheduler": lambda optimizer: 3}, TypeError, "scheduler returned a int"),
        (
            {"scheduler": torch.optim.lr_scheduler.StepLR(other, 1), "optimizer": SGD},
            ValueError,
            "is that of another optimizer",
        ),
        ({"scheduler_interval": "batch"}, ValueError, "there is none; leave it out"),
        ({"scheduler_interval": "step"}, ValueError, "must be 'epoch', 'batch' or None, not 'step'"),
        ({"max_grad_norm": 0}, ValueError, "max_grad_norm must be a number above 0"),
        ({"metric": "mse"}, ValueError, "metric is given without validation"),
        ({"validation": batches}, ValueError, "validation is given without metric"),
        ({"validation": batches, "metric": "f1"}, ValueError, "metric must be one of accuracy, mse, mae"),
        ({"callbacks": it3.Callback()}, TypeError, "callbacks must be a list of it3.Callback, not a Callback"),
        ({"callbacks": [print]}, TypeError, "callbacks has a builtin_function_or_method; each must be an it3.Callback"),
        ({"callbacks": [it3.Callback]}, TypeError, r"has the class Callback; give an object of it, Callback\(\)"),
    ]
    engine.embedder = it3.Embedder()
    engine.uncertainty(batches[0][0])  # has its shape now, so that all of it is seen before the first step
    before = state_of(engine)
    for arguments, kind, match in wrong:
        given = {"loader": batches, "criterion": loss} | arguments
        with pytest.raises(kind, match=match):
            engine.fit(**given)
    assert all(torch.equal(value, before[name]) for name, value in engine.state_dict().items())
    for criterion, kind, match in (
        (lambda prediction, y: 1.0, TypeError, "criterion must return a tensor, a scalar, not a float"),
        (
            lambda prediction, y: prediction.sum(1),
            ValueError,
            r"a scalar, not a tensor of shape \(8,\); return its mean",
        ),
        (lambda prediction, y: prediction.detach().sum(), ValueError, "has no gradient by the prediction"),
    ):
        with pytest.raises(kind, match=match):
            engine.fit(batches, criterion)


def test_callbacks_are_told_of_all() -> None:
    class Told(it3.Callback):
        def __init__(self) -> None:
            self.steps: list[it3.TrainingStep] = []
            self.rows: list[Any] = []
            self.ends: list[Any] = []

        def on_step(self, step: it3.TrainingStep) -> None:
            self.steps.append(step)
            if step.step == 8:
                raise KeyboardInterrupt

        def on_epoch(self, row: Any) -> None:
            self.rows.append(dict(row))
            row["loss"] = 0  # is a copy

        def on_end(self, error: BaseException | None) -> None:
            self.ends.append(error)

    told, other = Told(), Told()
    history = make_engine().fit(data_list(), F.cross_entropy, epochs=2, callbacks=[told, other], max_grad_norm=9.0)
    assert [(s.epoch, s.batch, s.step) for s in told.steps] == [(e, b, 3 * e + b - 2) for e in (1, 2) for b in range(3)]
    assert all(s.loss == pytest.approx(s.loss_criterion + s.loss_ttt) and s.grad_norm > 0 for s in told.steps)
    torch.testing.assert_close(
        torch.tensor([r["loss"] for r in told.rows]), torch.tensor([r["loss"] for r in history.rows])
    )
    assert told.steps == other.steps
    assert told.ends == [None]
    with pytest.raises(KeyboardInterrupt):
        make_engine().fit(data_list(), F.cross_entropy, epochs=9, callbacks=[told := Told(), other := Told()])
    assert [type(end) for end in told.ends + other.ends] == [KeyboardInterrupt] * 2
    assert len(other.steps) == 7


def test_history_as_a_table() -> None:
    history = make_engine().fit(data_list(), F.cross_entropy, epochs=25, validation=data_list(), metric="accuracy")
    lines = str(history).splitlines()
    assert lines[0].split() == ["epoch", "loss", "criterion", "loss_ttt", "validation", "accuracy", "lr", "seconds"]
    assert [line.split()[0] for line in lines[1:22]] == [*map(str, range(1, 11)), "...", *map(str, range(16, 26))]
    frame = history.to_frame()
    assert list(frame.index) == list(range(1, 26))
    assert frame.loc[7, "loss"] == history.rows[6]["loss"]
    assert lines[-1].endswith(f"after epoch {frame['score'].idxmax()}")


def test_progress_in_plain_logs(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    make_engine().fit(data_list(), F.cross_entropy, epochs=2, progress=True)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(": loss ")[0] for line in lines] == ["epoch 1 of 2", "epoch 2 of 2"]
    monkeypatch.setattr("it3.support.progress._SECONDS", 0.0)
    make_engine().fit(iter(data_list()), F.cross_entropy, progress=True)
    assert capsys.readouterr().err.splitlines()[1].startswith("epoch 1 of 1: batch 2, loss ")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    pytest.importorskip("tqdm")
    make_engine().fit(data_list(), F.cross_entropy, progress=True)
    shown = capsys.readouterr().err
    assert "epoch 1 of 1:   0%|" in shown
    assert "0/3" in shown
    assert shown.splitlines()[-1].startswith("epoch 1 of 1: loss ")
