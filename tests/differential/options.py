"""All options of the inner loop, drawn together."""

from typing import Any

from hypothesis import strategies as st

# Of each: how often it is given, of 10, and its values, the plainest first. Adam's eps is never so small that rounding
# decides which way a weight goes whose gradient is zero.
OPTIONAL: dict[str, tuple[int, list[Any]]] = {
    "max_grad_norm": (2, [0.1, 10.0]),
    "weight_decay": (2, [0.1, 0.0]),
    "prediction": (3, ["second", "mean", "first"]),
    "anchor": (4, ["frozen", "ema", "self"]),
    "tolerance": (2, [0.001, 0.05]),
    "parameters": (3, [["*bias"], "norm", ["l0.*", "*weight*"], "all", ["nobody"]]),
    "norm_statistics": (2, ["batch", "blend"]),
    "restore_probability": (1, [1.0]),
    "recovery_factor": (2, [1.05, 3.0]),
    "per_sample": (0, [False]),
    "cuda_graphs": (1, ["off", "auto"]),
}


@st.composite
def options(draw: Any, use: str, is_exact: bool = True) -> dict[str, Any]:
    """Draw options that go together. `is_exact` is for float64."""
    drawn: dict[str, Any] = {
        "num_steps": draw(st.sampled_from([1, 2, 0, 3])),
        "lr": draw(st.sampled_from([0.01, 0.1, 0.0] if is_exact else [0.01, 0.0])),
        "optimizer_name": draw(
            st.sampled_from(["sgd", "adam", "adamw", "rmsprop", "adagrad"] if is_exact else ["sgd"])
        ),
    }
    # One number says which are given, so that few draws are needed.
    chance = draw(st.lists(st.integers(0, 9), min_size=len(OPTIONAL), max_size=len(OPTIONAL)))
    for (name, (often, values)), number in zip(OPTIONAL.items(), chance, strict=True):
        if number >= 10 - often and (is_exact or name != "tolerance"):  # whose decisions rounding would turn
            drawn[name] = draw(st.sampled_from(values))
    name = drawn["optimizer_name"]
    if name in ("adam", "adamw") and draw(st.booleans()):
        drawn["betas"] = draw(st.sampled_from([(0.5, 0.9), (0.0, 0.5)]))
    if name in ("sgd", "rmsprop") and draw(st.booleans()):
        drawn["momentum"] = 0.9
    if name != "sgd":
        drawn["eps"] = draw(st.sampled_from([1e-3, 1e-2]))
    if drawn.get("anchor") == "ema":
        drawn["ema_decay"] = draw(st.sampled_from([0.5, 0.9]))
    if drawn.get("norm_statistics") == "blend":
        drawn["norm_prior"] = draw(st.sampled_from([2.0, 16.0]))
    if "tolerance" in drawn and draw(st.booleans()):
        drawn["patience"] = 2
    _fit_to(drawn, use, with_chunks=use == "per_sample" and draw(st.booleans()))
    return drawn


def _fit_to(drawn: dict[str, Any], use: str, with_chunks: bool) -> None:
    """Leave out the options that are not for this use, and give those that make it."""
    others = {
        "train": ("recovery_factor", "norm_statistics", "norm_prior", "parameters"),
        "online": ("restore_probability",),
    }
    for name in others.get(use, ("recovery_factor",)):
        drawn.pop(name, None)
    if use == "online":
        drawn["copy_model"] = False
    if use == "per_sample":
        drawn["per_sample"] = True
    if with_chunks:
        drawn["chunk_size"] = 2
