"""Shows that the tester finds a fault by its kind: `python -m differential.rows` beside an it3 that has it.

Of each kind, cases are drawn that have its ingredients and none of the others', until one differs from the reference.
With an it3 from before a repair, or with the repair taken out, its row says after how many cases and how.
"""

import argparse
import contextlib
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from hypothesis import HealthCheck, Phase, given, seed, settings

from differential.case import Case
from differential.cases import cases
from differential.layers import HEADER
from differential.rig import Difference
from differential.uses import check

# What a case has beside a plain network, by its source; and its fields when they are plain.
INGREDIENTS: dict[str, Callable[[Case], bool]] = {
    "max_norm": lambda c: "max_norm" in c.source,
    "written": lambda c: "x.mul_(" in c.source,
    "limited": lambda c: ".clamp(" in c.source,
    "padded": lambda c: "padding_mask" in c.source,
    "memory": lambda c: ".detach().t()" in c.source,
    "python": lambda c: c.temperature != "",
    "second": lambda c: 1 in (c.prediction[1], c.features[1]),
    "outputs": lambda c: c.output != (),
    "layer outputs": lambda c: c.layer_output not in ((), (0,), ("a",)),
    "no effect": lambda c: c.layer_output == (0,) and "hc[0][-1]" in c.source,
    "several inputs": lambda c: len(c.inputs) > 1,
    "squeezed": lambda c: "y.squeeze(" in c.source or ", 1)\n" in c.source.split("y = ")[0].splitlines()[-1],
}
PLAIN: dict[str, Any] = {
    "batches": ((3, 0, 2.0),),
    "mode": "eval",
    "form": "plain",
    "born": "outside",
    "not_finite": None,
    "is_called": False,
    "change": "",
    "longer": (),
    "threshold": None,
    "distance": "mse",
    "feedback": "prediction",
    "gives_layouts": True,
    "gives_in_dims": True,
    "gives_output": True,
    "embedder": "given",
    "combine": "add",
    "neutral": None,
    "frozen": (),
    "network": "eager",
    "use": "adapt",
    "dtype": "float64",
}


class Enough(BaseException):
    """Ends the drawing."""


@dataclass(frozen=True)
class Row:
    """A kind of fault: fields that are set, and ingredients, of which one, if any, must be there."""

    fields: dict[str, Any] = field(default_factory=dict)
    has: tuple[str, ...] = ()
    where: Callable[[Case], bool] = lambda _: True
    options: dict[str, Any] = field(default_factory=dict)
    case: Case | None = None

    def of(self, case: Case) -> Case | None:
        """The drawn case with this row's ingredients alone, or nothing if it has others."""
        options = {**dict(case.options), **self.options}
        options.pop("per_sample", None)
        options.pop("chunk_size", None)
        if self.fields.get("use") not in ("online", "pair"):
            options.pop("copy_model", None)
            options.pop("recovery_factor", None)
        else:
            options.pop("restore_probability", None)  # whose draws are no fault
        if self.fields.get("use") == "per_sample":
            options["per_sample"] = True
        plain = {**PLAIN, **self.fields}
        case = replace(case, **plain, options=tuple(sorted(options.items())))
        present = {name for name, test in INGREDIENTS.items() if test(case)}
        is_it = (not self.has or present & set(self.has)) and present <= set(self.has)
        return case if is_it and self.where(case) else None


def _has(*texts: str) -> Callable[[Case], bool]:
    return lambda c: any(text in c.source for text in texts)


def _is_sequence(case: Case) -> bool:
    """Whether predictions have classes last and places between."""
    return case.prediction == (-1, 0) and "mean(1)" not in case.source and case.inputs[0][2][:2] == ("B", 3)


NO_EFFECT = Case(
    source=HEADER
    + """
class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.l0 = nn.LSTM(4, 5, batch_first=True)
        self.l1 = nn.Linear(5, 2)

    def forward(self, x: Tensor):
        out, (h, c) = self.l0(x)
        return self.l1(h[-1])
""",
    layer="l0",
    inputs=(("x", "float", ("B", 3, 4)),),
    features=(-1, 0),
    prediction=(-1, 0),
    layer_output=(0,),
    gives_layer_output=False,
)
KEPT = {"copy_model": False, "num_steps": 1, "lr": 0.1}
ROWS: dict[str, Row] = {
    "looking must not change": Row({"use": "look"}),
    "two tensors over one memory": Row({"network": "script"}, ("memory",)),
    "samples that do not adapt": Row(
        {"not_finite": 0, "threshold": 0.0, "batches": ((3, 0, 2.0),)},
        options={"num_steps": 1, "norm_statistics": "running"},
        where=lambda c: c.inputs[0][1] == "float" and not _has("l0.copy_", ".sum() > 0", "copy_(x")(c),
    ),
    "class dimension": Row({"distance": "kl"}, where=_is_sequence, options={"num_steps": 1}),
    "modes": Row({"mode": "train"}, where=_has("Dropout", "TransformerEncoderLayer", "BatchNorm")),
    "an injection without effect": Row(case=NO_EFFECT),
    "what a trace read from Python": Row({"batches": ((2, 0, 2.0), (2, 1, 0.5))}, ("python",)),
    "forward that writes weights": Row(has=("max_norm",)),
    "forward that keeps weights to a limit": Row(
        {"is_called": True}, ("max_norm", "limited"), options={"num_steps": 3, "lr": 0.1}
    ),
    "two paths through attention": Row(has=("padded",), options={"num_steps": 1}),
    "inputs written in place": Row(has=("written",), options={"num_steps": 2, "lr": 0.1}),
    "threads": Row({"use": "threads", "network": "hooked", "batches": ((2, 0, 2.0), (2, 1, 2.0), (2, 2, 2.0))}),
    "channels": Row({"gives_layouts": False, "embedder": "made"}, where=lambda c: "permute" in c.source),
    "what is fed back": Row({"feedback": "probabilities"}, options={"num_steps": 1}),
    "where the batch is": Row({"use": "per_sample"}, ("second",)),
    "what samples share": Row({"use": "per_sample", "batches": ((3, 0, 2.0),)}, ("several inputs",)),
    "which output is the prediction": Row(has=("outputs",)),
    "which of the layer's outputs": Row(has=("layer outputs",)),
    "several engines online on one model": Row({"use": "pair"}, options=KEPT),
    "an empty batch in a stream": Row(
        {"use": "online", "batches": ((2, 0, 2.0), (0, 1, 2.0), (3, 2, 2.0))}, options={**KEPT, "recovery_factor": 1.05}
    ),
    "embedders of the user's": Row({"embedder": "subclass", "network": "saved"}),
    "shapes of functions": Row({"combine": "cut", "batches": ((3, 0, 2.0),)}),
    "recovery that fails": Row(
        {"use": "online", "not_finite": 0, "batches": ((2, 0, 2.0), (2, 1, 2.0))},
        options={**KEPT, "recovery_factor": 3.0, "norm_statistics": "running"},
        where=lambda c: c.inputs[0][1] == "float",
    ),
    "weights made in inference mode": Row({"born": "inference"}, options={"num_steps": 0}),
}


def difference(case: Case) -> str:
    """How it3 differs, if it does."""
    try:
        check(case)
    except Difference as error:
        return str(error)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def search(name: str, most: int) -> tuple[int, str]:
    """How many cases were tried, and how the last one differs."""
    tried, found = 0, ""
    if ROWS[name].case is not None:  # too rare to be drawn alone
        return 1, difference(ROWS[name].case)

    @seed(sum(map(ord, name)))
    @settings(
        max_examples=60 * most,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(cases(is_script=ROWS[name].fields.get("network") in ("script", "saved")))
    def draw(case: Case) -> None:
        nonlocal tried, found
        if found or tried >= most:
            raise Enough
        chosen = ROWS[name].of(case)
        if chosen is None:
            return
        tried += 1
        found = difference(chosen)

    with contextlib.suppress(Enough):
        draw()
    return tried, found


def main() -> int:
    """Print a row for each kind; 1 if one has a difference."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", nargs="*", help="some kinds; default: all")
    parser.add_argument("--cases", type=int, default=30)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    differing = 0
    for name in arguments.rows or ROWS:
        tried, found = search(name, arguments.cases)
        differing += bool(found)
        print(f"{name:38} {tried:3} cases: {found.splitlines()[0][:160] if found else 'no difference'}", flush=True)
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
