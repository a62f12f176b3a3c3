"""Functions of torch's that depend on their arguments alone, or else draw random numbers, and which arguments."""

from types import BuiltinFunctionType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# They write to running statistics, and read none of them in train mode.
NORMS = (F.batch_norm, F.instance_norm, torch.batch_norm, torch.instance_norm)

# Functions of torch.nn.functional, most of which are layers.
_LAYERS = """
    conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d conv_tbc convolution linear bilinear
    embedding embedding_bag one_hot channel_shuffle native_channel_shuffle
    relu relu_ relu6 elu elu_ selu selu_ celu celu_ leaky_relu leaky_relu_ gelu silu silu_ mish softplus softsign
    hardtanh hardtanh_ hardswish hardsigmoid hardshrink softshrink tanhshrink logsigmoid prelu glu softmax softmin
    log_softmax tanh tanh_ sigmoid sigmoid_ threshold threshold_
    batch_norm instance_norm layer_norm group_norm rms_norm local_response_norm normalize native_layer_norm
    native_group_norm native_norm norm_except_dim renorm
    max_pool1d max_pool2d max_pool3d max_pool1d_with_indices max_pool2d_with_indices max_pool3d_with_indices
    avg_pool1d avg_pool2d avg_pool3d lp_pool1d lp_pool2d lp_pool3d max_unpool1d max_unpool2d max_unpool3d
    adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d
    adaptive_max_pool3d adaptive_max_pool1d_with_indices adaptive_max_pool2d_with_indices
    adaptive_max_pool3d_with_indices fractional_max_pool2d fractional_max_pool3d
    interpolate pad constant_pad_nd pixel_shuffle pixel_unshuffle unfold fold grid_sample grid_sampler grid_sampler_2d
    grid_sampler_3d affine_grid affine_grid_generator pad_sequence
    dropout dropout1d dropout2d dropout3d alpha_dropout lstm gru rnn_tanh rnn_relu lstm_cell gru_cell rnn_tanh_cell
    rnn_relu_cell scaled_dot_product_attention multi_head_attention_forward
    cross_entropy nll_loss binary_cross_entropy binary_cross_entropy_with_logits kl_div l1_loss mse_loss smooth_l1_loss
    huber_loss soft_margin_loss margin_ranking_loss multi_margin_loss multilabel_margin_loss hinge_embedding_loss
    cosine_embedding_loss triplet_margin_loss poisson_nll_loss gaussian_nll_loss ctc_loss
    cosine_similarity pairwise_distance pdist cdist
"""
_OF_NUMBERS = """
    matmul mm bmm mv dot addmm addmv addr addbmm baddbmm einsum inner outer ger vdot kron cross tensordot chain_matmul
    add sub mul div true_divide subtract multiply divide floor_divide remainder fmod rsub addcmul addcdiv neg negative
    positive pow float_power square sqrt rsqrt reciprocal exp exp2 expm1 log log1p log2 log10 logaddexp logaddexp2
    abs absolute sgn sign signbit copysign round floor ceil trunc fix frac clamp clamp_min clamp_max clip minimum
    maximum fmin fmax where lerp hypot heaviside ldexp frexp nextafter nan_to_num logit xlogy gcd lcm deg2rad rad2deg
    sin cos tan asin acos atan atan2 sinh cosh asinh acosh atanh arcsin arccos arctan arctan2 arcsinh arccosh arctanh
    sinc erf erfc erfinv i0 igamma igammac lgamma mvlgamma digamma polygamma angle complex polar conj conj_physical
    resolve_conj resolve_neg real imag view_as_real view_as_complex
    eq ne lt le gt ge not_equal less less_equal greater greater_equal isclose isfinite isinf isnan isneginf isposinf
    isreal isin logical_not logical_and logical_or logical_xor bitwise_not bitwise_and bitwise_or bitwise_xor
    bitwise_left_shift bitwise_right_shift
    sum nansum mean nanmean var std var_mean std_mean amax amin aminmax max min argmax argmin median nanmedian mode
    kthvalue quantile nanquantile logsumexp cumsum cumprod cummax cummin logcumsumexp norm nuclear_norm frobenius_norm
    dist prod all any count_nonzero trace diff gradient trapz trapezoid cumulative_trapezoid cov corrcoef bincount histc
    histogram histogramdd sort argsort msort topk unique unique_consecutive searchsorted bucketize
    cholesky cholesky_inverse cholesky_solve det logdet slogdet inverse pinverse matrix_exp matrix_power qr geqrf orgqr
    ormqr svd lu_solve lu_unpack triangular_solve stft istft
    __add__ __radd__ __sub__ __rsub__ __mul__ __rmul__ __truediv__ __rtruediv__ __rdiv__ __div__ __floordiv__
    __rfloordiv__ __mod__ __rmod__ __matmul__ __rmatmul__ __pow__ __rpow__ __neg__ __pos__ __abs__ __invert__ __and__
    __rand__ __or__ __ror__ __xor__ __rxor__ __lshift__ __rlshift__ __rshift__ __rrshift__
    __eq__ __ne__ __lt__ __le__ __gt__ __ge__
"""
_OF_SHAPES = """
    cat concat concatenate stack hstack vstack dstack row_stack column_stack block_diag split split_with_sizes
    tensor_split hsplit vsplit dsplit chunk unsafe_chunk unsafe_split unsafe_split_with_sizes unbind meshgrid
    cartesian_prod combinations broadcast_tensors flatten unflatten ravel reshape reshape_as view view_as transpose
    swapaxes swapdims adjoint t permute squeeze unsqueeze movedim moveaxis expand expand_as broadcast_to sum_to_size
    atleast_1d atleast_2d atleast_3d repeat repeat_interleave tile roll flip fliplr flipud rot90 __reversed__
    narrow select index_select gather take take_along_dim masked_select nonzero nonzero_static argwhere __getitem__
    index_add index_copy index_fill index_put index_reduce scatter scatter_add scatter_reduce masked_fill masked_scatter
    put fill select_scatter slice_scatter slice_inverse diagonal_scatter tril triu diag diagonal diag_embed diagflat
    contiguous to type_as type float double half bfloat16 bool byte char short int long chalf cfloat cdouble cpu cuda
    clone detach zeros ones full arange linspace logspace eye vander tril_indices triu_indices zeros_like ones_like
    full_like new_zeros new_ones new_full hann_window hamming_window blackman_window bartlett_window kaiser_window
    size dim ndimension numel nelement stride is_contiguous is_floating_point is_complex is_signed __len__
"""
# These write to their first argument, as its count of versions tells.
_IN_PLACE = """
    add_ sub_ mul_ div_ true_divide_ subtract_ multiply_ divide_ floor_divide_ remainder_ fmod_ addcmul_ addcdiv_
    addmm_ addmv_ addr_ addbmm_ baddbmm_ neg_ negative_ pow_ float_power_ square_ sqrt_ rsqrt_ reciprocal_ exp_ exp2_
    expm1_ log_ log1p_ log2_ log10_ abs_ absolute_ sgn_ sign_ copysign_ round_ floor_ ceil_ trunc_ fix_ frac_ clamp_
    clamp_min_ clamp_max_ clip_ lerp_ hypot_ heaviside_ ldexp_ nextafter_ nan_to_num_ logit_ xlogy_ gcd_ lcm_ deg2rad_
    rad2deg_ sin_ cos_ tan_ asin_ acos_ atan_ atan2_ sinh_ cosh_ asinh_ acosh_ atanh_ arcsin_ arccos_ arctan_ arctan2_
    arcsinh_ arccosh_ arctanh_ sinc_ erf_ erfc_ erfinv_ i0_ igamma_ igammac_ lgamma_ mvlgamma_ digamma_ polygamma_
    conj_physical_ eq_ ne_ lt_ le_ gt_ ge_ not_equal_ less_ less_equal_ greater_ greater_equal_ logical_not_
    logical_and_ logical_or_ logical_xor_ bitwise_not_ bitwise_and_ bitwise_or_ bitwise_xor_ bitwise_left_shift_
    bitwise_right_shift_ cumsum_ cumprod_ renorm_ tril_ triu_ zero_ fill_ fill_diagonal_ copy_ masked_fill_
    masked_scatter_ index_add_ index_copy_ index_fill_ index_put_ index_reduce_ scatter_ scatter_add_ scatter_reduce_
    put_ __setitem__ __iadd__ __isub__ __imul__ __itruediv__ __idiv__ __ifloordiv__ __imod__ __ipow__ __iand__ __ior__
    __ixor__ __ilshift__ __irshift__
"""
_NAMES = [name for names in (_LAYERS, _OF_NUMBERS, _OF_SHAPES, _IN_PLACE) for name in names.split()]
_PLACES = (torch, F, torch._C._nn, Tensor)
_ATTRIBUTES = (
    *("shape", "dtype", "device", "ndim", "layout", "is_cuda", "is_sparse", "is_nested", "is_mps"),
    *("T", "mT", "H", "mH", "real", "imag"),
)
KNOWN = {
    *(getattr(of, name) for name in _NAMES for of in _PLACES if hasattr(of, name)),
    *(
        each
        for of in (torch.fft, torch.linalg, torch.special)
        for each in vars(of).values()
        if isinstance(each, BuiltinFunctionType)
    ),
    *(getattr(Tensor, name).__get__ for name in _ATTRIBUTES),
}
_PLAIN_TENSORS = (Tensor, nn.Parameter, nn.Buffer)
_CONSTANTS = (bool, int, float, complex, str, type(None), type(...), torch.Size)
_CONSTANTS_OF_TORCH = (torch.dtype, torch.device, torch.layout, torch.memory_format)


_RECURRENT = (torch.lstm, torch.gru, torch.rnn_tanh, torch.rnn_relu)


def may_draw_unseen(func: Any, given: list[Any]) -> bool:
    """Whether a function may draw random numbers that no generator of torch's tells of.

    cuDNN's dropout in recurrent layers has a state of its own. Of the arguments of these layers, only dropout is a
    float.
    """
    has_dropout = any(isinstance(item, float) and item > 0 for item in given)
    return func in _RECURRENT and has_dropout and any(isinstance(item, Tensor) and item.is_cuda for item in given)


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
