"""What can be done with an engine, each done with it3 and with the reference."""

import copy
import tempfile
import threading
from dataclasses import replace
from pathlib import Path as FilePath
from typing import Any

import it3
import torch
import torch.nn.functional as F
from it3 import IT3Engine
from torch import Tensor, nn

from differential.case import Case, set_temperature
from differential.changes import change
from differential.check import agree, diverges, left_alone, same, snapshot, unchanged
from differential.naive import Refusal, copied
from differential.naive_adapt import Memory, adapt, adapt_each, normalize_by, training_losses
from differential.refusals import expected_of
from differential.rig import Difference, Rig, attempt, distance_of, out_dtype


def shape_embedder(rig: Rig) -> None:
    """Let the engine make its embedder, and give its weights to the reference."""
    if not isinstance(rig.embedder, it3.Embedder) or rig.embedder.is_built:
        return
    made = attempt(lambda: rig.engine.uncertainty(rig.inputs(0)))
    if isinstance(made, ValueError):
        return
    weights = [w.detach() for w in rig.engine.embedder.parameters()]
    shapes = [tuple(w.shape) for w in weights]
    if shapes != rig.shapes_to_come:
        raise Difference(f"the embedder's weights have shapes {shapes}, not {rig.shapes_to_come}")
    rig.method.embed.weights = [w.double() for w in weights]


def batch_by_batch(rig: Rig, engine: IT3Engine) -> str:
    """Each batch from the same start."""
    result = ""
    for index in range(len(rig.case.batches)):
        if index and index == len(rig.case.batches) - 1:
            change(rig)
        rig.set_temperature(index)
        inputs = rig.inputs(index)
        expected = expected_of(rig, lambda i=index: adapt(rig.method, rig.naive, rig.inputs(i), rig.options))
        before = snapshot(rig.model, rig.engine)
        actual = attempt(lambda i=inputs: engine.adapt(i))
        unchanged(before, snapshot(rig.model, rig.engine), rig.may_draw)
        result = agree(rig, actual, expected, f"batch {index}: ")
        if not isinstance(actual, ValueError):
            left_alone(rig, index, inputs)
        distances = expected_of(
            rig, lambda i=index: rig.method.uncertainty(_as_normalized(rig), rig.inputs(i)), adapts=False
        )
        actual = attempt(lambda i=index: engine.uncertainty(rig.inputs(i)))
        unchanged(before, snapshot(rig.model, rig.engine), rig.may_draw)
        if not isinstance(distances, Refusal) or not isinstance(expected, Refusal):
            agree(rig, actual, distances, f"batch {index}: uncertainty() ")
    return result


def _as_normalized(rig: Rig) -> nn.Module:
    model = copied(rig.naive)
    if rig.options.get("norm_statistics", "running") != "running":
        normalize_by(model, rig.options["norm_statistics"], rig.options.get("norm_prior", 16.0))
    return model


def online(rig: Rig) -> str:
    """Batch after batch from where the last one led, then back."""
    start = {name: value.clone() for name, value in rig.model.state_dict().items()}
    memory = Memory(copied(rig.naive))
    result = ""
    for index in range(len(rig.case.batches)):
        rig.set_temperature(index)
        for model in filter(None, (memory.model, memory.average)):
            set_temperature(rig.case, model, rig.case.batches[index][2])
        inputs = rig.inputs(index)
        if rig.case.batches[index][0] == 0 and (result.startswith("refused") or not _takes_an_empty_batch(rig, inputs)):
            continue  # nothing tells why the engine has to be refused
        before = snapshot(rig.model, rig.engine)
        drift = rig.engine.drift().distance
        kept = copy.deepcopy(memory) if rig.case.not_finite is not None else None
        expected = expected_of(
            rig, lambda i=index, m=memory: adapt(rig.method, rig.naive, rig.inputs(i), rig.options, m)
        )
        actual = attempt(lambda i=inputs: rig.engine.adapt(i))
        after = snapshot(rig.model, rig.engine)
        result = agree(rig, actual, expected, f"batch {index}: ")
        if result == "diverges":
            return result
        if isinstance(actual, ValueError):
            unchanged(before, after)
            same(torch.tensor(rig.engine.drift().distance), torch.tensor(drift), "drift after an error", 1e-9, 0)
            memory = kept or memory
        else:
            moved = expected.state if expected.losses.numel() or expected.recovered else {}
            unchanged(before, after, lambda name, m=moved: name.partition(".")[2].removeprefix("model.") in m)
            for name in moved:
                kept_value = rig.model.state_dict()[name]
                same(kept_value, memory.model.state_dict()[name], f"batch {index}: kept {name}", *rig.tolerance)
    if result != "agreed":
        return result
    moved = {n: v - start[n] for n, v in rig.model.state_dict().items() if n in dict(rig.model.named_parameters())}
    distance = sum(float(v.double().square().sum()) for v in moved.values()) ** 0.5
    same(torch.tensor(rig.engine.drift().distance), torch.tensor(distance), "drift", 1e-5, 1e-8)
    rig.engine.reset()
    if "max_norm" not in rig.case.source:
        for name, value in rig.model.state_dict().items():
            same(value, start[name], f"after reset, {name}", 0, 0)
    return result


def _takes_an_empty_batch(rig: Rig, inputs: Any) -> bool:
    """Whether the model runs on an empty batch."""
    try:
        rig.method.run(copied(rig.naive), inputs)
    except (RuntimeError, ValueError):
        return False
    return True


def look(rig: Rig) -> str:
    """What only looks leaves all as it is, also where adapting keeps weights."""
    rig.engine.optimization_parameters.update(copy_model=False, per_sample=False)
    x = rig.inputs(0)
    expected = expected_of(rig, lambda: rig.method.uncertainty(_as_normalized(rig), x), adapts=False)
    distances = attempt(lambda: rig.engine.uncertainty(x))
    result = agree(rig, distances, expected, "uncertainty() ")
    if result != "agreed":
        return result
    threshold = rig.engine.optimization_parameters.get("threshold")
    before = snapshot(rig.model, rig.engine)
    rig.engine.explain(rig.inputs(0))
    unchanged(before, snapshot(rig.model, rig.engine))
    calibrated = attempt(lambda: rig.engine.calibrate([(rig.inputs(0), None)]))
    unchanged(before, snapshot(rig.model, rig.engine))
    if not isinstance(calibrated, ValueError):
        same(torch.tensor(calibrated), distances.double().quantile(0.95), "calibrate()", *rig.tolerance)
    rig.engine.optimization_parameters["threshold"] = threshold
    given = dict(rig.engine.optimization_parameters)
    target = torch.zeros_like(rig.method.run(copied(rig.naive), rig.inputs(0)).detach())
    adapted = expected_of(rig, lambda: adapt(rig.method, rig.naive, rig.inputs(0), rig.options))
    scored = attempt(lambda: it3.evaluate([rig.engine], [(rig.inputs(0), target)], mean_error))
    unchanged(before, snapshot(rig.model, rig.engine))
    _check_score(rig, scored, adapted, "evaluate()")
    tuned = attempt(lambda: it3.tune(rig.engine, [(rig.inputs(0), target)], mean_error, budget=2))
    unchanged(before, snapshot(rig.model, rig.engine))
    options = {**rig.options, "num_steps": 1, "threshold": None}  # all trials take steps
    _check_score(rig, tuned, expected_of(rig, lambda: adapt(rig.method, rig.naive, rig.inputs(0), options)), "tune()")
    same(rig.engine.optimization_parameters, given, "the options", 0, 0)
    if rig.engine.drift().distance != 0:
        raise Difference("drift() is not 0, though nothing adapted")
    return "agreed"


def _check_score(rig: Rig, scored: Any, adapted: Any, what: str) -> None:
    """What can be adapted has a score, unless it is not finite."""
    is_right = (
        isinstance(adapted, Refusal)
        or diverges(adapted)
        or (rig.case.not_finite is not None and "not finite" in str(scored))
    )
    if isinstance(scored, ValueError) and not is_right:
        raise Difference(f"{what} raises {scored!s:.600}") from scored


def mean_error(prediction: Tensor, target: Tensor) -> Tensor:
    return (prediction - target).abs().mean()


def pair(rig: Rig) -> str:
    """Two engines that keep weights around one model go back to where the model was."""
    rig.engine.optimization_parameters["copy_model"] = False
    options = rig.engine.optimization_parameters
    other = IT3Engine(rig.model, rig.case.layer, rig.embedder, None, None, options, **rig.arguments()).eval()
    is_fed = rig.case.feedback == "probabilities"
    plain = replace(rig.method, combine=torch.add, distance=F.mse_loss, feeds_probabilities=is_fed)
    start = {name: value.clone() for name, value in rig.model.named_parameters()}
    memory = Memory(copied(rig.naive))
    for engine, method in ((rig.engine, rig.method), (other, plain)):
        own = Memory(memory.model, memory.start)
        expected = expected_of(rig, lambda m=method, o=own: adapt(m, rig.naive, rig.inputs(0), rig.options, o))
        result = agree(rig, attempt(lambda e=engine: e.adapt(rig.inputs(0))), expected, "pair: ")
        if result != "agreed":
            return result
        memory = own
    for engine in (rig.engine, other) if rig.case.seed % 2 else (other, rig.engine):
        engine.reset()
    if "max_norm" not in rig.case.source:
        for name, value in rig.model.named_parameters():
            same(value.detach(), start[name].detach(), f"after both resets, {name}", 0, 0)
    return "agreed"


def per_sample(rig: Rig) -> str:
    """Each sample as if it were alone."""
    dims = rig.in_dims()
    options = {k: v for k, v in rig.options.items() if k not in ("per_sample", "chunk_size")}
    rig.set_temperature(0)
    inputs = rig.inputs(0)
    count = rig.case.batches[0][0]
    expected = expected_of(rig, lambda: adapt_each(rig.method, rig.naive, rig.inputs(0), dims, count, options))
    before = snapshot(rig.model, rig.engine)
    actual = attempt(lambda: rig.engine.adapt(inputs))
    unchanged(before, snapshot(rig.model, rig.engine), rig.may_draw)
    return agree(rig, actual, expected, "per_sample: ")


def threads(rig: Rig) -> str:
    """Several batches at once, each as in turn."""
    count = len(rig.case.batches)
    expected = [
        expected_of(rig, lambda i=i: adapt(rig.method, rig.naive, rig.inputs(i), rig.options)) for i in range(count)
    ]
    given = [rig.inputs(i) for i in range(2 * count) if i < count] + [rig.inputs(i) for i in range(count)]
    actual: list[Any] = [None] * (2 * count)
    together = threading.Barrier(count)

    def work(i: int) -> None:
        together.wait()
        for j in (i, i + count):
            try:
                actual[j] = rig.engine.adapt(given[j])
            except Exception as error:
                actual[j] = error

    before = snapshot(rig.model, rig.engine)
    workers = [threading.Thread(target=work, args=(i,)) for i in range(count)]
    for w in workers:
        w.start()
    for w in workers:
        w.join()
    unchanged(before, snapshot(rig.model, rig.engine), rig.may_draw)
    result = ""
    for j, value in enumerate(actual):
        if isinstance(value, Exception) and not isinstance(value, ValueError):
            raise Difference(f"thread {j}: {value!r:.600}") from value
        result = agree(rig, value, expected[j % count], f"thread {j}: ")
    return result


def train(rig: Rig) -> str:
    """The loss of training, and its gradients."""
    case = rig.case
    for model in (rig.model, rig.naive):
        model.train()
    rig.engine.train()
    with torch.no_grad():
        y = copied(rig.naive)
        shape = rig.method.run(y, rig.inputs(0))
    generator = torch.Generator().manual_seed(5)
    target = torch.rand(shape.shape, generator=generator, dtype=torch.float64) + 0.1
    if case.distance in ("kl", "js", "cross_entropy") or case.seed % 2:
        target = target.softmax(rig.method.prediction.classes(target))
    given = target.to(out_dtype(case))
    if case.seed % 2 and target.dim() > 1 and target.shape[rig.method.prediction.classes(target)] > 1:
        d = rig.method.prediction.classes(target)
        given = target.argmax(d)
        target = F.one_hot(given, target.shape[d]).movedim(-1, d).double()
    parameters = [p for p in rig.naive.parameters() if p.requires_grad]
    to_target = distance_of(case, rig.method.prediction, is_target=True)

    def by_formula() -> tuple[Tensor, Tensor, list[Tensor | None]]:
        if rig.method.feeds_probabilities and rig.has_one_class:
            raise Refusal("one class")
        y0, loss = training_losses(rig.method, rig.naive, rig.inputs(0), target, to_target)
        whole = loss + y0.square().sum()
        return (
            y0.detach(),
            loss.detach(),
            list(torch.autograd.grad(whole, parameters, allow_unused=True)) if parameters else [],
        )

    expected = expected_of(rig, by_formula)
    actual = attempt(lambda: rig.engine(rig.inputs(0), target=given))
    if isinstance(expected, Refusal) or isinstance(actual, ValueError):
        return agree(rig, actual, expected, "training: ")
    same(actual[0].detach(), expected[0], "training: prediction", *rig.tolerance)
    same(actual[1].detach(), expected[1], "training: loss_ttt", *rig.tolerance)
    (actual[0].square().sum() + actual[1]).backward()
    own = [p for p in rig.model.parameters() if p.requires_grad]
    # One that cancels, as a bias's before batch normalization, has the rounding of what it is the difference of.
    greatest = max((q.abs().max().item() for q in expected[2] if q is not None and q.numel()), default=0.0)
    rtol, atol = rig.tolerance
    for p, q in zip(own, expected[2], strict=True):
        same(
            torch.zeros_like(p) if p.grad is None else p.grad,
            torch.zeros_like(p) if q is None else q,
            "training: gradient",
            rtol,
            max(atol, rtol / 20 * greatest) if case.dtype == "float32" else atol,
        )
    for (name, b), (_, q) in zip(rig.model.named_buffers(), rig.naive.named_buffers(), strict=True):
        same(b, q, f"training: buffer {name}", *rig.tolerance)
    return "agreed"


def check(case: Case) -> str:
    """Raise Difference where it3 is wrong. Gives what was agreed on."""
    try:
        return _check(Rig(case))
    except Difference as error:
        if error.off is None or not _is_rounding(case, error.off):
            raise
        return "rounding decides"


def _is_rounding(case: Case, off: float) -> bool:
    """Whether a difference is what steps make of rounding.

    It comes again, and is another one where the reference's weights are a little off: a fault's would stay.
    """
    nudge = 100 * torch.finfo(getattr(torch, case.dtype)).eps
    return _off(case, 0) == off and abs(_off(case, nudge) - off) > 0.01 * off


def _off(case: Case, nudge: float) -> float:
    try:
        _check(Rig(case, nudge))
    except Difference as error:
        return torch.nan if error.off is None else error.off
    return 0


def _check(rig: Rig) -> str:
    case = rig.case
    shape_embedder(rig)
    rig.set_mode()
    if case.use == "train":
        return train(rig)
    if case.network == "saved":
        with tempfile.TemporaryDirectory() as folder:
            path = FilePath(folder) / "engine.pt"
            before = snapshot(rig.model, rig.engine)
            saved = attempt(lambda: rig.engine.save(path, rig.inputs(0)))
            unchanged(before, snapshot(rig.model, rig.engine))
            if case.embedder == "subclass" and isinstance(saved, ValueError | TypeError):
                return "refused: a subclass of the embedder"
            if isinstance(saved, ValueError) and case.not_finite is not None and "not finite" in str(saved):
                return "refused: examples that are not finite"
            if isinstance(saved, ValueError):
                # Saving compares adapted predictions too.
                options = {**rig.options, "num_steps": max(1, rig.options["num_steps"]), "threshold": None}
                expected = expected_of(rig, lambda: adapt(rig.method, rig.naive, rig.inputs(0), options))
                return agree(rig, saved, expected, "save: ")
            rig.engine = it3.load(path)
            rig.model = rig.engine.model
            rig.engine.optimization_parameters.update(rig.options)
    return by_programs(rig) if case.network == "compiled" else _use(rig)


def _use(rig: Rig) -> str:
    uses = {"online": online, "per_sample": per_sample, "threads": threads, "look": look, "pair": pair}
    return uses[rig.case.use](rig) if rig.case.use in uses else batch_by_batch(rig, rig.engine)


def by_programs(rig: Rig) -> str:
    """The same of an engine that is compiled, if it can be."""
    rig.set_temperature(0)
    with tempfile.TemporaryDirectory() as folder:
        before = snapshot(rig.model, rig.engine)
        compiled = attempt(
            lambda: it3.compile(rig.engine, rig.inputs(0), backend="compiled", cache=folder, progress=False)
        )
        unchanged(before, snapshot(rig.model, rig.engine))
        result = _use(rig)
        rig.set_temperature(0)
        explanation = attempt(lambda: rig.engine.explain(rig.inputs(0)))
    if isinstance(compiled, ValueError):
        return f"{result}, not compiled"
    is_compiled = getattr(explanation, "is_compiled", False)  # an error has none
    return f"{result}, by programs" if is_compiled else f"{result}, compiled, by passes"
