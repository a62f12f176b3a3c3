"""A slice of `make differential`, always the same, and the zoo's small models."""

import warnings
from collections.abc import Iterator

import pytest
import torch
from differential import run, zoo, zoo_torch

ANIMALS = {animal.name: animal for animal in zoo_torch.of_torch()}


@pytest.fixture(autouse=True)
def _quietly() -> Iterator[None]:
    """One thread, as the networks are tiny, and none of the warnings that drawn cases are bound to give."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    torch.set_num_threads(threads)


def test_drawn_cases_agree_with_the_reference(tmp_path, capsys) -> None:
    with capsys.disabled():
        failed = run.main(
            ["--cases", "1200", "--seconds", "150", "--seed", "20", "--jobs", "2", "--out", str(tmp_path)]
        )
    assert failed == 0


@pytest.mark.parametrize("name", ANIMALS)
def test_the_zoo_agrees_with_the_reference(name: str) -> None:
    zoo.compare(ANIMALS[name])
