"""The zoo's small models, and drawn cases, against the reference; `make differential` draws more."""

import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from differential import run, uses, zoo, zoo_torch
from differential.case import Case
from differential.layers import HEADER
from differential.rig import Difference, Rig

ANIMALS = {animal.name: animal for animal in zoo_torch.of_torch()}


@pytest.fixture(autouse=True)
def _quietly() -> Iterator[None]:
    """One thread, as the networks are tiny."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("name", ANIMALS)
def test_the_zoo_agrees_with_the_reference(name: str) -> None:
    zoo.compare(ANIMALS[name])


def test_drawn_cases_agree_with_the_reference(tmp_path: Path) -> None:
    arguments = {"--cases": 100, "--seconds": 45, "--seed": 20, "--jobs": 2, "--out": tmp_path}
    assert run.main([str(part) for pair in arguments.items() for part in pair]) == 0


AMPLIFYING = """
class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.l0 = nn.Conv2d(2, 5, 3, padding=1)
        self.l1 = nn.Conv2d(5, 2, 1)

    def forward(self, x: Tensor):
        return self.l1(torch.tanh(self.l0(x)))
"""


def test_a_fault_is_not_taken_for_rounding_that_steps_amplify(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = (("copy_model", False), ("eps", 0.01), ("lr", 0.1), ("num_steps", 3), ("optimizer_name", "rmsprop"))
    case = Case(
        source=HEADER + AMPLIFYING,
        layer="l0",
        inputs=(("x", "float", ("B", 2, 5, 4)),),
        features=(1, 0),
        prediction=(1, 0),
        batches=((2, 0, 2.0), (4, 1, 2.0), (4, 2, 2.0)),
        options=steps,
        distance="cosine",
        use="online",
    )
    assert uses.check(case) in ("agreed", "rounding decides")  # 3e-8 off on some machines
    shape_embedder = uses.shape_embedder

    def shape_otherwise(rig: Rig) -> None:
        shape_embedder(rig)
        rig.method.embed.weights = [w * (1 + 1e-4) for w in rig.method.embed.weights]

    monkeypatch.setattr(uses, "shape_embedder", shape_otherwise)
    with pytest.raises(Difference, match="off by"):
        uses.check(case)
