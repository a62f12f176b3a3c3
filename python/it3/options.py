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
        Optimizer steps a call; 0 gives the plain prediction.
    lr
        Learning rate; 1e-5 to 1e-3 is usual. torch-ttt's default is 1e-2, which ruins many networks.
    betas
        Decay rates of the two moments of adam and adamw. None: (0.9, 0.999).
    eps
        Added to the denominator by every optimizer but sgd. None: 1e-8, for adagrad 1e-10.
    weight_decay
        L2 penalty; adamw decays the weights themselves. None: 0, for adamw 1e-2.
    momentum
        Momentum of sgd and rmsprop. None: 0.
    max_grad_norm
        Gradients are scaled down to this Euclidean norm over all parameters. None: they are not.
    parameters
        Which parameters adapt: ``"all"`` that require gradients, ``"norm"`` for the scales and shifts of normalization
        layers, or a pattern or a list of patterns of dotted names, such as ``["encoder.*", "head.bias"]``. A pattern
        selects a parameter by its name or by that of a module around it; ``*``, ``?`` and ``[...]`` mean what they mean
        in a shell.
    anchor
        The network F of y1 = F(x | y0) while f adapts: ``"self"`` is f itself, so that both predictions are pulled
        toward one another, as in torch-ttt; ``"frozen"`` is f as it was at the start, so that f cannot learn to accept
        a wrong y0 (the paper's choice); ``"frozen_tail"`` is that behind the layer alone, on f's own features, where
        the network is cut at its layer; ``"ema"`` is a moving average of f's weights, F ← ``ema_decay`` F + (1 -
        ``ema_decay``) f after each step (the paper's online variant, with ``copy_model=False``).
    ema_decay
        Of ``anchor="ema"``. None: 0.99.
    norm_statistics
        What batch normalization in eval mode normalizes by in all passes: the ``"running"`` statistics, those of the
        ``"batch"``, or a ``"blend"`` of both. The stored statistics never change, dropout stays off, and a batch of one
        is safe.
    norm_prior
        Of ``norm_statistics="blend"``: for how many samples the running statistics count. None: 16.
    prediction
        Which of the adapted network's predictions is the answer: ``"first"``, which is y0, ``"second"``, y1, or their
        ``"mean"``.
    tolerance
        Steps end early when the loss has not fallen by more than this share of the least so far, for ``patience``
        evaluations in a row. Waits for the device at each step. None: all steps are taken.
    patience
        Of ``tolerance``. None: 1.
    threshold
        Only samples whose uncertainty is above it adapt; the others reach neither loss nor gradient. Samples whose
        distance or inputs are not finite never adapt (but -∞ in inputs, as of attention masks, is allowed).
        ``engine.calibrate(clean_batches)`` sets it. None: all adapt.
    per_sample
        Whether each sample of the batch adapts weights of its own, as if it were alone: all together where the model
        can be cut and vectorized, else one after another, with a warning. The loss is then (B,). Needs ``copy_model``.
    chunk_size
        Of ``per_sample``: how many samples adapt at once. None: what fits into half of the free memory.
    copy_model
        Whether every call starts from the same weights and leaves them as they were. False keeps adapted weights,
        optimizer state and anchor from call to call, until ``engine.reset()``. ``online=True`` is another spelling of
        False.
    restore_probability
        The probability with which each weight, after each step, goes back to its value at the start (the stochastic
        restoration of CoTTA, arXiv 2203.13591).
    recovery_factor
        With ``copy_model=False``: weights, optimizer and anchor go back to the start when the moving average over calls
        of the loss before the first step, m ← 0.9 m + 0.1 loss, is more than this many times its minimum, or a loss or
        prediction is not finite; the batch adapts from there. None: never.
    cuda_graphs
        On a CUDA device, from the second call of the same shapes and options on, one CUDA graph is replayed where that
        is possible: ``"auto"``, or ``"off"``. ``engine.explain(inputs)`` says where it is not.
    amp
        ``"bf16"`` or ``"fp16"``: the passes run in mixed precision by autocast. Weights, losses, gradients and
        predictions stay float32; in fp16, gradients are scaled on their way so that small ones do not vanish.
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
