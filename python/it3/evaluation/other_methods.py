"""Other methods than IT3, as evaluate() calls them."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from it3 import _C
from it3.cutting.export import copy_of
from it3.engine import IT3Engine
from it3.engine_siblings import with_settings
from it3.evaluation.rows import Predictor, Row
from it3.support.checks import eager
from it3.support.kept import counts_writes

Others = Mapping[str, Any] | Callable[[IT3Engine], Mapping[str, Any]]


class OtherMethods:
    """The other methods of an evaluation.

    Parameters
    ----------
    others
        The methods by name; or a function that makes them of a copy of a run's engine.
    """

    def __init__(self, others: Others | None) -> None:
        if others is not None and not isinstance(others, Mapping) and not callable(others):
            raise TypeError(
                "others must map names to methods, or be a function that makes such a mapping of a run's engine, not "
                f"a {type(others).__name__}"
            )
        self._others: Others = {} if others is None else others
        self._methods: dict[str, Any] = {}

    def start_run(self, engine: IT3Engine) -> None:
        """Have the rows predict by the methods of a run, which has this engine.

        Raises
        ------
        ValueError, TypeError
            For what is no mapping of modules and functions, or has other names than in an earlier run; and for a module
            in train mode.
        """
        methods = self._others
        if callable(methods):
            with _C.ModelHold(eager(engine.model)):
                own = copy_of(engine)
            methods = methods(own)
        if not isinstance(methods, Mapping):
            raise TypeError(f"the function others must return a mapping of methods, not a {type(methods).__name__}")
        if self._methods and set(methods) != set(self._methods):
            raise ValueError(
                f"the function others must return methods of the same names for each run, not {_names(methods)} after "
                f"{_names(self._methods)}"
            )
        for name, method in methods.items():
            _check(name, method)
        self._methods = dict(methods)

    def rows(self) -> dict[str, Row]:
        """Make a row for each method of the first run."""
        return {name: self._row(name) for name in self._methods}

    def _row(self, name: str) -> Row:
        def prepare(engine: IT3Engine, _run: int, _inputs: Any) -> Predictor:
            call = _own(self._methods[name])
            model = eager(engine.model)

            def predict(inputs: Any) -> Tensor:
                before = _state_of(model)
                prediction = call(inputs)
                if _state_of(model) != before:
                    raise ValueError(
                        f"the method {name!r} of others changed the network of the run's engine (weights, buffers, "
                        "requires_grad or modes), by which other rows predict too; have it work on a copy of it"
                    )
                return prediction

            return Predictor(predict, engine.prediction_layout, predict)

        return Row(prepare)


def _check(name: str, method: object) -> None:
    if not callable(method):
        raise TypeError(
            f"the method {name!r} of others must be an IT3Engine, a module or a function of the inputs, not a "
            f"{type(method).__name__}"
        )
    if isinstance(method, nn.Module) and method.training and not isinstance(method, IT3Engine):
        raise ValueError(
            f"the method {name!r} of others is a module in train mode, in which torch-ttt's engines do not adapt; call "
            "its eval(), or give a function that calls it, which is called as it is"
        )


def _own(method: Any) -> Callable[[Any], Tensor]:
    """Return a method as a function of inputs that predicts; a module is copied, and a function called as it is."""
    if isinstance(method, IT3Engine):
        engine = with_settings(method, {})
        return lambda inputs: engine.adapt(inputs).prediction
    call = copy_of(method) if isinstance(method, nn.Module) else method

    def predict(inputs: Any) -> Tensor:
        with torch.inference_mode(False), torch.enable_grad():
            output = call(inputs)
        prediction = output[0] if isinstance(output, tuple | list) and output else output
        if not isinstance(prediction, Tensor):
            raise TypeError(
                "a method of others must return a prediction, a tensor, or a tuple that begins with one, but returned "
                f"a {type(prediction).__name__}"
            )
        return prediction.detach()

    return predict


def _state_of(model: nn.Module) -> list[Any]:
    """Return what shows that a model was written to or set otherwise, without a copy of it."""
    tensors = (*model.parameters(), *model.buffers())
    writes = [(tensor.requires_grad, tensor._version if counts_writes(tensor) else 0) for tensor in tensors]
    return [*writes, *(module.training for module in model.modules())]


def _names(methods: Mapping[str, Any]) -> str:
    return ", ".join(map(repr, methods)) or "none"
