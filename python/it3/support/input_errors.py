"""What a model's error becomes where the inputs hold an array, or no tensor at all."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.utils import _pytree as pytree


class InputErrors:
    """Has errors of the calls in it say that inputs are no tensors, where that is so.

    Only errors: a model may make tensors of arrays, numbers or strings itself.

    Parameters
    ----------
    inputs
        What the calls are made with.

    Raises
    ------
    TypeError
        In place of an error of a wrong type, if an argument of the model is an array, or no tensor is among them.
    """

    def __init__(self, inputs: Any) -> None:
        self._inputs = inputs

    def __enter__(self) -> None:
        """Begin."""

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        """Look at the inputs, if there was an error."""
        if not isinstance(error, TypeError | AttributeError):
            return
        strange = _strange(self._inputs)
        if strange:
            first_line = (str(error).splitlines() or [""])[0]
            raise TypeError(
                f"the model cannot be called with {strange} ({first_line}). Give tensors: "
                "torch.from_numpy(array), or torch.tensor(numbers), of the dtype that the model takes; several "
                "arguments as a tuple or list of tensors, or a mapping from their names"
            ) from error


def _strange(inputs: Any) -> str:
    """Return what there is in place of a tensor, or without any; "" if there is nothing to say of that."""
    if isinstance(inputs, Tensor):
        return ""
    arguments = list(inputs.values()) if isinstance(inputs, Mapping) else inputs
    arguments = arguments if isinstance(arguments, tuple | list) else [arguments]
    arrays = [argument for argument in arguments if _is_array(argument)]
    if arrays:
        return f"a {_kind(arrays[0])} in place of a tensor"
    if any(isinstance(leaf, Tensor) for leaf in pytree.tree_leaves(inputs)):
        return ""
    return f"a {_kind(inputs)} and no tensor"


def _is_array(value: Any) -> bool:
    """Whether this is an array or a table of another library's, and no single number of its."""
    return hasattr(value, "__array__") and getattr(value, "shape", ()) != () and not isinstance(value, Tensor)


def _kind(value: Any) -> str:
    """Return what something is, in words."""
    kind = type(value)
    if _is_array(value) and hasattr(value, "dtype"):
        return f"{kind.__module__}.{kind.__name__} of {value.dtype}"
    return f"{kind.__name__} of {type(value[0]).__name__}" if kind in (list, tuple) and value else kind.__name__
