"""The engine: a model, an embedder and how to adapt."""

import copy
import os
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from it3 import _C
from it3.adaptation import Adaptation
from it3.calibration import calibration_inputs
from it3.checks import callable_or_none, eager, like_of
from it3.embedder import Embedder
from it3.kept import kept_random_state, own_copy
from it3.layer_names import layer_name_of
from it3.parts import EngineWithParts, TensorFunction
from it3.torch_ttt_checkpoints import rename_torch_ttt_keys


class IT3Engine(EngineWithParts):
    """Idempotent Test-Time Training around a model (IT3, ICML 2025, arXiv 2410.04201).

    In train mode, ``engine(inputs, target=y)`` returns ``(y0, loss_ttt)``: the prediction f(x) for the user's own
    criterion, and the second term of the training loss, distance(f(x | y), y) (the paper's Eq. 1). Without a target it
    is distance(f(x | y0), y0).

    In eval mode, ``engine(inputs)`` takes a few optimizer steps on distance(f(x | y0), y0) and returns ``(prediction,
    loss)``, both detached: the adapted network's prediction, and the loss, a scalar, before the last step. The model is
    afterwards bit for bit as it was, also after an exception, unless ``copy_model`` is False.

    Parameters
    ----------
    model
        The network to adapt, eager or TorchScript. It is cut at the layer, and what comes before it runs once a step
        rather than twice, or once a call where none of it adapts. An eager model that cannot be traced runs whole, with
        a hook on the layer: :meth:`explain` tells. The prediction is what the model returns, or the first tensor in a
        tuple, list or mapping.
    features_layer_name
        The dotted name of the layer at whose output y0 is fed back, or the layer itself. If it is called several times,
        each call is injected into.
    embedder
        A module that turns a prediction into what is combined with the features, or an :class:`it3.Embedder`, which is
        the default. ``embeder`` is torch-ttt's spelling, as an argument and as an attribute.
    combine_fn
        ``combine_fn(features, embedding)``, the features to go on with. Default: addition, the embedding spread over
        the dimensions that it lacks.
    distance_fn
        ``distance_fn(y1, y0)``, a scalar, or one of "mse" (the default), "l1", "cross_entropy", "kl", "js", "cosine".
        The three between distributions take predictions as logits, and targets as class probabilities.
    neutral
        The signal that stands for "no prediction yet": a number, or a tensor in the shape of one sample's prediction,
        outside the range of the labels. Its embedding is then injected for y0 too, y0 = f(x | neutral), in training and
        at test time, at the cost of a plain forward pass a call that tells the prediction's shape. Default: nothing is
        injected for y0.
    target_probability
        If set, the engine trains with one pass, as the authors' programs do: ``prediction`` is f(x | signal), the
        signal being each sample's target with this probability, else ``neutral``, and ``loss_ttt`` is 0. Where
        ``neutral`` is None, the draw is for the whole batch, between the targets and no injection.
    output
        Which of the tensors that the model returns is the prediction: an index, a key, a path of these such as
        ``(1, "logits")``, or, where the model is eager, a function of all that it returns. May be left out where there
        is only one.
    layer_output
        Which of the tensors that the layer returns is injected into: an index, a key or a path. Default: the first.
    feedback
        What is fed back of y0, so that it is of a kind with the labels that are fed in training. "auto": softmax(y0),
        class probabilities, where the distance is one of the three between distributions, or where the engine was
        trained by class indices on predictions that are no probabilities by themselves; else y0. "probabilities", or
        "prediction", which is y0 as it is, as in torch-ttt.
    in_dims
        Along which dimension of each input the samples lie, in torch.vmap's convention: a number for all tensors, or a
        tuple or dictionary like the inputs, with None for what all samples share. Needed by ``per_sample``, and to
        leave samples out, where several tensors could hold samples. Default: where ``prediction_layout`` has them.
    prediction_layout, features_layout
        Where the prediction, and the layer's output, have their samples and channels, if the kinds of the model's
        layers do not tell. The channels of a prediction are its classes or components: for the embedder, for one-hot
        targets, for the distances and for ``feedback``.
    optimization_parameters
        How to adapt: an :class:`it3.Options`, or a dictionary of its fields. May be changed between calls, as
        ``engine.optimization_parameters["lr"] = 1e-3``.

    Raises
    ------
    ValueError, TypeError
        For a layer, an option or a distance that does not exist, and for values of a wrong type or out of range.

    Notes
    -----
    Inputs are a tensor, a tuple or list (positional arguments) or a mapping (keyword arguments). Targets have the
    prediction's shape, or are class indices without its channel dimension. Threads may share an engine, and a model:
    where it is not cut, adapting lends it other weights for the length of a call, and other calls of engines wait. To
    call the model itself, or to pickle it, meanwhile is for the program to prevent.

    The embedder and the functions may compute with weights of the model, such as an embedding's that is tied to its
    last layer: they get those of before the call. Where the model is not cut, that is an error.

    A cut is made at the first call of each kind, compared with the model (predictions and gradients), and made anew
    when the model changes: its layers, their attributes and hooks.

    In train mode each of the two passes normalizes by its own batch, but the running statistics of batch normalization
    are those of the first. Behind the named layer, they do not fit y1 in eval mode: name a layer behind the last batch
    normalization, or train with ``neutral`` and ``target_probability``, where one pass has both kinds of sample.
    """

    _prediction_layout: _C.Layout
    _features_layout: _C.Layout

    def __init__(
        self,
        model: nn.Module,
        features_layer_name: str | nn.Module,
        embedder: nn.Module | Callable[..., Tensor] | None = None,
        combine_fn: TensorFunction | None = None,
        distance_fn: TensorFunction | str | None = None,
        optimization_parameters: Mapping[str, Any] | None = None,
        *,
        neutral: Tensor | float | None = None,
        target_probability: float | None = None,
        output: Any = None,
        layer_output: Any = None,
        feedback: Literal["auto", "probabilities", "prediction"] = "auto",
        in_dims: Any = None,
        prediction_layout: _C.Layout | None = None,
        features_layout: _C.Layout | None = None,
        embeder: nn.Module | Callable[..., Tensor] | None = None,
    ) -> None:
        super().__init__()
        if embeder is not None and embedder is not None:
            raise TypeError("embeder is torch-ttt's spelling of embedder; give one of the two")
        embedder = embeder if embedder is None else embedder
        _check_model(model)
        features_layer_name = layer_name_of(model, features_layer_name)
        _C.check_output_choice(output, layer_output)
        self.model = model
        self.features_layer_name = features_layer_name
        self.output = output
        self.layer_output = layer_output
        self.optimization_parameters = dict(optimization_parameters or {})
        _C.options_of(self.optimization_parameters)
        self.combine_fn = callable_or_none("combine_fn", combine_fn)
        if isinstance(distance_fn, str):
            _C.check_distance(distance_fn)
            self.distance_fn: TensorFunction | str = distance_fn
        else:
            self.distance_fn = callable_or_none("distance_fn", distance_fn) or "mse"

        plain = eager(model)
        self._given_layouts = (prediction_layout, features_layout)
        _C.submodule_of(plain, self._layer_name())  # raises if there is none
        with torch.inference_mode(False):  # weights made in it could not be trained
            self.embedder = Embedder() if embedder is None else callable_or_none("embedder", embedder)
        own = self.embedder if isinstance(self.embedder, Embedder) else None
        if own is not None and not own.is_built:
            own.to(like_of(plain))  # so that loading a state dict keeps the model's device and dtype
        _C.check_feedback(feedback)
        self.feedback = feedback
        _C.check_in_dims(in_dims)
        self.in_dims = in_dims
        self.is_trained = own is not None and own.is_built
        """Whether the embedder was trained, by this engine or, as one that has its shape is taken to be, elsewhere."""
        self._learned_probabilities = False
        self._has_warned = False
        self.neutral = neutral
        self.target_probability = target_probability
        self.notes: dict[str, Any] = {}
        """What the file that the engine was loaded from says of the network's class, inputs and outputs."""
        self._online = _C.Online()
        self._known_runners: tuple[nn.Module, str, Any, Any, _C.Runners] | None = None

    @property
    def embeder(self) -> Any:
        """The embedder, as torch-ttt spells it."""
        return self.embedder

    def forward(self, inputs: Any, target: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Train or adapt, by the engine's mode.

        Parameters
        ----------
        inputs
            What the model is called with.
        target
            In train mode only: the labels, of the prediction's shape, or class indices.

        Returns
        -------
        prediction, loss
            See the class.

        Raises
        ------
        ValueError
            For a target in eval mode, or one that does not fit the prediction; where nothing can adapt; where losses
            are not finite.
        """
        if self.training:
            parts = self._parts_for(inputs)
            prediction, loss, learns = _C.training_losses(parts, inputs, target, self.target_probability)
            if not self.is_trained:
                self.is_trained = True
            if learns and not self._learned_probabilities:
                self._learned_probabilities = True
            return prediction, loss
        if target is not None:
            raise ValueError("a target was given in eval mode, where adaptation uses no labels; call train() to train")
        self._warn_if_untrained(self.optimization_parameters, stacklevel=5)  # two of torch.nn lie between
        result = _C.adapt(self._parts_for(inputs), inputs, self.optimization_parameters, self._online)
        return result.prediction, result.loss()

    def adapt(self, inputs: Any, **overrides: Any) -> Adaptation:
        """Adapt to a batch and tell all about it, in whatever mode the engine is.

        Parameters
        ----------
        inputs
            What the model is called with.
        **overrides
            Optimization parameters for this call. What the engine's say beside about a choice that these change, such
            as ``ema_decay`` about ``anchor="ema"``, is left out.
        """
        options = _C.overridden(self.optimization_parameters, overrides) if overrides else self.optimization_parameters
        self._warn_if_untrained(options, stacklevel=3)
        result = _C.adapt(self._parts_for(inputs), inputs, options, self._online, with_details=True)
        return Adaptation(
            prediction=result.prediction,
            first=result.first,
            second=result.second,
            losses=result.losses,
            adapted_samples=result.adapted_samples,
            recovered=result.recovered,
            _weights=dict(result.weights),
            _source=eager(self.model),
            _has_neutral=self.neutral is not None,
            _prediction_layout=self.prediction_layout,
        )

    def uncertainty(self, inputs: Any) -> Tensor:
        """Return the distance ‖y1 - y0‖ of each sample, (B,), without adapting: larger where the model is less sure."""
        return _C.uncertainty(self._parts_for(inputs), inputs, self.optimization_parameters)

    def calibrate(self, clean: Iterable[Any], quantile: float = 0.95, *, has_targets: bool | None = None) -> float:
        """Set the option ``threshold`` to a quantile of :meth:`uncertainty` over data that need no adaptation.

        Nothing else changes: no weights, no inputs and no random generators.

        Parameters
        ----------
        clean
            Batches, such as a DataLoader's: inputs, or tuples or lists of inputs and targets.
        quantile
            The share of samples like these that shall not adapt.
        has_targets
            True: each batch is a tuple or list whose last item is the targets. False: each batch is what the model is
            called with. By default, a tuple or list of one is the input in it, and one of two is an input and its
            targets, if the model takes one input.

        Returns
        -------
        float
            The threshold.

        Raises
        ------
        ValueError, TypeError
            For a quantile outside [0, 1], if there are no batches, for a batch of two tensors where the model can take
            two inputs, and for what are no batches.
        """
        distances = []
        with kept_random_state():
            for inputs in calibration_inputs(clean, eager(self.model), has_targets):
                distances.append(self.uncertainty(own_copy(inputs)))
        threshold = _C.quantile_of(distances, quantile)
        self.optimization_parameters["threshold"] = threshold
        return threshold

    def drift(self) -> _C.Drift:
        """Return how far the weights are from those that :meth:`reset` goes back to: Euclidean norms."""
        return self._online.drift(eager(self.model))

    def explain(self, inputs: Any) -> str:
        """Return how a call with these inputs would run, and why.

        The network, whether a CUDA graph is replayed, and where features and prediction have their channels and
        samples.
        """
        path = self._runners().explain(inputs)
        layouts = _C.describe_layouts(self._parts_for(inputs), inputs)
        why_not = _C.why_not_recorded(self._parts(), inputs, self.optimization_parameters)
        graph = f"no CUDA graph: {why_not}" if why_not else "replayed as a CUDA graph from the second like call on"
        return f"{path}; {graph}; {layouts}"

    def save(
        self, path: str | os.PathLike[str], example_inputs: Any, method: Literal["script", "trace"] = "script"
    ) -> None:
        """Write the engine to one file; see :func:`it3.save`."""
        from it3.saving import save  # noqa: PLC0415  (it needs this class)

        save(self, path, example_inputs, method)

    def reset(self) -> None:
        """Go back to the weights from before the first call that kept adapted ones (``copy_model`` False).

        Weights that were trained or loaded since the last such call stay: they are a new start.
        """
        self._online.reset(eager(self.model))

    def extra_repr(self) -> str:
        """Return where and how the engine adapts, for print()."""
        return (
            f"features_layer_name={self.features_layer_name!r}, optimization_parameters={self.optimization_parameters}"
        )

    def _warn_if_untrained(self, options: Mapping[str, Any], stacklevel: int) -> None:
        if self.is_trained or self._has_warned or options.get("num_steps") == 0:
            return
        self._has_warned = True
        if isinstance(self.embedder, nn.Module) and next(self.embedder.parameters(), None) is not None:
            warnings.warn(_C.untrained_warning, stacklevel=stacklevel)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Copy when no other thread has adapted weights in the model."""
        other = type(self).__new__(type(self))
        memo[id(self)] = other
        with _C.ModelHold(eager(self.model)):
            state = copy.deepcopy(self.__getstate__(), memo)
        other.__setstate__(state)  # type: ignore[no-untyped-call]
        return other

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Return the weights when no other thread has adapted ones in the model; see torch.nn.Module."""
        with _C.ModelHold(eager(self.model)):
            return super().state_dict(*args, **kwargs)

    def get_extra_state(self) -> Tensor:
        """Return what a state dict holds beside weights: whether the embedder is trained, and for probabilities."""
        return torch.tensor([self.is_trained, self._learned_probabilities])

    def set_extra_state(self, state: Tensor) -> None:
        """Take what :meth:`get_extra_state` gave."""
        self.is_trained, self._learned_probabilities = state.tolist()

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        rename_torch_ttt_keys(state_dict, prefix, isinstance(self.embedder, Embedder))
        # Of torch-ttt and of earlier checkpoints, which were written after training.
        state_dict.setdefault(f"{prefix}_extra_state", torch.tensor([True, False]))
        super()._load_from_state_dict(state_dict, prefix, *args)


def _check_model(model: object) -> None:
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, not a {type(model).__name__}")
    if isinstance(model, IT3Engine):
        raise TypeError("model is an IT3Engine, which adapts by itself; give the model in it, engine.model")
    if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
        raise ValueError(
            f"model is wrapped in {type(model).__name__}; give model.module, and wrap the engine to train in parallel"
        )
