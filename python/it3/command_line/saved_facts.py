"""What a saved engine is."""

from pathlib import Path
from typing import Any

from torch import Tensor

import it3
from it3 import _C
from it3.command_line.noted_inputs import noted_inputs, zeros_like_noted
from it3.embedder import Embedder
from it3.saving.load import engine_of
from it3.saving.saved_file import SavedEngine, read_engine
from it3.support.checks import eager, like_of


def facts_of(path: Path) -> dict[str, Any]:
    """Return what an engine's file holds, as one document.

    Raises
    ------
    RuntimeError
        If there is no such file, or it holds no engine.
    """
    saved = read_engine(path)
    engine = engine_of(saved)
    notes, options = saved.notes, engine.optimization_parameters
    weights = sum(weight.numel() for weight in eager(engine.model).parameters())
    facts = {
        "file": str(path),
        "bytes": path.stat().st_size,
        "model": notes["model"],
        "weights": weights,
        "layer": engine.features_layer_name,
        "inputs": notes["inputs"],
        "prediction": notes["prediction"],
        "features": notes["features"],
        "embedder": _embedder(engine.embedder),
        "combine": "addition" if engine.combine_fn is None else "a function of its own",
        "distance": saved.arguments["distance_fn"] if isinstance(saved.arguments["distance_fn"], str) else _OWN,
        "neutral": _neutral(engine.neutral),
        "feedback": engine.feedback,
    }
    facts |= _told_by_a_run(engine)
    return facts | {
        "is_trained": saved.is_trained,
        "calibrated_range": _range(saved.calibrated_range),
        "threshold": options.get("threshold"),
        "options": _C.options_of(options),
        "compiled": _compiled(saved, engine),
    }


_OWN = "a function of its own"


def _told_by_a_run(engine: it3.IT3Engine) -> dict[str, Any]:
    """Return what is fed back, and how calls run; None where no inputs of the noted shapes tell it."""
    noted = noted_inputs(engine.notes)
    if noted is None:
        return {"fed_back": None, "runs": None}
    inputs = zeros_like_noted(noted, like_of(engine.model).device)
    try:
        explanation = engine.explain(inputs)
    except (ValueError, RuntimeError, IndexError):  # the network may not take zeros
        return {"fed_back": None, "runs": None}
    return {"fed_back": explanation.fed_back, "runs": explanation.runs}


def _embedder(embedder: Any) -> str:
    if type(embedder) is not Embedder:
        return _OWN
    weights = sum(weight.numel() for weight in embedder.parameters())
    return f"a perceptron of two layers with {weights:,} weights" if weights else "none: y0 goes into further channels"


def _neutral(neutral: Any) -> str | None:
    if neutral is None:
        return None
    if isinstance(neutral, it3.DrawnLabels):
        return f"one of {len(neutral.labels)} labels for each sample"
    if isinstance(neutral, it3.RandomOneHot):
        return "one of the classes for each sample"
    if isinstance(neutral, Tensor):
        return f"{list(neutral.shape)}, {neutral.min():g} to {neutral.max():g}"
    return f"{neutral:g}" if isinstance(neutral, int | float) else "a function"


def _range(calibrated: tuple[str, float, int] | None) -> dict[str, Any] | None:
    """Return what predictions are compared with after adapting; see IT3Engine.calibrate()."""
    if calibrated is None:
        return None
    kind, limit, samples = calibrated
    of = "greatest_mean_norm" if kind == "numbers" else "least_mean_entropy"
    return {"predictions": kind, of: limit, "samples_of_a_batch": samples}


def _compiled(saved: SavedEngine, engine: it3.IT3Engine) -> dict[str, Any] | None:
    if saved.programs is None:
        return None
    why_not = saved.programs.why_not(like_of(engine.model).device)
    return {"device": saved.programs.device_type, "why_not_here": why_not}
