"""Layers and models that hooks have trouble with."""

import copy

import pytest
import reference
import torch
import torch.nn.functional as F
from it3 import IT3Engine
from models import Case, make_case
from torch import Tensor, nn
from torch.utils.checkpoint import CheckpointError, checkpoint

close = torch.testing.assert_close


def adapts_as_the_formula_says(model: nn.Module, layer: str, inputs: Tensor) -> None:
    engine = IT3Engine(model, layer).eval()
    engine.uncertainty(inputs)
    weights = [w.detach() for w in engine.embedder.parameters()]
    expected, losses, _ = reference.adapt(model, layer, lambda y, f: reference.embed(y, f, *weights), inputs)
    prediction, loss = engine(inputs)
    close(prediction, expected, rtol=1e-9, atol=1e-9)
    close(loss.item(), losses[-1], rtol=1e-9, atol=1e-9)


def test_in_place_operation_right_after_the_layer() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(inplace=True), nn.Linear(8, 3)).double()
    plain = nn.Sequential(model[0], nn.ReLU(), model[2])
    engine, expected = IT3Engine(model, "0"), IT3Engine(plain, "0")
    x = torch.randn(5, 6, dtype=torch.float64)
    engine(x)
    expected(x)
    expected.embedder.load_state_dict(engine.embedder.state_dict())
    close(engine.eval()(x), expected.eval()(x), rtol=0, atol=0)


def test_layer_called_several_times() -> None:
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(6, 8)
            self.shared = nn.Linear(8, 8)
            self.head = nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.shared(self.shared(self.first(x)).tanh()).tanh())

    torch.manual_seed(0)
    adapts_as_the_formula_says(Twice().double(), "shared", torch.randn(5, 6, dtype=torch.float64))


def test_tied_parameters_are_stepped_once() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6)).double()
    model[2].weight = model[0].weight
    inputs = torch.randn(5, 6, dtype=torch.float64)
    adapts_as_the_formula_says(model, "2", inputs)
    adaptation = IT3Engine(model, "2").eval().adapt(inputs)
    state = adaptation.state_dict()
    assert torch.equal(state["0.weight"], state["2.weight"])
    adapted = adaptation.model()
    assert adapted[2].weight is adapted[0].weight


def test_layer_that_is_never_called() -> None:
    class Unused(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused = nn.Linear(6, 3), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.used(x)

    for training in (True, False):
        with pytest.raises(ValueError, match=r"layer 'unused' was not called"):
            IT3Engine(Unused(), "unused").train(training)(torch.randn(2, 6))


def test_projection_that_fused_attention_does_not_call() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    with pytest.raises(ValueError, match=r"'self_attn.out_proj' was not called.*out_proj"):
        IT3Engine(layer, "self_attn.out_proj").eval()(torch.randn(2, 5, 8))


@pytest.mark.parametrize("layer", ["self_attn", "linear1", "norm2"])
def test_attention_block(layer: str) -> None:
    torch.manual_seed(0)
    block = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    engine = IT3Engine(nn.Sequential(block, nn.Linear(8, 3)), f"0.{layer}").eval()
    prediction, loss = engine(torch.randn(2, 5, 8))
    assert prediction.shape == (2, 5, 3)
    assert loss > 0


def test_layer_without_a_tensor() -> None:
    class Text(nn.Module):
        def forward(self, x: Tensor) -> str:
            return "text"

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.text, self.fc = Text(), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            self.text(x)
            return self.fc(x)

    with pytest.raises(TypeError, match=r"layer 'text' returned a str"):
        IT3Engine(Model(), "text").eval()(torch.randn(2, 6))
    with pytest.raises(TypeError, match=r"the model returned a str"):
        IT3Engine(nn.Sequential(nn.Linear(6, 3), Text()), "0").eval()(torch.randn(2, 6))


def test_model_that_returns_more_than_its_prediction(case: Case) -> None:
    class WithExtras(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = case.model

        def forward(self, x: Tensor) -> dict[str, object]:
            return {"note": "extra", "logits": self.net(x), "again": x}

    expected = IT3Engine(case.model, "0").eval()
    engine = IT3Engine(WithExtras(), "net.0", output="logits").eval()
    expected(case.inputs)
    engine.embedder = copy.deepcopy(expected.embedder)
    close(engine(case.inputs), expected(case.inputs), rtol=0, atol=0)


def test_whole_model_as_the_layer(case: Case) -> None:
    adapts_as_the_formula_says(case.model, "", case.inputs)


def test_compiled_model_adapts_as_the_model_in_it(case: Case) -> None:
    expected = IT3Engine(case.model, case.layer).eval()
    expected(case.inputs)
    for layer in (case.layer, f"_orig_mod.{case.layer}"):
        engine = IT3Engine(torch.compile(case.model), layer, expected.embedder).eval()
        close(engine(case.inputs), expected(case.inputs), rtol=0, atol=0)


def test_model_wrapped_for_data_parallelism(case: Case) -> None:
    with pytest.raises(ValueError, match=r"give model\.module"):
        IT3Engine(nn.DataParallel(case.model), "module.0")


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
@pytest.mark.parametrize("use_reentrant", [True, False])
def test_layer_in_an_activation_checkpointed_block(use_reentrant: bool) -> None:
    class Checkpointed(nn.Module):
        def __init__(self):
            super().__init__()
            self.inside, self.outside = nn.Linear(6, 8), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.outside(checkpoint(lambda x: self.inside(x).tanh(), x, use_reentrant=use_reentrant))

    torch.manual_seed(0)
    model, x = Checkpointed(), torch.randn(4, 6, requires_grad=True)
    before = copy.deepcopy(model.state_dict())
    message = "is run without gradients" if use_reentrant else "is called again in the backward pass"
    with pytest.raises(ValueError, match=f"'inside' {message}"):
        IT3Engine(model, "inside").eval()(x)
    with pytest.raises(ValueError if use_reentrant else CheckpointError):
        sum(t.sum() for t in IT3Engine(model, "inside").train()(x)).backward()
    close(dict(model.state_dict()), dict(before), rtol=0, atol=0)
    assert not model.inside._forward_hooks
    assert IT3Engine(model, "outside").eval()(x)[1] > 0


def test_lazy_model_that_never_ran() -> None:
    model = nn.Sequential(nn.LazyLinear(8), nn.Tanh(), nn.LazyLinear(3))
    engine = IT3Engine(model, "0").eval()
    x = torch.randn(4, 6)
    with pytest.raises(ValueError, match=r"'0.weight' of a lazy module has no shape yet"):
        engine(x)
    engine.train()(x)
    assert engine.eval()(x)[1] > 0


def test_weight_norm(device: str) -> None:
    torch.manual_seed(0)
    for normed in (nn.utils.parametrizations.weight_norm, nn.utils.weight_norm):
        with pytest.warns(FutureWarning) if normed is nn.utils.weight_norm else torch.no_grad():
            model = nn.Sequential(normed(nn.Linear(6, 8)), nn.Tanh(), nn.Linear(8, 3)).to(device)
        x = torch.randn(4, 6, device=device)
        before = model(x).detach()
        engine = IT3Engine(model, "0").eval()
        adaptation = engine.adapt(x)
        assert torch.equal(model(x), before)
        close(adaptation.model()(x), adaptation.prediction)


def test_sparse_gradients() -> None:
    torch.manual_seed(0)
    sparse = nn.Sequential(nn.Embedding(10, 8, sparse=True), nn.Flatten(), nn.Linear(24, 3)).double()
    dense = nn.Sequential(nn.Embedding(10, 8), nn.Flatten(), nn.Linear(24, 3)).double()
    dense.load_state_dict(sparse.state_dict())
    tokens = torch.randint(10, (4, 3))
    engines = [
        IT3Engine(model, "2", optimization_parameters={"max_grad_norm": 0.1}).eval() for model in (sparse, dense)
    ]
    engines[0](tokens)
    engines[1].embedder = engines[0].embedder
    close(engines[0](tokens), engines[1](tokens), rtol=1e-12, atol=1e-12)


def test_complex_parameters() -> None:
    class Spectral(nn.Module):
        def __init__(self):
            super().__init__()
            self.gain = nn.Parameter(torch.randn(4, 8, dtype=torch.complex128))
            self.head = nn.Linear(8, 3, dtype=torch.float64)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(torch.fft.ifft(torch.fft.fft(x) @ self.gain).real)

    torch.manual_seed(0)
    adapts_as_the_formula_says(Spectral(), "head", torch.randn(5, 4, dtype=torch.float64))


def test_channels_last_is_kept(device: str) -> None:
    case = make_case("cnn", device=device)
    strided = copy.deepcopy(case.model).to(memory_format=torch.channels_last)
    inputs = case.inputs.to(memory_format=torch.channels_last)
    expected, engine = IT3Engine(case.model, "conv1").eval(), IT3Engine(strided, "conv1").eval()
    expected(case.inputs)
    engine.embedder = expected.embedder
    adaptation = engine.adapt(inputs)
    close(adaptation.prediction, expected(case.inputs)[0], rtol=1e-9, atol=1e-9)
    assert dict(adaptation._weights)["conv2.weight"].is_contiguous(memory_format=torch.channels_last)


def test_gradients_of_inputs_and_parameters_are_left_alone(case: Case) -> None:
    engine = IT3Engine(case.model, case.layer).eval()
    inputs = case.inputs.clone().requires_grad_()
    engine(inputs)
    assert inputs.grad is None
    assert all(p.grad is None for p in engine.parameters())


def test_users_hooks_run_in_every_pass_and_keep_their_effect(case: Case) -> None:
    hooked = copy.deepcopy(case.model)
    hooked[0].register_forward_hook(lambda _, __, out: out * 2)
    scaled = copy.deepcopy(case.model)
    with torch.no_grad():
        for parameter in scaled[0].parameters():
            parameter.mul_(2)
    frozen = {"parameters": ["2.*", "4.*"]}
    engines = [IT3Engine(model, "0", optimization_parameters=frozen).eval() for model in (hooked, scaled)]
    engines[0](case.inputs)
    engines[1].embedder = engines[0].embedder
    close(engines[0](case.inputs), engines[1](case.inputs), rtol=1e-9, atol=1e-9)


def test_functional_check_of_the_loss(case: Case) -> None:
    """uncertainty() is the distance of the two predictions of the model as it is."""
    engine = IT3Engine(case.model, case.layer)
    uncertainty = engine.uncertainty(case.inputs)
    weights = list(engine.embedder.parameters())
    y0 = case.model(case.inputs)
    y1 = reference.second_prediction(
        case.model, case.layer, lambda y, f: reference.embed(y, f, *weights), reference.add, case.inputs, y0
    )
    close(uncertainty, (y1 - y0).square().sum(1).sqrt().detach())
    assert uncertainty.shape == (7,)
    assert F.mse_loss(y1, y0) > 0
