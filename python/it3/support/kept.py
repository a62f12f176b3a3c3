"""What looking at an engine leaves as it is: random generators, modes, and the tensors that it is given."""

import random
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree


def random_state() -> dict[str, Any]:
    """Return the states of the global random generators: torch's, Python's and NumPy's; see :func:`set_random_state`.

    It is made of what ``torch.load(..., weights_only=True)`` reads.
    """
    numpy = sys.modules.get("numpy")  # nobody has drawn from it if it is not there
    of_numpy = numpy.random.get_state() if numpy is not None else None
    return {
        "python": random.getstate(),
        "numpy": tuple(part.tolist() if hasattr(part, "tolist") else part for part in of_numpy)
        if isinstance(of_numpy, tuple)
        else of_numpy,
        "cpu": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
    }


def set_random_state(state: Mapping[str, Any]) -> None:
    """Put the global random generators back."""
    torch.set_rng_state(state["cpu"])
    if state["cuda"]:
        torch.cuda.set_rng_state_all(state["cuda"][: torch.cuda.device_count()])
    random.setstate(state["python"])
    if state["numpy"] is not None:
        import_module("numpy").random.set_state(state["numpy"])


class KeptRandomState:
    """Puts the global random generators back at the end, also after an exception: torch's, Python's and NumPy's.

    Those that are given are put back too.

    Not a generator: where an exception such as Ctrl-C ends one as it is entered, its end comes at any time later.
    """

    def __init__(self, generators: Iterable[torch.Generator] = ()) -> None:
        self._state = random_state()
        self._of_own = [(each, each.get_state()) for each in generators]

    def __enter__(self) -> None:
        """Begin."""

    def __exit__(self, *_: object) -> None:
        """Put them back."""
        set_random_state(self._state)
        for generator, state in self._of_own:
            generator.set_state(state)


class KeptModes:
    """Puts the modes of a module and of all in it back at the end, train or eval."""

    def __init__(self, module: nn.Module) -> None:
        self._modes = [(each, each.training) for each in module.modules()]

    def __enter__(self) -> None:
        """Begin."""

    def __exit__(self, *_: object) -> None:
        """Put them back."""
        for module, mode in self._modes:
            module.training = mode


@contextmanager
def seeded_runs() -> Iterator[None]:
    """Allow ``torch.manual_seed`` inside, and put the global random generators back at the end."""
    if torch.cuda.is_available():
        torch.cuda.init()  # else seeds would wait until it is, and come after the end
    with KeptRandomState():
        yield


def seed_all(seed: int) -> None:
    """Seed the global random generators that :class:`KeptRandomState` puts back."""
    torch.manual_seed(seed)
    random.seed(seed)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(seed % 2**32)  # it takes no more


def own_copy(inputs: Any) -> Any:
    """Copy the tensors in inputs, as a model may write into what it is called with."""

    def clone(leaf: Any) -> Any:
        return leaf.detach().clone() if isinstance(leaf, Tensor) else leaf

    if isinstance(inputs, Mapping) and type(inputs) is not dict:  # which torch's pytree may not know
        inputs = dict(inputs)
    return pytree.tree_map(clone, inputs)


def counts_writes(tensor: Tensor) -> bool:
    """Return whether torch counts the writes to a tensor, as autograd needs.

    It does not for one that was made in inference mode, also if it was given other data since.
    """
    try:
        return tensor._version >= 0
    except RuntimeError:
        return False
