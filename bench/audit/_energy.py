"""Rules on energy: is a joule as well known as its label says, and is it possible at all?

Thresholds: windows of max(10 s, 100 counter periods), cross-check of 2 % and 10 %, mean power between 0.8 × idle and
1.05 × the limit are METHODS.md's; that ten periods are the fewest is ours: below, one tick is a tenth of the energy.
"""

from __future__ import annotations

from collections.abc import Iterator

from bench.audit._evidence import Evidence, Hit, Level, Rule, cannot_check, ends, fact
from bench.phases._provenance import STRENGTH, weakest
from bench.records import EnergyLabel, PhaseName, PhaseResult, Quantity

MIN_PUBLISHED_WINDOW_S = 10.0
MIN_PUBLISHED_PERIODS = 100
FEWEST_PERIODS = 10
FLAG_GAP = 0.02
INVALID_GAP = 0.10
MIN_POWER_OVER_IDLE = 0.8
MAX_POWER_OVER_LIMIT = 1.05
LARGEST_LOST_SHARE = 0.25
_HEADLINES: tuple[tuple[PhaseName, str, str], ...] = (
    ("generate", "generate.batch", "generate_energy_j_per_image"),
    ("train_step", "train_step", "train_step_energy_j_per_image"),
    ("train", "train", "train_energy_j"),
)


def _known(evidence: Evidence) -> Iterator[tuple[PhaseResult, str, Quantity]]:
    """(phase, series, figure) of each headline energy that is known."""
    for phase, series, name in _HEADLINES:
        result = evidence.measured(phase)
        quantity = None if result is None else result.quantities.get(name)
        if result is not None and quantity is not None and quantity.value is not None:
            yield result, series, quantity


def _name(result: PhaseResult) -> str:
    return next(name for phase, _, name in _HEADLINES if phase == result.phase)


def _sources(result: PhaseResult) -> dict[str, dict[str, object]] | None:
    """Reading → label, period_s, systematic; None where the protocol does not say."""
    found = fact(result.protocol, "energy", "sources")
    if not isinstance(found, dict):
        return None
    return {reading: dict(each) for reading, each in found.items() if isinstance(each, dict)}


def _counter_gap(evidence: Evidence) -> Iterator[Hit]:
    for result, series, quantity in _known(evidence):
        if quantity.kind not in ("measured", "simulated"):
            continue
        sources = _sources(result)
        periods = [each.get("period_s") for each in (sources or {}).values()]
        if not sources or not all(isinstance(each, int | float) for each in periods):
            yield cannot_check(f"the protocol of {result.phase} does not say how often its energy counter is updated")
            continue
        period_s = max(float(str(each)) for each in periods)
        length_s = _length_s(evidence, result, series)
        if length_s is None:
            yield cannot_check(f"the length of the windows of {series} is not stored")
            continue
        asked_s = max(MIN_PUBLISHED_WINDOW_S, MIN_PUBLISHED_PERIODS * period_s)
        if length_s < asked_s:
            is_grave = length_s < FEWEST_PERIODS * period_s
            what = (
                f"{_name(result)} was read over {length_s:.3g} s with a counter that is updated every {period_s:.3g} s"
            )
            detail = f"{what}; joules to be published take {asked_s:.3g} s."
            yield Hit(level="error" if is_grave else "warning", detail=detail)


def _length_s(evidence: Evidence, result: PhaseResult, series: str) -> float | None:
    """The shortest window; of a training, which is a sum, the whole of it."""
    if result.phase == "train":
        return evidence.value("train_duration_s")
    lengths = evidence.lengths_s(result.phase, series)
    return None if lengths is None else lengths[0]


def _energy_label(evidence: Evidence) -> Iterator[Hit]:
    for result, _, quantity in _known(evidence):
        name, sources = _name(result), _sources(result)
        if quantity.label is None:
            yield Hit(level="error", detail=f"{name} does not say how its joules are known.")
            continue
        if sources is None:
            yield cannot_check(f"the protocol of {result.phase} does not name the meters behind {name}")
            continue
        labels: list[EnergyLabel] = [
            label for label in STRENGTH if label in {each["label"] for each in sources.values()}
        ]
        if not labels and quantity.label.startswith("measured"):
            yield Hit(level="error", detail=f"{name} is called {quantity.label}, and its protocol names no meter.")
        elif labels and STRENGTH.index(quantity.label) < STRENGTH.index(weakest(labels)):
            detail = f"{name} is called {quantity.label}, the weakest of its sources is {weakest(labels)}."
            yield Hit(level="error", detail=detail)


def _energy_estimated(evidence: Evidence) -> Iterator[Hit]:
    for result, _, quantity in _known(evidence):
        if quantity.kind in ("estimated", "attributed"):
            detail = f"{_name(result)} is {quantity.kind} ({quantity.label}), so it ranks nothing."
            yield Hit(level="warning", detail=detail)


def _energy_sign(evidence: Evidence) -> Iterator[Hit]:
    for result, _, gross in _known(evidence):
        name = _name(result)
        if ends(gross)[1] <= 0 or (gross.value or 0.0) <= 0:
            yield Hit(level="error", detail=f"{name} is {gross.value:.3g} {gross.unit}: a working device uses energy.")
        net = result.quantities.get(name.replace("_energy_j", "_energy_net_j"))
        if net is None or net.value is None:
            continue
        if net.value < 0:
            level: Level = "error" if ends(net)[1] < 0 else "warning"
            detail = f"{name} less idle power is {net.value:.3g} {net.unit}: idling took more than the work."
            yield Hit(level=level, detail=detail)
        if net.value > (gross.value or 0.0):
            yield Hit(level="error", detail=f"{name} less idle power is more than the energy itself.")


def _cross_check(evidence: Evidence) -> Iterator[Hit]:
    for result in evidence.record.phases.values():
        for name, quantity in result.quantities.items():
            if name.endswith("_gap") and quantity.value is not None and abs(quantity.value) > FLAG_GAP:
                level: Level = "error" if abs(quantity.value) > INVALID_GAP else "warning"
                detail = f"{name} is {quantity.value:+.1%}: two meters of the same energy disagree."
                yield Hit(level=level, detail=detail)


def _power_range(evidence: Evidence) -> Iterator[Hit]:
    limits = evidence.record.machine.gpu_power_limit_w
    for phase, _, _ in _HEADLINES[:2]:
        result = evidence.measured(phase)
        power = None if result is None else result.quantities.get(f"{phase}_power_w")
        if result is None or power is None or power.value is None:
            continue
        idle = result.quantities.get(f"{phase}_idle_power_w")
        if idle is not None and idle.value is not None and ends(power)[1] < MIN_POWER_OVER_IDLE * ends(idle)[0]:
            detail = f"{phase} drew {power.value:.3g} W, and {idle.value:.3g} W when idle."
            yield Hit(level="error", detail=detail)
        if fact(result.protocol, "energy", "scope") != "gpu" or not limits or None in limits:
            continue
        limit_w = sum(each for each in limits if each is not None)
        if ends(power)[0] > MAX_POWER_OVER_LIMIT * limit_w:
            detail = f"{phase} drew {power.value:.4g} W where the power limit is {limit_w:.4g} W."
            yield Hit(level="error", detail=detail)


def _readings_lost(evidence: Evidence) -> Iterator[Hit]:
    for phase, series, name in _HEADLINES:
        result, raw = evidence.measured(phase), evidence.counted(phase, series)
        sources = None if result is None else _sources(result)
        if not sources or raw is None:
            continue
        lost = [window for window in raw if sources.keys() & window.problems.keys()]
        if lost:
            why = next(reason for reading, reason in lost[0].problems.items() if reading in sources)
            level: Level = "error" if len(lost) > LARGEST_LOST_SHARE * len(raw) else "warning"
            detail = f"{len(lost)} of {len(raw)} windows behind {name} have no energy: {why.rstrip('.')}."
            yield Hit(level=level, detail=detail)


def _energy_uncertainty(evidence: Evidence) -> Iterator[Hit]:
    for result, _, quantity in _known(evidence):
        if quantity.kind != "measured":
            continue
        if quantity.systematic is None:
            yield Hit(level="warning", detail=f"{_name(result)} does not say how wrong its sensor itself may be.")
        if quantity.low is None:
            yield Hit(level="warning", detail=f"{_name(result)} has no interval.")


RULES = {
    "counter_gap": Rule(
        checks="Joules were read over 10 s and 100 periods of the counter, or more.",
        remedy="Measure again with --preset publish (--fresh); a training takes a longer --train-for.",
        find=_counter_gap,
    ),
    "energy_label": Rule(
        checks="An energy carries the weakest label of the meters it is read from, never a stronger one.",
        remedy="Do not use this energy; measure again with this version of bench (--fresh).",
        find=_energy_label,
    ),
    "energy_estimated": Rule(
        checks="Energies are measured, not estimated from a design power.",
        remedy="Measure on a machine whose energy counter can be read (`bench doctor` says how), or leave it out.",
        find=_energy_estimated,
    ),
    "energy_sign": Rule(
        checks="Energies are above zero, and net of idle power between zero and gross.",
        remedy="Let the machine come to rest before measuring again, so that idle power is idle power.",
        find=_energy_sign,
    ),
    "energy_cross_check": Rule(
        checks="A second meter of the same energy agrees to 2 %; over 10 % is an error.",
        remedy="Look at both meters with `bench doctor` and measure again; publish neither figure before they agree.",
        find=_cross_check,
    ),
    "power_range": Rule(
        checks="Mean power lies between 0.8 × idle and 1.05 × the power limit.",
        remedy="Check the sensor with `bench doctor`, and that nothing else used the board when it was idle.",
        find=_power_range,
    ),
    "readings_lost": Rule(
        checks="Each window behind an energy has its reading: no reset, no failed read, no skipped wrap.",
        remedy="Repair the meter's access (`bench doctor` says how) and measure again with --fresh.",
        find=_readings_lost,
    ),
    "energy_uncertainty": Rule(
        checks="A measured energy has an interval and the sensor's own error.",
        remedy="Measure again with this version of bench (--fresh).",
        find=_energy_uncertainty,
    ),
}
