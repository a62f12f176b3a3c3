"""Idempotent Test-Time Training (IT3) on LibTorch.

A trained network predicts ``y0 = f(x)``; an embedder feeds ``y0`` back into one named layer, which gives
``y1 = f(x | y0)``; at test time a few optimiser steps shrink the distance between the two on the inputs at hand, and
the adapted network's prediction is returned (Durasov, Shocher, Oner, Chechik, Efros, Fua: IT3, ICML 2025, arXiv
2410.04201).
"""

from it3 import _torch_check as _torch_check  # isort: skip  (before the first import of it3._C)
from it3._C import Layout, __version__
from it3.adaptation import Adaptation
from it3.embedder import Embedder
from it3.engine import IT3Engine
from it3.paths import cmake_prefix_path
from it3.saving import load, save

__all__ = ["Adaptation", "Embedder", "IT3Engine", "Layout", "__version__", "cmake_prefix_path", "load", "save"]
