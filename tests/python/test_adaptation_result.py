"""An Adaptation is short to print, can be compared, and stays what it was."""

import copy
import pickle

import pytest
import torch
from it3 import IT3Engine
from kinds_of_network import NETWORKS, build
from models import make_case
from torch import nn

exactly = torch.testing.assert_close


@pytest.mark.parametrize("network", NETWORKS)
def test_repr_is_short(network: str) -> None:
    case = make_case("segmentation", torch.float32)
    engine, _ = build(case, network)
    adaptation = engine.adapt(case.inputs)
    first, last = adaptation.losses[0].item(), adaptation.losses[-1].item()
    assert repr(adaptation) == (
        f"Adaptation(prediction: (3, 3, 8, 8) of float32, steps: 3, loss: {first:.4g} to {last:.4g})"
    )
    assert "adapted samples: 0 of 3" in repr(engine.adapt(case.inputs, threshold=1e9))
    assert repr(engine.adapt(case.inputs, num_steps=0)) == ("Adaptation(prediction: (3, 3, 8, 8) of float32, steps: 0)")
    if network != "hooks":  # which warns that samples run one after another
        assert "steps: 2, loss: " in repr(engine.adapt(case.inputs, per_sample=True, num_steps=2))


def test_repr_has_the_losses_of_the_samples_that_adapted() -> None:
    case = make_case("mlp")
    engine, _ = build(case, "traced")
    engine.uncertainty(case.inputs)
    threshold = engine.uncertainty(case.inputs).quantile(0.6).item()
    adaptation = engine.adapt(case.inputs, per_sample=True, num_steps=2, threshold=threshold)
    adapted = adaptation.adapted_samples
    assert 0 < int(adapted.sum()) < len(adapted)
    first, last = (adaptation.losses[place][adapted].mean().item() for place in (0, -1))
    assert f"loss: {first:.4g} to {last:.4g}" in repr(adaptation)


def test_equality_is_identity() -> None:
    case = make_case("mlp")
    engine, _ = build(case, "traced")
    one, other = engine.adapt(case.inputs), engine.adapt(case.inputs)
    assert one == one  # noqa: PLR0124  (what is tested)
    assert one != other
    assert len({one, other, one}) == 2


def change(model: nn.Module, how: str, names: str) -> None:
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if not name.startswith(names) or not tensor.is_floating_point():
            continue
        if how == "data":
            tensor.data += 0.5
        elif how == "in place":
            with torch.no_grad():
                tensor.add_(0.5)
        else:
            tensor.data = tensor.data.clone().add_(0.5)


@pytest.mark.parametrize("how", ["data", "in place", "assigned"])
@pytest.mark.parametrize("network", NETWORKS)
def test_what_adapted_stays_when_the_model_changes(network: str, how: str) -> None:
    case = make_case("mlp")
    engine, _ = build(case, network)
    adaptation = engine.adapt(case.inputs)
    before = adaptation.state_dict()
    assert not torch.equal(before["0.weight"], case.model[0].weight)
    change(engine.model, how, "")
    exactly(adaptation.state_dict(), before, rtol=0, atol=0)
    exactly(dict(adaptation.model().state_dict()), before, rtol=0, atol=0)


@pytest.mark.parametrize("how", ["data", "in place", "assigned"])
@pytest.mark.parametrize(("parameters", "names"), [("all", "norm.running_mean"), ("fc.*", "conv2"), (["fc.*"], "norm")])
@pytest.mark.parametrize("network", NETWORKS)
def test_what_did_not_adapt_must_not_change(network: str, parameters, names: str, how: str, tmp_path) -> None:
    case = make_case("cnn")
    engine, _ = build(case, network)
    adaptation = engine.adapt(case.inputs, parameters=parameters)
    before = adaptation.state_dict()
    engine.adapt(case.inputs)
    exactly(adaptation.state_dict(), before, rtol=0, atol=0)
    change(engine.model, how, names)
    for use in (adaptation.state_dict, adaptation.model, lambda: adaptation.save(tmp_path / "a.pt", case.inputs)):
        with pytest.raises(ValueError, match=f"the model's .*'{names}.* changed since this adaptation"):
            use()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("network", NETWORKS)
def test_online_adaptations_keep_their_weights(network: str) -> None:
    case = make_case("mlp")
    engine, _ = build(case, network, optimization_parameters={"copy_model": False})
    first = engine.adapt(case.inputs)
    of_then = {name: value.clone() for name, value in engine.model.state_dict().items()}
    second = engine.adapt(case.inputs)
    exactly(first.state_dict(), of_then, rtol=0, atol=0)
    exactly(second.state_dict(), dict(engine.model.state_dict()), rtol=0, atol=0)
    engine.reset()
    exactly(first.state_dict(), of_then, rtol=0, atol=0)


def test_copies_and_pickles() -> None:
    case = make_case("cnn")
    engine = IT3Engine(case.model, case.layer).eval()
    adaptation = engine.adapt(case.inputs, parameters="fc.*")
    for duplicate in (copy.deepcopy(adaptation), pickle.loads(pickle.dumps(adaptation))):
        exactly(duplicate.state_dict(), adaptation.state_dict(), rtol=0, atol=0)


def test_tied_and_odd_tensors() -> None:
    """Booleans, complex and half numbers, and a parameter in two places."""
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))
    model[2].weight = model[0].weight
    odd = (torch.tensor([True, False]), torch.tensor([1 + 2j]), torch.ones(3).half(), torch.tensor(2.0), torch.empty(0))
    for place, tensor in enumerate(odd):
        model.register_buffer(f"odd{place}", tensor)
    engine = IT3Engine(model, "0").eval()
    adaptation = engine.adapt(torch.randn(3, 4))
    state = adaptation.state_dict()
    assert torch.equal(state["0.weight"], state["2.weight"])
    assert not torch.equal(state["0.weight"], model[0].weight)
    model.odd1 *= 2
    with pytest.raises(ValueError, match="the model's 'odd1' changed since this adaptation"):
        adaptation.state_dict()


@pytest.mark.parametrize("options", [{}, {"num_steps": 0}, {"per_sample": True}, {"per_sample": True, "num_steps": 0}])
def test_loss_is_what_the_call_returns(options: dict) -> None:
    case = make_case("mlp")
    engine = IT3Engine(case.model, case.layer, optimization_parameters=options).eval()
    returned = engine(case.inputs)[1]
    loss = engine.adapt(case.inputs).loss
    assert loss.shape == returned.shape
    assert torch.equal(loss, returned)
