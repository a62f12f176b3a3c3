"""Idempotent Test-Time Training (IT3) on LibTorch.

A trained network predicts ``y0 = f(x)``; an embedder feeds ``y0`` back into one named layer, which gives
``y1 = f(x | y0)``; at test time a few optimizer steps shrink the distance between the two on the inputs at hand, and
the adapted network's prediction is returned (Durasov, Shocher, Oner, Chechik, Efros, Fua: IT3, ICML 2025, arXiv
2410.04201).
"""

from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

from it3 import _torch_check as _torch_check  # isort: skip  (before the first import of it3._C)
from it3 import loggers, recipes
from it3._build import version as __version__
from it3._C import DrawnLabels, Explanation, Layout, RandomOneHot, TrainingRecipe
from it3.adaptation import Adaptation
from it3.embedder import Embedder
from it3.engine import IT3Engine
from it3.evaluation.evaluate import evaluate
from it3.evaluation.evaluation import Evaluation
from it3.evaluation.repairs import clip_to, impute, median_filter
from it3.evaluation.streams import Stream, stream
from it3.input_layer import WithInputLayer
from it3.layer_choice.advice import Suggestion, suggest_layer
from it3.layer_choice.table import Layers, layers
from it3.options import Options
from it3.paths import cmake_prefix_path
from it3.saving.load import load
from it3.saving.save import save
from it3.training.callbacks import Callback, TrainingStep
from it3.training.history import History

if TYPE_CHECKING:
    from it3 import plots
    from it3.compiling.compile import compile  # noqa: A004  (as torch.compile)
    from it3.searching.search import Search, search
    from it3.searching.tune import Tuning, tune

__all__ = [
    "Adaptation",
    "Callback",
    "DrawnLabels",
    "Embedder",
    "Evaluation",
    "Explanation",
    "History",
    "IT3Engine",
    "Layers",
    "Layout",
    "Options",
    "RandomOneHot",
    "Search",
    "Stream",
    "Suggestion",
    "TrainingRecipe",
    "TrainingStep",
    "Tuning",
    "WithInputLayer",
    "__version__",
    "clip_to",
    "cmake_prefix_path",
    "compile",
    "evaluate",
    "impute",
    "layers",
    "load",
    "loggers",
    "median_filter",
    "plots",
    "recipes",
    "save",
    "search",
    "stream",
    "suggest_layer",
    "tune",
]


# Optuna is needed by those alone who search, and matplotlib by those who draw.
_SEARCHING = {"Search": "search", "search": "search", "Tuning": "tune", "tune": "tune"}


def __getattr__(name: str) -> Any:
    if name == "compile":  # with parts of torch that take long to import
        from it3.compiling.compile import compile as compile_engine  # noqa: PLC0415

        return compile_engine
    if name in _SEARCHING:
        return getattr(_imported(f"searching.{_SEARCHING[name]}", name, "Optuna"), name)
    if name == "plots":
        return _imported("plots", "plots", "matplotlib")
    raise AttributeError(f"module 'it3' has no attribute {name!r}")


def _imported(module: str, name: str, package: str) -> ModuleType:
    try:
        return import_module(f"it3.{module}")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"it3.{name} needs {package}: pip install {package.lower()}") from error
