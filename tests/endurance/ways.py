"""Ways of using an engine, each of which is called many times in a process of its own."""

import copy
import itertools
import pickle
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import it3
import torch
from it3 import IT3Engine
from torch import Tensor, nn

from endurance.uses import MODELS, ONE_STEP, TARGET, Use, Way, X, engine_of, images, independent, pixels


def _eval(kind: str, _: Path) -> Use:
    engine = engine_of(kind)
    return independent(lambda: engine(X)[0])


def _adapt(kind: str, folder: Path) -> Use:
    """Read all that a call tells, from what adapt() returns."""
    engine = engine_of(kind, distance_fn=lambda a, b: (a - b).abs().mean()) if kind != "script" else engine_of(kind)
    engine.calibrate([X], 0.5)

    def call() -> Tensor:
        adaptation = engine.adapt(X, anchor="frozen")
        adaptation.state_dict()
        return torch.cat([adaptation.model()(X), adaptation.second, adaptation.uncertainty[:, None]], 1)

    return independent(call)


def _per_sample(kind: str, _: Path) -> Use:
    engine = engine_of(kind)
    return independent(lambda: engine.adapt(X, per_sample=True).prediction)


def _online(kind: str, _: Path) -> Use:
    options = {"copy_model": False, "anchor": "ema", "recovery_factor": 1.5, "restore_probability": 0.01}
    engine = engine_of(kind, optimization_parameters=options | ONE_STEP)
    batches = itertools.cycle([X, -X, 3 * X, X.flip(1)])

    def again() -> Tensor:
        engine.reset()
        torch.manual_seed(0)
        return engine(X)[0]

    def call() -> None:
        engine(next(batches))
        engine.drift()

    return Use(call, again)


def _uncertainty(kind: str, _: Path) -> Use:
    engine = engine_of(kind)
    return independent(lambda: engine.uncertainty(X))


def _train(kind: str, _: Path) -> Use:
    """Take gradients of the second term of the loss."""
    engine = engine_of(kind).train()

    def call() -> Tensor:
        engine.zero_grad()
        prediction, loss = engine(X, TARGET)
        (loss + (prediction - TARGET).square().mean()).backward()
        return torch.cat([p.grad.flatten() for p in engine.parameters()])

    return independent(call)


def _save(kind: str, folder: Path) -> Use:
    engine = engine_of(kind)

    def call() -> Tensor:
        engine.save(folder / "engine.pt", X)
        return it3.load(folder / "engine.pt").adapt(X).prediction

    return independent(call)


def _load(folder: Path) -> Use:
    engine_of("script").save(folder / "engine.pt", X)
    return independent(lambda: it3.load(folder / "engine.pt").adapt(X).prediction)


def _loaded(folder: Path) -> Use:
    engine_of("cut").save(folder / "engine.pt", X)
    engine = it3.load(folder / "engine.pt")
    return independent(lambda: engine.adapt(X).prediction)


def _save_adapted(method: str, folder: Path) -> Use:
    engine = engine_of("cut")
    path = folder / ("adapted.pt2" if method == "export" else "adapted.pt")

    def call() -> Tensor:
        engine.adapt(X).save(path, X, "export" if method == "export" else "script")
        if method == "export":
            return torch.export.load(path).module()(X)
        return torch.jit.load(path)(X)

    return independent(call)


def _copy(kind: str, _: Path) -> Use:
    engine = engine_of(kind)
    return Use(lambda: copy.deepcopy(engine), lambda: copy.deepcopy(engine)(X)[0])


def _copy_and_adapt(kind: str, _: Path) -> Use:
    engine = engine_of(kind)
    return independent(lambda: copy.deepcopy(engine)(X)[0])


def _pickle(kind: str, _: Path) -> Use:
    engine = engine_of(kind)

    def copied() -> IT3Engine:
        return pickle.loads(pickle.dumps(engine))

    return Use(copied, lambda: copied()(X)[0])


def _state_dict(kind: str, _: Path) -> Use:
    engine = engine_of(kind)

    def call() -> Tensor:
        engine.load_state_dict(engine.state_dict())
        return engine(X)[0]

    return independent(call)


def _shapes(kind: str, _: Path) -> Use:
    engine, numbers = pixels(kind), itertools.count()
    return Use(lambda: engine(images(next(numbers))), lambda: engine(images(3))[0])


def _shapes_per_sample(kind: str, _: Path) -> Use:
    engine, numbers = pixels(kind, per_sample=True), itertools.count()
    return Use(lambda: engine(images(next(numbers))), lambda: engine(images(3))[0])


def _other_arguments(kind: str, _: Path) -> Use:
    """Give another number in each call, for which another cut is made, of which there may not be ever more."""
    engine, numbers = pixels(kind), itertools.count()
    return Use(lambda: engine((images(3), next(numbers) / 1e4)), lambda: engine((images(3), 0.5))[0])


def _attributes(_: Path) -> Use:
    """Change what the cut was made of before each call."""
    engine, numbers = engine_of("cut"), itertools.count()

    def call() -> None:
        number = next(numbers)
        engine.distance_fn = "mse" if number % 2 else "l1"
        engine.optimization_parameters = {"num_steps": 1, "lr": 1e-4 + 1e-9 * number}
        engine.combine_fn = lambda features, embedding: features + embedding + number
        engine.model[3] = nn.ReLU()
        engine(X)
        engine.model[3] = nn.Tanh()
        engine(X)

    def again() -> Tensor:
        engine.distance_fn, engine.optimization_parameters, engine.combine_fn = "mse", ONE_STEP, None
        return engine(X)[0]

    return Use(call, again)


def _options(kind: str, _: Path) -> Use:
    """Give other options in each call."""
    engine, numbers = engine_of(kind), itertools.count()
    optimizers = itertools.cycle(["adam", "adamw", "sgd", "rmsprop", "adagrad"])
    anchors = itertools.cycle(["self", "frozen", "ema"])
    parameters = itertools.cycle(["all", "0.*", ["2.weight", "4.*"]])

    def call() -> None:
        engine.adapt(
            X,
            lr=1e-4 + 1e-9 * next(numbers),
            optimizer_name=next(optimizers),
            anchor=next(anchors),
            parameters=next(parameters),
            prediction="mean",
        )

    return Use(call, lambda: engine(X)[0])


def _thread(kind: str, _: Path) -> Use:
    """Make each call in a thread of its own."""
    engine = engine_of(kind)
    results: list[Tensor] = []

    def call() -> Tensor:
        thread = threading.Thread(target=lambda: results.append(engine(X)[0]))
        thread.start()
        thread.join()
        while Path(f"/proc/self/task/{thread.native_id}").exists():  # or the next one finds its stack still in use
            time.sleep(1e-4)
        return results.pop()

    return independent(call)


def _engine(kind: str, _: Path) -> Use:
    """Make a new engine around one model for each call."""
    model = MODELS[kind]()
    embedder = engine_of("cut").embedder

    def call() -> Tensor:
        engine = IT3Engine(model, "0", embedder, optimization_parameters=ONE_STEP).eval()
        return engine(X)[0]

    return independent(call)


class _RaisedError(Exception):
    pass


def _raise(*_: object) -> Tensor:
    raise _RaisedError


def _errors(kind: str, _: Path) -> Use:
    """Make calls that raise: in Python's functions, in torch, and what the engine refuses."""
    engine = engine_of(kind)
    raising = engine_of(kind)
    raising.distance_fn = _raise
    late = engine_of(kind)
    late.combine_fn = _raise
    mistakes: tuple[tuple[type[Exception], Callable[[], object]], ...] = (
        (_RaisedError, lambda: raising(X)),
        (_RaisedError, lambda: late.adapt(X)),
        (Exception, lambda: engine(X[:, :5])),
        (Exception, lambda: engine.adapt(X[:, :5], per_sample=True)),
        (ValueError, lambda: engine(X, TARGET)),
        (ValueError, lambda: engine.adapt(X, lr=-1)),
        (ValueError, lambda: engine.adapt(X, parameters="none like it")),
        (ValueError, lambda: engine.adapt(X * torch.nan)),
        (TypeError, lambda: engine.adapt(X, lr="large")),
        (Exception, lambda: engine.uncertainty("no tensor")),
        (Exception, lambda: engine.load_state_dict({})),
    )
    turns = itertools.cycle(mistakes)

    def call() -> None:
        error, mistake = next(turns)
        try:
            mistake()
        except error:
            return
        raise AssertionError("a mistake was no error")

    return Use(call, lambda: engine(X)[0])


def _file_errors(folder: Path) -> Use:
    """Load what is no engine, and save where nothing can be."""
    engine = engine_of("script")
    engine.save(folder / "engine.pt", X)
    content = bytearray((folder / "engine.pt").read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "damaged.pt").write_bytes(content)
    attempts = (
        partial(it3.load, folder / "damaged.pt"),
        partial(it3.load, folder / "none.pt"),
        partial(engine.save, folder / "none" / "engine.pt", X),
        partial(engine.save, folder / "wrong.pt", X[:, :5]),
    )
    turns = itertools.cycle(attempts)

    def call() -> None:
        try:
            next(turns)()
        except (RuntimeError, ValueError, OSError):
            return
        raise AssertionError("a mistake was no error")

    return Use(call, lambda: engine(X)[0])


_EACH: dict[str, Callable[[str, Path], Use]] = {
    "eval": _eval,
    "adapt": _adapt,
    "per sample": _per_sample,
    "online": _online,
    "uncertainty": _uncertainty,
    "train": _train,
    "copy": _copy,
    "state dict": _state_dict,
    "shapes": _shapes,
    "options": _options,
    "thread": _thread,
    "errors": _errors,
}
_SOME = {
    "shapes per sample, cut": Way(partial(_shapes_per_sample, "cut")),
    "shapes per sample, script": Way(partial(_shapes_per_sample, "script")),
    "pickle, whole": Way(partial(_pickle, "whole")),
    "pickle, cut": Way(partial(_pickle, "cut")),
    "loaded": Way(_loaded),
    "load": Way(_load),
    "save and load, script": Way(partial(_save, "script")),
    "save and load, cut": Way(partial(_save, "cut"), 0.1),
    "save adapted, torchscript": Way(partial(_save_adapted, "torchscript"), 0.1),
    "save adapted, export": Way(partial(_save_adapted, "export"), 0.05),
    "copy and adapt, whole": Way(partial(_copy_and_adapt, "whole")),
    "copy and adapt, cut": Way(partial(_copy_and_adapt, "cut"), 0.1),
    "copy and adapt, script": Way(partial(_copy_and_adapt, "script")),
    "new engine, whole": Way(partial(_engine, "whole")),
    "new engine, cut": Way(partial(_engine, "cut"), 0.1),
    "new engine, script": Way(partial(_engine, "script")),
    "other arguments, cut": Way(partial(_other_arguments, "cut")),
    "other arguments, script": Way(partial(_other_arguments, "script")),
    "attributes": Way(_attributes, 0.1),
    "errors of files": Way(_file_errors),
}
WAYS = {f"{name}, {kind}": Way(partial(make, kind)) for name, make in _EACH.items() for kind in MODELS} | _SOME
