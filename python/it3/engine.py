"""The engine: a model, an embedder and how to adapt."""

import os
import warnings
from collections.abc import Iterable
from typing import Any, Literal

from torch import Tensor, nn

from it3 import _C
from it3.adaptation import Adaptation
from it3.cutting.exported_model import ExportedModel
from it3.cutting.first_look import look_at_first
from it3.cutting.norm_statistics import OtherStatistics
from it3.cutting.shared_head import SharedHead
from it3.cutting.tracing import plan_of
from it3.embedder import Embedder
from it3.engine_loops import EngineLoops
from it3.support.checks import eager
from it3.support.input_errors import InputErrors
from it3.support.inputs_in_batches import inputs_in_batches
from it3.support.kept import KeptRandomState, own_copy
from it3.support.sharding import check_sharding

_C.use_python_parts(Embedder, plan_of, OtherStatistics, SharedHead, ExportedModel)

_ARGUMENTS = (
    *("model", "features_layer_name", "embedder", "combine_fn", "distance_fn", "optimization_parameters", "neutral"),
    *("training_recipe", "output", "layer_output", "feedback", "in_dims", "prediction_layout", "features_layout"),
)


class IT3Engine(EngineLoops):
    """Idempotent Test-Time Training around a model (IT3, ICML 2025, arXiv 2410.04201).

    In train mode, ``engine(inputs, target=y)`` returns ``(y0, loss_ttt)``: the prediction f(x) for the user's own
    criterion, and the second term of the training loss, distance(f(x | y), y) (the paper's Eq. 1). Without a target it
    is distance(f(x | y0), y0).

    In eval mode, ``engine(inputs)`` takes a few optimizer steps on distance(f(x | y0), y0) and returns ``(prediction,
    loss)``, both detached: the adapted network's prediction, and the loss before the last step, a scalar, or (B,) with
    ``per_sample``. The model is afterwards bit for bit as it was, also after an exception, unless ``copy_model`` is
    False.

    Parameters
    ----------
    model
        The network to adapt: eager, TorchScript, or a program of ``torch.export``. It is cut at the layer: what comes
        before it runs once a step instead of twice, or once a call if none of its parameters adapt. An eager model that
        cannot be traced runs whole, with a forward hook on the layer; :meth:`explain` says which happens, and why. The
        prediction is the one tensor that the model returns, also inside a tuple, list or mapping; of several,
        ``output`` says which.
    features_layer_name
        The dotted name of the layer at whose output y0 is fed back, or the layer itself; or "input", for the model's
        first argument: the engine's model is then an :class:`it3.WithInputLayer` around the one that is given. If the
        layer is called several times, y0 is injected at each call. A program of ``torch.export`` does not tell
        everything of a layer: one that the model calls by several names, or in several ways, is refused, where it has
        parameters; and what a layer hands on otherwise than by returning it, as in an attribute, may count as its
        output.
    embedder
        A module that turns a prediction into what is combined with the features, or an :class:`it3.Embedder`, which is
        the default: one without weights where there are ``extra_channels``. That takes its weights' shapes from the
        first call of any kind. What looks at them before training, such as torch.optim.Adagrad, an average of weights,
        DistributedDataParallel, or a penalty on the parameters, needs one: ``engine.adapt(inputs, num_steps=0)``.
        ``embeder`` is torch-ttt's spelling, as an argument and as an attribute.
    combine_fn
        ``combine_fn(features, embedding)``, the features to go on with. Default: addition, the embedding spread over
        the dimensions that it lacks.
    distance_fn
        ``distance_fn(y1, y0)``, a scalar, or one of "mse" (the default), "l1", "cross_entropy", "kl", "js", "cosine".
        The three between distributions take predictions as logits, and targets as class probabilities.
    neutral
        The signal that stands for "no prediction yet": a number, or a tensor in the shape of one sample's prediction,
        outside the range of the labels. Its embedding is then injected for y0 too, y0 = f(x | neutral), in training and
        at test time, at the cost of a plain forward pass a call that tells the prediction's shape. Or it is drawn once
        a call, with ``per_sample`` once a chunk, for each sample: an :class:`it3.RandomOneHot`,
        :class:`it3.DrawnLabels`, or a function that is given a prediction and returns signals of its shape. Default:
        nothing is injected for y0.
    training_recipe
        What the second pass of training is fed with, and how ``loss_ttt`` counts: an :class:`it3.TrainingRecipe`.
        Default: the target.
    extra_channels
        With "input": how many channels of zeros follow those of the model's first argument, whose first layer is that
        much wider than the data. They take y0 itself, as further columns, channels or node features: give as many as y0
        has channels. Default: none, y0's embedding is added to the input.
    output
        Which of the tensors that the model returns is the prediction: an index, a key, a path of these such as
        ``(1, "logits")``, or, where the model is eager, a function of all that it returns. May be left out where there
        is only one.
    layer_output
        Which of the tensors that the layer returns is injected into: an index, a key or a path. Default: the first. A
        program of torch.export has to be exported with ``preserve_module_call_signature=(layer,)`` for it.
    feedback
        What is fed back of y0, so that it has the form of the labels that are fed in training. "auto": softmax(y0) if
        the distance is one of the three between distributions, or if the engine was trained on class indices with
        predictions that are not probabilities by themselves; else y0. "probabilities": always softmax(y0).
        "prediction": always y0, as in torch-ttt.
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
    prediction's shape, or are class indices without its channel dimension. Threads may share an engine, and a model. A
    model that is not cut has its weights changed in place during a call, while other calls of engines wait; the program
    must not call or pickle the model itself in another thread meanwhile.

    The embedder and the functions may compute with weights of the model, such as an embedding's that is tied to its
    last layer: they get those of before the call. Where the model is not cut, that is an error.

    A cut is made at the first call of each kind, compared with the model (predictions and gradients), and made anew
    when the model changes: its layers, their attributes and hooks.

    In train mode what comes before the layer is computed once for both passes, unless it is small, draws random
    numbers, or does what cannot be seen to be the same in both: after a step :meth:`explain` says why not. Both results
    then hang on one graph: call ``backward()`` once, on their sum, or give ``retain_graph=True``.

    In train mode each of the two passes normalizes by its own batch, but the running statistics of batch normalization
    are those of the first. In layers after the named one they do not fit y1 in eval mode: name a layer after the last
    batch normalization, or train with ``neutral`` and ``it3.TrainingRecipe(first_pass="drawn", second_pass="none")``,
    where one pass has both kinds of sample.

    Examples
    --------
    >>> model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 1))
    >>> engine = it3.IT3Engine(model, "0", optimization_parameters={"num_steps": 2, "lr": 1e-3})
    >>> optimizer = torch.optim.Adam(engine.parameters())
    >>> x, y = torch.randn(32, 8), torch.randn(32, 1)
    >>> prediction, loss_ttt = engine(x, target=y)
    >>> (F.mse_loss(prediction, y) + loss_ttt).backward()
    >>> optimizer.step()
    >>> prediction, loss = engine.eval()(x)
    >>> prediction.shape
    torch.Size([32, 1])

    The examples of the methods go on from here.
    """

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

        Examples
        --------
        >>> prediction, loss = engine(x)
        >>> loss.shape
        torch.Size([])
        """
        if self.training:
            if not isinstance(target, Tensor | None):
                raise TypeError(f"the target must be a tensor, or None, not a {type(target).__name__}")
            with InputErrors(inputs):
                return self._core.losses(self._setup_for(inputs, trains=True), inputs, target, self.training_recipe)
        if target is not None:
            raise ValueError("a target was given in eval mode, where adaptation uses no labels; call train() to train")
        self._warn_if_untrained(self.optimization_parameters, stacklevel=5)  # two of torch.nn lie between
        with InputErrors(inputs):
            result = self._core.adapt(self._setup_for(inputs), inputs, self.optimization_parameters)
        return result.prediction, result.loss()

    def adapt(self, inputs: Any, **overrides: Any) -> Adaptation:
        """Adapt to a batch and tell all about it, in whatever mode the engine is.

        The model runs in eval mode; an embedder and functions of your own run in the modes that they are in, which
        ``engine.eval()`` sets too.

        Parameters
        ----------
        inputs
            What the model is called with.
        **overrides
            Optimization parameters for this call. Changing a choice drops the engine's options that refine it: another
            ``anchor`` drops ``ema_decay``.

        Examples
        --------
        >>> adaptation = engine.adapt(x, num_steps=5, anchor="frozen")
        >>> adaptation.losses.shape
        torch.Size([5])
        """
        given = self.optimization_parameters
        options = _C.overridden(given, overrides) if overrides else given
        self._warn_if_untrained(options, stacklevel=3)
        with InputErrors(inputs):
            setup = self._setup_for(inputs)
            result = self._core.adapt(setup, inputs, options, with_details=True)
        return Adaptation(
            prediction=result.prediction,
            first=result.first,
            second=result.second,
            losses=result.losses,
            adapted_samples=result.adapted_samples,
            recovered=result.recovered,
            _weights=dict(result.weights),
            _source=setup.model,
            _has_neutral=setup.has_neutral,
            _prediction_layout=result.prediction_layout,
            _feeds_probabilities=result.feeds_probabilities,
        )

    def uncertainty(self, inputs: Any) -> Tensor:
        """Return the distance ‖y1 - y0‖ of each sample, (B,), without adapting: larger where the model is less sure.

        Where class probabilities are fed back (see ``feedback``) it is ‖softmax(y1) - softmax(y0)‖, the softmax over
        the classes: logits differ most where they are large, which is where a model is sure. So it is no uncertainty of
        logits that are fed back as they are, as ``feedback="prediction"`` has it. The norm is the Euclidean one, over
        all dimensions but that of samples: it grows with the number of positions, such as pixels.

        Examples
        --------
        >>> engine.uncertainty(x).shape
        torch.Size([32])
        """
        with InputErrors(inputs):
            return self._setup_for(inputs).uncertainty(inputs, self.optimization_parameters)

    def calibrate(self, clean: Iterable[Any], quantile: float = 0.95, *, has_targets: bool | None = None) -> float:
        """Set the option ``threshold`` to a quantile of :meth:`uncertainty` over data that need no adaptation.

        Calibrate with inputs of the size, and the options, with which the engine will adapt. Once something else is fed
        back than when it was calibrated, as after training by class indices, adapting with a threshold raises
        ValueError.

        From then on the engine also warns, once, where adapting has made the predictions of a batch far more extreme
        than those of all these batches: of classes less than half the least mean entropy, else more than twice the
        greatest mean Euclidean norm. Batches with fewer samples than the smallest of these are not judged, so give
        batches of the size that will adapt. For the warning alone, with all samples adapting, set
        ``engine.optimization_parameters["threshold"] = None`` afterwards, or give ``threshold=None`` to the calls.
        No weights, inputs or random generators change.

        Parameters
        ----------
        clean
            Batches, such as a DataLoader's: inputs, or tuples or lists of inputs and targets.
        quantile
            The share of samples like these that shall not adapt.
        has_targets
            Whether the last item of each batch is the targets, which are left out. False: the whole batch is the
            model's inputs. None: a tuple or list of two is an input and its targets, where the model takes one input
            only, and a tuple or list of one is its input.

        Returns
        -------
        float
            The threshold.

        Raises
        ------
        ValueError, TypeError
            For a quantile outside [0, 1], if there are no batches, for a batch of two tensors where the model can take
            two inputs, and for what are no batches.

        Examples
        --------
        >>> threshold = engine.calibrate([(x, y)], quantile=0.9)
        >>> engine.adapt(x).adapted_samples.sum()
        tensor(4)
        """
        calibration = _C.Calibration()
        with KeptRandomState():
            for inputs in inputs_in_batches(clean, eager(self.model), has_targets, "calibrate"):
                with InputErrors(inputs):
                    calibration.add(self._setup_for(inputs), own_copy(inputs), self.optimization_parameters)
        threshold = self._core.calibrate(calibration, quantile)
        self.optimization_parameters["threshold"] = threshold
        return threshold

    def drift(self) -> _C.Drift:
        """Return how far the weights are from those that :meth:`reset` goes back to: Euclidean norms.

        Examples
        --------
        >>> engine.drift().distance
        0.0
        """
        return self._core.drift(eager(self.model))

    def explain(self, inputs: Any) -> _C.Explanation:
        """Return how a call with these inputs would run, and why.

        Whether the model is cut, compiled programs are called, and a CUDA graph is replayed; what is fed back; and
        where features and prediction have their channels and samples. It prints as a line for each, and each can be
        asked.

        Examples
        --------
        >>> explanation = engine.explain(x)
        >>> print(explanation)
        runs:        cut at the layer, exported by torch.export
        CUDA graph:  none, it does not run on a CUDA device
        fed back:    y0
        features:    (32, 16), channels in dimension 1 (16), samples in dimension 0
        prediction:  (32, 1), channels in dimension 1 (1), samples in dimension 0
        >>> explanation.is_cut, explanation.features.shape
        (True, (32, 16))
        """
        with InputErrors(inputs):
            return self._setup_for(inputs).explain(inputs, self.optimization_parameters)

    def save(
        self,
        path: str | os.PathLike[str],
        example_inputs: Any,
        method: Literal["script", "trace"] = "script",
        *,
        format: Literal["torchscript", "aoti"] = "torchscript",  # noqa: A002  (as torch's savers)
        dynamic_batch: bool = True,
        backend: Literal["auto", "compiled"] = "auto",
        cache: str | os.PathLike[str] | None = None,
    ) -> None:
        """Write the engine to one file; see :func:`it3.save`.

        Examples
        --------
        >>> engine.save("engine.pt", example_inputs=x)
        """
        how = {"format": format, "dynamic_batch": dynamic_batch, "backend": backend, "cache": cache}
        from it3.saving.save import save  # noqa: PLC0415  (which imports this)

        save(self, path, example_inputs, method, **how)  # type: ignore[arg-type]

    def reset(self) -> None:
        """Go back to the weights from before the first call that kept adapted ones (``copy_model`` False).

        Weights that were trained or loaded since the last such call stay: they are a new start.

        Examples
        --------
        >>> adaptation = engine.adapt(x, online=True, threshold=None)
        >>> engine.drift().distance > 0
        True
        >>> engine.reset()
        >>> engine.drift().distance
        0.0
        """
        self._core.reset(eager(self.model))

    def extra_repr(self) -> str:
        """Return where and how the engine adapts, for print()."""
        return (
            f"features_layer_name={self.features_layer_name!r}, optimization_parameters={self.optimization_parameters}"
        )

    def _setup_for(self, inputs: Any, *, trains: bool = False) -> _C.EngineSetup:
        """Return what a call is made with, of which the first is preceded by a look."""
        check_sharding(self, trains=trains)
        setup = self._core.setup_of(self)
        if setup.is_looked_at:
            return setup
        with _C.EmbedderHold(setup):  # other threads wait for what it finds
            setup = self._core.setup_of(self)
            return setup if setup.is_looked_at else look_at_first(self._core, setup, inputs, self.training)

    def _warn_if_untrained(self, options: dict[str, Any], stacklevel: int) -> None:
        if not self._core.takes_warning(options):
            return
        embedder = self.embedder
        has_weights = isinstance(embedder, nn.Module) and next(embedder.parameters(), None) is not None
        if has_weights or isinstance(embedder, Embedder):
            warnings.warn(_C.untrained_warning, stacklevel=stacklevel)

    def _with(self, **parts: Any) -> "IT3Engine":
        """Make an engine like this one, of other parts."""
        other = IT3Engine(**{name: getattr(self, name) for name in _ARGUMENTS} | parts)
        other.set_extra_state(self.get_extra_state())
        other._core.calibrated_range = self._core.calibrated_range
        return other
