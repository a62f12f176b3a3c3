"""Other statistics for the batch normalization of eager models."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode


class OtherStatistics(TorchFunctionMode):
    """Makes batch normalization in eval mode use other statistics, wherever in a model it is called.

    It catches the functions rather than the layers, of which there are many kinds.
    """

    def __init__(self, batch_norm: Callable[..., Tensor]) -> None:
        """Take what is called, in place of torch's, with input, running mean and variance, weight, bias and eps."""
        super().__init__()
        self.batch_norm = batch_norm
        self.was_called = False

    def call(self, model: Callable[..., object], args: tuple[Any, ...], kwargs: dict[str, Any]) -> object:
        """Call a model. Raises ValueError if it has no batch normalization with running statistics."""
        with self:
            output = model(*args, **kwargs)
        if not self.was_called:
            raise ValueError(
                "norm_statistics is not 'running', but the model has no batch normalization with running statistics; "
                "use 'running'"
            )
        return output

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run one function of torch."""
        if func is F.batch_norm:
            return self._functional(*args, **(kwargs or {}))
        if func is torch.batch_norm:
            return self._native(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))

    def _functional(
        self,
        input: Tensor,  # noqa: A002  (torch's name)
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Tensor:
        if running_mean is None or running_var is None or training:
            self.was_called = self.was_called or running_mean is not None
            return F.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)
        self.was_called = True
        return self.batch_norm(input, running_mean, running_var, weight, bias, eps)

    def _native(
        self,
        input: Tensor,  # noqa: A002  (torch's name)
        weight: Tensor | None,
        bias: Tensor | None,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        training: bool,
        momentum: float,
        eps: float,
        cudnn_enabled: bool,
    ) -> Tensor:
        return self._functional(input, running_mean, running_var, weight, bias, training, momentum, eps)
