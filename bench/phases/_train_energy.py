"""Joules of a whole training: its stretches, each a window, summed over all sittings; and codecarbon's opinion of them.

Evaluations and checkpoints are not part of it, as their seconds are not part of the training's; an evaluation has a
window of its own. A stretch without an energy makes the sum unknown: a sum that leaves something out is not the
training's energy. Work that a kill threw away is not in it either; the record says how often that was.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from time import perf_counter
from typing import Any

from bench.meters._spec import EnergySource, Meter
from bench.meters.codecarbon import gap
from bench.phases._energy import NO_METER, EnergySetup, idle_power, unavailable, window_energy
from bench.phases._provenance import kind_of, weakest
from bench.phases._tdp import tdp_total
from bench.phases._windows import counted, merged
from bench.records import Quantity, Window, unknown

SERIES = "train"
BESIDE = f"{SERIES}.beside"
EVALUATION = f"{SERIES}.evaluation"
STRETCH_S = 60.0
BUDGET_STRETCH_S = 10.0  # where joules end the training; each stretch adds up to one period of the counter as an error
_SOURCE = "energy counters at synchronised edges, summed over the training"
_MIN_SECONDS_TO_COMPARE = 30.0
_LARGEST_COMPARED_ERROR = 0.1  # a second opinion that is itself a guess checks nothing


class TrainingWatch:
    """Reads meters over a training; implements `bench.training.loop.Watch`.

    The headline's meters are read at least every `stretch_s`, at a look, so that the joules so far are known; the
    others, which cost more, at the edges of a segment only.

    Args:
        meters: those of the headline.
        beside: second opinions on long stretches.
        setup: what can be known of energy in this run.
        stretch_s: how often a stretch is closed.
        windows: of earlier sittings of the same training.
    """

    def __init__(
        self,
        meters: Mapping[str, Meter],
        beside: Mapping[str, Meter],
        setup: EnergySetup,
        *,
        stretch_s: float = STRETCH_S,
        windows: Sequence[Window] = (),
    ) -> None:
        self._meters, self._beside, self._setup, self._stretch_s = meters, beside, setup, stretch_s
        self._stretch, self._segment = _Span(self._meters), _Span(self._beside)
        self.windows: list[Window] = []
        self._energy_j: float | None = 0.0 if setup.has_meter else None
        for window in windows:
            self._add(window)

    def start(self, num_images_shown: int) -> None:
        """The first edge of a segment; the device is idle."""
        self._segment.start(num_images_shown)
        self._stretch.start(num_images_shown)

    def tick(self, num_images_shown: int) -> None:
        """A moment between two steps at which the device is idle."""
        for meter in (*self._meters.values(), *self._beside.values()):
            meter.tick()
        if self._stretch.age_s() >= self._stretch_s:
            self._keep(SERIES, self._stretch.stop(num_images_shown))
            self._stretch.start(num_images_shown)

    def stop(self, num_images_shown: int) -> None:
        """The last edge of a segment; the device is idle."""
        self._keep(SERIES, self._stretch.stop(num_images_shown))
        beside = self._segment.stop(num_images_shown)
        if self._beside:
            self._keep(BESIDE, beside)

    def evaluation(self, work: Callable[[], None]) -> Window:
        """Do the work of an evaluation between two reads of the headline's meters; its joules are booked apart."""
        span = _Span(self._meters)
        span.start(0)
        work()
        return self._keep(EVALUATION, span.stop(1))

    def energy_j(self) -> float | None:
        """Joules so far of the closed stretches, or None where a meter is missing or failed in one of them."""
        return self._energy_j

    def _keep(self, series: str, fields: dict[str, Any]) -> Window:
        return self._add(Window(series=series, index=len(self.windows), is_warmup=False, **fields))

    def _add(self, window: Window) -> Window:
        """Joules are summed as windows come: a look must not walk through days of them."""
        self.windows.append(window)
        if window.series == SERIES and self._energy_j is not None:
            found = window_energy(window, self._setup.sources)
            self._energy_j = None if isinstance(found, str) else self._energy_j + found[0]
        return window


class _Span:
    """From one read of some meters to the next."""

    def __init__(self, meters: Mapping[str, Meter]) -> None:
        self._meters = meters
        self._started_s = 0.0
        self._first_image = 0

    def start(self, num_images_shown: int) -> None:
        self._first_image = num_images_shown
        for meter in self._meters.values():
            meter.start()
        self._started_s = perf_counter()

    def age_s(self) -> float:
        return perf_counter() - self._started_s

    def stop(self, num_images_shown: int) -> dict[str, Any]:
        """The fields of a window."""
        duration_s = self.age_s()
        readings = [meter.stop() for meter in self._meters.values()]
        return {"num_units": num_images_shown - self._first_image, "duration_s": duration_s, **merged(readings)}


def train_energy(windows: Sequence[Window], setup: EnergySetup, beside: Mapping[str, Meter]) -> dict[str, Quantity]:
    """`train_energy_j`, `train_energy_net_j`, `train_energy_j_per_image`, and the second opinions with their gaps.

    Args:
        windows: the stretches, the idle windows `train.idle`, and the segments of the meters `beside`.
        beside: the second opinions.
    """
    stretches = counted(list(windows), SERIES)
    gross = energy_so_far(windows, setup)
    idle_w = idle_power(counted(list(windows), f"{SERIES}.idle"), setup)
    figures = {
        "train_energy_j": gross,
        "train_energy_net_j": _net(gross, stretches, idle_w),
        "train_energy_j_per_image": _scaled(gross, 1 / max(1, sum(each.num_units for each in stretches)), "J/image"),
    }
    evaluations = counted(list(windows), EVALUATION)
    if evaluations:
        figures["evaluation_energy_j"] = _gross(evaluations, setup)
    return figures | _second_opinion(stretches, counted(list(windows), BESIDE), setup, beside)


def energy_so_far(windows: Sequence[Window], setup: EnergySetup) -> Quantity:
    """Joules of the training up to now, evaluations apart."""
    return _gross(counted(list(windows), SERIES), setup)


def evaluation_energy(window: Window, setup: EnergySetup) -> Quantity:
    """Joules of one evaluation."""
    return _gross([window], setup)


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


def _second_opinion(
    stretches: Sequence[Window], segments: Sequence[Window], setup: EnergySetup, beside: Mapping[str, Meter]
) -> dict[str, Quantity]:
    """What the others said of the same time, and how far they are from ours."""
    figures: dict[str, Quantity] = {}
    for meter in beside.values():
        for reading, source in meter.energy_sources().items():
            if source.is_cross_check:
                theirs = _total(segments, {reading: source})
                figures[reading] = theirs
                ours = {name: own for name, own in setup.sources.items() if own.part == source.part}
                if source.systematic <= _LARGEST_COMPARED_ERROR:
                    figures[reading.replace("_energy_j", "_gap")] = _gap(stretches, ours, theirs)
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
