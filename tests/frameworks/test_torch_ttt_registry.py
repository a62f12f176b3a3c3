"""it3 in torch-ttt's registry, in the loop of torch-ttt's documentation beside torch-ttt's own engine."""

import builtins
import importlib
import sys
from typing import Any

import it3
import pytest
import torch
import torch_ttt_reference  # noqa: F401  (imports torch-ttt, also where torchvision is missing)
from torch import Tensor, nn
from torch.nn import functional as F
from torch_ttt.engine.base_engine import BaseEngine
from torch_ttt.engine_registry import EngineRegistry


def test_it_is_registered() -> None:
    module = importlib.import_module("it3.frameworks.torch_ttt")
    importlib.reload(module)  # as notebooks do
    assert EngineRegistry.get_engine("it3") is it3.IT3Engine
    assert EngineRegistry.get_engine("ittt") is not it3.IT3Engine
    assert issubclass(it3.IT3Engine, BaseEngine)
    assert not issubclass(nn.Linear, BaseEngine)


def run(name: str, settings: dict[str, Any]) -> tuple[Tensor, list[float]]:
    """Train and test as torch-ttt's documentation does, with the engine of this name."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 2))
    embedder = nn.Sequential(nn.Linear(2, 16), nn.LeakyReLU(), nn.Linear(16, 16), nn.LeakyReLU())
    x = torch.randn(5, 8, 4)
    y = torch.stack([x.sum(2), x[..., 0]], 2)
    engine_class = EngineRegistry.get_engine(name)
    engine = engine_class(model, "0", embedder, torch.add, optimization_parameters=settings)
    assert isinstance(engine, BaseEngine)
    optimizer = torch.optim.Adam(engine.parameters(), lr=1e-2)
    engine.train()
    losses = []
    for inputs, labels in zip(x, y, strict=True):
        optimizer.zero_grad()
        outputs, loss_ttt = engine(inputs, target=labels)
        loss = F.mse_loss(outputs, labels) + 0.5 * loss_ttt
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    engine.eval()
    engine.optimization_parameters["num_steps"] = 2
    return torch.stack([engine(inputs + 1)[0].detach() for inputs in x]), losses


def test_a_loop_of_torch_ttt_gives_what_its_own_engine_gives() -> None:
    importlib.import_module("it3.frameworks.torch_ttt")
    settings = {"lr": 1e-2, "copy_model": True}
    ours, losses = run("it3", dict(settings))
    theirs, expected = run("ittt", dict(settings))
    assert losses == pytest.approx(expected, rel=1e-5)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    unadapted = run("it3", {"lr": 1e-12})[0]
    assert (ours - unadapted).abs().max() > 1e-2


def test_without_torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("torch_ttt.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(sys.modules, "it3.frameworks.torch_ttt", raising=False)
    plain = builtins.__import__

    def without(name: str, *arguments: Any) -> Any:
        if name.split(".", maxsplit=1)[0] == "torchvision":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return plain(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"torch-ttt 0\.0\.2 needs torchvision.*pip install 'it3\[torch-ttt\]'"):
        importlib.import_module("it3.frameworks.torch_ttt")
