"""What `bench scale` runs: one attention layer or one generator per operator and number of tokens, and its exact costs.

A layer is `models._attention`'s, as LadaGAN's generator uses it: torch's fused softmax kernel where an operator has a
softmax. A published generator has 64, 256 and 1024 tokens at every resolution, so its curve says how much the operator
matters in the model as it is. A grown generator is the 32 px one cut off, or continued by a stage of 64 channels for
each doubling of the side, every pixel a token (ours): at 1024 tokens it is the published one, beyond it shows how much
the operator would matter if attention went on.

Costs come from shapes alone, before anything is allocated. Multiply-accumulates and bytes follow `_op_counter` on the
meta device, where a softmax is two products: the harness's convention, the same for every model. The same pass is
counted again with the fused kernel as one op, whose n × n map never meets the memory; and the tensors that are alive at
once are added up, which is the estimate of the peak memory (a kernel's own workspace is not in it).
"""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

from bench.phases._cost_ops import tensors_in
from bench.phases._cost_shapes import ShapesOnly
from bench.phases._op_counter import OpCounter
from bench.phases._scale_record import STUDIES, Study
from models._attention import build_attention
from models._relative_position import PositionEmbedding
from models.ladagan import CONFIGS, FIRST_GRID, NUM_FIRST_TOKENS, Generator, LadaGanConfig

FIRST_TOKENS = 64
_MAX_LAYER_TOKENS = 2**22
_GROWN_WIDTHS = (1024, 256, 64)  # the published 64 px generator's; further stages repeat the last
_MAX_GROWN_STAGES = 9  # 2048 px, four million tokens
Work = Callable[[], object]


@dataclass(frozen=True, kw_only=True)
class ScaleRequest:
    """The question, checked.

    Attributes:
        operators: names in `models._attention.OPERATORS`, in the order they are reported.
        device: torch device, `cpu` or `cuda:N`.
        width, num_heads: of the single layer.
        max_tokens: no size beyond it; None is as far as memory and time go.
        budget_s: about how long in all, s.
        batch_size: images per pass.
        studies: which of STUDIES, in the order they are measured.
    """

    operators: tuple[str, ...]
    device: str
    width: int = 256
    num_heads: int = 4
    max_tokens: int | None = None
    budget_s: float = 300.0
    batch_size: int = 1
    studies: tuple[Study, ...] = tuple(STUDIES)


@dataclass(frozen=True, kw_only=True)
class Subject:
    """One thing to run.

    Attributes:
        module: makes it, on torch's default device.
        shape: of its input.
        is_backward: the gradients of input and parameters are part of a pass.
    """

    study: Study
    operator: str
    num_tokens: int
    resolution: int | None = None
    module: Callable[[], nn.Module]
    shape: tuple[int, ...]
    is_backward: bool = False

    @property
    def series(self) -> str:
        """Name of its windows."""
        size = self.num_tokens if self.resolution is None else f"{self.resolution}px"
        return f"scale.{self.study}.{self.operator}.{size}"


@dataclass(frozen=True, kw_only=True)
class Costs:
    """Exact counts of one pass; see `ScalePoint`, whose names these are.

    `held_bytes` are parameters and input, which stay between passes; they are part of the peak.
    """

    held_bytes: int
    num_params: int
    macs: int
    num_bytes: int
    num_bytes_as_run: int
    peak_memory_bytes: int


def sizes(study: Study, request: ScaleRequest) -> list[tuple[Subject, ...]]:
    """One tuple per size, smallest first: every operator's subject of that size, up to `max_tokens`."""
    batch_size = request.batch_size

    def subjects(operator: str) -> list[Subject]:
        if study == "grown-generator":
            return grown_generators(operator, batch_size)
        if study == "generator":
            return published_generators(operator, batch_size)
        counts = [FIRST_TOKENS << step for step in range((_MAX_LAYER_TOKENS // FIRST_TOKENS).bit_length())]
        width, num_heads, is_backward = request.width, request.num_heads, study == "layer-backward"
        return [
            layer(operator, n, width=width, num_heads=num_heads, batch_size=batch_size, is_backward=is_backward)
            for n in counts
        ]

    every = list(zip(*map(subjects, request.operators), strict=True))
    limit = request.max_tokens
    return [size for size in every if limit is None or size[0].num_tokens <= limit]


def layer(operator: str, num_tokens: int, *, width: int, num_heads: int, batch_size: int, is_backward: bool) -> Subject:
    """One attention layer on a grid of `num_tokens`, a power of two."""
    exponent = num_tokens.bit_length() - 1
    grid = (2 ** (exponent // 2), 2 ** (exponent - exponent // 2))
    return Subject(
        study="layer-backward" if is_backward else "layer",
        operator=operator,
        num_tokens=num_tokens,
        module=lambda: build_attention(operator, width, num_heads, grid, is_fused=True),
        shape=(batch_size, num_tokens, width),
        is_backward=is_backward,
    )


def grown_generators(operator: str, batch_size: int) -> list[Subject]:
    """From 64 tokens up, four times as many each."""
    found = []
    for num_stages in range(1, _MAX_GROWN_STAGES + 1):
        widths = (_GROWN_WIDTHS + _GROWN_WIDTHS[-1:] * num_stages)[:num_stages]
        config = LadaGanConfig(generator_widths=widths, encoder_widths=(), attention=operator)
        resolution = FIRST_GRID * 2 ** (num_stages - 1)
        found.append(_generator("grown-generator", resolution, config, batch_size))
    return found


def published_generators(operator: str, batch_size: int) -> list[Subject]:
    """The `paper` size at every resolution there is."""
    configs = sorted((resolution, config) for (resolution, size), config in CONFIGS.items() if size == "paper")
    return [
        _generator("generator", resolution, dataclasses.replace(config, attention=operator), batch_size)
        for resolution, config in configs
    ]


def work_of(subject: Subject) -> Work:
    """One pass on random input, on torch's default device; nothing accumulates from pass to pass."""
    module = subject.module().eval()
    x = torch.randn(subject.shape)
    if not subject.is_backward:

        def forward() -> object:
            with torch.no_grad():
                return module(x)

        return forward
    inputs = (x.requires_grad_(), *module.parameters())
    gradient = torch.randn(subject.shape)  # a layer's output has the shape of its input
    return lambda: torch.autograd.grad(module(x), inputs, gradient)


def costs_of(subject: Subject) -> Costs:
    """Counted on shapes alone."""
    with torch.device("meta"):
        num_params = sum(parameter.numel() for parameter in subject.module().parameters())
        work = work_of(subject)
    with sdpa_kernel(SDPBackend.MATH), OpCounter() as unfused:
        work()
    with torch.random.fork_rng(devices=[]), ShapesOnly(), LiveBytes() as alive:
        work = work_of(subject)
        held_bytes = alive.restart()
        with OpCounter() as as_run:
            work()
    return Costs(
        held_bytes=held_bytes,
        num_params=num_params,
        macs=unfused.tally.num_macs,
        num_bytes=unfused.tally.num_bytes,
        num_bytes_as_run=as_run.tally.num_bytes,
        peak_memory_bytes=alive.peak_bytes,
    )


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the storages that operations make, while they live.

    Attributes:
        peak_bytes: the most that lived at once since the last `restart`.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak_bytes = 0
        self._num_bytes = 0
        self._alive: set[int] = set()

    def restart(self) -> int:
        """Forget the peak; the next one begins with what lives now, which is given back."""
        self.peak_bytes = self._num_bytes
        return self._num_bytes

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        del types
        result = func(*args, **(kwargs or {}))
        for tensor in tensors_in(result):
            storage = tensor.untyped_storage()
            key, num_bytes = id(storage), storage.nbytes()  # torch keeps one object per storage while it lives
            if key not in self._alive:
                self._alive.add(key)
                self._num_bytes += num_bytes
                weakref.finalize(storage, self._freed, key, num_bytes)
        self.peak_bytes = max(self.peak_bytes, self._num_bytes)
        return result

    def _freed(self, key: int, num_bytes: int) -> None:
        self._alive.remove(key)
        self._num_bytes -= num_bytes


def _generator(study: Study, resolution: int, config: LadaGanConfig, batch_size: int) -> Subject:
    num_stages = len(config.generator_widths)

    def module() -> nn.Module:
        generator = Generator(resolution, config)
        for part in generator.modules():
            if isinstance(part, PositionEmbedding):
                nn.init.zeros_(part.weight)  # memory as it was found may hold numbers that are slow to add
        return generator

    return Subject(
        study=study,
        operator=config.attention,
        num_tokens=NUM_FIRST_TOKENS * 4 ** (num_stages - 1),
        resolution=resolution,
        module=module,
        shape=(batch_size, config.latent_dim),
    )
