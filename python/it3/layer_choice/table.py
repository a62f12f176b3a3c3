"""The layers of a model at which y0 can be fed back, and what each costs."""

import copy
import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from it3 import _C
from it3.cutting.exported_model import ExportedModel
from it3.cutting.layouts import origin_of
from it3.engine import IT3Engine
from it3.layer_choice.observed_run import ObservedRun
from it3.support.checks import check_model, eager
from it3.support.kept import KeptRandomState, own_copy
from it3.support.tables import table_of

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Layer:
    """What a run of a model tells of one of its layers.

    Attributes
    ----------
    name, kind
        The dotted name, which ``features_layer_name`` takes, and the class.
    output_shape
        Of the tensor in what its first call returned that y0 would be injected into; () if there is none.
    is_floating
        Whether that is of floating-point numbers, as what is injected into has to be.
    channel_dim
        Where the channels are, by ``features_layout`` or the kind of the layer that returns them; None if that does not
        tell. The engine settles it at its first call.
    times_called
        In a run; at each call y0 would be fed back. 0: it cannot be named.
    weights_before, weights_behind
        How many of the model's weights are used where nothing hangs on its output, its own among them, and how many
        where something does.
    batch_norms_behind
        Layers of batch normalization whose outputs hang on its output. Their running statistics do not fit y1.
    share_behind
        The share of a run's compute that goes into what hangs on its output, which runs twice a step where the model is
        cut. It is counted by shapes, not timed: floating-point operations of matrix products, convolutions, attention
        and recurrent layers, and one for each number that another operation returns. nan if it is not called.
    embedder_weights
        How many the default embedder would have; None where the channels are not known.
    runs
        How an engine's calls would run, and why, or why it refuses the layer; "" if that was not asked.

    Examples
    --------
    >>> layer = it3.layers(model, x)["0"]
    >>> layer.kind, layer.output_shape, layer.weights_before, layer.weights_behind
    ('Linear', (32, 16), 144, 17)
    """

    name: str
    kind: str
    output_shape: tuple[int, ...]
    is_floating: bool
    channel_dim: int | None
    times_called: int
    weights_before: int
    weights_behind: int
    batch_norms_behind: int
    share_behind: float
    embedder_weights: int | None
    runs: str = ""


class Layers:
    """A table of a model's layers, in the order in which their first calls end, the inner before the outer.

    Those that are never called come last.

    Examples
    --------
    >>> table = it3.layers(model, x)
    >>> len(table), table["0"].output_shape, table["0"].weights_behind
    (3, (32, 16), 17)
    """

    def __init__(self, layers: list[Layer]) -> None:
        self._layers = {layer.name: layer for layer in layers}

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._layers)

    def __iter__(self) -> Iterator[Layer]:
        """Go through the layers."""
        return iter(self._layers.values())

    def __getitem__(self, name: str) -> Layer:
        """Return the layer of a name. Raises KeyError if there is none."""
        if name not in self._layers:
            raise KeyError(f"no layer is called {name!r}; the layers are {', '.join(map(repr, self._layers))}")
        return self._layers[name]

    def to_frame(self) -> "pd.DataFrame":
        """Return the layers as a pandas.DataFrame, by name.

        Examples
        --------
        >>> table.to_frame().loc["2", "kind"]
        'Linear'
        """
        import pandas as pd  # noqa: PLC0415  (only those who ask for it need it)

        names = [each.name for each in dataclasses.fields(Layer)]
        return pd.DataFrame(map(dataclasses.asdict, self), columns=names).set_index("name")

    def columns(self) -> dict[str, list[str]]:
        """Return the cells of the table as text, by the title of the column.

        Examples
        --------
        >>> table.columns()["output"]
        ['(32, 16)', '(32, 16)', '(32, 1)']
        """
        return {
            "layer": [layer.name for layer in self],
            "kind": [layer.kind for layer in self],
            "output": [str(layer.output_shape) if layer.output_shape else "" for layer in self],
            "channels": ["" if layer.channel_dim is None else f"dim {layer.channel_dim}" for layer in self],
            "calls": [str(layer.times_called) for layer in self],
            "weights before": [f"{layer.weights_before:,}" for layer in self],
            "weights behind": [f"{layer.weights_behind:,}" for layer in self],
            "batch norms behind": [str(layer.batch_norms_behind) for layer in self],
            "compute behind": ["" if math.isnan(layer.share_behind) else f"{layer.share_behind:.0%}" for layer in self],
            "embedder": ["" if layer.embedder_weights is None else f"{layer.embedder_weights:,}" for layer in self],
            "runs": [layer.runs for layer in self],
        }

    def __str__(self) -> str:
        """Write the table."""
        return table_of(self.columns().items(), texts=("layer", "kind", "runs"))

    __repr__ = __str__

    def _repr_html_(self) -> str:
        """Write the table for a notebook."""
        html: str = self.to_frame().to_html()
        return html


def layers(model: nn.Module, example_inputs: Any, *, explain: bool = False, **arguments: Any) -> Layers:
    """List the layers of a model at which y0 may be fed back, and what each costs.

    The model runs once in eval mode, and is as before afterwards.

    Parameters
    ----------
    model
        An eager model.
    example_inputs
        What it is called with: a tensor, a tuple or list (positional arguments) or a mapping (keyword arguments).
    explain
        Whether to have an engine take a step with each layer, and ask how it runs, see :meth:`it3.IT3Engine.explain`.
        That exports the model once a layer, which takes 0.1 to 1 s each.
    **arguments
        Further arguments of :class:`it3.IT3Engine`, such as ``output``.

    Raises
    ------
    TypeError, ValueError
        For what is no eager model, such as a TorchScript module, or has lazy parameters that have no shape yet; for
        arguments that an engine does not take; and what the model raises.

    Examples
    --------
    >>> print(it3.layers(model, x).to_frame()["output_shape"])
    name
    0    (32, 16)
    1    (32, 16)
    2     (32, 1)
    Name: output_shape, dtype: object
    """
    model = _checked(model)
    for name, _ in model.named_children():
        IT3Engine(model, name, **copy.deepcopy(arguments))  # raises for arguments that it does not take
        break
    run = ObservedRun(model, example_inputs, arguments.get("layer_output"))
    prediction: Tensor = _C.chosen_output(run.output, arguments.get("output"), Tensor)
    shape = tuple(prediction.shape)
    given = arguments.get("prediction_layout"), arguments.get("features_layout")
    classes = _channels(shape, _channel(model, model, shape, given[0])) if len(shape) > 1 else 1
    found = []
    for name, module in model.named_modules():
        if name:
            runs = _how(model, name, example_inputs, arguments) if explain and run.calls[name].hangs_on else ""
            channel = _channel(module, model, run.calls[name].shape, given[1])
            found.append(_described(name, module, run, channel, classes, runs))
    return Layers(sorted(found, key=lambda layer: (layer.times_called == 0, run.calls[layer.name].order)))


def _checked(model: nn.Module) -> nn.Module:
    """Return the eager module of a model."""
    check_model(model)
    model = eager(model)
    if isinstance(model, torch.jit.ScriptModule | ExportedModel):
        raise TypeError(
            f"model must be an eager torch.nn.Module, not a {type(model).__name__}, whose layers cannot be watched as "
            "they run; give the module that it was made of"
        )
    if any(nn.parameter.is_lazy(tensor) for tensor in (*model.parameters(), *model.buffers())):
        raise ValueError("the model has lazy parameters, which have no shape yet; call it once before")
    return model


def _described(
    name: str, module: nn.Module, run: ObservedRun, channel: int | None, classes: int | None, runs: str
) -> Layer:
    calls = run.calls[name]
    times = len(calls.hangs_on)
    features = _channels(calls.shape, channel)
    before, behind = run.weights_around(name)
    known = features is not None and classes is not None
    return Layer(
        name=name,
        kind=type(module).__name__,
        output_shape=calls.shape,
        is_floating=calls.is_floating,
        channel_dim=channel,
        times_called=times,
        weights_before=before if times else 0,
        weights_behind=behind,
        batch_norms_behind=run.norms_behind(name),
        share_behind=run.share_behind(name) if times else math.nan,
        embedder_weights=(classes + 1) * features + (features + 1) * features if known else None,  # type: ignore[operator]
        runs=runs,
    )


def _how(model: nn.Module, name: str, inputs: Any, arguments: dict[str, Any]) -> str:
    found = tried(model, name, inputs, arguments)
    if isinstance(found, str):
        return f"refused: {found}"
    return found.runs + (f": {found.why_whole}" if found.why_whole else "")


def tried(model: nn.Module, name: str, inputs: Any, arguments: dict[str, Any]) -> _C.Explanation | str:
    """Return how an engine with a layer runs, after it has taken a step, or why it cannot."""
    engine = IT3Engine(model, name, **copy.deepcopy(arguments))  # of which an embedder takes its shape
    engine.is_trained = True  # so that it does not warn
    try:
        with KeptRandomState():
            engine.adapt(own_copy(inputs), num_steps=1)
            return engine.explain(inputs)
    except (ValueError, TypeError, IndexError, RuntimeError) as error:
        return str(error).splitlines()[0]


def _channel(layer: nn.Module, model: nn.Module, shape: tuple[int, ...], given: _C.Layout | None) -> int | None:
    """Return where the channels of a layer's output are: as given, else where the kind of what returns it tells."""
    rank = len(shape)
    if rank < 2:
        return None
    if given is not None:
        return given.channel_of(rank)
    if rank == 2:
        return 1
    origin = origin_of(layer, model)
    last = origin.inside[-1] if origin.is_direct and origin.inside else None
    if last is None or last.channel_dim is None or last.channels not in (None, shape[last.channel_dim]):
        return None
    return last.channel_dim % rank


def _channels(shape: tuple[int, ...], channel: int | None) -> int | None:
    return None if channel is None else shape[channel]
