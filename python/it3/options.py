"""The options of an engine. Written by tools/write_options.py from the core's table; change that instead."""

from collections.abc import Sequence
from dataclasses import InitVar, dataclass
from typing import Literal

from it3.support.given_options import GivenOptions


@dataclass(frozen=True, kw_only=True, eq=False)
class Options(GivenOptions):
    """How to adapt; may be given wherever a dictionary of options is taken: it is one of those that were given to it.

    Parameters
    ----------
    optimizer_name
        The optimizer of the inner loop, with the update rule of torch.optim.
    num_steps
        Optimizer steps in each call. With 0, the network predicts without adapting.
    lr
        Learning rate; 1e-5 to 1e-3 is usual. torch-ttt's default is 1e-2, which ruins many networks.
    betas
        Decay rates of the two moments of adam and adamw. None: (0.9, 0.999).
    eps
        Added to the denominator by every optimizer but sgd. None: 1e-8; for adagrad 1e-10.
    weight_decay
        L2 penalty; adamw decays the weights themselves. None: 0; for adamw 1e-2.
    momentum
        Momentum of sgd and rmsprop. None: 0.
    max_grad_norm
        The largest Euclidean norm of the gradients of all parameters together; larger gradients are scaled down to it.
        None: gradients are not scaled.
    parameters
        Which parameters adapt: ``"all"`` that require gradients; ``"norm"``, the scales and shifts of normalization
        layers; or a pattern or a list of patterns of dotted names, such as ``["encoder.*", "head.bias"]``. A pattern
        selects a parameter by its own name or by the name of a module around it. ``*``, ``?`` and ``[...]`` mean what
        they mean in a shell.
    anchor
        The network F that makes the second prediction, y1 = F(x | y0), while f adapts. ``"self"``: f itself, so that
        both predictions are pulled toward one another, as in torch-ttt. ``"frozen"``: f as it was at the start, so that
        f cannot learn to accept a wrong y0; this is the paper's choice. ``"frozen_tail"``: only the part behind the
        layer is as it was at the start, and it runs on the features of the adapting f; the network has to be cut at its
        layer. ``"ema"``: a moving average of f's weights, F ← ``ema_decay`` F + (1 - ``ema_decay``) f after each step;
        this is the paper's online variant, for ``copy_model=False``.
    ema_decay
        Decay of ``anchor="ema"``. None: 0.99.
    norm_statistics
        The mean and variance by which batch normalization in eval mode normalizes, in all passes: the ``"running"``
        statistics, those of the ``"batch"``, or a ``"blend"`` of both. The stored statistics never change, dropout
        stays off, and a batch of one sample is safe.
    norm_prior
        The number of samples that the running statistics count as in ``norm_statistics="blend"``. None: 16.
    prediction
        Which prediction of the adapted network is the answer: ``"first"`` is y0, ``"second"`` is y1, and ``"mean"`` is
        the mean of both.
    tolerance
        Steps end early if the loss has not fallen below its minimum so far by more than this fraction of it,
        ``patience`` times in a row. The CPU then waits for the device at each step. None: all steps are taken.
    patience
        The number of evaluations in a row without such a fall, see ``tolerance``, after which steps end. None: 1.
    threshold
        Only samples whose uncertainty exceeds it adapt; the others contribute neither to the loss nor to gradients.
        Samples whose uncertainty or inputs are not finite never adapt, but -∞ in inputs is allowed, as attention masks
        contain it. ``engine.calibrate(clean_batches)`` sets it. None: all samples adapt.
    per_sample
        Whether each sample of the batch adapts weights of its own, as if it were alone. The samples adapt together if
        the model can be cut and vectorized; else one after another, with a warning. The loss is then (B,). Needs
        ``copy_model``.
    chunk_size
        How many samples adapt at once with ``per_sample``. None: as many as fit into half of the free memory.
    copy_model
        Whether every call starts from the same weights and leaves them as they were. With False, adapted weights,
        optimizer state and anchor are kept from call to call, until ``engine.reset()``. ``online=True`` is another
        spelling of ``copy_model=False``.
    restore_probability
        The probability with which each weight goes back to its value at the start after each step: the stochastic
        restoration of CoTTA, arXiv 2203.13591.
    recovery_factor
        Weights, optimizer and anchor go back to the start if m exceeds ``recovery_factor`` times its minimum so far, or
        if a loss or prediction is not finite; the batch then adapts from there. m is the moving average over calls of
        the loss before the first step, m ← 0.9 m + 0.1 loss. For ``copy_model=False``. None: never.
    cuda_graphs
        Whether calls on a CUDA device may be replayed as CUDA graphs. With ``"auto"``, the second call with the same
        shapes and options is recorded, and later ones replay it, where that is possible; ``engine.explain(inputs)``
        says where it is not. With ``"off"``, nothing is recorded.
    amp
        Runs the passes in mixed precision by autocast, in ``"bf16"`` or ``"fp16"``. Weights, losses, gradients and
        predictions stay float32. In fp16, gradients are scaled while they are computed, so that small ones do not
        vanish. None: the passes run in the model's own precision.
    online
        Another spelling of ``copy_model``, which holds its opposite. None says nothing.

    Raises
    ------
    ValueError, TypeError
        For values that are not accepted.

    Examples
    --------
    >>> options = it3.Options(num_steps=2, lr=1e-3)
    >>> dict(options)
    {'num_steps': 2, 'lr': 0.001}
    >>> engine = it3.IT3Engine(model, "0", optimization_parameters=options)
    """

    optimizer_name: Literal["adam", "adamw", "sgd", "rmsprop", "adagrad"] = "adam"
    num_steps: int = 3
    lr: float = 1e-05
    betas: tuple[float, float] | None = None
    eps: float | None = None
    weight_decay: float | None = None
    momentum: float | None = None
    max_grad_norm: float | None = None
    parameters: str | Sequence[str] = "all"
    anchor: Literal["self", "frozen", "frozen_tail", "ema"] = "self"
    ema_decay: float | None = None
    norm_statistics: Literal["running", "batch", "blend"] = "running"
    norm_prior: float | None = None
    prediction: Literal["first", "second", "mean"] = "first"
    tolerance: float | None = None
    patience: int | None = None
    threshold: float | None = None
    per_sample: bool = False
    chunk_size: int | None = None
    copy_model: bool = True
    restore_probability: float = 0.0
    recovery_factor: float | None = None
    cuda_graphs: Literal["off", "auto"] = "auto"
    amp: Literal["bf16", "fp16"] | None = None
    online: InitVar[bool | None] = None
