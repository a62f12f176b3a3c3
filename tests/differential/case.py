"""One drawn use: plain literals alone, so that its repr() in a script is the whole of it."""

import linecache
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

Path = tuple[str | int, ...]


@dataclass(frozen=True)
class Case:
    """A model as source text, the inputs, the options and what is done with them.

    Attributes
    ----------
    source
        Python that defines `class Model(nn.Module)`.
    inputs
        (name, kind, shape) of each; "B" in a shape is the size of the batch. Kinds: "float", "tokens", "shared" by all
        samples, and "number".
    batches
        (size, seed, temperature) of each call; the temperature is Python state, for models that read it.
    features, prediction
        (channel dimension, batch dimension) as they truly are.
    output, layer_output
        Where the prediction, and the tensor that is injected into, lie; () for a tensor by itself.
    threshold
        The share of the samples that are not to adapt, or None. The number is computed from the distances.
    is_called
        Whether the model ran before the engine was made, so that what forward() holds its weights to is held already.
    change
        What the user does to the model before the last of several batches.
    longer
        The dimensions of "x" that are one larger in the last of several batches.
    not_finite
        The sample of the last batch that has a NaN in it.
    """

    source: str
    layer: str
    inputs: tuple[tuple[str, str, tuple[Any, ...]], ...]
    features: tuple[int, int]
    prediction: tuple[int, int]
    call: str = "tensor"
    batches: tuple[tuple[int, int, float], ...] = ((3, 0, 2.0),)
    gives_layouts: bool = True
    output: Path = ()
    gives_output: bool = True
    gives_in_dims: bool = True
    layer_output: Path = ()
    gives_layer_output: bool = True
    options: tuple[tuple[str, Any], ...] = ()
    threshold: float | None = None
    distance: str = "mse"
    feedback: str = "auto"
    neutral: float | None = None
    embedder: str = "given"
    combine: str = "add"
    use: str = "adapt"
    network: str = "eager"
    mode: str = "eval"
    born: str = "outside"
    form: str = "plain"
    dtype: str = "float64"
    is_called: bool = False
    change: str = ""
    longer: tuple[int, ...] = ()
    not_finite: int | None = None
    frozen: tuple[str, ...] = ()
    temperature: str = ""
    seed: int = 0


def model_of(case: Case) -> nn.Module:
    """Build the model; equal calls give equal weights."""
    name = f"<differential {hash(case.source)}>"
    linecache.cache[name] = (len(case.source), None, case.source.splitlines(keepends=True), name)  # for TorchScript
    scope: dict[str, Any] = {"__name__": "differential_model"}
    exec(compile(case.source, name, "exec"), scope)
    torch.manual_seed(case.seed)
    usual = torch.get_default_dtype()
    torch.set_default_dtype(getattr(torch, case.dtype))  # a later conversion would part tensors that share memory
    try:
        model: nn.Module = scope["Model"]()
    finally:
        torch.set_default_dtype(usual)
    with torch.no_grad():
        for key, buffer in model.named_buffers():  # running statistics that make a difference
            if "running" in key:
                buffer.uniform_(0.5, 1.5)
    for key, parameter in model.named_parameters():
        if any(part in key for part in case.frozen):
            parameter.requires_grad_(False)
    return model


def set_temperature(case: Case, model: nn.Module, value: float) -> None:
    """Change what forward() reads from Python."""
    if case.temperature == "attribute":
        model.temp = value
    elif case.temperature == "object":
        model.cfg.temp = value
    elif case.temperature == "dictionary":
        model.table["temp"] = value
    elif case.temperature == "global":
        model.forward.__globals__["SETTINGS"]["temp"] = value


def arguments_of(case: Case, index: int) -> dict[str, Any]:
    """Draw the inputs of one batch, by name, in the model's dtype."""
    size, seed, _ = case.batches[index]
    generator = torch.Generator().manual_seed(seed)
    arguments: dict[str, Any] = {}
    is_last = index and index == len(case.batches) - 1
    for name, kind, shape in case.inputs:
        sizes = [size if s == "B" else s for s in shape]
        for d in case.longer if is_last and name == "x" else ():
            sizes[d] += 1
        if kind == "tokens":
            arguments[name] = torch.randint(0, 7, sizes, generator=generator)
        elif kind == "number":
            arguments[name] = 0.5 + seed
        else:
            arguments[name] = torch.randn(sizes, generator=generator, dtype=torch.float64).to(
                getattr(torch, case.dtype)
            )
        if size and kind == "float" and case.not_finite is not None and index == len(case.batches) - 1:
            sample = arguments[name].select(shape.index("B"), case.not_finite % size)
            sample[(0,) * sample.dim()] = torch.nan
    return arguments


def as_given(case: Case, arguments: dict[str, Any]) -> Any:
    """Put the arguments in the container, and the tensors in the form, that the caller uses."""

    def formed(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        if case.form == "graph" and value.is_floating_point():
            return (value / 2).requires_grad_() * 2
        if case.form == "inference":
            with torch.inference_mode():
                return value.clone()
        if case.form == "strided":
            return torch.stack([value, value], -1)[..., 0]
        return value.clone()

    values = {name: formed(value) for name, value in arguments.items()}
    if case.call == "dict":
        return values
    if case.call == "tensor" and len(values) == 1:
        return next(iter(values.values()))
    return list(values.values()) if case.call == "list" else tuple(values.values())
