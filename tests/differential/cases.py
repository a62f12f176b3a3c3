"""Draws whole cases: a network, inputs, options and a use that go together."""

from typing import Any

from hypothesis import strategies as st

from differential.architectures import SHAPES, Architecture, architectures
from differential.case import Case
from differential.changes import drawable
from differential.options import options

USES = ["adapt", "adapt", "adapt", "online", "per_sample", "threads", "train", "look", "pair"]
NETWORKS = ["eager", "eager", "eager", "eager", "hooked", "script", "saved"]
PLACES = {"sequence": (1,), "second": (0,), "signal": (2,), "image": (2, 3), "tokens": (1,)}
TO_CLASSES = ["kl", "js", "cross_entropy"]


def _not_finite(draw: Any, a: Architecture, drawn: dict[str, Any], use: str) -> int | None:
    """Samples that are not finite are for networks that do not mix samples, and that do not write."""
    is_apart = "coupled" not in a.facts and drawn.get("norm_statistics", "running") == "running"
    is_float = a.inputs[0][1] == "float"
    if use in ("train", "threads") or not is_apart or not is_float:
        return None
    return draw(st.integers(0, 1)) if draw(st.integers(0, 9)) == 9 else None


@st.composite
def cases(draw: Any, is_script: bool = False, *, is_compiled: bool = False) -> Case:
    """Draw one case; `is_script`: of a network that TorchScript compiles; `is_compiled`: of a compiled engine."""
    use = draw(st.sampled_from([use for use in USES if use != "train" or not is_compiled]))
    network = draw(st.sampled_from(["compiled"] if is_compiled else NETWORKS)) if use != "train" else "eager"
    is_script = is_script or network in ("script", "saved")
    a = draw(architectures(is_script, is_plain=use in ("train",)))
    dtype = draw(st.sampled_from(["float64"] * 9 + ["float32"]))
    drawn = draw(options(use, dtype == "float64"))
    if (
        drawn.get("norm_statistics", "running") != "running"
        and draw(st.integers(0, 9)) < 9
        and "batch_norm" not in a.facts
    ):
        del drawn["norm_statistics"]
        drawn.pop("norm_prior", None)
    count = {"adapt": draw(st.integers(1, 2)), "online": draw(st.integers(1, 3)), "threads": 3}.get(use, 1)
    sizes = ([3, 2, 4] if use == "train" else [3, 2, 1, 4]) + [0] * (use == "online" and "threads" not in a.facts)
    batches = tuple(
        (
            draw(st.sampled_from(sizes)) if i else draw(st.sampled_from(sizes[:4])),
            i,
            draw(st.sampled_from([2.0, 0.5])) if a.temperature else 2.0,
        )
        for i in range(count)
    )
    if use == "threads" and a.temperature:
        batches = tuple((size, seed, 2.0) for size, seed, _ in batches)
    has_several = len(a.inputs) > 1
    not_finite = _not_finite(draw, a, drawn, use)
    threshold = None
    often = 3 if not_finite is not None else 8
    if use != "train" and draw(st.integers(0, 9)) >= often and dtype == "float64":  # or rounding would decide
        threshold = draw(st.sampled_from([0.5, 0.0, 1.0]))
    is_long = draw(st.integers(0, 9))
    distances = ["mse", "l1", "smooth", "cosine", *TO_CLASSES]
    feedbacks = ["auto", "auto", "prediction", "probabilities"]
    if "squeezed" in a.facts or ("one_class" in a.facts and draw(st.integers(0, 9)) < 9):  # there are no classes
        distances, feedbacks = distances[:3], feedbacks[:3]
    embedder = draw(
        st.sampled_from(["given", "given", "given", "made", "made", "own" if not is_script else "given", "subclass"])
    )
    longer = next((dims for kind, dims in PLACES.items() if SHAPES[kind] == a.inputs[0][2]), ())
    can_be_inference = use == "adapt" and not is_script and "limited" not in a.facts  # or torch cannot run it
    born = "inference" if can_be_inference and draw(st.integers(0, 39)) == 39 else "outside"
    # Tensors made in inference mode cannot be written to.
    changes = drawable(network, embedder) if use == "adapt" and count > 1 and born == "outside" else []
    return Case(
        source=a.source,
        layer=a.place.name,
        inputs=a.inputs,
        features=a.place.layout,
        prediction=a.prediction,
        call=draw(st.sampled_from(["tuple", "dict", "list"]))
        if has_several
        else draw(st.sampled_from(["tensor", "tensor", "dict", "tuple"])),
        batches=batches,
        gives_layouts=is_long < 7 or a.prediction[1] == 1 or a.place.layout[1] == 1,
        output=a.output,
        gives_output=a.gives_output and draw(st.integers(0, 9)) < 9,
        gives_in_dims=use != "per_sample" or a.input_batch == 1 or draw(st.booleans()),
        layer_output=a.place.path,
        gives_layer_output=a.place.gives_path,
        options=tuple(sorted(drawn.items())),
        threshold=threshold,
        distance=draw(st.sampled_from(distances)),
        feedback=draw(st.sampled_from(feedbacks)),
        neutral=-1.5 if draw(st.integers(0, 9)) == 9 else None,
        embedder=embedder,
        combine="add" if is_script else draw(st.sampled_from(["add"] * 12 + ["scale", "scale", "in_place", "cut"])),
        use=use,
        network=network,
        mode=draw(st.sampled_from(["eval", "eval", "train", "mixed"])) if use != "train" else "train",
        born=born,
        form=draw(
            st.sampled_from(
                ["plain", "plain", "plain", "graph", "strided", "inference"][
                    : 5 if use == "train" or "writes_input" in a.facts else 6
                ]
            )
        ),
        dtype=dtype,
        is_called=born == "outside" and draw(st.integers(0, 2)) == 2,
        change=draw(st.sampled_from(changes)) if changes and draw(st.integers(0, 2)) == 2 else "",
        longer=longer if count > 1 and draw(st.integers(0, 4)) == 4 else (),
        not_finite=not_finite,
        frozen=draw(st.sampled_from([(), (), (), ("bias",), ("l0.",)])),
        temperature=a.temperature,
        seed=draw(st.integers(0, 3)),
    )
