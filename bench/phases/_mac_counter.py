"""Multiply-accumulates of whatever runs inside, by one dispatch pass.

Looks every dispatched op up in torch's own formulas (`torch.utils.flop_counter.flop_registry`, which give 2 × MAC for
matrix products and convolutions). torch's `FlopCounterMode` is not used because it raises when a penalty is taken on a
leaf image batch (github.com/pytorch/pytorch/issues/131753). Count on the `meta` device: same integers, no compute, and
softmax attention is not taken for free as it is on a CPU.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry


class MacCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts while it is entered.

    Attributes:
        num_macs: multiply-accumulates of matrix products and convolutions.
        uncounted: calls by op name of everything else (element-wise work, norms, softmax, copies).
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.num_macs = 0
        self.uncounted: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        del types
        kwargs = kwargs or {}
        formula = flop_registry.get(func._overloadpacket)
        if formula is None and func is not torch.ops.prim.device.default:
            with self:  # composite ops (linear, matmul) are counted by what they are made of
                decomposed = func.decompose(*args, **kwargs)
            if decomposed is not NotImplemented:
                return decomposed
        result = func(*args, **kwargs)
        if formula is None:
            self.uncounted[str(func._overloadpacket)] += 1
        else:
            self.num_macs += formula(*args, **kwargs, out_val=result) // 2
        return result
