"""The zoo's small models, and drawn cases, against the reference; `make differential` draws more."""

import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from differential import run, zoo, zoo_torch

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
    arguments = {"--cases": 600, "--seconds": 90, "--seed": 20, "--jobs": 2, "--out": tmp_path}
    assert run.main([str(part) for pair in arguments.items() for part in pair]) == 0
