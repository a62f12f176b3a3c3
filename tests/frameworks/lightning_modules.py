"""What the tests of Lightning share: samples, modules that are trained on them, and predictions without Lightning."""

import copy
from typing import Any

import it3
import lightning
import torch
import torch.nn.functional as F
from it3.frameworks.lightning import EngineModule
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

OPTIONS: dict[str, Any] = {"num_steps": 2, "lr": 1e-2}


class Samples(Dataset):  # type: ignore[type-arg]
    """22 samples: the last of three batches is smaller."""

    def __init__(self, form: str = "pairs") -> None:
        generator = torch.Generator().manual_seed(5)
        self.x = torch.randn(22, 8, generator=generator)
        self.y = torch.randint(3, (22,), generator=generator)
        self.form = form

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, place: int) -> Any:
        x, y = self.x[place], self.y[place]
        return {"pairs": (x, y), "inputs": x, "dicts": {"image": x, "label": y}}[self.form]


def loader(form: str = "pairs") -> DataLoader[Any]:
    return DataLoader(Samples(form), batch_size=8, generator=torch.Generator())  # else each use draws a number


def make_engine(**options: Any) -> it3.IT3Engine:
    torch.manual_seed(1)
    network = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 3))
    engine = it3.IT3Engine(network, "1", distance_fn="js", optimization_parameters=OPTIONS | options)
    engine.adapt(torch.randn(4, 8), num_steps=0, copy_model=True)  # draws the embedder's weights
    return engine


def make_trainer(**arguments: Any) -> lightning.Trainer:
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    return lightning.Trainer(**{"accelerator": "cpu", "logger": False, "max_epochs": 2, **quiet, **arguments})


def trained(**options: Any) -> EngineModule:
    module = EngineModule(make_engine(**options), F.cross_entropy, metric="accuracy")
    make_trainer().fit(module, loader())
    return module


def predictions(module: lightning.LightningModule, form: str = "pairs", **arguments: Any) -> Tensor:
    batches = make_trainer(**arguments).predict(module, loader(form))
    assert batches is not None
    return torch.cat(batches)  # type: ignore[arg-type]


def expected(module: EngineModule, **overrides: Any) -> Tensor:
    """Adapt to batch after batch, with Lightning nowhere near."""
    engine = copy.deepcopy(module.engine).eval()
    return torch.cat([engine.adapt(inputs, **overrides).prediction for inputs, _ in loader()])


def state(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())
