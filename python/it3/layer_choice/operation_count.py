"""How much an operation of torch computes, by its shapes alone, so that it is the same in each run."""

from typing import Any

from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils.flop_counter import flop_registry, sdpa_flop_count

_ATTENTION = "_scaled_dot_product"
_RECURRENT = ("mkldnn_rnn_layer", "_cudnn_rnn", "miopen_rnn")


def operations_in(func: Any, args: Any, kwargs: Any, result: Any) -> int:
    """Count the floating-point operations of a call, roughly.

    Matrix products, convolutions and attention are counted as torch.utils.flop_counter does, and recurrent layers by
    their weights. Any other operation counts as one for each number that it returns, and a view as none.
    """
    packet = func._overloadpacket
    tensors = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    has_shapes = not any(tensor.is_nested for tensor in tensors)
    if packet in flop_registry and has_shapes:
        return int(flop_registry[packet](*args, **kwargs, out_val=result))
    if packet.__name__.startswith(_ATTENTION) and has_shapes:  # those that the registry lacks, as on CPU
        return int(sdpa_flop_count(*(tensor.shape for tensor in tensors[:3])))
    if packet.__name__ in _RECURRENT:
        weights = args[1] if isinstance(args[1], list | tuple) else args[1:3]
        numbers = sum(weight.numel() for weight in weights)
        return int(2 * numbers * (args[0].numel() // args[0].shape[-1]))
    if all(given.alias_info is not None and not given.alias_info.is_write for given in func._schema.returns):
        return 0
    return sum(leaf.numel() for leaf in pytree.tree_leaves(result) if isinstance(leaf, Tensor))
