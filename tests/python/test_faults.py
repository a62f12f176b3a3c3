"""Faults of torch-ttt 0.0.2 that its users met, each right here."""

import copy
import gc
import weakref
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from it3 import IT3Engine
from models import Case, VectorCNN, make_case, mlp
from torch import Tensor, nn

close = torch.testing.assert_close


def test_embedder_trains_with_an_optimizer_built_before_the_first_forward(case: Case) -> None:
    engine = IT3Engine(case.model, case.layer)
    optimizer = torch.optim.Adam(engine.parameters(), lr=1e-2)
    assert [p.numel() for p in engine.embedder.parameters()] == [0, 0, 0, 0]
    for step in range(2):
        optimizer.zero_grad()
        y0, loss_ttt = engine(case.inputs, target=case.target)
        if step == 0:
            before = [p.detach().clone() for p in engine.embedder.parameters()]
        (F.mse_loss(y0, case.target) + loss_ttt).backward()
        optimizer.step()
    for p, start in zip(engine.embedder.parameters(), before, strict=True):
        assert not torch.equal(p, start)


def test_first_call_in_eval_mode_builds_the_embedder_for_good(case: Case) -> None:
    engine = IT3Engine(case.model, case.layer).eval()
    first, second = engine(case.inputs), engine(case.inputs)
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("is_first_call", [True, False])
def test_adapts_whatever_the_grad_mode(case: Case, mode, is_first_call: bool) -> None:
    engine = IT3Engine(case.model, case.layer).eval()
    if not is_first_call:
        engine(case.inputs)
    with mode():
        made_inside = case.inputs.clone()
        results = [engine(case.inputs), engine(made_inside), engine((made_inside,)), engine({"input": made_inside})]
    expected = engine(case.inputs)
    for result in [*results, engine(made_inside)]:
        assert torch.equal(result[0], expected[0])
        assert torch.equal(result[1], expected[1])
        assert not result[0].is_inference()
    assert not engine.embedder.weight1.is_inference()


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd", "rmsprop", "adagrad"])
def test_every_optimizer_name_that_is_offered_works(case: Case, name: str) -> None:
    engine = IT3Engine(case.model, case.layer, optimization_parameters={"optimizer_name": name}).eval()
    plain = case.model(case.inputs)
    assert not torch.equal(engine(case.inputs)[0], plain)


def test_another_optimizer_name_is_a_value_error_that_names_them(case: Case) -> None:
    for build in (
        lambda options: IT3Engine(case.model, case.layer, optimization_parameters=options),
        lambda options: IT3Engine(case.model, case.layer).adapt(case.inputs, **options),
    ):
        with pytest.raises(ValueError, match=r"one of adam, adamw, sgd, rmsprop, adagrad, not 'lion'"):
            build({"optimizer_name": "lion"})


def test_copy_model_is_a_bool(case: Case) -> None:
    engine = IT3Engine(case.model, case.layer).eval()
    for value in ("True", "False", 1, None):
        with pytest.raises(TypeError, match=r"copy_model must be True or False"):
            engine.adapt(case.inputs, copy_model=value)


def test_copy_model_can_be_switched(case: Case) -> None:
    engine = IT3Engine(case.model, case.layer).eval()
    start = copy.deepcopy(case.model.state_dict())
    fresh = engine(case.inputs)[0]
    engine.optimization_parameters["copy_model"] = False
    assert torch.equal(engine(case.inputs)[0], fresh)
    kept = copy.deepcopy(case.model.state_dict())
    assert not torch.equal(kept["0.weight"], start["0.weight"])
    engine.optimization_parameters["copy_model"] = True
    assert not torch.equal(engine(case.inputs)[0], fresh)
    close(dict(case.model.state_dict()), dict(kept), rtol=0, atol=0)
    engine.reset()
    close(dict(case.model.state_dict()), dict(start), rtol=0, atol=0)
    assert torch.equal(engine(case.inputs)[0], fresh)


def test_options_are_each_engines_own(case: Case) -> None:
    shared = {"lr": 1e-3}
    first, second = (IT3Engine(case.model, case.layer, optimization_parameters=shared) for _ in range(2))
    default = IT3Engine(case.model, case.layer)
    first.optimization_parameters["num_steps"] = 7
    assert second.optimization_parameters == shared == {"lr": 1e-3}
    assert default.optimization_parameters == IT3Engine(case.model, case.layer).optimization_parameters == {}


def test_unknown_option_is_a_value_error_with_the_nearest_name(case: Case) -> None:
    with pytest.raises(ValueError, match=r"no option is called 'learning_rte'|did you mean 'lr'"):
        IT3Engine(case.model, case.layer, optimization_parameters={"learning_rte": 1})
    engine = IT3Engine(case.model, case.layer).eval()
    engine.optimization_parameters["num_step"] = 1
    with pytest.raises(ValueError, match=r"did you mean 'num_steps'"):
        engine(case.inputs)


def test_no_steps_give_the_plain_prediction_and_a_scalar_loss(device: str) -> None:
    case = make_case("mlp", torch.float32, device)
    engine = IT3Engine(case.model, case.layer, optimization_parameters={"num_steps": 0}).eval()
    prediction, loss = engine(case.inputs)
    assert torch.equal(prediction, case.model(case.inputs))
    assert not prediction.requires_grad
    assert loss.shape == ()
    assert loss.device == case.inputs.device
    assert loss.item() == 0
    assert engine.adapt(case.inputs).losses.shape == (0,)


def test_results_are_detached_and_free_the_graph(case: Case) -> None:
    saved = []

    class Watched(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x: Tensor) -> Tensor:
            saved.append(weakref.ref(ctx))
            return x.clone()

        @staticmethod
        def backward(ctx, grad: Tensor) -> Tensor:
            return grad

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = case.model

        def forward(self, x: Tensor) -> Tensor:
            return Watched.apply(self.net(x))

    engine = IT3Engine(Model(), "net.0").eval()
    prediction, loss = engine(case.inputs)
    adaptation = engine.adapt(case.inputs)
    for t in (prediction, loss, adaptation.prediction, adaptation.second, adaptation.losses, adaptation.uncertainty):
        assert not t.requires_grad
        assert t.grad_fn is None
    gc.collect()
    assert len(saved) > 0
    assert [ref for ref in saved if ref() is not None] == []


def test_state_dict_has_each_weight_once_and_rebuilds_the_embedder(case: Case) -> None:
    engine = IT3Engine(case.model, case.layer).eval()
    expected = engine(case.inputs)[0]
    state = copy.deepcopy(engine.state_dict())
    assert set(state) == {f"model.{name}" for name in case.model.state_dict()} | {
        f"embedder.{name}" for name in ("weight1", "bias1", "weight2", "bias2")
    } | {"_extra_state"}
    fresh = IT3Engine(make_case("mlp", device=str(case.inputs.device), seed=1).model, case.layer).eval()
    fresh.load_state_dict(state)
    assert torch.equal(fresh(case.inputs)[0], expected)


class Fails(nn.Module):
    """Raises at one of its calls."""

    def __init__(self, at: int):
        super().__init__()
        self.calls = 0
        self.at = at

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        if self.calls == self.at:
            raise RuntimeError("as asked")
        return x


@pytest.mark.parametrize("at", [1, 2, 3, 4])
def test_own_hooks_go_and_the_users_stay_when_the_model_raises(at: int) -> None:
    model = nn.Sequential(nn.Linear(6, 8), Fails(at), nn.Linear(8, 3))
    calls = []
    model[0].register_forward_hook(lambda *_: calls.append("hook"))
    model[0].register_forward_pre_hook(lambda *_: calls.append("pre-hook"))
    before = dict(model[0]._forward_hooks)
    engine = IT3Engine(model, "0").eval()
    with pytest.raises(RuntimeError, match=r"as asked"):
        engine(torch.randn(4, 6))
    assert dict(model[0]._forward_hooks) == before
    assert calls == ["pre-hook", "hook"] * (len(calls) // 2)  # the first call looks by passes of its own


class Output(NamedTuple):
    features: Tensor
    note: str


class Wrapping(nn.Module):
    """Its layer's output is in a container, whose type the rest relies on."""

    def __init__(self, kind: str):
        super().__init__()
        self.layer = Packing(kind)
        self.head = nn.Linear(8, 3)
        self.kind = kind

    def forward(self, x: Tensor) -> Tensor:
        packed = self.layer(x)
        if self.kind == "tuple":
            assert type(packed) is tuple
            features, (rest,) = packed
            assert rest == "rest"
        elif self.kind == "list":
            assert type(packed) is list
            features = packed[1]
        elif self.kind == "dict":
            assert list(packed) == ["note", "features"]
            features = packed["features"]
        else:
            assert type(packed) is Output
            features = packed.features
        return self.head(features.tanh())


class Packing(nn.Module):
    def __init__(self, kind: str):
        super().__init__()
        self.fc = nn.Linear(6, 8)
        self.kind = kind

    def forward(self, x: Tensor):
        f = self.fc(x)
        return {
            "tuple": (f, ("rest",)),
            "list": ["note", f],
            "dict": {"note": 1, "features": f},
            "namedtuple": Output(f, "note"),
        }[self.kind]


@pytest.mark.parametrize("kind", ["tuple", "list", "dict", "namedtuple"])
def test_layer_output_in_a_container(kind: str) -> None:
    torch.manual_seed(0)
    inputs, target = torch.randn(5, 6), torch.randn(5, 3)
    wrapped = Wrapping(kind)
    plain = nn.Sequential(wrapped.layer.fc, nn.Tanh(), wrapped.head)
    engine, expected = IT3Engine(wrapped, "layer"), IT3Engine(plain, "0")
    engine(inputs)
    expected(inputs)
    expected.embedder.load_state_dict(engine.embedder.state_dict())
    close(engine(inputs, target=target), expected(inputs, target=target))
    close(engine.eval()(inputs), expected.eval()(inputs))


class Sequence(nn.Module):
    def __init__(self, batch_first: bool):
        super().__init__()
        self.lstm = nn.LSTM(6, 8, batch_first=batch_first)
        self.head = nn.Linear(8, 3)
        self.batch_first = batch_first

    def forward(self, x: Tensor) -> Tensor:
        output, _ = self.lstm(x)
        return self.head(output.mean(1 if self.batch_first else 0))


def test_recurrent_layer_of_either_order() -> None:
    torch.manual_seed(0)
    x = torch.randn(4, 11, 6)
    batch_first, time_first = Sequence(True), Sequence(False)
    time_first.load_state_dict(batch_first.state_dict())
    engines = [IT3Engine(batch_first, "lstm").eval(), IT3Engine(time_first, "lstm").eval()]
    inputs = [x, x.transpose(0, 1)]
    for engine, value in zip(engines, inputs, strict=True):
        engine.uncertainty(value)
        assert engine.embedder.weight1.shape == (8, 3)
    engines[1].embedder.load_state_dict(engines[0].embedder.state_dict())
    close(engines[0](inputs[0]), engines[1](inputs[1]))


def test_integer_class_targets_are_one_hot(case: Case) -> None:
    engine = IT3Engine(case.model, case.layer)
    classes = torch.tensor([0, 2, 1, 1, 0, 2, 2], device=case.inputs.device)
    engine(case.inputs)
    one_hot = F.one_hot(classes, 3).double()
    for target in (classes, classes.int(), classes.cpu()):
        close(engine(case.inputs, target=target), engine(case.inputs, target=one_hot))
    with pytest.raises(ValueError, match=r"class indices from 0 to 3.*classes 0 to 2"):
        engine(case.inputs, target=classes + (classes == 2))


def test_integer_class_targets_for_pixels(device: str) -> None:
    case = make_case("segmentation", device=device)
    engine = IT3Engine(case.model, case.layer)
    classes = torch.randint(3, (3, 8, 8), device=device)
    engine(case.inputs)
    one_hot = F.one_hot(classes, 3).movedim(-1, 1).double()
    close(engine(case.inputs, target=classes), engine(case.inputs, target=one_hot))


def test_target_without_the_predictions_last_dimension(device: str) -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 1)).to(device)
    inputs, target = torch.randn(5, 6, device=device), torch.randn(5, device=device)
    engine = IT3Engine(model, "0")
    engine(inputs)
    close(engine(inputs, target=target), engine(inputs, target=target.unsqueeze(1)))
    with pytest.raises(ValueError, match=r"target of shape \[4\].*prediction of shape \[5, 1\]"):
        engine(inputs, target=target[:4])


class Keywords(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = mlp()

    def forward(self, a: Tensor, b: Tensor | None = None, *, scale: float = 1.0) -> Tensor:
        return self.net(a if b is None else a + b) * scale


@pytest.mark.parametrize("is_training", [True, False])
def test_inputs_are_the_same_in_every_pass(is_training: bool) -> None:
    torch.manual_seed(0)
    engine = IT3Engine(Keywords(), "net.0").train(is_training)
    a, b = torch.randn(5, 6), torch.randn(5, 6)
    engine(a)
    close(engine((a, b)), engine(a + b))
    close(engine([a, b]), engine(a + b))
    close(engine({"a": a, "b": b}), engine(a + b))
    close(engine({"b": a, "a": b, "scale": 2.0}), engine({"a": a + b, "scale": 2.0}))
    assert not torch.equal(engine({"a": a, "scale": 2.0})[0], engine(a)[0])


def test_running_statistics_are_updated_once_a_training_step(device: str) -> None:
    case = make_case("cnn", device=device)
    expected = copy.deepcopy(case.model).train()
    expected(case.inputs)
    engine = IT3Engine(case.model, case.layer).train()
    y0, loss = engine(case.inputs, target=case.target)
    (y0.mean() + loss).backward()
    close(dict(case.model.named_buffers()), dict(expected.named_buffers()), rtol=0, atol=0)
    assert case.model.norm.num_batches_tracked == 1


@pytest.mark.parametrize("is_norm_training", [True, False])
@pytest.mark.parametrize("copy_model", [True, False])
def test_running_statistics_are_never_updated_by_adaptation(
    is_norm_training: bool, copy_model: bool, device: str
) -> None:
    case = make_case("cnn", device=device)
    engine = IT3Engine(case.model, case.layer, optimization_parameters={"copy_model": copy_model}).eval()
    case.model.norm.train(is_norm_training)
    buffers = dict(case.model.named_buffers())
    before = copy.deepcopy(buffers)
    engine(case.inputs)
    engine.adapt(case.inputs)
    engine.uncertainty(case.inputs)
    after = dict(case.model.named_buffers())
    close(after, before, rtol=0, atol=0)
    assert all(after[name] is buffers[name] for name in buffers)


def test_nothing_is_deep_copied(case: Case) -> None:
    class Uncopyable(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = VectorCNN()

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x)

        def __deepcopy__(self, memo: dict) -> nn.Module:
            raise AssertionError("deep-copied")

    engine = IT3Engine(Uncopyable(), "net.conv1").eval()
    engine(torch.randn(2, 1, 8, 8))
    engine.adapt(torch.randn(2, 1, 8, 8))
