"""TorchScript modules are cut at the layer, and adapt and train as the eager module does."""

import copy
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
import reference
import torch
from it3 import IT3Engine
from models import KINDS, make_case
from torch import Tensor, nn

close = partial(torch.testing.assert_close, rtol=1e-10, atol=1e-10)
pytestmark = pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")


def script(module: nn.Module, inputs: Tensor) -> torch.jit.ScriptModule:
    return torch.jit.script(module)


HOW = {"script": script, "trace": torch.jit.trace}


def engines(
    module: nn.Module, layer: str, inputs: Tensor, how: str = "script", **arguments
) -> tuple[IT3Engine, IT3Engine]:
    """An eager engine and one of the TorchScript module, which shares the tensors, with the same embedder."""
    eager = IT3Engine(module.eval(), layer, **arguments).eval()
    eager.uncertainty(inputs)
    return eager, IT3Engine(HOW[how](module, inputs), layer, eager.embedder, **arguments).eval()


def agree(module: nn.Module, layer: str, inputs: Tensor, how: str = "script") -> None:
    eager, scripted = engines(module, layer, inputs, how)
    for _ in range(3):  # an optimizing executor would only start to optimize
        expected, actual = eager.adapt(inputs), scripted.adapt(inputs)
        close(actual.prediction, expected.prediction)
        close(actual.losses, expected.losses)
        close(actual.second, expected.second)
    assert expected.losses[0] > 0
    target = torch.rand_like(expected.prediction)
    gradients = []
    for engine in (eager, scripted):
        engine.train().model.eval()  # a traced module keeps the mode it was traced in
        y0, loss = engine(inputs, target=target)
        gradients.append(torch.autograd.grad(y0.square().sum() + loss, list(engine.parameters()), allow_unused=True))
        engine.eval()
    close(gradients[1], gradients[0])


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("kind", KINDS)
def test_agrees_with_the_formula(kind: str, how: str, device: str) -> None:
    case = make_case(kind, device=device)
    for options in ({}, {"optimizer_name": "sgd", "momentum": 0.9, "max_grad_norm": 0.1}, {"num_steps": 10}):
        _, scripted = engines(case.model, case.layer, case.inputs, how, optimization_parameters=options)
        weights = [w.detach() for w in scripted.embedder.parameters()]
        embed = partial(lambda weights, y, f: reference.embed(y, f, *weights), weights)
        expected, losses, model = reference.adapt(case.model, case.layer, embed, case.inputs, **options)
        adaptation = scripted.adapt(case.inputs)
        close(adaptation.prediction, expected)
        close(adaptation.losses.tolist(), losses)
        close(adaptation.state_dict(), dict(model.state_dict()))
        close(adaptation.model()(case.inputs), expected)


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("kind", KINDS)
def test_trains_as_the_eager_module(kind: str, how: str, device: str) -> None:
    case = make_case(kind, device=device)
    agree(case.model, case.layer, case.inputs, how)


def test_running_statistics_are_updated_once_a_training_step(device: str) -> None:
    case = make_case("cnn", device=device)
    twin = torch.jit.script(copy.deepcopy(case.model)).train()
    twin(case.inputs)
    engine = IT3Engine(torch.jit.script(case.model), case.layer).train()
    y0, loss = engine(case.inputs, target=case.target)
    (y0.mean() + loss).backward()
    close(dict(engine.model.named_buffers()), dict(twin.named_buffers()), rtol=0, atol=0)


def test_adapts_in_eval_mode_whatever_the_flags() -> None:
    case = make_case("cnn")
    eager, scripted = engines(case.model, case.layer, case.inputs)
    expected = eager.adapt(case.inputs)
    for is_training in (True, False, True):
        scripted.model.train(is_training)
        before = copy.deepcopy(dict(scripted.model.named_buffers()))
        close(scripted.adapt(case.inputs).prediction, expected.prediction)
        close(scripted.uncertainty(case.inputs), eager.uncertainty(case.inputs))
        close(dict(scripted.model.named_buffers()), before, rtol=0, atol=0)
        assert all(module.training is is_training for module in scripted.model.modules())


class Nested(nn.Module):
    def __init__(self, use_extra: bool = True):
        super().__init__()
        self.stem = nn.Linear(6, 8)
        self.blocks = nn.ModuleList(
            [nn.Sequential(nn.Linear(8, 8), nn.Tanh()), nn.Sequential(nn.Linear(8, 8), nn.Tanh())]
        )
        self.extra = nn.Linear(8, 8)
        self.head = nn.Linear(8, 3)
        self.use_extra = use_extra

    def features(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x) + x
        return x

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x)
        if self.use_extra:
            x = self.extra(x).tanh()
        return self.head(x)


@pytest.mark.parametrize("layer", ["stem", "blocks.0", "blocks.1.0", "blocks.1.1", "extra", "head", ""])
def test_layers_deep_in_the_module(layer: str) -> None:
    """Through methods, module lists, and branches whose condition is an attribute."""
    torch.manual_seed(0)
    agree(Nested().double(), layer, torch.randn(5, 6, dtype=torch.float64))


class InPlace(nn.Module):
    """Writes to the layer's output, to what crosses the cut, and to what was computed before."""

    def __init__(self):
        super().__init__()
        self.first, self.layer, self.last = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        a = self.first(x).tanh()
        b = a * 2
        y = self.layer(a)
        early = b + y
        b.add_(1)
        y.relu_()
        return self.last((y + early) * b)


class Crossing(nn.Module):
    """Values of many kinds cross the cut, and some are made after the layer without it."""

    def __init__(self):
        super().__init__()
        self.first, self.layer, self.last = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor, scale: float = 2.0) -> Tensor:
        h = self.first(x)
        size = h.shape[0]
        parts = [h, h.tanh()]
        y = self.layer(h)
        side = self.first(x * 0.5)
        if size > 3:
            y = y * scale + parts[1]
        for part in parts:
            y = y + part.mean(0, keepdim=True).expand(size, 8)
        return self.last((y + side).tanh())


class TupleOutput(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn, self.head = nn.LSTM(6, 8, batch_first=True), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        y, (h, c) = self.rnn(x)
        return self.head(y.mean(1) + h[0] + c[0])


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 6)
        self.b.weight = self.a.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.b(self.a(x).tanh()).tanh())


@pytest.mark.parametrize(
    ("module", "layer", "shape"),
    [(InPlace, "layer", (5, 6)), (Crossing, "layer", (5, 6)), (TupleOutput, "rnn", (4, 7, 6)), (Tied, "b", (5, 6))],
)
def test_what_crosses_the_cut(module: type[nn.Module], layer: str, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    agree(module().double(), layer, torch.randn(shape, dtype=torch.float64))


def test_inputs_by_position_keyword_and_default() -> None:
    torch.manual_seed(0)
    x = torch.randn(5, 6, dtype=torch.float64)
    eager, scripted = engines(Crossing().double(), "layer", x)
    for inputs in ((x, 3.0), {"x": x, "scale": 3.0}, [x], {"scale": 0.5, "x": x}):
        close(scripted(inputs), eager(inputs))
    with pytest.raises(RuntimeError, match="scale"):
        scripted((x, "three"))
    with torch.inference_mode():
        close(scripted((x.clone(),)), eager(x))


class Branch(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.head = nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            x = self.layer(x)
        return self.head(x)


class Loop(Branch):
    def forward(self, x: Tensor) -> Tensor:
        for _ in range(int(x.shape[0])):
            x = self.layer(x)
        return self.head(x)


class Twice(Branch):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(self.layer(x)))


class Never(Branch):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(x)


class Unused(Branch):
    def forward(self, x: Tensor) -> Tensor:
        self.layer(x)
        return self.head(x)


class DictLayer(nn.Module):
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"a": x, "b": x}


class ReturnsDict(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.head = DictLayer(), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x)["a"])


class Assigns(Branch):
    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls = self.calls + 1
        return self.head(self.layer(x))


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (Branch, "the layer is called inside a branch or a loop. Name the layer around it"),
        (Loop, "the layer is called inside a branch or a loop. Name the layer around it"),
        (Twice, "calls the layer 2 times. Name a layer that is called once"),
        (Never, "does not call the layer. Name a layer that is called"),
        (Unused, "the prediction does not depend on the layer's output"),
        (ReturnsDict, "which does not begin with a tensor. Say by layer_output which of its outputs is meant"),
        (Assigns, "assigns attributes of the module. Update buffers in place"),
    ],
)
def test_refusals_say_why_and_what_to_do(module: Callable[[], nn.Module], message: str) -> None:
    engine = IT3Engine(torch.jit.script(module().eval()), "layer").eval()
    with pytest.raises(ValueError, match="cannot be cut at the layer 'layer'") as error:
        engine(torch.randn(4, 6))
    assert message in str(error.value)


def test_unknown_layer() -> None:
    with pytest.raises(ValueError, match=r"no layer 'hed'; did you mean 'head'"):
        IT3Engine(torch.jit.script(Branch()), "hed")


def test_frozen_module_has_nothing_to_adapt() -> None:
    module = torch.jit.freeze(torch.jit.script(Twice().eval()))
    with pytest.raises(ValueError, match=r"no trainable parameters.*frozen TorchScript"):
        IT3Engine(module, "").eval()(torch.randn(4, 6))


def test_the_module_is_never_written_to() -> None:
    case = make_case("cnn")
    engine = IT3Engine(torch.jit.script(case.model), case.layer).eval()
    engine.uncertainty(case.inputs)
    tensors = [*engine.parameters(), *engine.buffers()]
    before = [(t.detach().clone(), t.data_ptr(), t._version, t.requires_grad) for t in tensors]
    seen = []

    def distance(y1: Tensor, y0: Tensor) -> Tensor:
        seen.append([t.detach().clone() for t in tensors])
        return (y1 - y0).square().mean()

    engine.distance_fn = distance
    engine(case.inputs)
    for during in seen:
        assert all(torch.equal(now, value) for now, (value, *_) in zip(during, before, strict=True))
    for t, (value, address, version, flag) in zip(tensors, before, strict=True):
        assert torch.equal(t, value)
        assert (t.data_ptr(), t._version, t.requires_grad) == (address, version, flag)


def test_keeps_adapted_weights_until_reset() -> None:
    case = make_case("cnn")
    options = {"copy_model": False}
    eager, _ = engines(copy.deepcopy(case.model), case.layer, case.inputs, optimization_parameters=options)
    scripted = IT3Engine(
        torch.jit.script(case.model), case.layer, eager.embedder, optimization_parameters=options
    ).eval()
    start = copy.deepcopy(scripted.state_dict())
    for _ in range(2):
        close(scripted(case.inputs), eager(case.inputs))
    close(dict(scripted.model.state_dict()), dict(eager.model.state_dict()))
    scripted.reset()
    close(dict(scripted.state_dict()), dict(start), rtol=0, atol=0)


def test_state_dict_and_selection() -> None:
    case = make_case("cnn")
    eager, scripted = engines(case.model, case.layer, case.inputs, optimization_parameters={"parameters": "norm"})
    assert list(scripted.state_dict()) == list(eager.state_dict())
    close(scripted(case.inputs), eager(case.inputs))
    changed = scripted.adapt(case.inputs).state_dict()
    names = {name for name, value in case.model.state_dict().items() if not torch.equal(value, changed[name])}
    assert names == {"norm.weight", "norm.bias"}
    fresh = IT3Engine(torch.jit.script(make_case("cnn", seed=1).model), case.layer).eval()
    fresh.optimization_parameters["parameters"] = "norm"
    fresh.load_state_dict(scripted.state_dict())
    close(fresh(case.inputs), scripted(case.inputs), rtol=0, atol=0)


def test_copies() -> None:
    case = make_case("mlp")
    engine = IT3Engine(torch.jit.script(case.model), case.layer).eval()
    expected = engine(case.inputs)
    close(copy.deepcopy(engine)(case.inputs), expected, rtol=0, atol=0)


def test_module_loaded_from_a_file(tmp_path) -> None:
    case = make_case("cnn")
    _, scripted = engines(case.model, case.layer, case.inputs)
    scripted.model.save(tmp_path / "model.pt")
    loaded = IT3Engine(torch.jit.load(tmp_path / "model.pt"), case.layer, scripted.embedder).eval()
    close(loaded(case.inputs), scripted(case.inputs), rtol=0, atol=0)


def test_threads_equal_one_after_the_other() -> None:
    case = make_case("cnn", torch.float32)
    engine = IT3Engine(torch.jit.script(case.model), case.layer).eval()
    batches = [case.inputs + 0.1 * i for i in range(32)]
    expected = [engine(batch) for batch in batches]
    with ThreadPoolExecutor(8) as pool, warnings.catch_warnings():
        results = list(pool.map(engine, batches))
    close(results, expected, rtol=0, atol=0)


@pytest.mark.parametrize("at", [1, 2, 3])
def test_exception_leaves_everything_as_it_was(at: int) -> None:
    case = make_case("mlp")
    calls = []

    def distance(y1: Tensor, y0: Tensor) -> Tensor:
        torch.rand(1)
        calls.append(1)
        if len(calls) == at:
            raise KeyboardInterrupt
        return (y1 - y0).square().mean()

    engine = IT3Engine(torch.jit.script(case.model), case.layer, distance_fn=distance).eval()
    random, state = torch.get_rng_state(), copy.deepcopy(engine.state_dict())
    with pytest.raises(KeyboardInterrupt):
        engine(case.inputs)
    assert torch.equal(torch.get_rng_state(), random)
    assert not engine.embedder.is_built
    close(dict(engine.state_dict()), dict(state), rtol=0, atol=0)
