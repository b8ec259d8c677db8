"""Multiply-accumulates and bytes moved of whatever runs inside, by one dispatch pass.

torch's `FlopCounterMode` is not used because it raises when a penalty is taken on a leaf image batch
(github.com/pytorch/pytorch/issues/131753); a plain dispatch mode sees the same ops, double backward included.

Conventions:

* One MAC is one multiply-accumulate of a matrix product, a convolution or an attention. Everything else has none by
  convention or is unknown and listed (`_cost_ops`). What torch dispatches is counted: the weight gradient inside the
  double backward of a strided convolution is computed on a larger kernel and then cropped, and counts as computed.
* Bytes moved are those of the tensors that go into and come out of each dispatched op: unfused, algorithmic traffic.
  Views, metadata and allocation move nothing; an op in place reads and writes; `copy_`, `fill_` and their like only
  write; a tensor given twice or broadcast with stride 0 is read once. Caches and fused kernels keep traffic from the
  memory, so this is an upper bound of what the DRAM sees, but for what an op keeps for itself (workspaces).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

from bench.phases._cost_ops import bytes_of, is_composite, kind_of, macs_of


@dataclass(kw_only=True)
class Tally:
    """What was counted.

    Attributes:
        num_macs: multiply-accumulates.
        num_bytes: bytes read and written.
        num_unknown_bytes: the part of `num_bytes` that unknown ops moved.
        products: calls of ops with a MAC formula, by name.
        macs_by_product: their multiply-accumulates, by the same names.
        without_products: calls of ops that have no MACs by convention.
        unknown: calls of ops that neither list knows; their MACs are missing from `num_macs`.
    """

    num_macs: int = 0
    num_bytes: int = 0
    num_unknown_bytes: int = 0
    products: Counter[str] = field(default_factory=Counter)
    macs_by_product: Counter[str] = field(default_factory=Counter)
    without_products: Counter[str] = field(default_factory=Counter)
    unknown: Counter[str] = field(default_factory=Counter)

    def __add__(self, other: Tally) -> Tally:
        return Tally(
            num_macs=self.num_macs + other.num_macs,
            num_bytes=self.num_bytes + other.num_bytes,
            num_unknown_bytes=self.num_unknown_bytes + other.num_unknown_bytes,
            products=self.products + other.products,
            macs_by_product=self.macs_by_product + other.macs_by_product,
            without_products=self.without_products + other.without_products,
            unknown=self.unknown + other.unknown,
        )

    @property
    def counted_op_share(self) -> float:
        """Share of the calls that move bytes whose MACs are known; 1 where nothing was called."""
        num_known = self.products.total() + self.without_products.total()
        num_calls = num_known + self.unknown.total()
        return num_known / num_calls if num_calls else 1.0

    @property
    def counted_byte_share(self) -> float:
        """Share of the bytes that belong to ops whose MACs are known."""
        return 1 - self.num_unknown_bytes / self.num_bytes if self.num_bytes else 1.0


class OpCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts while it is entered, on any device; `tally` holds what was counted since `take` was last called."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.tally = Tally()

    def take(self) -> Tally:
        """What was counted so far; counting starts over."""
        taken, self.tally = self.tally, Tally()
        return taken

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        del types
        kwargs = kwargs or {}
        if is_composite(func):  # linear under inference_mode, contiguous in a double backward: their parts are counted
            with self:
                return func.decompose(*args, **kwargs)
        kind = kind_of(func)
        result = func(*args, **kwargs)
        if kind == "moves nothing":
            return result
        name, tally = str(func._overloadpacket), self.tally
        num_bytes = bytes_of(func, args, kwargs, result)
        tally.num_bytes += num_bytes
        if kind == "product":
            num_macs = macs_of(func, args, kwargs, result)
            tally.num_macs += num_macs
            tally.macs_by_product[name] += num_macs
            tally.products[name] += 1
        elif kind == "no products":
            tally.without_products[name] += 1
        else:
            tally.unknown[name] += 1
            tally.num_unknown_bytes += num_bytes
        return result
