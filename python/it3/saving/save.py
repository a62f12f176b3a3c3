"""Engines in one file, which C++ reads too."""

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from it3 import _C
from it3.cutting.export import (
    FunctionOfOne,
    FunctionOfTwo,
    Method,
    check_close,
    check_same_writes,
    copy_of,
    move_weights,
    to_torchscript,
    uncompiled,
    unreadable,
)
from it3.cutting.exported_model import ExportedModel
from it3.embedder import Embedder
from it3.engine_siblings import sibling
from it3.saving.load import engine_without_programs
from it3.saving.saved_file import read_engine
from it3.support.checks import eager as eager_of
from it3.support.kept import KeptRandomState, counts_writes, own_copy
from it3.support.sharding import check_sharding

if TYPE_CHECKING:
    from it3.adaptation import Adaptation
    from it3.engine import IT3Engine


def save(
    engine: "IT3Engine",
    path: str | os.PathLike[str],
    example_inputs: Any,
    method: Method = "script",
    *,
    format: Literal["torchscript", "aoti"] = "torchscript",  # noqa: A002  (as torch's savers)
    dynamic_batch: bool = True,
    backend: Literal["auto", "compiled"] = "auto",
    cache: str | os.PathLike[str] | None = None,
) -> None:
    """Write an engine to one file: network, embedder, layer, options, functions and notes.

    :func:`it3.load` and, in C++, ``it3::Engine::load`` open it as the engine; ``torch.jit.load`` or, with
    ``format="aoti"``, ``torch.export.load`` as the plain network.

    Parameters
    ----------
    engine
        Its model, and an embedder, ``combine_fn`` or ``distance_fn`` of your own, are exported to TorchScript or, for
        "aoti", by torch.export; a subclass of :class:`it3.Embedder` counts as your own. Of what torch.compile wrapped,
        the model inside is.
    path
        The file, which appears when it is complete, and when the engine read back from it adapts as this one.
    example_inputs
        What the model is called with. An eager model is exported with them, and the engine that the file holds is
        compared with this one; they shape the embedder too if no call has. Their shapes are noted in the file.
    method
        How to export to TorchScript: "script" compiles the source, "trace" records one call. A traced function is right
        for shapes like those of the call.
    format
        "torchscript"; or "aoti": a program of torch.export, and what :func:`it3.compile` makes of the engine's steps,
        machine code for this torch and the kind of CPU or CUDA device that the engine is on. Elsewhere the engine
        is read with a warning, and runs without its programs; on a machine without CUDA, name the device to read a
        file from CUDA. Only the first dimension of each input may differ from
        the example. Such a file holds the example inputs, and whoever reads
        it runs code in it.
    dynamic_batch, backend, cache
        Of "aoti", see :func:`it3.compile`.

    Raises
    ------
    ValueError
        For parts that cannot be exported or compiled, for names that TorchScript writes but cannot read, and if the
        engine in the file gives other results than this one.

    Examples
    --------
    >>> it3.save(engine, "engine.pt", example_inputs=x)
    >>> torch.jit.load("engine.pt")(x).shape  # the plain network
    torch.Size([32, 1])
    >>> it3.save(engine, "engine.pt2", example_inputs=x, format="aoti")  # doctest: +SKIP
    """
    if format not in ("torchscript", "aoti"):
        raise ValueError(f"format must be 'torchscript' or 'aoti', not {format!r}")
    check_sharding(engine, trains=False)
    if callable(engine.output):
        raise ValueError(
            "output is a function, which a file cannot hold; give the prediction's index, key or path instead"
        )
    if format == "aoti":
        from it3.saving.save_compiled import save_compiled  # noqa: PLC0415  (with parts of torch that take long to import)

        save_compiled(engine, path, example_inputs, dynamic_batch, backend, cache)
        return
    check_apart(engine, {})
    with _C.NewFile(path) as file, KeptRandomState():
        check_finite(engine.uncertainty(own_copy(example_inputs)))  # shapes the embedder too
        eager = copy_to_export(engine)
        check_embedder(engine, eager, example_inputs)
        exported = _exported(eager, example_inputs, method)
        setup = exported._setup_for(example_inputs)
        exported._core.save(setup, file, own_copy(example_inputs), engine.optimization_parameters)
        try:
            saved = engine_without_programs(read_engine(file.partial))
        except Exception as error:
            parts = (eager.model, eager.embedder, eager.combine_fn, eager.distance_fn)
            raise unreadable(error, *(part for part in parts if isinstance(part, nn.Module))) from error
        original = sibling(engine, {})
        for each in (original, saved, eager):
            each.is_trained = True  # nobody is to be warned here
        how = f"exported by {method!r}, the engine"
        check_same(saved, original, example_inputs, how)
        move_weights(saved.model, eager.model)  # copies both
        with KeptRandomState():  # so that both draw the same, as of a neutral signal
            actual = saved.adapt(own_copy(example_inputs), num_steps=0).prediction
        right = eager.adapt(own_copy(example_inputs), num_steps=0).prediction
        check_close(actual, right, f"{how} gives other predictions than the eager one with other weights")
        check_same_writes(saved.model, eager.model, example_inputs, f"{how} leaves other weights")


def copy_to_export(engine: "IT3Engine") -> "IT3Engine":
    """Copy what exporting could change: the user's own modules stay in the modes that they are in."""
    embedder = engine.embedder
    if isinstance(embedder, nn.Module) and type(embedder) is not Embedder:
        embedder = copy_of(embedder).eval()
    with _C.ModelHold(eager_of(engine.model)):
        model = uncompiled(copy_of(eager_of(engine.model))).eval()
    return of_parts(engine, model, embedder, engine.combine_fn, engine.distance_fn)


def check_embedder(engine: "IT3Engine", eager: "IT3Engine", example_inputs: Any) -> None:
    """Raise ValueError for an embedder that computes otherwise than in a file: with hooks, or in train mode."""
    embedder = engine.embedder
    if type(embedder) is Embedder:
        if embedder._forward_hooks or embedder._forward_pre_hooks:
            raise ValueError(
                "the embedder has hooks, which are not in files; remove them, or give the engine an embedder of your "
                "own that does what they do"
            )
    elif isinstance(embedder, nn.Module) and any(module.training for module in embedder.modules()):
        in_train_mode, in_eval_mode = (
            _distances(e, e.adapt(own_copy(example_inputs), num_steps=0, threshold=None)) for e in (engine, eager)
        )
        if not torch.allclose(in_train_mode, in_eval_mode, rtol=1e-3, atol=1e-5):
            raise ValueError(
                "the embedder is in train mode, in which it gives other embeddings than in eval mode, "
                "the mode that it has in files; call engine.eval() before saving"
            )


def _exported(eager: "IT3Engine", example_inputs: Any, method: Method) -> "IT3Engine":
    """Make an engine of TorchScript parts."""
    calls = calls_of(eager, example_inputs)
    return of_parts(
        eager,
        _compiled("the model", eager.model, example_inputs, method),
        _compiled("embedder", eager.embedder, calls["embedder"], method),
        _compiled("combine_fn", eager.combine_fn, calls["combine_fn"], method),
        _compiled("distance_fn", eager.distance_fn, calls["distance_fn"], method),
    )


def check_finite(distances: Tensor) -> None:
    """Raise ValueError for examples whose predictions are not finite: nothing can be compared on them."""
    odd = distances.isfinite().logical_not().nonzero().flatten().tolist()
    if odd:
        raise ValueError(
            f"the predictions for the example inputs are not finite for the samples {', '.join(map(str, odd[:10]))}; "
            "the engine in the file is compared with this one on them, so give example inputs without NaN and infinity"
        )


def check_apart(engine: "IT3Engine", more: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Raise ValueError for a function that computes with a tensor of the model's, which in a file it would not follow.

    Parameters
    ----------
    more
        Tensors of functions, by the names of the engine's attributes, beside those of modules.
    """
    model = eager_of(engine.model)
    weights = {_storage_of(t): name for name, t in [*model.named_buffers(), *model.named_parameters()]}
    for name in ("embedder", "combine_fn", "distance_fn"):
        part = getattr(engine, name)
        own = [*part.parameters(), *part.buffers()] if isinstance(part, nn.Module) else []
        for storage in map(_storage_of, [*own, *more.get(name, {}).values()]):
            if storage and storage in weights:
                raise ValueError(
                    f"{name} computes with the model's {weights[storage]!r}, and would have a copy in the file that "
                    "does not follow it; give it a clone"
                )


def _storage_of(tensor: Tensor) -> int:
    """Return where a tensor's memory is; 0 for none."""
    has_memory = not nn.parameter.is_lazy(tensor) and tensor.layout == torch.strided
    return tensor.untyped_storage().data_ptr() if has_memory else 0


def check_same(saved: "IT3Engine", eager: "IT3Engine", example_inputs: Any, how: str) -> None:
    """Raise ValueError if an engine does not adapt as another one does."""
    can_adapt = all(map(counts_writes, eager_of(eager.model).parameters()))
    for steps in (0, 1) if can_adapt else (0,):
        # Without draws, and decisions that rounding could turn.
        options = {"num_steps": steps, "copy_model": True, "restore_probability": 0, "threshold": None}
        state = torch.get_rng_state()
        expected = eager.adapt(own_copy(example_inputs), **options)
        torch.set_rng_state(state)
        actual = saved.adapt(own_copy(example_inputs), **options)
        what = f"{how} gives other predictions than the eager one after {steps} steps"
        for name in ("prediction", "second"):
            check_close(getattr(actual, name), getattr(expected, name), what)
        # Small beside predictions, but all of adaptation; what is left of rounding is neither.
        distances, expected_distances = (_distances(eager, adaptation) for adaptation in (actual, expected))
        eps = torch.finfo(distances.dtype).eps
        sizes = expected.prediction.detach().abs()
        noise = 100 * eps * float(sizes[sizes.isfinite()].max()) if sizes.isfinite().any() else 0.0
        check_close(distances, expected_distances, f"{how} has another ‖y1 - y0‖ than the eager one", 1e-2, noise)
        check_close(actual.losses, expected.losses, f"{how} has another loss than the eager one", 1e-2, noise)


def _distances(engine: "IT3Engine", adaptation: "Adaptation") -> Tensor:
    """Return ‖y1 - y0‖ of predictions as they are, (B,): between a sure model's probabilities it is always near 0."""
    return _C.sample_distances(adaptation.second, adaptation.first, engine.prediction_layout, of_probabilities=False)


def of_parts(engine: "IT3Engine", model: nn.Module, embedder: Any, combine_fn: Any, distance_fn: Any) -> "IT3Engine":
    """Make an engine like another one, of other parts."""
    layer = _layer_in(model, engine.features_layer_name)
    return engine._with(
        model=model, features_layer_name=layer, embedder=embedder, combine_fn=combine_fn, distance_fn=distance_fn
    )


def _layer_in(model: nn.Module, name: str) -> str:
    """Return a layer's name in a model from which the wrappers of torch.compile are taken off."""
    if isinstance(model, torch.jit.ScriptModule) or name in dict(model.named_modules()):
        return name
    return ".".join(part for part in name.split(".") if part != "_orig_mod")


def _compiled(name: str, part: Any, example: Any, method: Method) -> Any:
    """Export one part of an engine; the default ones stay as they are."""
    if part is None or isinstance(part, str) or type(part) is Embedder:
        return part
    if not isinstance(part, nn.Module):
        part = FunctionOfOne(part) if name == "embedder" else FunctionOfTwo(part)
    advice = ""
    if name == "the model":
        advice = ", or keep an adapted model by engine.adapt(inputs).save(path, inputs, method='export')"
    return to_torchscript(part, example, method, name, advice)


class _Recorder(Embedder):
    """Calls an embedder, and keeps what with."""

    def __init__(self, embedder: Any) -> None:
        super().__init__()
        self.embedder = embedder
        self.arguments: tuple[Tensor, ...] = ()

    @property
    def is_built(self) -> bool:
        """It has no weights of its own."""
        return True

    def forward(self, prediction: Tensor, features: Tensor) -> Tensor:
        """Embed."""
        self.arguments = (prediction, features) if _takes_features(self.embedder) else (prediction,)
        embedding: Tensor = self.embedder(*self.arguments)
        return embedding


def _takes_features(embedder: Any) -> bool:
    is_program = isinstance(embedder, ExportedModel)
    return embedder.input_count == 2 if is_program else isinstance(embedder, Embedder)


def calls_of(engine: "IT3Engine", inputs: Any) -> dict[str, tuple[Tensor, ...]]:
    """Return the arguments with which an engine calls its functions."""
    combined: tuple[Tensor, ...] = ()
    combine_fn = engine.combine_fn

    def recording(features: Tensor, embedding: Tensor) -> Tensor:
        nonlocal combined
        assert combine_fn is not None  # or it is not given to the engine
        combined = (features, embedding)
        result: Tensor = combine_fn(features, embedding)
        return result

    is_exported = isinstance(engine.embedder, torch.jit.ScriptModule) or type(engine.embedder) is Embedder
    embedder = engine.embedder if is_exported else _Recorder(engine.embedder)
    combine = None if combine_fn is None else recording
    recorder = of_parts(engine, engine.model, embedder, combine, engine.distance_fn)
    prediction = recorder.adapt(own_copy(inputs), num_steps=0, per_sample=False).prediction
    embedded = embedder.arguments if isinstance(embedder, _Recorder) else ()
    return {"embedder": embedded, "combine_fn": combined, "distance_fn": (prediction, prediction)}
