"""Quantities as people write them (`200kimg`, `5min`, `0.2kWh`) and as people read them (`19.90 M`, `2 min 05 s`).

Storage is SI (s, J, B, image); this file is the only place where other units appear.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable
from dataclasses import dataclass

from bench.errors import UsageError

JOULES_PER_KWH = 3.6e6
BYTES_PER_GIB = 2**30

_BUDGET_PATTERN = re.compile(r"^\s*(?P<number>\d+(\.\d*)?|\.\d+)\s*(?P<unit>[A-Za-z]+)\s*$")
_IMAGES_PER_UNIT = {"img": 1.0, "kimg": 1e3, "mimg": 1e6}
_SECONDS_PER_UNIT = {"s": 1.0, "min": 60.0, "h": 3600.0}
_JOULES_PER_UNIT = {"wh": JOULES_PER_KWH / 1e3, "kwh": JOULES_PER_KWH}
_UNTIL_PATTERN = re.compile(r"^\s*(?P<figure>[a-z0-9_]+)\s*(?P<relation><=|>=|<|>)\s*(?P<threshold>[-+0-9.eE]+)\s*$")
_RELATIONS: dict[str, Callable[[float, float], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
}


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How long to train; exactly one of the three is set.

    Attributes:
        num_images: images shown to the discriminator (real images drawn from the data set).
        duration_s: seconds of training, the writing of snapshots included, evaluation not.
        energy_j: joules read by an energy meter.
    """

    num_images: float | None = None
    duration_s: float | None = None
    energy_j: float | None = None


@dataclass(frozen=True, kw_only=True)
class Goal:
    """When a training may end early: `figure relation threshold`, for example `rfd_v1 <= 0.1`."""

    figure: str
    relation: str
    threshold: float

    def is_met(self, value: float) -> bool:
        """Whether that value of the figure satisfies it."""
        return _RELATIONS[self.relation](value, self.threshold)


def parse_goal(text: str, option: str = "--until") -> Goal:
    """Read `rfd_v1<=0.1`; `option` is named in the error.

    Raises:
        UsageError: not a figure's name, one of <=, >=, <, > and a finite number.
    """
    match = _UNTIL_PATTERN.match(text)
    try:
        threshold = float(match["threshold"]) if match else math.nan
    except ValueError:
        threshold = math.nan
    if match is None or not math.isfinite(threshold):
        raise UsageError(
            f"{option} '{text}' is not a goal: write a figure, <= or >=, and a number, such as rfd_v1<=0.1."
        )
    return Goal(figure=match["figure"], relation=match["relation"], threshold=threshold)


def parse_interval(text: str, option: str) -> Budget:
    """Read `50kimg` or `5min`: images or time, never joules.

    Raises:
        UsageError: as `parse_budget`, or a number of joules.
    """
    interval = parse_budget(text, option)
    if interval.energy_j is not None:
        raise UsageError(f"{option} '{text}' must be images or time, such as 50kimg or 5min.")
    return interval


def parse_budget(text: str, option: str = "--train-for") -> Budget:
    """Read `200kimg`, `5min` or `0.2kWh`; `option` is named in the error.

    Raises:
        UsageError: no number, an unknown unit, or a number that is not above zero.
    """
    match = _BUDGET_PATTERN.match(text)
    unit = match["unit"].lower() if match else ""
    if match is None or unit not in {**_IMAGES_PER_UNIT, **_SECONDS_PER_UNIT, **_JOULES_PER_UNIT}:
        raise UsageError(
            f"{option} '{text}' is not a budget: write a number and one of img, kimg, Mimg, s, min, h, Wh, kWh "
            "(for example 200kimg, 5min or 0.2kWh)."
        )
    number = float(match["number"])
    if not number > 0 or not math.isfinite(number):
        raise UsageError(f"{option} '{text}' must be more than zero.")
    if unit in _IMAGES_PER_UNIT:
        return Budget(num_images=max(1, round(number * _IMAGES_PER_UNIT[unit])))
    if unit in _SECONDS_PER_UNIT:
        return Budget(duration_s=number * _SECONDS_PER_UNIT[unit])
    return Budget(energy_j=number * _JOULES_PER_UNIT[unit])


def format_count(value: float) -> str:
    """19901647 → `19.90 M`, 758349824 → `758.3 M`, 512 → `512`: four significant digits and an SI prefix."""
    for factor, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= factor * 0.99995:
            return f"{_significant(value / factor)} {prefix}"
    return f"{value:.0f}" if float(value).is_integer() else _significant(value)


def _significant(value: float) -> str:
    """Four significant digits, trailing zeros kept."""
    return f"{value:#.4g}".rstrip(".")


def format_bytes(num_bytes: float) -> str:
    """Bytes in binary prefixes: 4831838208 → `4.50 GiB`."""
    for factor, prefix in ((2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if num_bytes >= factor:
            return f"{num_bytes / factor:.2f} {prefix}"
    return f"{num_bytes:.0f} B"


def format_duration(duration_s: float) -> str:
    """Seconds for a reader: 0.5 → `0.5 s`, 125 → `2 min 05 s`, 7300 → `2 h 02 min`."""
    if duration_s < 60:
        return f"{duration_s:.1f} s" if duration_s < 9.95 else f"{duration_s:.0f} s"
    minutes, seconds = divmod(round(duration_s), 60)
    if minutes < 60:
        return f"{minutes} min {seconds:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"
