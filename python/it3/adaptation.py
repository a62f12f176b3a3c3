"""What one adaptation came to."""

import copy
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor, nn

from it3 import _C


@dataclass(frozen=True)
class Adaptation:
    """The result of :meth:`it3.IT3Engine.adapt`. Every tensor is detached.

    Attributes
    ----------
    prediction
        The adapted network's prediction, y0.
    second
        The adapted network's second prediction, y1 = f(x | y0); the prediction's shape.
    losses
        The distance between the two before each step, (steps,).
    """

    prediction: Tensor
    second: Tensor
    losses: Tensor
    _weights: dict[str, Tensor]
    _source: nn.Module

    @cached_property
    def uncertainty(self) -> Tensor:
        """The Euclidean distance of y1 from y0 for each sample, (B,)."""
        return _C.sample_distances(self.second, self.prediction)

    @property
    def steps(self) -> int:
        """The number of optimiser steps done."""
        return len(self.losses)

    def state_dict(self) -> dict[str, Tensor]:
        """Give the model's state dict with the adapted weights in it, all copies."""
        state = {name: value.detach().clone() for name, value in self._source.state_dict().items()}
        # The core names a tied parameter once, a state dict at each of its places.
        places: dict[int, list[str]] = {}
        for name, parameter in self._source.named_parameters(remove_duplicate=False):
            places.setdefault(id(parameter), []).append(name)
        for names in places.values():
            adapted = next((self._weights[name] for name in names if name in self._weights), None)
            if adapted is not None:
                state.update({name: adapted.clone() for name in names})
        return state

    def model(self) -> nn.Module:
        """Make a copy of the model with the adapted weights."""
        # What a forward left on a module, such as the weight that weight_norm computes, belongs to a graph and cannot
        # be deep-copied; the copy's next forward makes it anew.
        attributes = (value for module in self._source.modules() for value in vars(module).values())
        left = [value for value in attributes if isinstance(value, Tensor) and not value.is_leaf]
        adapted = copy.deepcopy(self._source, {id(t): t.detach().clone() for t in left})
        adapted.load_state_dict(self.state_dict())
        return adapted
