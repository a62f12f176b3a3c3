"""Adapted models in files that need no it3 to run."""

import subprocess
import sys
from pathlib import Path

import it3
import pytest
import torch
from it3 import IT3Engine
from models import KINDS, make_case
from torch import Tensor, nn

pytestmark = pytest.mark.filterwarnings(
    "ignore::torch.jit.TracerWarning",
    "ignore:The given buffer is not writable",  # torch.export.load of torch 2.11
)


def read(path: Path):
    return torch.export.load(path).module() if path.suffix == ".pt2" else torch.jit.load(path)


@pytest.mark.parametrize(("name", "method"), [("a.pt", "script"), ("a.pt", "trace"), ("a.pt2", "export")])
@pytest.mark.parametrize("kind", KINDS)
def test_an_export_predicts_as_the_adapted_network(kind: str, name: str, method, device: str, tmp_path: Path) -> None:
    case = make_case(kind, torch.float32, device)
    adapted = IT3Engine(case.model, case.layer).eval().adapt(case.inputs)
    assert not torch.allclose(adapted.prediction, case.model.eval()(case.inputs))
    adapted.save(tmp_path / name, case.inputs, method)
    exported = read(tmp_path / name)
    torch.testing.assert_close(exported(case.inputs), adapted.prediction)
    # Another batch size.
    torch.testing.assert_close(exported(case.inputs[:3]), adapted.model()(case.inputs[:3]))
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("kind", KINDS)
def test_an_adapted_torchscript_network(kind: str, tmp_path: Path) -> None:
    case = make_case(kind, torch.float32)
    engine = IT3Engine(case.model, case.layer).eval()
    engine.save(tmp_path / "engine.pt", case.inputs)
    adapted = it3.load(tmp_path / "engine.pt").adapt(case.inputs)
    adapted.save(tmp_path / "adapted.pt", case.inputs)
    torch.testing.assert_close(torch.jit.load(tmp_path / "adapted.pt")(case.inputs), adapted.prediction)
    with pytest.raises(
        ValueError, match=r"torch\.export takes eager models, and the model is TorchScript; try method='script'"
    ):
        adapted.save(tmp_path / "adapted.pt2", case.inputs, "export")


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, x: Tensor, scale: Tensor) -> dict[str, Tensor]:
        return {"y": self.layer(x) * scale}


@pytest.mark.parametrize(("name", "method"), [("a.pt", "script"), ("a.pt2", "export")])
@pytest.mark.parametrize("as_keywords", [True, False])
def test_models_of_several_inputs(name: str, method, as_keywords: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    x, scale = torch.randn(4, 3), torch.rand(4, 1)
    inputs = {"scale": scale, "x": x} if as_keywords else (x, scale)
    adapted = IT3Engine(Scaled(), "layer").eval().adapt(inputs)
    adapted.save(tmp_path / name, inputs, method)
    exported = read(tmp_path / name)
    result = exported(**inputs) if as_keywords else exported(*inputs)
    torch.testing.assert_close(result["y"], adapted.prediction)


def test_a_package_of_machine_code(device: str, tmp_path: Path) -> None:
    case = make_case("cnn", torch.float32, device)
    adapted = IT3Engine(case.model, case.layer).eval().adapt(case.inputs)
    with pytest.raises(ValueError, match="give an example of at least two"):
        adapted.save(tmp_path / "adapted.pt2", case.inputs[:1], "aoti")
    adapted.save(tmp_path / "adapted.pt2", case.inputs, "aoti")
    package = torch._inductor.aoti_load_package(str(tmp_path / "adapted.pt2"))
    torch.testing.assert_close(package(case.inputs), adapted.prediction)
    for samples in (1, 3):
        torch.testing.assert_close(package(case.inputs[:samples]), adapted.model()(case.inputs[:samples]))
    assert [path.name for path in tmp_path.iterdir()] == ["adapted.pt2"]


def test_a_package_of_a_model_with_keywords(tmp_path: Path) -> None:
    torch.manual_seed(0)
    inputs = {"scale": torch.rand(4, 1), "x": torch.randn(4, 3)}
    adapted = IT3Engine(Scaled(), "layer").eval().adapt(inputs)
    adapted.save(tmp_path / "adapted.pt2", inputs, "aoti")
    package = torch._inductor.aoti_load_package(str(tmp_path / "adapted.pt2"))
    torch.testing.assert_close(package(**inputs)["y"], adapted.prediction)


def test_an_export_needs_no_it3(tmp_path: Path) -> None:
    case = make_case("cnn", torch.float32)
    IT3Engine(case.model, case.layer).eval().adapt(case.inputs).save(tmp_path / "adapted.pt", case.inputs)
    program = "import sys, torch; torch.jit.load(sys.argv[1])(torch.zeros(2, 1, 8, 8)); assert 'it3' not in sys.modules"
    subprocess.run([sys.executable, "-W", "ignore", "-c", program, tmp_path / "adapted.pt"], check=True)


class Branching(nn.Module):
    """Takes another branch for other inputs, which a tracer cannot see and torch.export refuses."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) if bool(x.sum() > 0) else -self.layer(x)


def test_what_cannot_be_exported(tmp_path: Path) -> None:
    x = torch.ones(4, 3)
    adapted = IT3Engine(Branching(), "layer").eval().adapt(x)
    with pytest.raises(ValueError, match=r"the model cannot be exported by torch\.export"):
        adapted.save(tmp_path / "adapted.pt2", x, "export")
    with pytest.raises(ValueError, match="method must be 'script', 'trace', 'export' or 'aoti', not 'onnx'"):
        adapted.save(tmp_path / "adapted.onnx", x, "onnx")
    with pytest.raises(ValueError, match="the model cannot be exported"):
        adapted.save(tmp_path / "adapted.pt2", x, "aoti")
    with pytest.raises(RuntimeError, match="no_such_folder"):
        adapted.save(tmp_path / "no_such_folder" / "adapted.pt", -x, "script")
    assert list(tmp_path.iterdir()) == []
