"""What it3 has to refuse, and by which words: every reason that is true of a case."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from differential.naive import Refusal, call, copied, reaches, to_double
from differential.naive_adapt import finite, normalize_by, selects
from differential.rig import Rig, attempt

TO_CLASSES = ("kl", "js", "cross_entropy", "cosine")


def expected_of(rig: Rig, function: Callable[[], Any], adapts: bool = True) -> Any:
    """What is right: what the reference gives, or why there can be no result."""
    reasons = reasons_of(rig, adapts)
    value = Refusal("|".join(reasons)) if reasons else attempt(function)
    if isinstance(value, Refusal):  # whatever else is true of the case may be found first
        return Refusal("|".join([str(value), *_other_reasons(rig)]))
    return value


def reasons_of(rig: Rig, adapts: bool) -> list[str]:
    """Why there can be no result, whatever the inputs are. `adapts`: steps are to be taken."""
    case, reasons = rig.case, []
    if case.output and not case.gives_output and _prediction_is_open(rig):
        reasons.append("output")
    if case.use == "per_sample" and could_mislead(rig):
        reasons.append("in_dims")
    if case.combine == "cut":
        reasons.append("combine_fn")
    if case.born == "inference":
        if adapts and rig.options["num_steps"] > 0:
            reasons.append("inference mode")
    elif not _reaches(rig):  # autograd tells; it cannot of weights made in inference mode
        reasons.append("reach|does not depend on|no gradient flows")
    return reasons


def _other_reasons(rig: Rig) -> list[str]:
    """Why it may be refused too, where one of those reasons holds, or the reference refuses."""
    options, reasons = rig.options, []
    selected = attempt(lambda: selects(rig.naive, options.get("parameters", "all")))
    if isinstance(selected, Refusal):
        reasons.append(str(selected))
    statistics = options.get("norm_statistics", "running")
    if statistics != "running" and isinstance(attempt(lambda: normalize_by(copied(rig.naive), statistics, 1)), Refusal):
        reasons.append("no batch normalization")
    if rig.has_one_class and (rig.case.distance in TO_CLASSES or rig.method.feeds_probabilities):
        reasons.append("one (class|channel)")
    if rig.leaves_layouts_open:
        reasons.append("layout")
    return reasons


def could_mislead(rig: Rig) -> bool:
    """Whether several tensors have as many rows as there are samples, and nothing says what they are."""
    size = rig.case.batches[0][0]
    shapes = [shape for _, kind, shape in rig.case.inputs if kind != "number"]
    return not rig.case.gives_in_dims and sum(shape[0] in ("B", size) for shape in shapes) > 1


def _prediction_is_open(rig: Rig) -> bool:
    """Whether the model's output has several tensors."""
    with torch.no_grad():
        return _count(call(copied(rig.naive), to_double(rig.inputs(0)))) > 1


def _count(value: Any) -> int:
    if isinstance(value, Tensor):
        return 1
    items = value.values() if isinstance(value, dict) else value if isinstance(value, tuple | list) else ()
    return sum(map(_count, items))


def _reaches(rig: Rig) -> bool:
    """Whether the prediction depends on what is injected, whatever that is."""
    method = replace(rig.method, combine=torch.add, feeds_probabilities=False)
    return attempt(lambda: reaches(method, rig.naive, finite(rig.inputs(0)))) is not False
