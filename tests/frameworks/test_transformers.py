"""Engines around models of transformers, and its Trainer."""

import copy
from pathlib import Path
from typing import Any

import it3
import pytest
import torch
import torch.nn.functional as F
import transformers
from it3.frameworks.transformers import EMBEDDER_FILE, EngineTrainer, load_embedder
from torch import Tensor, nn
from torch.utils.data import default_collate
from transformers import BertConfig, BertForSequenceClassification, TrainingArguments

LAYER = "bert.encoder.layer.0"


def samples(count: int = 20) -> list[dict[str, Any]]:
    """Sentences of 6 to 10 tokens, padded: batches of 8 end with a smaller one."""
    generator = torch.Generator().manual_seed(7)
    rows = []
    for place in range(count):
        mask = (torch.arange(10) < 6 + place % 5).long()
        tokens = torch.randint(1, 50, (10,), generator=generator) * mask
        rows.append({"input_ids": tokens, "attention_mask": mask, "labels": int(tokens.sum() % 3)})
    return rows


def make_model(dropout: float = 0.0) -> BertForSequenceClassification:
    torch.manual_seed(1)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    rates = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    config = BertConfig(vocab_size=50, max_position_embeddings=16, num_labels=3, **sizes, **rates)
    return BertForSequenceClassification(config)


def make_engine(model: nn.Module | None = None) -> it3.IT3Engine:
    engine = it3.IT3Engine(
        make_model() if model is None else model,
        LAYER,
        output="logits",
        distance_fn="js",
        optimization_parameters={"num_steps": 2, "lr": 1e-3},
    )
    torch.manual_seed(2)
    engine.adapt(inputs_of(samples(2)), num_steps=0)  # draws the embedder's weights
    return engine


def inputs_of(rows: list[dict[str, Any]]) -> dict[str, Tensor]:
    found: dict[str, Tensor] = default_collate([{k: v for k, v in row.items() if k != "labels"} for row in rows])
    return found


def make_trainer(engine: it3.IT3Engine, folder: Path, trainer: Any = EngineTrainer, **arguments: Any) -> EngineTrainer:
    own = {name: arguments.pop(name) for name in ("data_collator", "callbacks") if name in arguments}
    settings = {"per_device_train_batch_size": 8, "per_device_eval_batch_size": 8, "report_to": [], "use_cpu": True}
    settings |= {"disable_tqdm": True, "save_strategy": "no", "num_train_epochs": 2, "learning_rate": 1e-2}
    args = TrainingArguments(str(folder), **{**settings, **arguments})
    made: EngineTrainer = trainer(
        engine, args, criterion=F.cross_entropy, train_dataset=samples(), eval_dataset=samples(), **own
    )
    return made


def by_hand(engine: it3.IT3Engine, **overrides: Any) -> Tensor:
    """Adapt to batches of 8, with no Trainer near."""
    engine, rows = copy.deepcopy(engine).eval(), samples()
    batches = [inputs_of(rows[start : start + 8]) for start in range(0, len(rows), 8)]
    return torch.cat([engine.adapt(batch, **overrides).prediction for batch in batches])


def labels() -> Tensor:
    return torch.tensor([row["labels"] for row in samples()])


def loss_of(prediction: Tensor) -> float:
    return float(F.cross_entropy(prediction, labels()))


def state(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.mark.parametrize("accumulated", [1, 2])
def test_training_is_the_loop_by_hand(accumulated: int, tmp_path: Path) -> None:
    seen: list[dict[str, Tensor]] = []

    def collate(rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        seen.append(default_collate(rows))
        return seen[-1]

    engine = make_engine()
    twin = copy.deepcopy(engine)
    settings = {"optim": "sgd", "lr_scheduler_type": "constant", "learning_rate": 0.1}
    trainer = make_trainer(engine, tmp_path, gradient_accumulation_steps=accumulated, data_collator=collate, **settings)
    trainer.train()
    assert len(seen) == 6
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.1)
    epochs = [seen[:3], seen[3:]]
    for group in (each[at : at + accumulated] for each in epochs for at in range(0, 3, accumulated)):
        for batch in group:
            target = batch["labels"]
            inputs = {name: value for name, value in batch.items() if name != "labels"}
            prediction, loss_ttt = twin.train()(inputs, target=target)
            ((F.cross_entropy(prediction, target) + loss_ttt) / len(group)).backward()
        torch.nn.utils.clip_grad_norm_(twin.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    for (name, value), (_, other) in zip(state(engine).items(), state(twin).items(), strict=True):
        torch.testing.assert_close(value, other, rtol=0, atol=1e-6, msg=name)
    assert engine.is_trained


def test_predictions_are_adapted_and_leave_the_engine_as_it_was(tmp_path: Path) -> None:
    engine = make_engine()
    trainer = make_trainer(engine, tmp_path)
    trainer.train()
    before = state(engine)
    found = trainer.predict(samples())
    assert torch.equal(torch.tensor(found.predictions), by_hand(engine))
    assert not torch.allclose(by_hand(engine), by_hand(engine, num_steps=0))
    assert torch.equal(torch.tensor(found.label_ids), labels())
    assert same(state(engine), before)
    assert engine.optimization_parameters == {"num_steps": 2, "lr": 1e-3}
    unlabeled = trainer.predict([{k: v for k, v in row.items() if k != "labels"} for row in samples()])
    assert torch.equal(torch.tensor(unlabeled.predictions), torch.tensor(found.predictions))
    assert unlabeled.label_ids is None
    engine.optimization_parameters["num_steps"] = 0
    assert torch.equal(torch.tensor(trainer.predict(samples()).predictions), by_hand(engine, num_steps=0))


def test_only_evaluations_outside_of_training_adapt(tmp_path: Path) -> None:
    engine = make_engine()
    trainer = make_trainer(engine, tmp_path, eval_strategy="epoch", learning_rate=0.0)
    trainer.train()
    inside = [row["eval_loss"] for row in trainer.state.log_history if "eval_loss" in row]
    assert inside == pytest.approx([loss_of(by_hand(engine, num_steps=0))] * 2, abs=1e-6)
    assert trainer.evaluate()["eval_loss"] == pytest.approx(loss_of(by_hand(engine)), abs=1e-6)
    assert abs(loss_of(by_hand(engine)) - inside[0]) > 1e-5


class Fails(EngineTrainer):
    def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("on purpose")


def test_predictions_are_adapted_after_a_training_that_failed(tmp_path: Path) -> None:
    engine = make_engine()
    trainer = make_trainer(engine, tmp_path, Fails)
    with pytest.raises(RuntimeError, match="on purpose"):
        trainer.train()
    with pytest.warns(UserWarning, match="this engine was never trained"):
        found = trainer.predict(samples())
    assert torch.equal(torch.tensor(found.predictions), by_hand(engine))


def test_both_terms_are_logged(tmp_path: Path) -> None:
    trainer = make_trainer(make_engine(), tmp_path, logging_steps=2)
    trainer.train()
    rows = [row for row in trainer.state.log_history if "loss_ttt" in row]
    assert len(rows) == 3
    for row in rows:
        assert row["loss"] == pytest.approx(row["loss_criterion"] + row["loss_ttt"], abs=1e-5)


def test_training_again_goes_on(tmp_path: Path) -> None:
    engine, other = make_engine(), make_engine()
    for each, predicts in ((engine, True), (other, False)):
        trainer = make_trainer(each, tmp_path)
        trainer.train()
        if predicts:
            trainer.predict(samples())
        trainer.train()
    assert same(state(engine), state(other))


@pytest.mark.parametrize("is_compiled", [False, True])
def test_a_saved_folder_gives_the_same_engine(is_compiled: bool, tmp_path: Path) -> None:
    engine = make_engine(torch.compile(make_model(), backend="eager")) if is_compiled else make_engine()
    trainer = make_trainer(engine, tmp_path)
    trainer.train()
    trainer.save_model()
    trainer.create_model_card()
    assert (tmp_path / "README.md").exists()
    model = BertForSequenceClassification.from_pretrained(tmp_path)
    fresh = make_engine(model)
    fresh.embedder.clear()
    load_embedder(fresh, tmp_path)
    assert same(state(fresh), {name.replace("_orig_mod.", ""): value for name, value in state(engine).items()})
    assert fresh.is_trained
    assert torch.equal(by_hand(fresh), by_hand(engine))
    with pytest.raises(ValueError, match=f"has no {EMBEDDER_FILE}"):
        load_embedder(fresh, tmp_path / "elsewhere")
    other = it3.IT3Engine(model, LAYER, embedder=nn.Linear(3, 16), output="logits")
    with pytest.raises(ValueError, match="is of an engine with another embedder: missing"):
        load_embedder(other, tmp_path)


class Plain(nn.Module):
    """No model of transformers."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.tokens, self.bert, self.head = nn.Embedding(50, 16), nn.Linear(16, 16), nn.Linear(16, 3)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        weights = attention_mask[..., None] / attention_mask.sum(1)[:, None, None]
        return {"logits": self.head(torch.relu(self.bert((self.tokens(input_ids) * weights).sum(1))))}


@pytest.mark.parametrize("kind", ["transformers", "other"])
def test_training_goes_on_from_a_checkpoint_and_ends_with_the_best(kind: str, tmp_path: Path) -> None:
    def engine_of() -> it3.IT3Engine:
        if kind == "transformers":
            return make_engine()
        engine = it3.IT3Engine(Plain(), "bert", output="logits", distance_fn="js")
        torch.manual_seed(2)
        engine.adapt(inputs_of(samples(2)), num_steps=0)
        return engine

    settings = {"save_strategy": "epoch", "eval_strategy": "epoch", "load_best_model_at_end": True}
    whole, part = engine_of(), engine_of()
    trainer = make_trainer(whole, tmp_path, num_train_epochs=3, **settings)
    trainer.train()
    losses = [row["eval_loss"] for row in trainer.state.log_history if "eval_loss" in row]
    assert loss_of(by_hand(whole, num_steps=0)) == pytest.approx(min(losses), abs=1e-6)
    part.embedder.clear()
    trainer = make_trainer(part, tmp_path, num_train_epochs=3, **settings)
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert same(state(part), state(whole))


def test_mixed_precision_keeps_losses_in_full(tmp_path: Path) -> None:
    engine = make_engine()
    trainer = make_trainer(engine, tmp_path, bf16=True)
    trainer.train()
    assert {each.dtype for each in engine.parameters()} == {torch.float32}
    found = torch.tensor(trainer.predict(samples()).predictions)
    assert torch.equal(found, by_hand(engine, amp="bf16"))
    assert not torch.equal(found, by_hand(engine))
    assert copy.deepcopy(engine).eval()(inputs_of(samples(2)))[0].dtype == torch.float32


@pytest.mark.filterwarnings("ignore:this engine was never trained")
@pytest.mark.parametrize("call", ["evaluate", "predict"])
def test_the_engine_is_called_in_its_own_precision_afterwards(call: str, tmp_path: Path) -> None:
    engine = make_engine().eval()
    before = engine(inputs_of(samples(2)))[0]
    trainer = make_trainer(engine, tmp_path, bf16=True)
    getattr(trainer, call)(samples())
    for each in (engine, copy.copy(engine), copy.deepcopy(engine)):
        assert torch.equal(each(inputs_of(samples(2)))[0], before)
    assert "forward" not in vars(engine)


@pytest.mark.filterwarnings("ignore:this engine was never trained")
def test_each_training_is_in_mixed_precision(tmp_path: Path) -> None:
    engine = make_engine()
    dtypes: set[torch.dtype] = set()
    engine.model.classifier.register_forward_hook(lambda _m, _i, out: dtypes.add(out.dtype))
    half, full = make_trainer(engine, tmp_path, bf16=True), make_trainer(engine, tmp_path)
    for trainer in (half, half, full, half):
        for call in (trainer.evaluate, trainer.train):
            dtypes.clear()
            call()
            assert dtypes == {torch.bfloat16 if trainer is half else torch.float32}, call


def test_columns_that_the_model_does_not_take_are_left_out(tmp_path: Path) -> None:
    trainer = make_trainer(make_engine(), tmp_path)
    trainer._set_signature_columns_if_needed()
    assert {"input_ids", "attention_mask", "labels"} <= set(trainer._signature_columns)
    assert "target" not in trainer._signature_columns


def test_what_is_refused(tmp_path: Path) -> None:
    engine = make_engine()
    args = TrainingArguments(str(tmp_path), use_cpu=True, report_to=[])
    for name, value in {"model": engine, "model_init": make_engine, "compute_loss_func": F.cross_entropy}.items():
        with pytest.raises(ValueError, match=f"EngineTrainer takes no {name}: "):
            EngineTrainer(engine, args, criterion=F.cross_entropy, **{name: value})
    with pytest.raises(ValueError, match="EngineTrainer takes no label_smoothing_factor: smooth in criterion"):
        make_trainer(engine, tmp_path, label_smoothing_factor=0.1)
    with pytest.raises(ValueError, match="the labels are one, two"):
        make_trainer(engine, tmp_path, label_names=["one", "two"])
    with pytest.raises(ValueError, match="a batch has no 'answer', only 'input_ids'"):
        make_trainer(engine, tmp_path, label_names=["answer"]).train()
    make_model().save_pretrained(tmp_path / "checkpoint-1")  # as a Trainer without an engine does
    with pytest.raises(ValueError, match=f"has no {EMBEDDER_FILE}"):
        make_trainer(engine, tmp_path).train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))
    with pytest.raises(TypeError, match="not a BertForSequenceClassification"):
        EngineTrainer(make_model(), args, criterion=F.cross_entropy)  # type: ignore[arg-type]


def test_a_tokenizers_batch_is_taken_by_the_engine_itself() -> None:
    batch = inputs_of(samples(4))
    encoding = transformers.BatchEncoding(dict(batch))
    engine = make_engine().eval()
    assert torch.equal(engine.adapt(encoding).prediction, engine.adapt(batch).prediction)
