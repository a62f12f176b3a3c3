"""Engines in one file equal those that were saved, in Python and in a C++ program outside of it3."""

import subprocess
from functools import partial
from pathlib import Path

import it3
import pytest
import torch
from it3 import IT3Engine
from models import KINDS, Case, make_case
from torch import Tensor, nn

exactly = partial(torch.testing.assert_close, rtol=0, atol=0)
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")

OPTIONS = {"optimizer_name": "sgd", "lr": 0.1, "momentum": 0.5, "num_steps": 2, "max_grad_norm": 5.0}


def make_engine(kind: str, device: str = "cpu", **options: object) -> tuple[IT3Engine, Case]:
    case = make_case(kind, torch.float32, device)
    engine = IT3Engine(case.model, case.layer, distance_fn="l1", optimization_parameters={**OPTIONS, **options}).eval()
    engine.uncertainty(case.inputs)
    return engine, case


@pytest.mark.parametrize("method", ["script", "trace"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_loaded_engine_equals_the_saved_one(kind: str, method: str, device: str, tmp_path: Path) -> None:
    engine, case = make_engine(kind, device)
    engine.save(tmp_path / "engine.pt", case.inputs, method)
    loaded = it3.load(tmp_path / "engine.pt")
    torch.testing.assert_close(loaded(case.inputs), engine(case.inputs))
    assert loaded.features_layer_name == engine.features_layer_name
    assert loaded.distance_fn == "l1"
    assert loaded.optimization_parameters.items() >= engine.optimization_parameters.items()
    exactly(loaded.embeder.state_dict(), engine.embeder.state_dict())
    # Saved again from TorchScript, to the bit.
    loaded.save(tmp_path / "again.pt", case.inputs)
    again = it3.load(tmp_path / "again.pt")
    exactly(again(case.inputs), loaded(case.inputs))
    exactly(again.uncertainty(case.inputs), loaded.uncertainty(case.inputs))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again.pt", "engine.pt"]


def test_the_file_is_the_plain_network_too(tmp_path: Path) -> None:
    engine, case = make_engine("cnn")
    engine.save(tmp_path / "engine.pt", case.inputs)
    exactly(torch.jit.load(tmp_path / "engine.pt")(case.inputs), case.model(case.inputs))


def test_the_users_engine_stays_as_it_was(tmp_path: Path) -> None:
    engine, case = make_engine("cnn", copy_model=False)
    before = {name: value.clone() for name, value in engine.state_dict().items()}
    engine.train()
    engine.save(tmp_path / "engine.pt", case.inputs)
    exactly(dict(engine.state_dict()), before)
    assert all(module.training for module in engine.modules())


class Undecided(nn.Module):
    """Does what a tracer cannot see."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x)
        return y * torch.rand(()) if bool(torch.rand(()) > 2) else y * torch.rand(1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda e: setattr(e, "embeder", nn.Linear(3, 8)), "only an engine with the default embedder"),
        (lambda e: setattr(e, "distance_fn", lambda a, b: (a - b).mean()), "functions of your own cannot be saved"),
        (lambda e: setattr(e, "combine_fn", lambda f, e: f), "functions of your own cannot be saved"),
        (lambda e: setattr(e, "model", Undecided()) or setattr(e, "features_layer_name", "layer"), "other predictions"),
    ],
)
def test_what_cannot_be_saved(change, message: str, tmp_path: Path) -> None:
    engine, case = make_engine("mlp")
    change(engine)
    if message == "other predictions":
        engine.embeder = it3.Embedder()
    with pytest.raises(ValueError, match=message):
        engine.save(tmp_path / "engine.pt", case.inputs)
    with pytest.raises(ValueError, match="method must be 'script' or 'trace', not 'onnx'"):
        make_engine("mlp")[0].save(tmp_path / "engine.pt", case.inputs, "onnx")
    assert list(tmp_path.iterdir()) == []


def test_files_that_are_no_engines(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="there is no file"):
        it3.load(tmp_path / "missing.pt")
    torch.jit.script(nn.Linear(2, 2)).save(tmp_path / "plain.pt")
    with pytest.raises(RuntimeError, match=r"plain\.pt is a TorchScript module, but holds no engine"):
        it3.load(tmp_path / "plain.pt")
    torch.save({"a": torch.ones(3)}, tmp_path / "tensors.pt")
    with pytest.raises(RuntimeError, match=r"tensors\.pt is not a TorchScript archive"):
        it3.load(tmp_path / "tensors.pt")


@pytest.fixture(scope="session")
def consumer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A C++ program built against the installed package."""
    build = tmp_path_factory.mktemp("consumer")
    source = Path(__file__).parents[1] / "consumer"
    configure = ["cmake", "-S", source, "-B", build, f"-DCMAKE_PREFIX_PATH={it3.cmake_prefix_path}"]
    for command in (configure, ["cmake", "--build", build]):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    return build / "consumer"


@pytest.mark.parametrize("kind", KINDS)
def test_a_cpp_program_adapts_the_same(kind: str, consumer: Path, tmp_path: Path) -> None:
    engine, case = make_engine(kind)
    engine.save(tmp_path / "engine.pt", case.inputs)
    torch.save(case.inputs, tmp_path / "inputs.pt")
    files = [tmp_path / name for name in ("engine.pt", "inputs.pt", "prediction.pt")]
    done = subprocess.run([consumer, *files], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    torch.testing.assert_close(torch.load(files[2]), it3.load(files[0])(case.inputs)[0])
    assert "after 2 steps" in done.stdout
