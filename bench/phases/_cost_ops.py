"""What is known of each ATen op: its multiply-accumulates, and whether it moves bytes.

Formulas come from torch (`torch.utils.flop_counter.flop_registry`, which gives 2 × MAC) with two changes: torch takes a
grouped convolution's weight gradient for `groups` times too much (2.15), and knows no matrix-vector products, which
spectral norm's power iteration is made of.

An op without a formula either has no multiply-accumulates by convention (element-wise work, reductions, norms, softmax,
resampling, copies, random numbers, the optimiser's update) or is unknown, and then it is listed by name. Element-wise
ops and reductions are recognised by torch's own tags, the rest by the names below.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from math import prod
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.flop_counter import flop_registry

Kind = Literal["moves nothing", "product", "no products", "unknown"]

# Allocation and inspection: no byte of a tensor is read or written. Views are recognised by their schema.
_METADATA = """
_unsafe_view empty empty_like empty_strided empty_permuted new_empty new_empty_strided resize_ set_ detach_ is_same_size
sym_size sym_stride sym_numel sym_storage_offset _has_compatible_shallow_copy_type
"""
_METADATA_NAMESPACES = frozenset({"prim", "profiler"})

# Written without being read, although the schema only says "written".
_OVERWRITING = """
copy_ fill_ zero_ normal_ uniform_ random_ bernoulli_ exponential_ log_normal_ geometric_ cauchy_ _foreach_copy_
_foreach_zero_
"""

_SELECTIONS = """
cat stack clone copy _to_copy gather scatter scatter_ scatter_add scatter_add_ scatter_reduce index _unsafe_index
index_put index_put_ _unsafe_index_put _index_put_impl_ index_select index_select_backward index_add index_add_
index_copy index_fill take put roll flip repeat repeat_interleave tril triu diag_embed embedding
embedding_dense_backward select_backward slice_backward select_scatter slice_scatter diagonal_backward constant_pad_nd
reflection_pad1d reflection_pad2d reflection_pad2d_backward replication_pad2d replication_pad2d_backward im2col col2im
unfold_backward where masked_fill masked_fill_ masked_select masked_scatter pixel_shuffle pixel_unshuffle
channel_shuffle
"""
_CONSTANTS_AND_NOISE = """
zeros zeros_like new_zeros ones ones_like new_ones full full_like new_full _efficientzerotensor arange linspace eye
scalar_tensor rand rand_like randn randn_like randint randint_like randperm bernoulli normal multinomial native_dropout
native_dropout_backward _fused_dropout
"""
_NORMS_AND_SOFTMAX = """
native_layer_norm native_layer_norm_backward native_group_norm native_group_norm_backward native_batch_norm
native_batch_norm_backward _native_batch_norm_legit _native_batch_norm_legit_no_training
_native_batch_norm_legit_functional _batch_norm_with_update _batch_norm_with_update_functional batch_norm_backward
cudnn_batch_norm cudnn_batch_norm_backward _fused_rms_norm _fused_rms_norm_backward _softmax _softmax_backward_data
_safe_softmax _log_softmax _log_softmax_backward_data logsumexp cumsum cumprod linalg_vector_norm norm
"""
_RESAMPLING = """
avg_pool1d avg_pool2d avg_pool2d_backward avg_pool3d avg_pool3d_backward _adaptive_avg_pool2d
_adaptive_avg_pool2d_backward adaptive_avg_pool2d max_pool2d_with_indices max_pool2d_with_indices_backward
upsample_nearest1d upsample_nearest2d upsample_nearest2d_backward _upsample_nearest_exact2d
_upsample_nearest_exact2d_backward upsample_bilinear2d upsample_bilinear2d_backward _upsample_bilinear2d_aa
_upsample_bilinear2d_aa_backward upsample_bicubic2d upsample_bicubic2d_backward grid_sampler_2d grid_sampler_2d_backward
"""
_UNTAGGED = """
softplus_backward leaky_relu_backward elu_backward hardtanh_backward hardswish_backward silu_backward mish_backward glu
glu_backward threshold_backward prelu _prelu_kernel _prelu_kernel_backward mse_loss mse_loss_backward smooth_l1_loss
smooth_l1_loss_backward huber_loss huber_loss_backward log_sigmoid_forward log_sigmoid_backward binary_cross_entropy
binary_cross_entropy_backward nll_loss_forward nll_loss_backward sort topk std std_mean var var_mean max min any all
count_nonzero searchsorted bucketize
"""  # element-wise work and reductions that torch does not tag so
_OPTIMISERS = "_fused_adam_ _fused_adamw_ _fused_sgd_"
_FOREACH = "add sub mul div lerp addcmul addcdiv sqrt neg pow maximum abs norm reciprocal"


def _names(*lists: str) -> frozenset[str]:
    return frozenset(name for each in lists for name in each.split())


_MOVES_NOTHING = _names(_METADATA)
_ONLY_WRITES = _names(_OVERWRITING)
_NO_PRODUCTS = _names(
    _OVERWRITING, _SELECTIONS, _CONSTANTS_AND_NOISE, _NORMS_AND_SOFTMAX, _RESAMPLING, _UNTAGGED, _OPTIMISERS
) | {f"_foreach_{name}{suffix}" for name in _FOREACH.split() for suffix in ("", "_")}


@cache
def kind_of(func: Any) -> Kind:
    """What an `OpOverload` is to the counter."""
    name = func._overloadpacket.__name__
    if func.namespace in _METADATA_NAMESPACES or is_view(func):
        return "moves nothing"
    if func._overloadpacket in MAC_FORMULAS:
        return "product"
    if torch.Tag.pointwise in func.tags or torch.Tag.reduction in func.tags:
        return "no products"
    if func.namespace == "aten" and name in _NO_PRODUCTS:
        return "no products"
    return "unknown"


@cache
def is_composite(func: Any) -> bool:
    """Whether the op is made of others and none of its own: autograd took it apart, except in some double backwards."""
    return func._overloadpacket not in MAC_FORMULAS and torch._C._dispatch_has_kernel_for_dispatch_key(
        func.name(), "CompositeImplicitAutograd"
    )


@cache
def is_view(func: Any) -> bool:
    """Whether the op only makes, describes or allocates tensors; `_unsafe_view` is a view whose schema hides it."""
    if func.is_view or torch.Tag.inplace_view in func.tags:
        return True
    return func.namespace == "aten" and func._overloadpacket.__name__ in _MOVES_NOTHING


def macs_of(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> int:
    """Multiply-accumulates of one call of an op of kind `product`."""
    return MAC_FORMULAS[func._overloadpacket](*args, **kwargs, out_val=result)


def bytes_of(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> int:
    """Bytes of the tensors that go in plus those that come out of one call; see the convention in `_op_counter`."""
    schema = func._schema
    given = dict(zip((argument.name for argument in schema.arguments), args, strict=False)) | kwargs
    name = func._overloadpacket.__name__
    overwrites = name in _ONLY_WRITES
    is_factory = name.endswith("_like") or name.startswith("new_")  # their tensor only lends its shape
    reads: dict[int, Tensor] = {}
    num_bytes = 0
    for argument in schema.arguments:
        tensors = tensors_in(given.get(argument.name))
        is_written = argument.alias_info is not None and argument.alias_info.is_write
        is_written &= not (argument.name == "grads" and given.get("grad_scale") is None)  # fused Adam: scaled only then
        if is_written:
            num_bytes += sum(map(num_bytes_touched, tensors))
        if not is_factory and not (is_written and (argument.is_out or overwrites)):
            reads |= {id(tensor): tensor for tensor in tensors}  # given twice, read once
    outputs = result if isinstance(result, tuple) and len(schema.returns) > 1 else (result,)
    for declared, output in zip(schema.returns, outputs, strict=False):
        if declared.alias_info is None:
            num_bytes += sum(map(num_bytes_touched, tensors_in(output)))
    return num_bytes + sum(map(num_bytes_touched, reads.values()))


def tensors_in(value: Any) -> list[Tensor]:
    """The tensors of an argument: itself, those of a list, or none."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, list | tuple):
        return [tensor for each in value for tensor in tensors_in(each)]
    return []


def num_bytes_touched(tensor: Tensor) -> int:
    """Bytes of the distinct elements: a dimension that is broadcast with stride 0 counts once."""
    num_elements = prod(
        size if stride != 0 else min(size, 1) for size, stride in zip(tensor.shape, tensor.stride(), strict=True)
    )
    return num_elements * tensor.element_size()


def _halved(flops: Callable[..., int]) -> Callable[..., int]:
    return lambda *args, **kwargs: flops(*args, **kwargs) // 2


def _convolution_backward(
    grad_output: Tensor, x: Tensor, weight: Tensor, *rest: Any, out_val: Any = None, **named: Any
) -> int:
    """Each gradient that is asked for costs what the forward pass costs; `rest` as in `aten::convolution_backward`."""
    del named, out_val
    transposed, output_mask = rest[4], rest[7]
    positions = (x if transposed else grad_output).shape[2:]
    num_gradients: int = sum(output_mask[:2])  # of the input and of the weight; the bias's has no products
    return x.shape[0] * weight.numel() * prod(positions) * num_gradients


def _matrix_vector(matrix: Tensor, *rest: Any, **named: Any) -> int:
    del rest, named
    return matrix.numel()


def _batched(a: Tensor, b: Tensor, *rest: Any, **named: Any) -> int:
    del rest, named
    return a.numel() * b.shape[-1]


_aten = torch.ops.aten
MAC_FORMULAS: dict[Any, Callable[..., int]] = {op: _halved(flops) for op, flops in flop_registry.items()} | {
    _aten.convolution_backward: _convolution_backward,
    _aten.mv: _matrix_vector,
    _aten.addmv: lambda _, *rest, **named: _matrix_vector(*rest, **named),
    _aten.dot: _matrix_vector,
    _aten.vdot: _matrix_vector,
    _aten.addbmm: lambda _, *rest, **named: _batched(*rest, **named),
    _aten._addmm_activation: lambda _, *rest, **named: _batched(*rest, **named),
}
