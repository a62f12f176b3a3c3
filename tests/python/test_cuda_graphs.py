"""On a CUDA device calls are replayed as CUDA graphs, with the results of the calls without."""

import copy
from functools import partial

import pytest
import torch
from it3 import IT3Engine
from kinds_of_network import build
from models import KINDS, BranchesOnValues, make_case
from torch import Tensor, nn

pytestmark = pytest.mark.cuda
close = partial(torch.testing.assert_close, rtol=1e-9, atol=1e-10)
OPTIONS = [
    {},
    {"optimizer_name": "sgd", "momentum": 0.9, "max_grad_norm": 0.1},
    {"optimizer_name": "adamw", "num_steps": 1},
    {"optimizer_name": "rmsprop", "lr": 1e-3},
    {"optimizer_name": "adagrad"},
    {"anchor": "frozen", "prediction": "mean"},
    {"anchor": "ema", "ema_decay": 0.5},
    {"per_sample": True},
    {"per_sample": True, "chunk_size": 2},
    {"parameters": ["*bias"]},
]


def replay(engine: IT3Engine, inputs: object, **options: object) -> object:
    """The third of three calls, the second being the one that is recorded."""
    engine.adapt(inputs, **options)
    engine.adapt(inputs, **options)
    return engine.adapt(inputs, **options)


def agrees(engine: IT3Engine, inputs: object, **options: object) -> None:
    expected = engine.adapt(inputs, cuda_graphs="off", **options)
    actual = engine.adapt(inputs, **options)
    for name in ("prediction", "first", "second", "losses"):
        close(getattr(actual, name), getattr(expected, name))
    if not options.get("per_sample"):
        close(actual.state_dict(), expected.state_dict())


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("network", ["traced", "script"])
@pytest.mark.parametrize("kind", KINDS)
def test_results_are_the_same(kind: str, network: str, options: dict) -> None:
    case = make_case(kind, device="cuda")
    engine, _ = build(case, network)
    assert not engine.explain(case.inputs).why_no_cuda_graph
    for scale in (1.0, 1.0, 2.0, 0.5):  # run, recorded, replayed twice
        agrees(engine, scale * case.inputs, **options)


@pytest.mark.parametrize("amp", ["bf16", "fp16"])
def test_mixed_precision(amp: str) -> None:
    case = make_case("cnn", torch.float32, "cuda")
    engine, _ = build(case, "traced", optimization_parameters={"optimizer_name": "sgd", "amp": amp})
    replayed = replay(engine, case.inputs)
    expected = engine.adapt(case.inputs, cuda_graphs="off")
    torch.testing.assert_close(replayed.prediction, expected.prediction, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("network", ["traced", "script"])
def test_the_callers_autocast(network: str) -> None:
    case = make_case("cnn", torch.float32, "cuda")
    engine, _ = build(case, network, optimization_parameters={"optimizer_name": "sgd"})
    plain = replay(engine, case.inputs).prediction
    with torch.autocast("cuda", torch.bfloat16):
        replayed = replay(engine, case.inputs).prediction
        expected = engine.adapt(case.inputs, cuda_graphs="off").prediction
    torch.testing.assert_close(replayed, expected, rtol=1e-3, atol=1e-3)
    assert not torch.equal(replayed, plain)  # another graph
    torch.testing.assert_close(engine.adapt(case.inputs).prediction, plain)  # and back to the first


@pytest.mark.parametrize("statistics", ["batch", "blend"])
def test_norm_statistics(statistics: str) -> None:
    case = make_case("cnn", device="cuda")
    engine, _ = build(case, "traced")
    for scale in (1.0, 1.0, 2.0):
        agrees(engine, scale * case.inputs, norm_statistics=statistics)


def test_changes_are_seen() -> None:
    case = make_case("cnn", device="cuda")
    engine, _ = build(case, "traced")
    model, x = case.model, case.inputs
    replay(engine, x)
    with torch.no_grad():
        model.fc.bias.add_(1)  # values in place
    agrees(engine, x)
    model.fc.weight = nn.Parameter(model.fc.weight.detach() * 2)  # another tensor
    for _ in range(3):
        agrees(engine, x)
    model.norm.running_mean = model.norm.running_mean + 1
    for _ in range(3):
        agrees(engine, x)
    model.norm.train()
    for _ in range(3):
        agrees(engine, x)
    model.norm.eval()
    with torch.no_grad():
        engine.embedder.weight1.mul_(2)
    for _ in range(3):
        agrees(engine, x)
    for batch in (x[:2], x, torch.cat([x, x])):  # other shapes
        for _ in range(3):
            agrees(engine, batch)
    model.fc.bias.requires_grad_(False)
    for _ in range(3):
        agrees(engine, x)
    agrees(engine, x.to(memory_format=torch.channels_last))


class TakesOneOfTwo(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.last = nn.Linear(5, 8), nn.Linear(8, 3)

    def forward(self, a: Tensor | None, b: Tensor | None) -> Tensor:
        h = torch.zeros(7, 5, device="cuda", dtype=torch.float64)
        if a is not None:
            h = h + 2 * a
        if b is not None:
            h = h - 5 * b
        return self.last(self.layer(h).tanh())


def test_calls_of_other_arguments_are_told_apart() -> None:
    torch.manual_seed(0)
    engine = IT3Engine(torch.jit.script(TakesOneOfTwo().double().cuda()), "layer").eval()
    x = torch.randn(7, 5, dtype=torch.float64, device="cuda")
    replay(engine, (x, None))
    agrees(engine, (None, x))
    agrees(engine, (x, None))


def test_streams_may_change() -> None:
    case = make_case("cnn", device="cuda")
    engine, _ = build(case, "traced")
    batches = [case.inputs * (1 + i / 10) for i in range(20)]
    expected = [engine.adapt(x, cuda_graphs="off").prediction for x in batches]
    torch.cuda.synchronize()
    streams = [torch.cuda.Stream() for _ in range(3)]
    actual = []
    for i, x in enumerate(batches):
        with torch.cuda.stream(streams[i % 3]):
            actual.append(engine(x)[0])
    torch.cuda.synchronize()
    for a, e in zip(actual, expected, strict=True):
        close(a, e)


def test_modes_and_options_may_be_set_again() -> None:
    case = make_case("mlp", torch.float32, "cuda")
    engine, _ = build(case, "traced")
    for _ in range(2):
        engine(case.inputs)

    def kernels_launched() -> int:
        with torch.profiler.profile(acc_events=True) as profile:
            engine(case.inputs)
        return sum(event.count for event in profile.key_averages() if event.key == "aten::linear")

    assert kernels_launched() == 0
    engine.train()
    engine.eval()
    engine.optimization_parameters = dict(engine.optimization_parameters)
    assert kernels_launched() == 0
    engine.distance_fn = "l1"
    assert kernels_launched() > 0


def test_results_stay_when_the_graph_is_replayed() -> None:
    case = make_case("mlp", device="cuda")
    engine, _ = build(case, "traced")
    first = replay(engine, case.inputs)
    kept = copy.deepcopy((first.prediction, first.losses, first.state_dict()))
    engine.adapt(case.inputs + 1)
    close((first.prediction, first.losses, first.state_dict()), kept, rtol=0, atol=0)


def test_many_shapes_do_not_fill_the_memory() -> None:
    case = make_case("mlp", device="cuda")
    engine, _ = build(case, "traced")

    def held(rounds: int) -> int:
        for n in range(1, rounds):
            replay(engine, torch.randn(n, 6, dtype=torch.float64, device="cuda"))
        torch.cuda.synchronize()
        return torch.cuda.memory_reserved()

    before = held(40)
    assert held(160) <= before + 2**24


def test_what_cannot_be_recorded_runs_without_and_says_so() -> None:
    torch.manual_seed(0)
    x = torch.randn(7, 6, dtype=torch.float64, device="cuda")
    engine = IT3Engine(torch.jit.script(BranchesOnValues().double().cuda()), "layer").eval()
    engine.adapt(x)  # shapes the embedder
    engine.adapt(x)
    with pytest.warns(UserWarning, match="cannot be recorded as a CUDA graph, so it runs without one"):
        engine.adapt(x)
    agrees(engine, x)  # and says so once
    torch.rand(3, device="cuda")  # the generator is not left as being recorded
    case = make_case("mlp", device="cuda")
    for arguments, why in (
        ({"optimization_parameters": {"cuda_graphs": "off"}}, "cuda_graphs is 'off'"),
        ({"optimization_parameters": {"copy_model": False}}, "copy_model is False"),
        (
            {"optimization_parameters": {"threshold": 0.1}},
            "tolerance or threshold is set, so what is computed depends on the data",
        ),
        ({"distance_fn": nn.functional.mse_loss}, "is a function that may have side effects"),
        ({"neutral": -9.0}, "neutral is set"),
    ):
        engine, _ = build(case, "traced", **arguments)
        assert why in engine.explain(case.inputs).why_no_cuda_graph
        agrees(engine, case.inputs) if "copy_model" not in str(arguments) else None
    engine, _ = build(case, "hooks")
    assert "the model is not cut" in engine.explain(case.inputs).why_no_cuda_graph


def test_errors_of_values_are_raised() -> None:
    case = make_case("mlp", device="cuda")
    engine, _ = build(case, "traced")
    replay(engine, case.inputs)
    with pytest.raises(ValueError, match="the loss at step 1 of 3 is nan"):
        engine.adapt(case.inputs * torch.nan)
    agrees(engine, case.inputs)


def test_random_restoration_differs_from_call_to_call() -> None:
    case = make_case("mlp", device="cuda")
    engine, _ = build(case, "traced", optimization_parameters={"restore_probability": 0.5})
    replay(engine, case.inputs)
    predictions = [engine.adapt(case.inputs).prediction for _ in range(2)]
    assert not torch.equal(*predictions)
    torch.cuda.manual_seed(1)
    repeated = [engine.adapt(case.inputs).prediction for _ in range(2)]
    torch.cuda.manual_seed(1)
    close([engine.adapt(case.inputs).prediction for _ in range(2)], repeated)


@pytest.mark.two_cuda_devices
@pytest.mark.parametrize("options", [{}, {"per_sample": True}], ids=str)
@pytest.mark.parametrize("network", ["traced", "script"])
def test_an_engine_may_move_to_another_device(network: str, options: dict) -> None:
    case = make_case("mlp")
    engine, _ = build(case, network)
    expected = engine.adapt(case.inputs, **options).prediction
    for device in ("cuda:0", "cuda:1", "cpu", "cuda:1", "cuda:0"):
        engine.to(device)
        for _ in range(3):
            close(engine.adapt(case.inputs.to(device), **options).prediction.cpu(), expected)
    assert torch.cuda.current_device() == 0
