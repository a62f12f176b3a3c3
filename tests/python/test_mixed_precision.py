"""amp runs the passes in half precision around float32 weights, losses and predictions."""

import pytest
import reference
import torch
from it3 import IT3Engine
from kinds_of_network import NETWORKS, build, state_of
from models import make_case
from torch import Tensor, nn

AMP = {"bf16": torch.bfloat16, "fp16": torch.float16}


def change(adapted: dict[str, Tensor], before: dict[str, Tensor]) -> Tensor:
    return torch.cat([(adapted[name] - before[name]).flatten() for name in before if "norm" not in name])


@pytest.mark.parametrize("amp", AMP)
@pytest.mark.parametrize("anchor", ["self", "frozen", "ema"])
@pytest.mark.parametrize("network", NETWORKS)
def test_steps_are_those_of_full_precision_but_for_rounding(network: str, anchor: str, amp: str, device: str) -> None:
    case = make_case("cnn", torch.float32, device)
    options = {"optimizer_name": "sgd", "lr": 0.05, "num_steps": 2, "anchor": anchor}
    engine, embed = build(case, network, optimization_parameters=options)
    before = state_of(case.model)
    full, mixed = engine.adapt(case.inputs), engine.adapt(case.inputs, amp=amp)
    expected, _, _ = reference.adapt(case.model, case.layer, embed, case.inputs, **options)
    torch.testing.assert_close(mixed.prediction, expected, rtol=0.05, atol=0.03)
    assert not torch.equal(mixed.prediction, full.prediction)
    assert {mixed.prediction.dtype, mixed.first.dtype, mixed.second.dtype, mixed.losses.dtype} == {torch.float32}
    assert {value.dtype for value in mixed.state_dict().values() if value.is_floating_point()} == {torch.float32}
    moved, moved_in_full = change(mixed.state_dict(), before), change(full.state_dict(), before)
    assert torch.cosine_similarity(moved, moved_in_full, dim=0) > 0.98
    assert all(torch.equal(value, before[name]) for name, value in case.model.state_dict().items())


class InAutocast(nn.Module):
    def __init__(self, inner: nn.Module, device: str, dtype: torch.dtype) -> None:
        super().__init__()
        self.inner, self.device, self.dtype = inner, device, dtype

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(self.device, self.dtype):
            return self.inner(x).float()


@pytest.mark.parametrize("amp", AMP)
@pytest.mark.parametrize("network", NETWORKS)
def test_agrees_with_autocast(network: str, amp: str, device: str) -> None:
    case = make_case("mlp", torch.float32, device)
    options = {"optimizer_name": "sgd", "lr": 0.1}
    engine, embed = build(case, network, optimization_parameters={**options, "amp": amp})
    model = InAutocast(case.model, device, AMP[amp])
    expected, losses, _ = reference.adapt(model, f"inner.{case.layer}", embed, case.inputs, **options)
    actual = engine.adapt(case.inputs)
    tolerance = 4 * torch.finfo(AMP[amp]).eps
    torch.testing.assert_close(actual.losses[0].item(), losses[0], rtol=1e-5, atol=0)
    torch.testing.assert_close(actual.prediction, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("anchor", ["self", "frozen"])
@pytest.mark.parametrize("network", NETWORKS)
def test_small_gradients_do_not_vanish_in_fp16(network: str, anchor: str, device: str) -> None:
    case = make_case("mlp", torch.float32, device)

    def tiny(y1: Tensor, y0: Tensor) -> Tensor:
        return 1e-9 * (y1 - y0).square().mean()

    options = {"optimizer_name": "sgd", "lr": 1e8, "num_steps": 1, "anchor": anchor}
    engine, _ = build(case, network, distance_fn=tiny, optimization_parameters=options)
    before = state_of(case.model)
    full = change(engine.adapt(case.inputs).state_dict(), before)
    mixed = change(engine.adapt(case.inputs, amp="fp16").state_dict(), before)
    assert torch.cosine_similarity(mixed, full, dim=0) > 0.999
    assert abs(float(mixed.norm() / full.norm()) - 1) < 0.01


@pytest.mark.parametrize("network", ["traced", "script"])
def test_samples_by_themselves(network: str, device: str) -> None:
    case = make_case("mlp", torch.float32, device)
    engine, _ = build(case, network, optimization_parameters={"optimizer_name": "sgd", "amp": "bf16"})
    expected = torch.cat([engine.adapt(x).prediction for x in case.inputs.split(1)])
    actual = engine.adapt(case.inputs, per_sample=True).prediction
    torch.testing.assert_close(actual, expected, rtol=0.02, atol=0.02)


def test_the_callers_autocast_is_as_it_was(device: str) -> None:
    case = make_case("mlp", torch.float32, device)
    engine, _ = build(case, "traced")
    other = torch.float16 if device == "cuda" else torch.bfloat16
    for enabled in (False, True):
        with torch.autocast(device, other, enabled=enabled):
            engine.adapt(case.inputs, amp="bf16")
            assert torch.is_autocast_enabled(device) == enabled
            assert torch.get_autocast_dtype(device) == other
    with pytest.raises(ValueError, match="amp must be one of bf16, fp16, or None, not 'half'"):
        engine.adapt(case.inputs, amp="half")
    assert torch.equal(engine.adapt(case.inputs, amp=None).prediction, engine.adapt(case.inputs).prediction)
    assert IT3Engine(case.model, case.layer, optimization_parameters={"amp": "fp16"}).optimization_parameters


def precisions() -> list[str]:
    backends = torch.backends
    of = (backends, backends.cudnn, backends.cudnn.conv, backends.cudnn.rnn, backends.cuda.matmul)
    return [backend.fp32_precision for backend in of]


@pytest.mark.parametrize(
    "own", [{}, {"matmul": "tf32"}, {"all": "ieee"}, {"all": "tf32"}, {"all": "ieee", "conv": "tf32"}]
)
def test_precisions_of_cuda_stay(own: dict[str, str]) -> None:
    """Cuts are compared in full precision."""
    backends = torch.backends
    places = {"all": backends, "conv": backends.cudnn.conv, "matmul": backends.cuda.matmul}
    before = {name: place.fp32_precision for name, place in places.items()}
    try:
        for name, precision in own.items():
            places[name].fp32_precision = precision
        expected = precisions()
        case = make_case("cnn")
        engine = IT3Engine(case.model, case.layer).eval()
        engine(case.inputs)
        assert engine.explain(case.inputs).why_whole == ""
        assert precisions() == expected
    finally:
        for name, precision in before.items():
            places[name].fp32_precision = precision
