"""Runs a model on shapes alone: CPU tensors whose memory is never touched, outputs inferred on the `meta` device.

Why not simply tensors on `meta`: there, autocast and the fused Adam raise, so neither `Trainer.step` nor a penalty that
leaves autocast would run, and bfloat16 could not be seen in the bytes. torch's own `FakeTensorMode` cannot move or copy
modules (2.15). Here every op that would compute is run on `meta` copies of its arguments, and its outputs are given
back as uninitialised memory that the system only pretends to hand out. Same shapes, same dtypes, same dispatch, no
compute; whatever needs a value (`item`, `nonzero`) raises as it does on `meta`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from bench.phases._cost_ops import is_composite, is_view

# What a model of any origin may raise where it asks for more than shapes.
CANNOT_RUN = (RuntimeError, TypeError, ValueError, AssertionError, AttributeError, IndexError, KeyError)
_NEVER_COMPUTES = frozenset({"prim", "profiler"})


def first_line(error: Exception) -> str:
    """The error's class and the first line of its message, for a record."""
    return f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0]}"


class ShapesOnly(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While it is entered nothing is computed: outputs of every op are uninitialised CPU tensors.

    What an op makes of given shapes is inferred once and remembered: most ops of a step have been called before.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._inferred: dict[Any, Any] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        del types
        kwargs = kwargs or {}
        if is_composite(func):  # `contiguous` may be a view or a copy; its parts say which
            with self:
                return func.decompose(*args, **kwargs)
        if func.namespace in _NEVER_COMPUTES or is_view(func):
            return func(*args, **kwargs)
        schema = func._schema
        call = (func, _described(args), _described(kwargs))
        if call not in self._inferred:
            self._inferred[call] = _infer(func, args, kwargs)
        result = self._inferred[call]
        written = {
            label: value
            for argument, value in [*zip(schema.arguments, args, strict=False)]
            + [(argument, kwargs[argument.name]) for argument in schema.arguments if argument.name in kwargs]
            if argument.alias_info is not None and argument.alias_info.is_write
            for label in argument.alias_info.before_set
        }

        def output(declared: Any, value: Any) -> Any:
            if declared.alias_info is not None and declared.alias_info.is_write:
                return written[next(iter(declared.alias_info.before_set))]
            return tree_map(_untouched, value)

        if len(schema.returns) == 1:
            return output(schema.returns[0], result)
        return tuple(map(output, schema.returns, result)) if schema.returns else None


@contextmanager
def shapes_only() -> Iterator[None]:
    """`ShapesOnly`, with attention as plain matrix products and a softmax; torch's random state is put back."""
    was_fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # one op for a whole encoder layer, which no formula knows
    try:
        with torch.random.fork_rng(devices=[]), sdpa_kernel(SDPBackend.MATH), ShapesOnly():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(was_fused)


_FACTORY_SETTINGS: dict[str, Any] = {"device": torch.device("meta"), "pin_memory": None, "generator": None}


def _infer(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What the op gives, on `meta`."""
    named = {argument.name for argument in func._schema.arguments}
    settings = {name: value for name, value in _FACTORY_SETTINGS.items() if name in named}
    return _laid_out(func, args, func(*tree_map(_on_meta, args), **tree_map(_on_meta, kwargs) | settings))


def _described(value: Any) -> Any:
    """Hashable, and equal for two arguments from which an op infers the same."""
    if isinstance(value, Tensor):
        return value.shape, value.stride(), value.dtype
    if isinstance(value, list | tuple):
        return tuple(map(_described, value))
    if isinstance(value, dict):
        return tuple((name, _described(each)) for name, each in value.items())
    return type(value), value


_CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


def _laid_out(func: Any, args: tuple[Any, ...], result: Any) -> Any:
    """A convolution keeps channels last where image or filter has them so; torch's meta kernel (2.15) forgets it."""
    if func is not torch.ops.aten.convolution.default or result.ndim not in _CHANNELS_LAST:
        return result
    layout = _CHANNELS_LAST[result.ndim]
    if any(not tensor.is_contiguous() and tensor.is_contiguous(memory_format=layout) for tensor in args[:2]):
        return result.contiguous(memory_format=layout)
    return result


def _on_meta(value: Any) -> Any:
    if not isinstance(value, Tensor) or value.is_meta:
        return value
    return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")


def _untouched(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return value
    return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="cpu")
