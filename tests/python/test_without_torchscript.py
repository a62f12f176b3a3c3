"""Nothing but TorchScript's own ways calls torch.jit.script, trace or freeze, which torch has deprecated.

With --without-torchscript all tests see to that.
"""

from pathlib import Path
from typing import Any

import it3
import pytest
import torch
from forbidden_torchscript import forbid_torchscript
from it3 import IT3Engine
from models import KINDS, make_case


@pytest.fixture(autouse=True)
def _no_torchscript(monkeypatch: pytest.MonkeyPatch) -> None:
    forbid_torchscript(monkeypatch)


OPTIONS: list[dict[str, Any]] = [{}, {"per_sample": True}, {"anchor": "frozen"}]
CASES = [(kind, options) for kind in KINDS for options in OPTIONS] + [("cnn", {"norm_statistics": "batch"})]


@pytest.mark.parametrize(("kind", "options"), CASES)
def test_eager_models_are_cut(kind: str, options: dict[str, Any]) -> None:
    case = make_case(kind)
    engine = IT3Engine(case.model.eval(), case.layer, optimization_parameters=options).eval()
    engine.is_trained = True
    assert engine.adapt(case.inputs).steps == 3
    assert engine.explain(case.inputs).runs.startswith("cut at the layer, exported by torch.export")


def test_training_evaluating_and_keeping(tmp_path: Path) -> None:
    case = make_case("cnn")
    engine = IT3Engine(case.model, case.layer, optimization_parameters={"lr": 1e-3})
    optimizer = torch.optim.Adam(engine.parameters())
    prediction, loss = engine(case.inputs, torch.zeros_like(case.model(case.inputs)))
    (prediction.square().mean() + loss).backward()
    optimizer.step()
    engine.eval()
    engine.calibrate([(case.inputs, None)])
    adaptation = engine.adapt(case.inputs, online=True, threshold=None)
    engine.reset()
    adaptation.save(tmp_path / "adapted.pt2", case.inputs, method="export")
    torch.save(engine.state_dict(), tmp_path / "state.pt")
    other = IT3Engine(make_case("cnn").model, case.layer).eval()
    other.load_state_dict(torch.load(tmp_path / "state.pt"))
    close = torch.testing.assert_close
    close(other.adapt(case.inputs, lr=1e-3).prediction, engine.adapt(case.inputs, threshold=None).prediction)
    it3.evaluate(engine, [(case.inputs, case.target)], metric="mse")
