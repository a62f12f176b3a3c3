"""A build of it3 beside a torch that it was not made for says so, before the loader fails."""

import runpy

import it3
import pytest
import torch

CHECK = it3._torch_check.__file__


def test_the_torch_that_it_was_built_for() -> None:
    runpy.run_path(CHECK)


def test_another_release(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "__version__", "1.13.1+cpu")
    with pytest.raises(ImportError, match=r"is for torch 2\.\d+, but torch 1\.13\.1\+cpu is installed; install t"):
        runpy.run_path(CHECK)


def test_another_patch_of_the_release(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "__version__", ".".join([*it3._build.torch_version.split(".")[:2], "99+cu999"]))
    runpy.run_path(CHECK)


def test_a_torch_without_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(it3._build, "uses_cuda", True)
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(ImportError, match=r"is for a torch with CUDA, but torch .* install one, or a build of it3"):
        runpy.run_path(CHECK)
