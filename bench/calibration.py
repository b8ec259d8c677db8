"""What this machine can do at best: its rate of matrix products per precision, and its rate of copying memory.

Why it exists: a share of a data sheet's peak mixes the software's worth with the maker's optimism. A share of what a
plain matrix product and a plain copy reach here, with this torch and these threads, does not. These two rates are the
two roofs of the roofline (Williams, Waterman & Patterson, Communications of the ACM 52(4), 2009,
https://doi.org/10.1145/1498765.1498785). Conventions: one MAC is one multiply-accumulate, so a product of two n × n
matrices is n³; copied bytes are those read plus those written.

How: blocks of chained calls, synchronised only at their edges; the median over a size's blocks with its exact
order-statistic interval; the size with the highest median is the peak. Inputs are random numbers, because a GPU
multiplies zeros faster than it multiplies data: they cost less power. Differences from a textbook roofline: the peaks
are measured, not computed from the clock; and a processor that reads a cache line before it overwrites it moves up to
half as many bytes again as are counted (the same convention as STREAM, https://www.cs.virginia.edu/stream/ref.html).

Stored as `<results>/calibrations/<fingerprint>-<device>.json`: the fingerprint says which machine, torch and thread
count, but not which device of it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter

import psutil
import torch
from pydantic import ValidationError
from torch import Tensor

from bench import __version__
from bench.errors import BenchError, RecordError, UsageError
from bench.machine import fingerprint, look, set_backend, settle_device
from bench.records import Frozen, Machine, Precision, Quantity
from bench.stats import quantile_quantity
from bench.store import write_atomically
from bench.units import format_bytes

FOLDER = "calibrations"
MIN_BLOCKS = 6  # the fewest that give a median its 95 % interval
_MAX_BLOCKS = 60
_CPU_SIDES = (256, 512, 1024, 2048)
_CUDA_SIDES = (2048, 4096, 8192)
_MIN_COPY_BYTES = 256 * 2**20
_CACHES_PER_COPY = 8  # a buffer is this many times the last-level cache, the larger one twice that
_FREE_MEMORY_SHARE = 0.5
_DTYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16}
_CPU_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")


class Calibration(Frozen):
    """The two roofs of one device.

    Attributes:
        fingerprint: `bench.machine.fingerprint` of the machine; a run on another machine may not use these figures.
        device: torch device, `cpu` or `cuda:N`.
        macs_per_s: precision → matrix-product rate, MAC/s. A precision the device lacks has no key.
        copy_bytes_per_s: bytes read plus bytes written per second, B/s.
        measured_at: ISO 8601, UTC.
        harness_version, torch: versions that measured.
    """

    fingerprint: str
    device: str
    macs_per_s: dict[Precision, Quantity]
    copy_bytes_per_s: Quantity
    measured_at: str
    harness_version: str
    torch: str


@dataclass(frozen=True, kw_only=True)
class _Effort:
    """How long to measure one size: about `share_s` in all, in blocks of about `block_s`."""

    device: str
    share_s: float
    block_s: float


def calibrate(
    device: str | None,
    say: Callable[[str], None],
    *,
    budget_s: float = 20.0,
    block_s: float = 0.2,
    matrix_sides: Sequence[int] | None = None,
    copy_sizes_bytes: Sequence[int] | None = None,
) -> Calibration:
    """Measure both roofs of `device`. Torch's global switches are as before when this returns.

    Args:
        say: where one sentence per figure goes; never called inside a measured block.
        budget_s: about how long in all, s. Every size gets an equal share, but at least MIN_BLOCKS blocks.
        block_s: least length of a block, s; 0.2 keeps the timer's share under 0.1 %.
        matrix_sides: sides n of the square matrices, ascending; default by device.
        copy_sizes_bytes: sizes of the copied buffer; default well above the last-level cache.

    Raises:
        UsageError: no such device, or a budget or block that is not above zero.
        BenchError: too little free memory for buffers above the last-level cache.
    """
    if not (budget_s > 0 and block_s > 0):
        raise UsageError(f"--calibrate needs a budget and blocks above zero, not {budget_s} s and {block_s} s.")
    device = settle_device(device)
    sides = tuple(matrix_sides or (_CPU_SIDES if device == "cpu" else _CUDA_SIDES))
    sizes_bytes = tuple(copy_sizes_bytes or _copy_sizes_bytes(device))
    precisions = _precisions(device)
    num_cases = len(precisions) * len(sides) + len(sizes_bytes)
    effort = _Effort(device=device, share_s=budget_s / num_cases, block_s=block_s)
    macs_per_s: dict[Precision, Quantity] = {}
    for precision in precisions:
        with _backend(precision):
            macs_per_s[precision] = _matrix_rate(precision, sides, effort, say)
        say(_sentence(f"matrix product, {precision}", macs_per_s[precision]))
    copied = _copy_rate(sizes_bytes, effort)
    say(_sentence("copy (read + written)", copied))
    return Calibration(
        fingerprint=fingerprint(look(device)),
        device=device,
        macs_per_s=macs_per_s,
        copy_bytes_per_s=copied,
        measured_at=datetime.now(UTC).isoformat(timespec="seconds"),
        harness_version=__version__,
        torch=torch.__version__,
    )


def path_of(results: Path, machine_fingerprint: str, device: str) -> Path:
    """Where the calibration of that device of that machine lies."""
    return results / FOLDER / f"{machine_fingerprint[:16]}-{device.replace(':', '')}.json"


def save(calibration: Calibration, results: Path) -> Path:
    """Replace this device's stored calibration → its file. Raises StorageError where that cannot be written."""
    path = path_of(results, calibration.fingerprint, calibration.device)
    write_atomically(path, (calibration.model_dump_json(indent=2) + "\n").encode())
    return path


def load(results: Path, machine: Machine, device: str) -> Calibration | None:
    """The stored calibration of `device` of `machine`, or None where it was never calibrated.

    Raises:
        RecordError: the file cannot be read, or was measured on another machine or device.
    """
    path = path_of(results, fingerprint(machine), device)
    if not path.exists():
        return None
    remedy = "run `bench doctor --calibrate` again, or remove the file."
    try:
        found = Calibration.model_validate_json(path.read_bytes())
    except OSError as error:
        raise RecordError(f"'{path}' cannot be read: {error.strerror or error}; {remedy}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the document"
        raise RecordError(f"'{path}' is not a calibration ({where}: {first['msg']}); {remedy}") from error
    if (found.fingerprint, found.device) != (fingerprint(machine), device):
        raise RecordError(f"'{path}' was measured on another machine or device than this {device}; {remedy}")
    return found


def _matrix_rate(precision: Precision, sides: Sequence[int], effort: _Effort, say: Callable[[str], None]) -> Quantity:
    """The best side's rate. A side whose blocks would take over twice their share is left out, and that is said."""
    found: dict[int, Quantity] = {}
    mac_s = 0.0  # seconds per MAC at the side before
    for side in sides:
        expected_s = mac_s * side**3 * MIN_BLOCKS
        if expected_s > 2 * effort.share_s:
            say(f"matrix product, {precision}: side {side} left out, about {expected_s:.0f} s do not fit the budget")
            break
        random = torch.Generator(effort.device).manual_seed(0)  # torch's global generator stays as it is
        left, right = (_random_matrix(side, precision, random) for _ in range(2))
        out = torch.empty_like(left)
        rates = _block_rates(_product_of(left, right, out), side**3, effort)
        found[side] = quantile_quantity(rates, unit="MAC/s", source=_source(f"torch.mm, {precision}", effort))
        mac_s = 1 / min(rates)
    best = max(found, key=lambda side: found[side].value or 0.0)
    note = f"side {best}, the best of {', '.join(map(str, found))}{_threads(effort.device)}"
    return found[best].model_copy(update={"note": note})


def _product_of(left: Tensor, right: Tensor, out: Tensor) -> Callable[[], object]:
    return lambda: torch.mm(left, right, out=out)


def _random_matrix(side: int, precision: Precision, random: torch.Generator) -> Tensor:
    return torch.randn(side, side, generator=random, device=random.device, dtype=_DTYPES[precision])


def _copy_rate(sizes_bytes: Sequence[int], effort: _Effort) -> Quantity:
    """The best buffer size's rate, bytes read plus bytes written."""
    found: dict[int, Quantity] = {}
    for size_bytes in sizes_bytes:
        source = torch.ones(size_bytes // 4, dtype=torch.float32, device=effort.device)
        target = torch.zeros_like(source)  # touched, so that no page is first met inside a block
        rates = _block_rates(_copy_of(source, target), 2 * 4 * source.numel(), effort)
        found[size_bytes] = quantile_quantity(rates, unit="B/s", source=_source("torch copy_", effort))
    best = max(found, key=lambda size_bytes: found[size_bytes].value or 0.0)
    cache_bytes = _last_level_cache_bytes(effort.device)
    cache = "of unknown size" if cache_bytes is None else f"of {format_bytes(cache_bytes)}"
    note = (
        f"read + written, buffer of {format_bytes(best)}, the best of {', '.join(map(format_bytes, found))}; "
        f"last-level cache {cache}{_threads(effort.device)}"
    )
    return found[best].model_copy(update={"note": note})


def _copy_of(source: Tensor, target: Tensor) -> Callable[[], object]:
    return lambda: target.copy_(source)


def _block_rates(work: Callable[[], object], units_per_call: int, effort: _Effort) -> list[float]:
    """Units per second of each block: at least MIN_BLOCKS, more while the share of the budget lasts."""
    started = perf_counter()
    first_calls_s = [_block_s(work, 1, effort.device) for _ in range(3)]  # warm-up, and how many calls make a block
    num_calls = max(1, math.ceil(effort.block_s / min(first_calls_s)))
    rates: list[float] = []
    while len(rates) < _MAX_BLOCKS:
        if len(rates) >= MIN_BLOCKS and perf_counter() - started > effort.share_s:
            break
        rates.append(num_calls * units_per_call / _block_s(work, num_calls, effort.device))
    return rates


def _block_s(work: Callable[[], object], num_calls: int, device: str) -> float:
    """Seconds of that many calls between synchronised edges."""
    _synchronise(device)
    started = perf_counter()
    for _ in range(num_calls):
        work()
    _synchronise(device)
    return perf_counter() - started


def _synchronise(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize(device)


@contextmanager
def _backend(precision: Precision) -> Iterator[None]:
    """Torch's switches as a run in that precision has them; afterwards what they were before, whatever that was."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark, cudnn.deterministic
    set_backend(precision)
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark, cudnn.deterministic = before


def _precisions(device: str) -> tuple[Precision, ...]:
    """TF32 exists on CUDA devices of compute capability 8.0 and up; bfloat16 runs everywhere, fast or not."""
    has_tf32 = device != "cpu" and torch.cuda.get_device_capability(device) >= (8, 0)
    return ("fp32", "tf32", "bf16") if has_tf32 else ("fp32", "bf16")


def _copy_sizes_bytes(device: str) -> tuple[int, ...]:
    """Two buffer sizes well above the last-level cache, those that fit (each is held twice)."""
    smallest = max(_MIN_COPY_BYTES, _CACHES_PER_COPY * (_last_level_cache_bytes(device) or 0))
    free_bytes = psutil.virtual_memory().available if device == "cpu" else torch.cuda.mem_get_info(device)[0]
    fitting = tuple(size for size in (smallest, 2 * smallest) if 2 * size <= _FREE_MEMORY_SHARE * free_bytes)
    if not fitting:
        raise BenchError(
            f"--calibrate copies buffers of {format_bytes(smallest)}, and {device} has {format_bytes(free_bytes)} "
            "free; end what holds the memory and try again."
        )
    return fitting


def _last_level_cache_bytes(device: str) -> int | None:
    """As CUDA or the kernel tells it; None where neither does."""
    if device != "cpu":
        return int(torch.cuda.get_device_properties(device).L2_cache_size)
    try:
        texts = [path.read_text().strip() for path in _CPU_CACHES.glob("index*/size")]
    except OSError:
        return None
    sizes_kib = [int(match[1]) for match in map(re.compile(r"^(\d+)K$").match, texts) if match]
    return max(sizes_kib) * 1024 if sizes_kib else None


def _source(what: str, effort: _Effort) -> str:
    return f"{what}, perf_counter over synchronised blocks of at least {effort.block_s:g} s, median"


def _threads(device: str) -> str:
    return f"; {torch.get_num_threads()} torch threads" if device == "cpu" else ""


def _sentence(what: str, rate: Quantity) -> str:
    """One figure for a person, in units of 10⁹."""
    value, low, high = ((each or 0.0) / 1e9 for each in (rate.value, rate.low, rate.high))
    return f"{what}: {value:.4g} G{rate.unit} (95 % interval {low:.4g} to {high:.4g}, {rate.n} blocks; {rate.note})"
