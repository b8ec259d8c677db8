"""Joules of a whole training: the segments between snapshots, each a window, summed; and codecarbon's opinion of them.

The snapshots and their evaluation are not part of it, as their seconds are not part of the training's. A segment
without an energy makes the sum unknown: a sum that leaves something out is not the training's energy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from time import perf_counter

from bench.meters._spec import EnergySource, Meter
from bench.meters.codecarbon import gap
from bench.phases._energy import NO_METER, EnergySetup, idle_power, unavailable, window_energy
from bench.phases._provenance import kind_of, weakest
from bench.phases._tdp import tdp_total
from bench.phases._windows import counted, merged
from bench.records import Quantity, Window, unknown

SERIES = "train"
_SOURCE = "energy counters at the synchronised edges of the segments between snapshots, summed"
_MIN_SECONDS_TO_COMPARE = 30.0
_LARGEST_COMPARED_ERROR = 0.1  # a second opinion that is itself a guess checks nothing


class TrainingWatch:
    """Reads meters around the segments of a training; implements `bench.training.loop.Watch`."""

    def __init__(self, meters: Mapping[str, Meter]) -> None:
        self._meters = meters
        self._started_s = 0.0
        self._first_image = 0
        self.windows: list[Window] = []

    def start(self, num_images_shown: int) -> None:
        """The first edge of a segment; the device is idle."""
        self._first_image = num_images_shown
        for meter in self._meters.values():
            meter.start()
        self._started_s = perf_counter()

    def tick(self) -> None:
        """A moment between two steps."""
        for meter in self._meters.values():
            meter.tick()

    def stop(self, num_images_shown: int) -> None:
        """The last edge of a segment; the device is idle."""
        duration_s = perf_counter() - self._started_s
        readings = [meter.stop() for meter in self._meters.values()]
        self.windows.append(
            Window(
                series=SERIES,
                index=len(self.windows),
                is_warmup=False,
                num_units=num_images_shown - self._first_image,
                duration_s=duration_s,
                **merged(readings),
            )
        )


def train_energy(windows: Sequence[Window], setup: EnergySetup, meters: Mapping[str, Meter]) -> dict[str, Quantity]:
    """`train_energy_j`, `train_energy_net_j`, `train_energy_j_per_image`, and the second opinions with their gaps.

    Args:
        windows: the segments and the idle windows `train.idle`.
        meters: all that watched, the second opinions among them.
    """
    segments = counted(list(windows), SERIES)
    gross = _gross(segments, setup)
    idle_w = idle_power(counted(list(windows), f"{SERIES}.idle"), setup)
    figures = {
        "train_energy_j": gross,
        "train_energy_net_j": _net(gross, segments, idle_w),
        "train_energy_j_per_image": _scaled(gross, 1 / max(1, sum(each.num_units for each in segments)), "J/image"),
    }
    return figures | _second_opinion(segments, setup, meters)


def _gross(segments: Sequence[Window], setup: EnergySetup) -> Quantity:
    """Measured where there is a meter, estimated where the user gave a design power, else unknown."""
    if setup.has_meter:
        return _total(segments, setup.sources)
    if setup.tdp_w is not None:
        return tdp_total(segments, setup.tdp_w, setup.num_cpu_cores)
    return unavailable("J", NO_METER)


def _total(segments: Sequence[Window], sources: Mapping[str, EnergySource]) -> Quantity:
    """Sum over the segments; the intervals of quantisation add up in the worst case."""
    found = [window_energy(segment, sources) for segment in segments]
    reasons = [each for each in found if isinstance(each, str)]
    if reasons or not found:
        why = reasons[0] if reasons else "nothing was measured"
        return unavailable("J", f"{len(reasons)} of {len(found)} segments are invalid: {why}")
    valid = [each for each in found if not isinstance(each, str)]
    energy_j, error_j = sum(each[0] for each in valid), sum(each[1] for each in valid)
    label = weakest([source.label for source in sources.values()])
    return Quantity(
        value=energy_j,
        unit="J",
        low=energy_j - error_j,
        high=energy_j + error_j,
        n=len(valid),
        kind=kind_of(label),
        source=_SOURCE,
        note="one training: the interval is quantisation alone",
        label=label,
        systematic=max(source.systematic for source in sources.values()),
    )


def _net(gross: Quantity, segments: Sequence[Window], idle_w: Quantity) -> Quantity:
    if gross.value is None or gross.low is None or gross.high is None:
        return gross
    if idle_w.value is None or idle_w.low is None or idle_w.high is None:
        return unavailable("J", f"idle power is unknown: {idle_w.note}")
    duration_s = sum(segment.duration_s for segment in segments)
    return gross.model_copy(
        update={
            "value": gross.value - idle_w.value * duration_s,
            "low": gross.low - idle_w.high * duration_s,
            "high": gross.high - idle_w.low * duration_s,
            "source": f"{gross.source}, less idle power",
        }
    )


def _scaled(quantity: Quantity, factor: float, unit: str) -> Quantity:
    if quantity.value is None or quantity.low is None or quantity.high is None:
        return quantity.model_copy(update={"unit": unit})
    ends = {"value": quantity.value, "low": quantity.low, "high": quantity.high}
    return quantity.model_copy(update={"unit": unit} | {name: each * factor for name, each in ends.items()})


def _second_opinion(segments: Sequence[Window], setup: EnergySetup, meters: Mapping[str, Meter]) -> dict[str, Quantity]:
    """What cross-check meters said of the same segments, and how far they are from ours."""
    figures: dict[str, Quantity] = {}
    for meter in meters.values():
        for reading, source in meter.energy_sources().items():
            if source.is_cross_check:
                theirs = _total(segments, {reading: source})
                figures[reading] = theirs
                ours = {name: own for name, own in setup.sources.items() if own.part == source.part}
                if source.systematic <= _LARGEST_COMPARED_ERROR:
                    figures[reading.replace("_energy_j", "_gap")] = _gap(segments, ours, theirs)
    return figures


def _gap(segments: Sequence[Window], ours: Mapping[str, EnergySource], theirs: Quantity) -> Quantity:
    """Relative difference of the second opinion from ours."""
    source = "second meter over ours, less one"
    if not ours:
        return unknown("1", f"nothing to compare with: {NO_METER}", source=source, kind="computed")
    own = _total(segments, ours)
    missing = own if own.value is None else theirs
    if own.value is None or theirs.value is None:
        return unknown("1", missing.note, source=source, kind="computed")
    if sum(segment.duration_s for segment in segments) < _MIN_SECONDS_TO_COMPARE:
        why = f"the stretch is shorter than {_MIN_SECONDS_TO_COMPARE:.0f} s, too short for the second meter"
        return unknown("1", why, source=source, kind="computed")
    relative, level = gap(own.value, theirs.value)
    return Quantity(value=relative, unit="1", n=1, kind="computed", source=source, note=level)
