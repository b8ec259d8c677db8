"""What the rules of the audit look at, and what one of them answers.

A rule is a function that reads an `Evidence` and yields a `Hit` for each thing it finds. It reads no file and no clock,
so the same record gets the same answer on every computer. A rule whose facts the record does not hold says so, as a
note (`cannot_check`): silence means checked and found in order, or nothing of the kind in this run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

from pydantic import JsonValue

from bench.records import PhaseName, PhaseResult, Quantity, Record, Window

Level = Literal["note", "warning", "error"]
MEASURE_AGAIN = "Measure again with this version of bench (--fresh), or take the figure with that doubt."

# Phase, series of its windows, and the figure that is their median.
THROUGHPUT: tuple[tuple[PhaseName, str, str], ...] = (
    ("generate", "generate.batch", "generate_images_per_s"),
    ("train_step", "train_step", "train_images_per_s"),
)
_NO_FIGURE = (".beside", ".evaluation")  # second opinions, and what is booked apart: no figure of speed rests on them
LATENCY: tuple[PhaseName, str, str] = ("generate", "generate.latency", "generate_latency_ms_p50")


@dataclass(frozen=True, kw_only=True)
class Hit:
    """What a rule found: `detail` is one sentence; an empty `remedy` is the rule's own."""

    level: Level
    detail: str
    remedy: str = ""


@dataclass(frozen=True, kw_only=True)
class Disturbed:
    """How many windows of a series carry which flags."""

    phase: PhaseName
    series: str
    num_windows: int
    flags: Counter[str]


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """A record and its raw windows by phase; a phase that is no key of `windows` has none here."""

    record: Record
    windows: Mapping[str, Sequence[Window]]

    def measured(self, phase: PhaseName) -> PhaseResult | None:
        """The phase where it has figures, else None."""
        result = self.record.phases.get(phase)
        return result if result is not None and result.status in ("ok", "inconclusive") else None

    def value(self, figure: str) -> float | None:
        """The value of that figure, None where it is not known."""
        quantity = self.record.quantity(figure)
        return None if quantity is None else quantity.value

    def counted(self, phase: PhaseName, series: str) -> list[Window] | None:
        """The raw windows of a series that are not warm-up; None where there are none of it."""
        found = [each for each in self.windows.get(phase, ()) if each.series == series and not each.is_warmup]
        return found or None

    def warm_up(self, phase: PhaseName, series: str) -> list[Window]:
        """The raw windows of a series before it counts."""
        return [each for each in self.windows.get(phase, ()) if each.series == series and each.is_warmup]

    def lengths_s(self, phase: PhaseName, series: str) -> tuple[float, float] | None:
        """(shortest, median) length of the windows that count, raw or as the protocol says; None where neither does.

        The protocol knows the median alone, which then stands for the shortest as well.
        """
        raw = self.counted(phase, series)
        if raw is not None:
            lengths = [window.duration_s for window in raw]
            return min(lengths), median(lengths)
        typical = self.observed(phase, series, "median_window_s")
        return (typical, typical) if isinstance(typical, float) else None

    def observed(self, phase: PhaseName, series: str, *path: str) -> JsonValue:
        """What the phase's protocol says of a series, None where it says nothing; whole numbers as floats."""
        result = self.record.phases.get(phase)
        return None if result is None else fact(result.protocol, "series", series, *path)

    def disturbed(self) -> Iterator[Disturbed]:
        """Of each series with counted windows: their flags, from the raw windows or else the protocol's counts."""
        for phase, result in self.record.phases.items():
            raw = self.windows.get(phase)
            if raw:
                yield from _flags_of_windows(phase, raw)
                continue
            series = result.protocol.get("series")
            for name in series if isinstance(series, dict) else ():
                by = fact(result.protocol, "series", name, "disturbances", "by")
                num_windows = fact(result.protocol, "series", name, "num_windows")
                if isinstance(by, dict) and isinstance(num_windows, float):
                    counts = Counter({flag: int(n) for flag, n in by.items() if isinstance(n, int | float)})
                    yield Disturbed(phase=phase, series=name, num_windows=int(num_windows), flags=counts)


def _flags_of_windows(phase: PhaseName, windows: Sequence[Window]) -> Iterator[Disturbed]:
    by_series: dict[str, list[Window]] = {}
    for window in windows:
        if not window.is_warmup and not window.series.endswith(_NO_FIGURE):
            name = "replay" if window.series.startswith("replay.") else window.series
            by_series.setdefault(name, []).append(window)
    for series, found in by_series.items():
        flags = Counter(flag for window in found for flag in set(window.flags))
        yield Disturbed(phase=phase, series=series, num_windows=len(found), flags=flags)


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One check.

    Attributes:
        checks: what it checks, one line.
        remedy: what to do where it is not met, one sentence.
        find: evidence → what it found.
    """

    checks: str
    remedy: str
    find: Callable[[Evidence], Iterable[Hit]]


def cannot_check(what: str) -> Hit:
    """The note of a rule whose facts are missing; `what` completes "Cannot be checked: …"."""
    return Hit(level="note", detail=f"Cannot be checked: {what}.", remedy=MEASURE_AGAIN)


def fact(document: JsonValue, *path: str) -> JsonValue:
    """The value at that path of a JSON document, None where there is none; whole numbers become floats."""
    for name in path:
        document = document.get(name) if isinstance(document, dict) else None
    return float(document) if isinstance(document, int) and not isinstance(document, bool) else document


def number(document: JsonValue, *path: str) -> float | None:
    """The number at that path, None where there is none."""
    found = fact(document, *path)
    return found if isinstance(found, float) else None


def ends(quantity: Quantity) -> tuple[float, float]:
    """The ends of a known figure's interval; a figure without one is a point."""
    value = quantity.value or 0.0
    return (value, value) if quantity.low is None or quantity.high is None else (quantity.low, quantity.high)


def listed(names: Iterable[str], most: int = 6) -> str:
    """`a, b and 3 more`."""
    every = list(names)
    more = f" and {len(every) - most} more" if len(every) > most else ""
    return ", ".join(every[:most]) + more
