"""How fast a whole LadaGAN training step is on this CPU, against the same mathematics written down plainly.

Why it exists: issue 5 asks for the ratio, its interval, where the time goes and what bounds it. One step is D with R1,
G, Adam and EMA, with DiffAugment (color, translation), at 64 px in size `paper`. Three programs do it:

    plain      `tests/plain_ladagan.py`, the way of the authors' PyTorch port
    eager      ours, `bench.training.step.Trainer` as it comes
    compiled   ours with `--compile`

They take turns, one step each per round, the order turned round in every other round, so that what the machine does
beside them falls on all alike; the ratio is taken inside a round, and its median has an exact interval (`bench.stats`).
Run it on an idle machine: `OMP_NUM_THREADS=2 python benchmarks/step_speed.py --precision fp32`.

What bounds it. torch's own counter says how many multiply-accumulates a step needs; the roof is the best rate of a
convolution and of a matrix product of this very step, measured here with the same threads. Steps cannot be shorter than
one divided by the other while every multiply-accumulate is done.
"""

from __future__ import annotations

import argparse
import copy
import sys
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

import torch
from torch import Tensor
from torch.nn import functional
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from plain_ladagan import trainer_from_ours

from bench.records import Precision
from bench.stats import quantile_quantity
from bench.training.step import StepOptions, Trainer
from models.ladagan import SPEC

RESOLUTION = 64
Step = Callable[[Tensor], dict[str, Tensor]]


def main() -> None:
    """Measure and print."""
    options = _options()
    torch.manual_seed(0)
    real = torch.rand(options.batch, 3, RESOLUTION, RESOLUTION) * 2 - 1
    steps = _steps(options.precision, options.size)
    if not options.compile:
        del steps["compiled"]
    _say(f"{options.size}, batch {options.batch}, {options.precision}, {torch.get_num_threads()} threads")
    for name, step in steps.items():
        started = perf_counter()
        step(real)
        _say(f"{name}: first step {perf_counter() - started:.1f} s")
    durations_s = _rounds(steps, real, options.pairs)
    for name, found_s in durations_s.items():
        _say(f"{name}: {_median([options.batch / each_s for each_s in found_s], 'image/s')}")
    for name in list(steps)[1:]:
        ratios = [plain_s / ours_s for plain_s, ours_s in zip(durations_s["plain"], durations_s[name], strict=True)]
        _say(f"plain / {name}: {_median(ratios, '×')}")
    _say_bounds(steps, real, durations_s, options.precision)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--pairs", type=int, default=12)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--size", choices=("paper", "tiny"), default="paper")
    return parser.parse_args()


def _steps(precision: Precision, size: str) -> dict[str, Step]:
    """The three programs, from the same weights."""
    gan = SPEC.build(RESOLUTION, size)
    recipe = SPEC.recipe("celeba-64", RESOLUTION, "paper")
    plain = trainer_from_ours(gan, recipe, resolution=RESOLUTION, precision=precision)
    eager, compiled = (
        Trainer(
            copy.deepcopy(gan),
            recipe,
            device="cpu",
            precision=precision,
            seed=0,
            options=StepOptions(compile=is_compiled),
        )
        for is_compiled in (False, True)
    )
    return {"plain": plain.step, "eager": eager.step, "compiled": compiled.step}


def _rounds(steps: dict[str, Step], real: Tensor, num_rounds: int) -> dict[str, list[float]]:
    """Seconds of each program's step, per round."""
    durations_s: dict[str, list[float]] = {name: [] for name in steps}
    for index in range(num_rounds):
        order = list(steps) if index % 2 == 0 else list(reversed(steps))
        for name in order:
            started = perf_counter()
            steps[name](real)
            durations_s[name].append(perf_counter() - started)
    return durations_s


def _say_bounds(steps: dict[str, Step], real: Tensor, durations_s: dict[str, list[float]], precision: str) -> None:
    """Multiply-accumulates, roof, and where the time goes."""
    with FlopCounterMode(display=False) as flops:
        steps["plain"](real)  # ours needs as many, and its penalty is taken at a leaf, which this counter cannot follow
    gmacs = flops.get_total_flops() / 2e9
    rates = _roofs(torch.bfloat16 if precision == "bf16" else torch.float32)
    least_s = gmacs / max(rates.values())
    _say(f"{gmacs:.1f} GMAC per step; {', '.join(f'{name} {rate:.0f} GMAC/s' for name, rate in rates.items())}")
    for name, found_s in durations_s.items():
        median_s = sorted(found_s)[len(found_s) // 2]
        _say(f"{name}: {median_s:.2f} s per step, {least_s / median_s:.0%} of the roof ({least_s:.2f} s)")
    plain_s = sorted(durations_s["plain"])[len(durations_s["plain"]) // 2]
    _say(f"at the roof the ratio would be {plain_s / least_s:.2f} ×")
    for name, step in steps.items():
        _say(f"{name}: {_shares(step, real)}")


def _roofs(dtype: torch.dtype) -> dict[str, float]:
    """The best of five rates, GMAC/s, of the encoder's inner convolution and of the matrix product of its MLP."""
    x, kernel = torch.randn(16, 256, 16, 16, dtype=dtype), torch.randn(256, 256, 3, 3, dtype=dtype)
    x = x.contiguous(memory_format=torch.channels_last)
    left, right = torch.randn(4096, 256, dtype=dtype), torch.randn(256, 512, dtype=dtype)
    works: dict[str, tuple[Callable[[], Tensor], float]] = {
        "convolution": (lambda: functional.conv2d(x, kernel, padding=1), 16 * 16**2 * 256**2 * 9 / 1e9),
        "matrix product": (lambda: left @ right, 4096 * 256 * 512 / 1e9),
    }
    rates = {}
    for name, (work, gmacs) in works.items():
        work()
        found_s = []
        for _ in range(5):
            started = perf_counter()
            work()
            found_s.append(perf_counter() - started)
        rates[name] = gmacs / min(found_s)
    return rates


def _shares(step: Step, real: Tensor) -> str:
    """Shares of one profiled step's own time, by kind of operator."""
    with profile(activities=[ProfilerActivity.CPU]) as found:
        step(real)
    sums_us = {"convolutions": 0.0, "matrix products": 0.0, "optimiser": 0.0, "everything else": 0.0}
    for event in found.key_averages():
        sums_us[_kind(event.key)] += event.self_cpu_time_total
    total_us = sum(sums_us.values())
    return ", ".join(f"{kind} {each_us / total_us:.0%}" for kind, each_us in sums_us.items())


def _kind(operator: str) -> str:
    if "conv" in operator:
        return "convolutions"
    if operator in {"aten::mm", "aten::addmm", "aten::bmm", "mkldnn::_linear_pointwise"}:
        return "matrix products"
    if any(name in operator.lower() for name in ("adam", "optimizer", "addcdiv", "addcmul_", "lerp_", "sqrt")):
        return "optimiser"
    return "everything else"


def _median(samples: list[float], unit: str) -> str:
    found = quantile_quantity(samples, unit=unit, source="step_speed")
    if found.low is None or found.high is None:
        return f"{found.value:.3f} {unit} ({found.note})"
    return f"{found.value:.3f} {unit}, 95 % interval {found.low:.3f} to {found.high:.3f}, {found.n} rounds"


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
