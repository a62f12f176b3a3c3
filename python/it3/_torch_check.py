"""Raises a readable ImportError where another torch would end in undefined symbols."""

import torch

from it3._build import torch_version as _built_for


def _release(version: str) -> list[str]:
    return version.split(".")[:2]


if _release(torch.__version__) != _release(_built_for):
    raise ImportError(
        f"this build of it3 is for torch {'.'.join(_release(_built_for))}, but torch {torch.__version__} is installed; "
        f"install torch=={_built_for}, or build it3 again with `pip install --no-build-isolation .`"
    )
