"""Engines in Lightning's Trainer."""

import copy
from pathlib import Path
from typing import Any

import it3
import lightning
import lightning.pytorch.demos.boring_classes
import pytest
import torch
import torch.nn.functional as F
from frameworks.lightning_modules import (
    OPTIONS,
    Samples,
    expected,
    loader,
    make_engine,
    make_trainer,
    predictions,
    same,
    state,
    trained,
)
from it3.frameworks.lightning import Adapt, EngineModule
from torch import Tensor, nn

pytestmark = pytest.mark.filterwarnings("ignore:You defined a `validation_step` but")


@pytest.mark.parametrize("accumulated", [1, 2])
def test_training_is_the_loop_by_hand(accumulated: int) -> None:
    module = EngineModule(make_engine(), F.cross_entropy, optimizer=lambda parameters: torch.optim.SGD(parameters, 0.1))
    engine = copy.deepcopy(module.engine)
    torch.manual_seed(2)
    make_trainer(accumulate_grad_batches=accumulated).fit(module, loader(), loader())
    torch.manual_seed(2)
    optimizer = torch.optim.SGD(engine.parameters(), 0.1)
    for _ in range(2):
        batches = list(loader())
        for place, (x, y) in enumerate(batches):
            prediction, loss_ttt = engine.train()(x, target=y)
            ((F.cross_entropy(prediction, y) + loss_ttt) / accumulated).backward()
            if (place + 1) % accumulated == 0 or place + 1 == len(batches):
                optimizer.step()
                optimizer.zero_grad()
    ours, by_hand = state(module.engine), state(engine)
    assert ours.keys() == by_hand.keys()
    for name, value in ours.items():
        torch.testing.assert_close(value, by_hand[name], rtol=0, atol=1e-6, msg=name)
    assert module.engine.is_trained


@pytest.mark.parametrize("inference_mode", [True, False])
@pytest.mark.parametrize("form", ["pairs", "inputs"])
def test_predictions_are_adapted(inference_mode: bool, form: str) -> None:
    module = trained()
    found = predictions(module, form, inference_mode=inference_mode)
    assert torch.equal(found, expected(module))
    assert not torch.allclose(found, expected(module, num_steps=0))


def test_without_steps_they_are_the_networks() -> None:
    module = trained()
    with torch.no_grad():
        plain = copy.deepcopy(module.engine.model).eval()(Samples().x)
    torch.testing.assert_close(predictions(module, callbacks=[Adapt(num_steps=0)]), plain)
    torch.testing.assert_close(predictions(module, callbacks=[Adapt("test")]), plain)  # not in predict


def test_predicting_leaves_all_as_it_was() -> None:
    module = trained()
    module.engine.model[3].eval()  # a layer that the user has frozen
    before, random, given = state(module), torch.get_rng_state(), module.engine.optimization_parameters
    modes = {name: each.training for name, each in module.named_modules()}
    predictions(module, "inputs")
    assert same(state(module), before)
    assert torch.equal(torch.get_rng_state(), random)
    assert module.engine.optimization_parameters is given
    assert given == OPTIONS
    assert {name: each.training for name, each in module.named_modules()} == modes


def test_training_goes_on_after_predicting() -> None:
    torch.manual_seed(3)
    module = trained()
    predictions(module)
    make_trainer().fit(module, loader())
    predictions(module)
    torch.manual_seed(3)
    other = trained()
    make_trainer().fit(other, loader())
    assert same(state(module), state(other))


def test_an_embedder_that_is_shaped_in_inference_mode_trains() -> None:
    module = EngineModule(make_engine(), F.cross_entropy)
    module.engine.embedder.clear()
    with pytest.warns(UserWarning, match="this engine was never trained"):
        predictions(module)
    assert module.engine.embedder.is_built
    assert not any(each.is_inference() for each in module.parameters())
    before = state(module)
    make_trainer().fit(module, loader())
    assert not torch.equal(before["engine.embedder.weight1"], module.engine.embedder.weight1)


@pytest.mark.filterwarnings("ignore:this engine was never trained")
def test_a_network_that_was_made_in_inference_mode_is_an_error() -> None:
    with torch.inference_mode():
        engine = make_engine()
    with pytest.raises(ValueError, match="created in inference mode"):
        predictions(EngineModule(engine, F.cross_entropy))


def test_mixed_precision_keeps_losses_in_full() -> None:
    module = trained()
    found = predictions(module, precision="bf16-mixed")
    assert found.dtype == torch.float32
    assert torch.equal(found, expected(module, amp="bf16"))
    assert not torch.equal(found, expected(module))
    module.engine.optimization_parameters["amp"] = "fp16"  # the engine's own
    assert torch.equal(predictions(module, precision="bf16-mixed"), expected(module, amp="fp16"))


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
def test_half_precision_trains_and_predicts(precision: str) -> None:
    module = EngineModule(make_engine(), F.cross_entropy)
    trainer = make_trainer(precision=precision, max_epochs=20)
    trainer.fit(module, loader(), loader())
    dtype = torch.bfloat16 if precision == "bf16-true" else torch.float32
    assert {each.dtype for each in module.parameters()} == {dtype}
    assert float(trainer.callback_metrics["val_loss"]) < 1.0
    assert predictions(module, precision=precision).dtype == dtype


class Holds(lightning.LightningModule):
    """One of a user's own, by batches that are dictionaries; its forward returns two things."""

    def __init__(self) -> None:
        super().__init__()
        self.network = make_engine()

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        prediction, loss = self.network(image)
        return prediction, loss

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        prediction, loss_ttt = self.network(batch["image"], target=batch["label"])
        return F.cross_entropy(prediction, batch["label"]) + loss_ttt

    def predict_step(self, batch: dict[str, Tensor], batch_idx: int) -> tuple[Tensor, Tensor]:
        found: tuple[Tensor, Tensor] = self(batch["image"])
        return found

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters())


class Is(it3.IT3Engine, lightning.LightningModule):
    """One that is an engine itself."""

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        prediction, loss_ttt = self(batch[0], target=batch[1])
        return F.cross_entropy(prediction, batch[1]) + loss_ttt

    def predict_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        prediction: Tensor = self(batch[0])[0]
        return prediction

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters())


def test_a_module_of_ones_own_that_holds_an_engine() -> None:
    module = Holds()
    make_trainer().fit(module, loader("dicts"))
    found = make_trainer(callbacks=[Adapt(num_steps=1)]).predict(module, loader("dicts"))
    engine = copy.deepcopy(module.network).eval()
    assert found is not None
    for (prediction, loss), batch in zip(found, loader("dicts"), strict=True):
        adaptation = engine.adapt(batch["image"], num_steps=1)
        assert torch.equal(prediction, adaptation.prediction)
        assert torch.equal(loss, adaptation.loss)


def test_a_module_that_is_an_engine() -> None:
    torch.manual_seed(1)
    module = Is(nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3)), "0", optimization_parameters=OPTIONS)
    with pytest.warns(UserWarning, match="the targets are class indices"):
        make_trainer().fit(module, loader())
    found = predictions(module, callbacks=[Adapt("predict")])
    by_hand = torch.cat([module.adapt(x).prediction for x, _ in loader()])
    assert torch.equal(found, by_hand)


@pytest.mark.filterwarnings("ignore:this engine was never trained")
def test_a_trainer_goes_on_with_a_module_without_an_engine() -> None:
    trainer = make_trainer()
    trainer.test(EngineModule(make_engine(), F.cross_entropy), loader(), verbose=False)
    (logged,) = trainer.test(Baseline(), loader(), verbose=False)
    assert set(logged) == {"test_loss"}


class Baseline(lightning.LightningModule):
    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.log("test_loss", F.cross_entropy(batch[0][:, :3], batch[1]))


class Pairs(EngineModule):
    def inputs_and_target(self, batch: dict[str, Tensor], batch_idx: int) -> tuple[Tensor, Tensor]:
        return batch["image"], batch["label"]


def test_batches_may_be_taken_apart_in_another_way() -> None:
    module = Pairs(make_engine(), F.cross_entropy)
    torch.manual_seed(3)
    make_trainer().fit(module, loader("dicts"))
    other = EngineModule(make_engine(), F.cross_entropy)
    torch.manual_seed(3)
    make_trainer().fit(other, loader())
    assert same(state(module), state(other))


class FailsLate(EngineModule):
    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        if batch_idx == 1:
            raise RuntimeError("on purpose")
        return super().predict_step(batch, batch_idx)


def test_an_error_leaves_the_options_as_they_were() -> None:
    module = FailsLate(make_engine(), F.cross_entropy)
    make_trainer().fit(module, loader())
    before, given = state(module), module.engine.optimization_parameters
    with pytest.raises(RuntimeError, match="on purpose"):
        predictions(module, callbacks=[Adapt(num_steps=5)])
    assert module.engine.optimization_parameters is given
    assert given == OPTIONS
    assert same(state(module), before)


def test_checkpoints_hold_the_embedder(tmp_path: Path) -> None:
    module = EngineModule(make_engine(), F.cross_entropy)
    kept = lightning.pytorch.callbacks.ModelCheckpoint(dirpath=tmp_path, monitor="val_loss", filename="best")
    make_trainer(enable_checkpointing=True, callbacks=[kept]).fit(module, loader(), loader())
    fresh = EngineModule.load_from_checkpoint(
        kept.best_model_path, engine=make_engine(), criterion=F.cross_entropy, weights_only=True
    )
    assert fresh.engine.is_trained
    assert torch.equal(predictions(fresh), predictions(module))


def test_training_goes_on_from_a_checkpoint(tmp_path: Path) -> None:
    module = EngineModule(make_engine(), F.cross_entropy)
    module.engine.model[3].p = 0.0  # Lightning keeps no random states
    trainer = make_trainer(max_epochs=1)
    trainer.fit(module, loader())
    trainer.save_checkpoint(tmp_path / "first.ckpt")
    fresh, whole = (EngineModule(make_engine(), F.cross_entropy) for _ in range(2))
    fresh.engine.model[3].p = whole.engine.model[3].p = 0.0
    make_trainer().fit(fresh, loader(), ckpt_path=tmp_path / "first.ckpt")
    make_trainer().fit(whole, loader())
    assert same(state(fresh), state(whole))


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match="'predct' is no call of a Trainer that can adapt"):
        Adapt("predct")
    with pytest.raises(ValueError, match="did you mean 'num_steps'"):
        Adapt(num_step=2)
    with pytest.raises(ValueError, match="several callbacks"):
        predictions(trained(), callbacks=[Adapt("test"), Adapt("predict")])
    with pytest.raises(ValueError, match=r"holds no it3.IT3Engine"):
        predictions(lightning.pytorch.demos.boring_classes.BoringModel(), callbacks=[Adapt()])

    def loss(prediction: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(prediction, target)

    with pytest.raises(ValueError, match="a function called 'loss', as which the criterion is logged"):
        EngineModule(make_engine(), F.cross_entropy, metric=loss)
    with pytest.raises(TypeError, match=r"engine must be an it3\.IT3Engine, not a Linear"):
        EngineModule(nn.Linear(1, 1), F.cross_entropy)  # type: ignore[arg-type]
