"""Raises a readable ImportError where another torch would end in undefined symbols or missing libraries."""

import torch

from it3 import _build


def _release(version: str) -> list[str]:
    return version.split(".")[:2]


def _refuse(built_for: str, install: str) -> None:
    raise ImportError(
        f"this build of it3 is for {built_for}, but torch {torch.__version__} is installed; "
        f"{install}, or build it3 again with `pip install --no-build-isolation .`"
    )


if _release(torch.__version__) != _release(_build.torch_version):
    _refuse(f"torch {'.'.join(_release(_build.torch_version))}", f"install torch=={_build.torch_version}")
if _build.uses_cuda and torch.version.cuda is None:
    _refuse("a torch with CUDA", "install one, or a build of it3 for CPUs")
