"""Options are checked where they are given, with errors that say what is accepted."""

import copy
import dataclasses
import math
import pickle
from collections.abc import Callable

import numpy as np
import pytest
import torch
from it3 import _C, IT3Engine, Options
from models import Case


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"num_steps": -1}, ValueError, "num_steps must be a whole number, 0 or more, not -1"),
        ({"num_steps": 3.0}, TypeError, "num_steps must be a whole number, 0 or more, not 3.0"),
        ({"num_steps": 2**64}, ValueError, "num_steps cannot be 18446744073709551616, which does not fit into 64 bits"),
        ({"num_steps": np.True_}, TypeError, "num_steps must be a whole number, 0 or more, not True"),
        ({"num_steps": torch.tensor(True)}, TypeError, "num_steps must be a whole number, 0 or more, not True"),
        ({"lr": True}, TypeError, "lr must be a number, 0 or more, not True"),
        ({"lr": np.bool_(True)}, TypeError, "lr must be a number, 0 or more, not True"),
        ({"lr": 1j}, TypeError, "lr cannot be 1j, a complex"),
        ({"lr": torch.tensor(1 + 0j)}, TypeError, "lr cannot be tensor(1.+0.j), a Tensor"),
        ({"lr": b"1"}, TypeError, "lr cannot be b'1', a bytes"),
        (
            {"betas": (math.nan, 0.9)},
            ValueError,
            "betas must be two numbers from 0 to below 1, or None, not [nan, 0.9]",
        ),
        ({"betas": (True, 0.9)}, TypeError, "betas cannot be (True, 0.9), a tuple"),
        ({"threshold": math.nan}, ValueError, "threshold must be a number, 0 or more, or None, not nan"),
        (
            {"per_sample": True, "chunk_size": 0},
            ValueError,
            "chunk_size must be a whole number, 1 or more, or None, not 0",
        ),
        ({"num_steps": 1.5}, TypeError, "num_steps must be a whole number, 0 or more, not 1.5"),
        ({"num_steps": "3"}, TypeError, "num_steps must be a whole number, 0 or more, not '3'"),
        ({"num_steps": True}, TypeError, "num_steps must be a whole number, 0 or more, not True"),
        ({"lr": -0.1}, ValueError, "lr must be a number, 0 or more, not -0.1"),
        ({"lr": math.nan}, ValueError, "lr must be a number, 0 or more, not nan"),
        ({"lr": None}, TypeError, "lr must be a number, 0 or more, not None"),
        ({"lr": "1e-3"}, TypeError, "lr must be a number, 0 or more, not '1e-3'"),
        ({"betas": (0.9, 1.0)}, ValueError, "betas must be two numbers from 0 to below 1, or None, not [0.9, 1]"),
        ({"betas": (0.9,)}, ValueError, "betas must be two numbers from 0 to below 1, or None, not [0.9]"),
        ({"betas": 0.9}, TypeError, "betas must be two numbers from 0 to below 1, or None, not 0.9"),
        ({"eps": -1e-8}, ValueError, "eps must be a number, 0 or more, or None, not -1e-08"),
        ({"weight_decay": "no"}, TypeError, "weight_decay must be a number, 0 or more, or None, not 'no'"),
        ({"momentum": math.inf}, ValueError, "momentum must be a number, 0 or more, or None, not inf"),
        ({"max_grad_norm": 0}, ValueError, "max_grad_norm must be a number above 0, or None, not 0"),
        ({"copy_model": "False"}, TypeError, "copy_model must be True or False, not 'False'"),
        ({"optimizer_name": 3}, TypeError, "optimizer_name must be one of adam, adamw, sgd, rmsprop, adagrad, not 3"),
        ({"parameters": []}, ValueError, "parameters must be 'all', 'norm', or one or more patterns"),
        ({"parameters": 1}, TypeError, "parameters must be 'all', 'norm', or one or more patterns"),
        ({"parameters": ["fc", 1]}, TypeError, "parameters cannot be ['fc', 1], a list"),
        ({"lr": object}, TypeError, "lr cannot be <class 'object'>, a type"),
        ({3: 1}, TypeError, "names of options are strings, not 3"),
        ({"momentum": 0.9}, ValueError, "momentum is for sgd and rmsprop, but optimizer_name is 'adam'"),
        ({"optimizer_name": "sgd", "betas": (0.9, 0.9)}, ValueError, "betas is for adam and adamw"),
        ({"optimizer_name": "sgd", "eps": 1e-8}, ValueError, "eps is for adam, adamw, rmsprop and adagrad"),
        ({"anchor": "froze"}, ValueError, "anchor must be one of self, frozen, frozen_tail, ema, not 'froze'"),
        ({"anchor": 1}, TypeError, "anchor must be one of self, frozen, frozen_tail, ema, not 1"),
        ({"ema_decay": 0.9}, ValueError, "ema_decay is for anchor='ema', but anchor is 'self'; leave ema_decay out"),
        ({"anchor": "ema", "ema_decay": 1.1}, ValueError, "ema_decay must be a number from 0 to 1, or None, not 1.1"),
        ({"norm_statistics": True}, TypeError, "norm_statistics must be one of running, batch, blend, not True"),
        ({"norm_prior": 3}, ValueError, "norm_prior is for norm_statistics='blend', but norm_statistics is 'running'"),
        ({"prediction": "last"}, ValueError, "prediction must be one of first, second, mean, not 'last'"),
        ({"tolerance": -1}, ValueError, "tolerance must be a number, 0 or more, or None, not -1"),
        ({"patience": 2}, ValueError, "patience is for a tolerance, but tolerance is None"),
        ({"tolerance": 0, "patience": 0}, ValueError, "patience must be a whole number, 1 or more, or None, not 0"),
        ({"threshold": "high"}, TypeError, "threshold must be a number, 0 or more, or None, not 'high'"),
        ({"restore_probability": 2}, ValueError, "restore_probability must be a number from 0 to 1, not 2"),
        ({"recovery_factor": 1}, ValueError, "recovery_factor must be a number above 1, or None, not 1"),
        ({"weight_decy": 1}, ValueError, "no option is called 'weight_decy'; did you mean 'weight_decay'? The options"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_errors(case: Case, options: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error) as raised:
        IT3Engine(case.model, case.layer, optimization_parameters=options)
    assert message in str(raised.value)
    engine = IT3Engine(case.model, case.layer).eval()
    engine.optimization_parameters = options
    with pytest.raises(error) as raised:
        engine(case.inputs)
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("learning_rate", "lr"),
        ("learning_rte", "lr"),
        ("LR", "lr"),
        ("lr_adapt", "lr"),
        ("steps", "num_steps"),
        ("n_steps", "num_steps"),
        ("nsteps", "num_steps"),
        ("optimizer", "optimizer_name"),
        ("optimiser", "optimizer_name"),
        ("wd", "weight_decay"),
        ("decay", "weight_decay"),
        ("sgd_momentum", "momentum"),
        ("grad_norm", "max_grad_norm"),
        ("clip_grad_norm", "max_grad_norm"),
        ("cuda_graph", "cuda_graphs"),
        ("per_samples", "per_sample"),
    ],
)
def test_unknown_options_suggest_what_is_meant(case: Case, name: str, meant: str) -> None:
    engine = IT3Engine(case.model, case.layer)
    for take in (lambda **options: IT3Engine(case.model, case.layer, optimization_parameters=options), Options):
        with pytest.raises(ValueError, match=f"no option is called '{name}'; did you mean '{meant}'"):
            take(**{name: 1})
    with pytest.raises(ValueError, match=f"no option is called '{name}'; did you mean '{meant}'"):
        engine.adapt(case.inputs, **{name: 1})


@pytest.mark.parametrize(
    ("neutral", "message"),
    [
        (math.nan, "neutral must be finite"),
        (torch.tensor([0.0, math.inf, 0.0]), "neutral must be finite"),
        (1j, "neutral must be a number or a tensor of real numbers, not a tensor of ComplexFloat"),
        (True, "not a tensor of Bool"),
        (torch.zeros(0), r"and shape \[0\]"),
    ],
    ids=str,
)
def test_neutral_signals_are_finite_real_numbers(case: Case, neutral: object, message: str) -> None:
    engine = IT3Engine(case.model, case.layer, neutral=neutral)
    for call in (engine.adapt, engine.uncertainty, engine.train()):
        with pytest.raises(ValueError, match=message):
            call(case.inputs)


def test_bools_of_numpy(case: Case) -> None:
    engine = IT3Engine(case.model, case.layer).eval()
    expected = engine.adapt(case.inputs, per_sample=True).prediction
    assert torch.equal(engine.adapt(case.inputs, per_sample=np.True_).prediction, expected)
    assert torch.equal(engine.adapt(case.inputs, per_sample=torch.tensor(True)).prediction, expected)


def test_numbers_of_other_libraries(case: Case) -> None:
    engine = IT3Engine(case.model, case.layer).eval()
    expected = engine.adapt(case.inputs, num_steps=2, lr=0.125, betas=(0.5, 0.5)).prediction
    for steps, number in ((np.int64(2), np.float32(0.125)), (torch.tensor(2), torch.tensor(0.125))):
        options = {"num_steps": steps, "lr": number, "betas": np.array([0.5, 0.5])}
        assert torch.equal(engine.adapt(case.inputs, **options).prediction, expected)


@pytest.mark.parametrize(
    ("own", "override"),
    [
        ({"anchor": "ema", "ema_decay": 0.5}, {"anchor": "frozen"}),
        ({"optimizer_name": "sgd", "momentum": 0.9}, {"optimizer_name": "adam"}),
        ({"betas": (0.5, 0.9), "eps": 1e-3}, {"optimizer_name": "sgd"}),
        ({"tolerance": 0.1, "patience": 2}, {"tolerance": None}),
        ({"per_sample": True, "chunk_size": 2}, {"per_sample": False}),
    ],
    ids=str,
)
def test_what_refines_a_choice_goes_with_it(case: Case, own: dict, override: dict) -> None:
    engine = IT3Engine(case.model, case.layer, optimization_parameters={"lr": 0.1, **own}).eval()
    engine.adapt(case.inputs, num_steps=0)  # shapes the embedder
    plain = IT3Engine(case.model, case.layer, engine.embedder, optimization_parameters={"lr": 0.1, **override}).eval()
    assert torch.equal(engine.adapt(case.inputs, **override).prediction, plain.adapt(case.inputs).prediction)
    assert engine.optimization_parameters == {"lr": 0.1, **own}
    with pytest.raises(ValueError, match="ema_decay is for anchor='ema', but anchor is 'self'"):
        engine.adapt(case.inputs, anchor="self", ema_decay=0.5)


def test_none_is_the_default(case: Case) -> None:
    engine = IT3Engine(case.model, case.layer).eval()
    expected = engine(case.inputs)[0]
    names = ("betas", "eps", "weight_decay", "momentum", "max_grad_norm")
    assert torch.equal(engine.adapt(case.inputs, **dict.fromkeys(names)).prediction, expected)


def test_overrides_are_for_one_call(case: Case) -> None:
    engine = IT3Engine(case.model, case.layer, optimization_parameters={"num_steps": 2}).eval()
    expected = engine(case.inputs)[0]
    assert engine.adapt(case.inputs, num_steps=5).steps == 5
    assert engine.optimization_parameters == {"num_steps": 2}
    assert torch.equal(engine(case.inputs)[0], expected)


@pytest.mark.parametrize(
    ("selection", "message"),
    [
        ("fc9", "parameters has 'fc9', which selects no parameter of the model; did you mean"),
        (["0", "nothing.*"], "parameters has 'nothing.*', which selects no parameter"),
        ("norm", "has no trainable parameters in normalization layers"),
        ("2", "parameters has '2', but all that it selects have requires_grad=False"),
    ],
)
def test_selections_of_nothing(case: Case, selection: str | list[str], message: str) -> None:
    case.model[2].requires_grad_(False)
    engine = IT3Engine(case.model, case.layer).eval()
    with pytest.raises(ValueError, match=r"parameters") as raised:
        engine.adapt(case.inputs, parameters=selection)
    assert message in str(raised.value)


def test_frozen_parameters_do_not_adapt(case: Case) -> None:
    case.model[2].requires_grad_(False)
    engine = IT3Engine(case.model, case.layer).eval()
    state = engine.adapt(case.inputs).state_dict()
    changed = {name for name, value in case.model.state_dict().items() if not torch.equal(value, state[name])}
    assert changed == {"0.weight", "0.bias", "4.weight", "4.bias"}
    assert not case.model[2].weight.requires_grad


def test_model_that_is_all_frozen_or_has_no_parameters(case: Case) -> None:
    case.model.requires_grad_(False)
    with pytest.raises(ValueError, match=r"no trainable parameters.*requires_grad_"):
        IT3Engine(case.model, case.layer).eval()(case.inputs)
    bare = torch.nn.Sequential(torch.nn.Tanh(), torch.nn.Tanh())
    with pytest.raises(ValueError, match=r"no trainable parameters.*no floating-point parameters"):
        IT3Engine(bare, "0").eval()(case.inputs)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"model": "net"}, TypeError, "model must be a torch.nn.Module or a torch.export.ExportedProgram, not a str"),
        ({"features_layer_name": "layer0"}, ValueError, "the model has no layer 'layer0'; did you mean"),
        ({"combine_fn": 3}, TypeError, "combine_fn must be callable or None, not 3"),
        ({"embedder": "mlp"}, TypeError, "embedder must be callable or None, not 'mlp'"),
        ({"distance_fn": 2.0}, TypeError, "distance_fn must be callable or None, not 2.0"),
        ({"distance_fn": "mae"}, ValueError, "no distance is called 'mae'; did you mean 'mse'? The distances are mse"),
    ],
    ids=str,
)
def test_arguments(case: Case, arguments: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error) as raised:
        IT3Engine(**{"model": case.model, "features_layer_name": case.layer, **arguments})
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("name", "function", "message"),
    [
        ("distance_fn", lambda y1, y0: y1 - y0, r"distance_fn must return a scalar, not a tensor of shape \[7, 3\]"),
        ("distance_fn", lambda y1, y0: 0.5, "distance_fn must return a tensor, but returned a float"),
        ("distance_fn", lambda y1, y0: (y1 - y0).detach().mean(), "does not depend on any parameter"),
        ("combine_fn", lambda f, e: None, "combine_fn must return a tensor, but returned a NoneType"),
        ("embedder", lambda y: [y], "embedder must return a tensor, but returned a list"),
        ("embedder", lambda y: y, r"embedding of shape \[7, 3\] cannot be added to features of shape \[7, 8\]"),
    ],
)
def test_functions_that_return_something_else(case: Case, name: str, function, message: str) -> None:
    engine = IT3Engine(case.model, case.layer, **{name: function}).eval()
    with pytest.raises((ValueError, TypeError), match=message):
        engine(case.inputs)


def test_distance_of_the_embedder_alone(case: Case) -> None:
    engine = IT3Engine(case.model, case.layer).eval()
    engine.uncertainty(case.inputs)
    engine.distance_fn = lambda y1, y0: engine.embedder.weight1.square().mean()
    with pytest.raises(ValueError, match="does not depend on any parameter that adapts"):
        engine(case.inputs)


def test_target_in_eval_mode(case: Case) -> None:
    with pytest.raises(ValueError, match=r"uses no labels"):
        IT3Engine(case.model, case.layer).eval()(case.inputs, target=case.target)


def test_options_are_a_dictionary_of_what_is_given(case: Case) -> None:
    options = Options(num_steps=1, lr=0.05, anchor="frozen")
    assert options == {"num_steps": 1, "lr": 0.05, "anchor": "frozen"} == dict(options)
    assert dict(Options()) == {}
    assert options == Options(lr=0.05, anchor="frozen", num_steps=1) != Options(num_steps=1)
    for duplicate in (copy.copy(options), copy.deepcopy(options), pickle.loads(pickle.dumps(options))):
        assert duplicate == options
        assert duplicate.lr == 0.05
    engine = IT3Engine(case.model, case.layer, optimization_parameters=options).eval()
    expected = engine.adapt(case.inputs).prediction
    plain = IT3Engine(case.model, case.layer, engine.embedder).eval()
    assert torch.equal(plain.adapt(case.inputs, **options).prediction, expected)
    plain.optimization_parameters = options
    assert torch.equal(plain(case.inputs)[0], expected)
    plain.optimization_parameters["num_steps"] = 2
    assert options.num_steps == 1
    assert not torch.equal(plain(case.inputs)[0], expected)
    assert plain.adapt(case.inputs, **Options(num_steps=3)).steps == 3  # a default that is given counts


@pytest.mark.parametrize(
    ("name", "value", "change"),
    [
        ("lr", torch.tensor(0.05), lambda value: value.fill_(0.001)),
        ("lr", np.array(0.05), lambda value: value.fill(0.001)),
        ("betas", [0.9, 0.999], lambda value: value.__setitem__(0, 0.1)),
        ("parameters", ["*.weight"], lambda value: value.append("*.bias")),
    ],
)
def test_values_that_change_in_place(case: Case, name: str, value: object, change: Callable[[object], object]) -> None:
    value = copy.deepcopy(value)  # which the test of another device is given too
    engine = IT3Engine(case.model, case.layer, optimization_parameters={"num_steps": 2, "lr": 0.05, name: value}).eval()
    for _ in range(2):
        before = engine(case.inputs)[0]
    change(value)
    after = engine(case.inputs)[0]
    options = copy.deepcopy(engine.optimization_parameters)
    fresh = IT3Engine(case.model, case.layer, engine.embedder, optimization_parameters=options).eval()
    assert torch.equal(fresh(case.inputs)[0], after)
    assert not torch.equal(after, before)


def test_options_are_checked_where_they_are_made() -> None:
    with pytest.raises(ValueError, match="num_steps must be a whole number, 0 or more, not -1"):
        Options(num_steps=-1)
    with pytest.raises(ValueError, match="ema_decay is for anchor='ema', but anchor is 'self'"):
        Options(ema_decay=0.5)
    with pytest.raises(TypeError, match="positional"):
        Options("adam")
    with pytest.raises(AttributeError, match="cannot assign to field 'lr'"):
        Options().lr = 1
    with pytest.raises(TypeError, match=r"num_steps must be a whole number, 0 or more, not 3\.0"):
        Options(num_steps=3.0)
    with pytest.raises(TypeError, match="per_sample must be True or False, not 0"):
        Options(per_sample=0)


def test_defaults_are_those_of_the_core() -> None:
    defaults = {name: value for name, value in vars(Options()).items() if value is not None and name != "_given"}
    core = {**_C.options_of({}), "parameters": "all"}
    assert defaults == core


def test_an_anchor_may_be_spelled_as_before(case: Case) -> None:
    engine = IT3Engine(case.model, case.layer, optimization_parameters={"anchor": "self"}).eval()
    expected = engine.adapt(case.inputs).prediction
    for spelling in ("none", None):
        assert torch.equal(engine.adapt(case.inputs, anchor=spelling).prediction, expected)
        assert not torch.equal(engine.adapt(case.inputs, anchor="frozen").prediction, expected)


def test_online_is_another_spelling(case: Case) -> None:
    x = case.inputs
    for options in ({"online": True}, Options(online=True), Options(copy_model=False)):
        engine = IT3Engine(copy.deepcopy(case.model), case.layer, optimization_parameters=options).eval()
        engine.adapt(x)
        assert engine.drift().distance > 0
        engine.reset()
        engine.adapt(x, online=False)
        assert engine.drift().distance == 0
        engine.adapt(x, online=None)  # which says nothing
        assert engine.drift().distance > 0
    engine = IT3Engine(case.model, case.layer).eval()
    engine.adapt(x, online=True)
    assert engine.drift().distance > 0
    engine.reset()
    online = Options(online=True, lr=1e-3)
    assert dict(online) == {"lr": 1e-3, "copy_model": False}
    assert dict(Options(online=None)) == {}
    assert not dataclasses.replace(online, lr=1e-2).copy_model
    assert dataclasses.replace(online, copy_model=True).copy_model
    assert dataclasses.replace(Options(copy_model=True), online=None).copy_model
    engine.adapt(x, online=None, copy_model=False)
    assert engine.drift().distance > 0


@pytest.mark.parametrize("online", [True, False])
def test_spellings_that_contradict_one_another_are_an_error(case: Case, online: bool) -> None:
    message = f"online={online} is another spelling of copy_model={not online}, but copy_model is {online} too"
    both = {"online": online, "copy_model": online}
    with pytest.raises(ValueError, match=message):
        IT3Engine(case.model, case.layer, optimization_parameters=both)
    with pytest.raises(ValueError, match=message):
        Options(**both)
    engine = IT3Engine(case.model, case.layer).eval()
    with pytest.raises(ValueError, match=message):
        engine.adapt(case.inputs, **both)
    with pytest.raises(TypeError, match="online must be True or False, not 1"):
        engine.adapt(case.inputs, online=1)
    Options(online=online, copy_model=not online)
