"""Write exported programs, and what their models give, for the tests of it3::ExportedNetwork.

Usage: make_programs.py FOLDER

For each network NAME.pt2, and in NAME.pt a tuple: the inputs, the prediction, the prediction with 1 added to the
layer's output, and the gradients of the sum of that one's squares by the parameters, by name.
"""

import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim
from torch.export.passes import move_to_device_pass
from torch.fx.experimental import _config as shapes_config
from torch.utils import _pytree as pytree

sys.path.insert(0, str(Path(__file__).parents[2] / "python"))

from branching import Branching


class Convolutional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        self.drop = nn.Dropout()
        self.head = nn.Linear(8 * 6 * 6, 5)
        self.encoder[1].running_mean.uniform_(-1, 1)
        self.encoder[1].running_var.uniform_(0.5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.drop(self.encoder(x)).flatten(1))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(4, 6, batch_first=True)
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x)[0][:, -1])


class Attending(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(x).mean(1))


class Various(nn.Module):
    """Lists, sizes, dtypes, constants, tied weights, nested inputs and outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 8), nn.Linear(8, 8)
        self.second.weight = nn.Parameter(torch.randn(8, 8).t())
        self.last = nn.Linear(8, 8)
        self.last.weight = self.second.weight
        self.scale = torch.linspace(1, 2, 4)

    def forward(self, x: Tensor, *, more: dict[str, Any]) -> dict[str, Any]:
        a, b = self.first(x * self.scale).chunk(2, dim=1)
        h = self.second(torch.cat([b, a], 1).tanh())
        h = h.view(x.shape[0] * 2, -1).reshape(x.shape[0], 8) / 2
        y = self.last(h).to(torch.float64) * more["by"][0] + h.masked_fill(h > 1, -0.5)
        return {"others": [h, torch.zeros(x.shape[0], dtype=torch.int64)], "y": y.float()}


class Ramp(nn.Module):
    """Makes tensors on the device that it was moved to."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.Linear(4, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x).tanh() * torch.linspace(0.5, 1, 8, device=x.device))


def first_of(value: Any) -> Tensor:
    return value["y"] if isinstance(value, dict) else value


def with_one_added(output: Any) -> Any:
    """Add 1 to the output that is injected into."""
    if isinstance(output, dict):  # of Branches
        return {**output, "pair": (output["pair"][0], output["pair"][1] + 1)}
    return (output[0] + 1, *output[1:]) if isinstance(output, tuple) else output + 1


def write(folder: Path, name: str, model: nn.Module, layer: str, call: Any, dims: Any = None) -> None:
    """Export a model, and write what it gives."""
    model.eval()
    args, kwargs = call if isinstance(call, tuple) and len(call) == 2 and isinstance(call[1], dict) else (call, {})
    with shapes_config.patch(backed_size_oblivious=True):  # of batches of one, too
        kept = (layer,) if isinstance(model, Branching) else ()
        program = torch.export.export(
            model, args, kwargs, dynamic_shapes=dims, strict=False, preserve_module_call_signature=kept
        )
    if isinstance(model, Ramp):
        program = move_to_device_pass(program, "cpu")
    torch.export.save(program, folder / f"{name}.pt2")
    plain = first_of(model(*args, **kwargs))
    module = model.get_submodule(layer)
    handle = module.register_forward_hook(lambda _, __, output: with_one_added(output))
    injected = first_of(model(*args, **kwargs))
    handle.remove()
    names, parameters = zip(*model.named_parameters(), strict=True)
    gradients = torch.autograd.grad(injected.square().sum(), parameters)
    inputs = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    outputs = (plain.detach(), injected.detach())
    torch.save((inputs, *outputs, dict(zip(names, gradients, strict=True))), folder / f"{name}.pt")


def main() -> None:
    """Write all of them."""
    warnings.simplefilter("ignore")
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    any_batch = ({0: Dim.AUTO},)
    write(folder, "convolutional", Convolutional(), "encoder", (torch.randn(4, 3, 6, 6),), any_batch)
    write(folder, "recurrent", Recurrent(), "lstm", (torch.randn(3, 5, 4),), any_batch)
    write(folder, "attending", Attending(), "encoder", (torch.randn(3, 5, 8),), ({0: Dim.AUTO, 1: Dim.AUTO},))
    more = {"more": {"by": [torch.randn(8)]}}
    dims = {"x": {0: Dim.AUTO}, "more": {"by": [None]}}
    write(folder, "various", Various(), "second", ((torch.randn(3, 4),), more), dims)
    write(folder, "branching", Branching(), "branches", (torch.randn(3, 4),), any_batch)
    write(folder, "moved", Ramp(), "layer", (torch.randn(3, 4),), any_batch)
    write(folder, "fixed", nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2)), "0", (torch.randn(3, 4),))

    class WithoutGradients(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                x = x * 2
            return self.layer(x)

    class Twice(WithoutGradients):
        def forward(self, x: Tensor) -> Tensor:
            return self.layer(self.layer(x).tanh())

    class Renamed(WithoutGradients):
        def __init__(self) -> None:
            super().__init__()
            self.other = self.layer

        def forward(self, x: Tensor) -> Tensor:
            return self.other(self.layer(x).tanh())

    models = {"without_gradients": WithoutGradients(), "twice": Twice(), "renamed": Renamed()}
    for name, model in models.items():
        program = torch.export.export(
            model.eval(), (torch.randn(3, 4),), strict=False, preserve_module_call_signature=("layer",)
        )
        torch.export.save(program, folder / f"{name}.pt2")


if __name__ == "__main__":
    main()
