"""Functions of torch's that depend on their arguments alone, or else draw random numbers, and which arguments."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# They write to running statistics, and read none of them in train mode.
NORMS = (F.batch_norm, F.instance_norm, torch.batch_norm, torch.instance_norm)
_NAMES = """
    conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d linear bilinear embedding one_hot
    relu relu_ relu6 elu elu_ selu celu leaky_relu leaky_relu_ gelu silu mish softplus softsign hardtanh hardtanh_
    hardswish hardsigmoid logsigmoid prelu glu softmax log_softmax tanh tanh_ sigmoid sigmoid_
    batch_norm instance_norm layer_norm group_norm rms_norm local_response_norm normalize
    max_pool1d max_pool2d max_pool3d avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d
    adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d interpolate pad pixel_shuffle pixel_unshuffle
    unfold fold dropout dropout1d dropout2d dropout3d alpha_dropout lstm gru rnn_tanh rnn_relu
    scaled_dot_product_attention multi_head_attention_forward
    matmul mm bmm mv dot addmm baddbmm einsum add add_ sub sub_ mul mul_ div div_ true_divide neg pow square sqrt rsqrt
    exp log log1p expm1 abs sin cos erf sign clamp clamp_min clamp_max minimum maximum where lerp reciprocal
    sum mean var std amax amin max min argmax argmin logsumexp cumsum norm prod
    cat concat stack split chunk unbind flatten unflatten reshape view transpose permute squeeze unsqueeze movedim
    expand expand_as repeat repeat_interleave tile roll flip narrow select index_select gather take_along_dim tril triu
    contiguous to type_as float double half bfloat16 clone masked_fill eq ne lt le gt ge logical_not logical_and
    zeros ones full arange linspace eye zeros_like ones_like full_like new_zeros new_ones
    size dim numel is_floating_point __getitem__ __len__
    __add__ __radd__ __iadd__ __sub__ __rsub__ __isub__ __mul__ __rmul__ __imul__ __truediv__ __rtruediv__ __itruediv__
    __rdiv__ __div__ __matmul__ __rmatmul__ __pow__ __rpow__ __neg__ __eq__ __ne__ __lt__ __le__ __gt__ __ge__
"""
_ATTRIBUTES = ("shape", "dtype", "device", "ndim", "is_cuda", "T", "mT", "layout", "is_sparse", "is_nested", "is_mps")
KNOWN = {
    *(getattr(of, name) for name in _NAMES.split() for of in (torch, F, torch._C._nn, Tensor) if hasattr(of, name)),
    *(getattr(Tensor, name).__get__ for name in _ATTRIBUTES),
}
_PLAIN_TENSORS = (Tensor, nn.Parameter, nn.Buffer)
_CONSTANTS = (bool, int, float, complex, str, type(None), type(...), torch.Size)
_CONSTANTS_OF_TORCH = (torch.dtype, torch.device, torch.layout, torch.memory_format)


def running_statistics(func: Any, args: Any, kwargs: Any) -> list[Tensor]:
    """Return what normalization writes to, of which autograd is not told."""
    if func not in NORMS:
        return []
    is_of_input = (
        args[5] if len(args) > 5 else kwargs.get("training", kwargs.get("use_input_stats", func is F.instance_norm))
    )
    first = 1 if func in (F.batch_norm, F.instance_norm) else 3
    found = [*args[first : first + 2], kwargs.get("running_mean"), kwargs.get("running_var")]
    return [item for item in found if isinstance(item, Tensor) and is_of_input]


def is_plain(tensor: Tensor) -> bool:
    """Return whether a tensor is a strided one on CPU or CUDA, of no subclass, which counts its writes."""
    return (
        type(tensor) in _PLAIN_TENSORS
        and tensor.layout == torch.strided
        and tensor.device.type in ("cpu", "cuda")
        and not tensor.is_inference()
        and not torch._C._functorch.is_functorch_wrapped_tensor(tensor)
    )


def is_plain_or_constant(item: Any) -> bool:
    """Return whether an argument is a plain tensor, or else cannot change."""
    if isinstance(item, Tensor):
        return is_plain(item)
    return type(item) in _CONSTANTS or isinstance(item, _CONSTANTS_OF_TORCH)
