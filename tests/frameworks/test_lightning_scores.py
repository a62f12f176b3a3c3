"""What EngineModule logs in Lightning's Trainer: how good predictions are, and what adapting gains."""

import copy

import it3
import pytest
import torch
import torch.nn.functional as F
import torchmetrics
from frameworks.lightning_modules import Samples, expected, loader, make_trainer, same, state, trained
from it3.frameworks.lightning import Adapt, EngineModule
from torch import Tensor
from torch.utils.data import DataLoader

pytestmark = pytest.mark.filterwarnings("ignore:You defined a `validation_step` but")


def scores_of(prediction: Tensor) -> tuple[float, float]:
    y = Samples().y
    return float(F.cross_entropy(prediction, y)), float((prediction.argmax(1) == y).float().mean())


@pytest.mark.parametrize("call", ["test", "validate"])
def test_scores_and_gains_are_logged(call: str) -> None:
    module = trained()
    (logged,) = getattr(make_trainer(), call)(module, loader(), verbose=False)
    (loss, accuracy), (plain_loss, plain_accuracy) = map(scores_of, (expected(module), expected(module, num_steps=0)))
    stage = "val" if call == "validate" else call
    values = {
        f"{stage}_loss": loss,
        f"{stage}_accuracy": accuracy,
        f"{stage}_loss_gain": plain_loss - loss,
        f"{stage}_accuracy_gain": accuracy - plain_accuracy,
    }
    assert logged == pytest.approx(values, abs=1e-6)
    assert abs(plain_loss - loss) > 1e-4


def test_both_sides_of_a_gain_draw_the_same_neutral_signals() -> None:
    module = trained(num_steps=1, lr=1e-12)
    module.engine.neutral = it3.RandomOneHot()
    (logged,) = make_trainer().test(module, loader(), verbose=False)
    assert logged["test_loss_gain"] == pytest.approx(0, abs=1e-6)
    first, second = (scores_of(expected(module)) for _ in range(2))
    assert abs(first[0] - second[0]) > 1e-4  # of other draws


def wrong(prediction: Tensor, target: Tensor) -> Tensor:
    return (prediction.argmax(1) != target).float().mean()


def test_a_gain_in_errors_is_how_many_fewer_there_are() -> None:
    module = trained()
    module.metric = EngineModule(module.engine, F.cross_entropy, metric=wrong, higher_is_better=False).metric
    (logged,) = make_trainer().test(module, loader(), verbose=False)
    adapted, plain = (1 - scores_of(expected(module, **overrides))[1] for overrides in ({}, {"num_steps": 0}))
    assert adapted != plain
    assert logged["test_wrong"] == pytest.approx(adapted)
    assert logged["test_wrong_gain"] == pytest.approx(plain - adapted, abs=1e-6)


def test_a_metric_of_torchmetrics() -> None:
    accuracy = torchmetrics.classification.MulticlassAccuracy(3, average="micro")
    module = EngineModule(trained().engine, F.cross_entropy, metric=accuracy)
    (logged,) = make_trainer().test(module, loader(), verbose=False)
    assert logged["test_MulticlassAccuracy"] == pytest.approx(scores_of(expected(module))[1])
    assert accuracy in list(module.modules())  # which move to the device with it


def test_several_loaders() -> None:
    module = trained()
    loaders = [loader(), DataLoader(Samples(), batch_size=22)]
    scores = make_trainer().test(module, loaders, verbose=False)
    at_once = module.engine.eval().adapt(Samples().x).prediction
    for place, prediction in enumerate((expected(module), at_once)):
        assert scores[place][f"test_loss/dataloader_idx_{place}"] == pytest.approx(scores_of(prediction)[0], abs=1e-6)
    assert len(make_trainer().validate(module, loaders, verbose=False)) == 2
    first, second = make_trainer().predict(module, loaders)  # type: ignore[misc]
    assert torch.equal(torch.cat(first), expected(module))  # type: ignore[arg-type]
    assert torch.equal(torch.cat(second), at_once)  # type: ignore[arg-type]


def test_training_is_validated_without_adapting_unless_asked() -> None:
    module = trained()
    optimizer = lambda parameters: torch.optim.SGD(parameters, 0.0)  # noqa: E731
    module.optimizer = optimizer
    trainer = make_trainer()
    module.engine.model[1].momentum = 0.0  # the network stays as it is
    trainer.fit(module, loader(), loader())
    assert "val_loss_gain" not in trainer.callback_metrics
    assert float(trainer.callback_metrics["val_loss"]) == pytest.approx(scores_of(expected(module, num_steps=0))[0])
    trainer = make_trainer(callbacks=[Adapt("fit")])
    trainer.fit(module, loader(), loader())
    assert float(trainer.callback_metrics["val_loss"]) == pytest.approx(scores_of(expected(module))[0])
    assert "val_loss_gain" in trainer.callback_metrics


def test_what_training_logs() -> None:
    module = trained()
    trainer = make_trainer(max_epochs=1)
    trainer.fit(module, loader())
    logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
    assert set(logged) == {"loss", "loss_criterion", "loss_ttt"}
    assert logged["loss"] == pytest.approx(logged["loss_criterion"] + logged["loss_ttt"])


def test_weights_that_are_kept_have_no_gain() -> None:
    module = trained(copy_model=False)
    before = state(module)
    engine = copy.deepcopy(module.engine).eval()
    loss = scores_of(engine.predict([inputs for inputs, _ in loader()]))[0]
    (logged,) = make_trainer().test(module, loader(), verbose=False)
    assert set(logged) == {"test_loss", "test_accuracy"}
    assert logged["test_loss"] == pytest.approx(loss, abs=1e-6)
    assert not same(state(module), before)
    module.engine.reset()
    assert same(state(module), before)
