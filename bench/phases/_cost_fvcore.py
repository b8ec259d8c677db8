"""A second opinion on a MAC count: fvcore's. The adapter that wraps it, and keeps it silent.

fvcore (https://github.com/facebookresearch/fvcore, `FlopCountAnalysis`, 1 multiply-accumulate = 1) traces the network
and knows an op by its TorchScript name. It differs from the dispatch count in three known ways: it adds 1 to 5 per
element of a norm or a resampling (no products: told apart here), it drops what the output does not depend on, and it
has no formula for `scaled_dot_product_attention`, which it takes for free. So it is a check of convolutions and linear
layers, never the figure.
"""

from __future__ import annotations

import warnings

import torch
from pydantic import JsonValue
from torch import Tensor, nn

from bench.phases._cost_shapes import CANNOT_RUN, first_line

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # importing fvcore compiles two losses by torch.jit.script, which is deprecated
    from fvcore.nn import FlopCountAnalysis

TOLERANCE = 0.01
_NORMS = ("batch_norm", "group_norm", "layer_norm", "instance_norm")
_NOT_PRODUCTS = (*_NORMS, "upsample_nearest2d", "upsample_bilinear2d", "adaptive_avg_pool2d", "grid_sampler")
_PRODUCTS = ("matmul", "attention", "conv", "mm", "einsum", "linear", "addmv", "mv", "dot")


def compare_with_fvcore(network: nn.Module, example: Tensor, num_macs: int) -> dict[str, JsonValue]:
    """fvcore's count of one forward pass beside ours, for the record; never raises, says what went wrong instead.

    Args:
        network: on the CPU, in eval mode; its weights may hold anything, the pass is computed.
        example: one input.
        num_macs: our count of the same pass.

    Returns:
        `total` (what fvcore prints), `macs` (without norms and resampling), `ratio` (theirs over ours, of `macs`),
        `not_counted_by_fvcore` (products it has no formula for, with calls) and `flag`: empty, or why the two differ
        by more than TOLERANCE; or `failed` with the reason.
    """
    try:
        total, theirs, missed = _fvcore(network, example)
    except CANNOT_RUN as error:
        return {"failed": f"fvcore cannot trace the network: {first_line(error)}"}
    ratio = theirs / num_macs if num_macs else None
    flag = ""
    if theirs != num_macs and (ratio is None or abs(ratio - 1) > TOLERANCE):
        because = f"it has no formula for {', '.join(missed)}" if missed else "unexplained, to be looked into"
        flag = f"fvcore counts {theirs:.0f} MACs and we {num_macs}, over {TOLERANCE:.0%} apart: {because}"
    return {"total": total, "macs": theirs, "ratio": ratio, "not_counted_by_fvcore": dict(missed), "flag": flag}


def _fvcore(network: nn.Module, example: Tensor) -> tuple[int, int, dict[str, int]]:
    """(what fvcore counts, the products in it, calls of products it has no formula for)."""
    analysis = FlopCountAnalysis(network, example)
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]), torch.no_grad():
        warnings.simplefilter("ignore")
        by_op = analysis.by_operator()
    missed = {name: n for name, n in analysis.unsupported_ops().items() if any(part in name for part in _PRODUCTS)}
    return int(by_op.total()), int(sum(n for name, n in by_op.items() if name not in _NOT_PRODUCTS)), missed
