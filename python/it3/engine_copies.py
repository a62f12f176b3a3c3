"""How an engine is copied, pickled and written to a state dict."""

import copy
from typing import Any, Self

import torch
from torch import Tensor, nn

from it3 import _C
from it3.embedder import Embedder
from it3.support.checks import eager
from it3.torch_ttt_checkpoints import rename_torch_ttt_keys


class CopiedAndPickled(nn.Module):
    """The base of :class:`it3.IT3Engine`: what of an engine goes with its copies, and what with its state dict."""

    model: nn.Module
    embedder: Any
    _core: _C.Engine

    @property
    def is_trained(self) -> bool:
        """Whether the embedder was trained, by this engine or, as one that has its shape is taken to be, elsewhere."""
        return self._core.is_trained

    @is_trained.setter
    def is_trained(self, is_trained: bool) -> None:
        self._core.is_trained = is_trained

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Copy when no other thread has adapted weights in the model."""
        other = type(self).__new__(type(self))
        memo[id(self)] = other
        with _C.ModelHold(eager(self.model)):
            state = copy.deepcopy(self.__getstate__(), memo)
        other.__setstate__(state)
        return other

    def __copy__(self) -> Self:
        """Return an engine around the same model, functions and options."""
        other = type(self).__new__(type(self))
        other.__dict__.update(self.__dict__)
        other.__dict__["_core"] = self._core.sibling()
        return other

    def __getstate__(self) -> dict[str, Any]:
        """Return what is pickled; of adapted weights those of the model that is pickled too."""
        self._core.keep_up(self)
        return dict(self.__dict__)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take what was pickled: the adapted weights that are kept are those of the model beside them."""
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._core.keep_up(self)

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Return the weights when no other thread has adapted ones in the model; see torch.nn.Module."""
        with _C.ModelHold(eager(self.model)):
            return super().state_dict(*args, **kwargs)

    def _replicate_for_data_parallel(self) -> Any:
        raise RuntimeError(
            "an engine cannot be replicated by torch.nn.DataParallel, as replicas have no weights to adapt; use one "
            "process a device, with torch.nn.parallel.DistributedDataParallel around the engine for training"
        )

    def get_extra_state(self) -> Tensor:
        """Return what a state dict holds beside weights: whether the embedder is trained, and for probabilities."""
        return torch.tensor([self._core.is_trained, self._core.learned_probabilities])

    def set_extra_state(self, state: Tensor) -> None:
        """Take what :meth:`get_extra_state` gave."""
        self._core.is_trained, self._core.learned_probabilities = state.tolist()

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        rename_torch_ttt_keys(state_dict, prefix, isinstance(self.embedder, Embedder))
        # Of torch-ttt and of earlier checkpoints, which were written after training.
        state_dict.setdefault(f"{prefix}_extra_state", torch.tensor([True, False]))
        super()._load_from_state_dict(state_dict, prefix, *args)
