"""What looking at an engine leaves as it is: random generators, and the tensors that it is given."""

import random
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree


@contextmanager
def kept_random_state() -> Iterator[None]:
    """Put the global random generators back at the end, also after an exception: torch's, Python's and NumPy's."""
    numpy = sys.modules.get("numpy")  # nobody has drawn from it if it is not there
    of_numpy = numpy.random.get_state() if numpy is not None else None
    of_python = random.getstate()
    of_cpu = torch.get_rng_state()
    of_cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    try:
        yield
    finally:
        torch.set_rng_state(of_cpu)
        if of_cuda:
            torch.cuda.set_rng_state_all(of_cuda)
        random.setstate(of_python)
        if numpy is not None:
            numpy.random.set_state(of_numpy)


@contextmanager
def seeded_runs() -> Iterator[None]:
    """Allow ``torch.manual_seed`` inside, and put the global random generators back at the end."""
    if torch.cuda.is_available():
        torch.cuda.init()  # else seeds would wait until it is, and come after the end
    with kept_random_state():
        yield


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
