"""Who had the processors during a window: this process, others, or the hypervisor; and what held them back.

The window's own length is read by the harness (`perf_counter`); this meter says whether that length can be trusted.

Counters are the kernel's. /proc/stat (through psutil) counts in ticks of 10 ms: each processor may be a tick behind,
and each column that is added is rounded to one (seen: jumps of 40 ms on two processors). So a share of the machine is
called too large only where it is so beyond these ticks; a window of a few milliseconds is too short to know and carries
no such flag. /proc/stat is the whole machine's, in a container too. A container's CPU quota is seen in `cpu.stat` of
its control group and of the groups above it (cgroup v2: throttled_usec; v1: throttled_time in ns):
https://docs.kernel.org/admin-guide/cgroup-v2.html#cpu. The clock frequency is that of the fastest core at each edge,
because idle cores clock down at will; many virtual machines show a constant. Thresholds are ours.
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import psutil
from pydantic import JsonValue

from bench.meters._spec import Meter, MeterSpec, Readings

TICK_S = 0.01  # USER_HZ is 100 on every Linux that psutil knows
_NUM_BUSY_COLUMNS = 3  # user, system, nice
MAX_STEAL_SHARE = 0.01
MAX_OTHERS_SHARE = 0.10
MAX_FREQUENCY_CHANGE = 0.10
_CGROUP_ROOT = Path("/sys/fs/cgroup")
_CGROUP_MEMBERSHIP = Path("/proc/self/cgroup")
_LEVELS = ("cpu_frequency_hz", "load_average_tasks")  # read at the edges; everything else is counted over the window


class ClockMeter(Meter):
    """Processor seconds, preemption, throttling and clock frequency over a window."""

    def __init__(self, probes: Mapping[tuple[str, ...], Callable[[], dict[str, float]]] | None = None) -> None:
        """`probes`: names of readings → how to read them; None is everything this machine shows."""
        self._probes = probes_here() if probes is None else probes
        self._num_cpus = psutil.cpu_count(logical=True) or 1

    def start(self) -> None:
        """Read the counters at the first edge."""
        self._lost: dict[str, str] = {}
        self._first = self._read("first")
        self._started = time.perf_counter()

    def stop(self) -> Readings:
        """Differences of the counters over the window, the levels at both edges, and what disturbed it."""
        span_s = time.perf_counter() - self._started
        last = self._read("second")
        both = {name: (value, last[name]) for name, value in self._first.items() if name in last}
        values = {name: after - before for name, (before, after) in both.items() if name not in _LEVELS}
        edges = {name: both[name] for name in _LEVELS if name in both}
        if "cpu_frequency_hz" in edges:
            values["cpu_frequency_hz"] = sum(edges["cpu_frequency_hz"]) / 2
        flags = flags_of(values, edges, span_s=span_s, num_cpus=self._num_cpus)
        return Readings(values=values, edges=edges, problems=self._lost, flags=flags)

    def facts(self) -> dict[str, JsonValue]:
        """The tick of the counters, the processors they count, and what this machine does not show."""
        shown = {name for names in self._probes for name in names}
        return {
            "tick_s": TICK_S,
            "num_cpus": self._num_cpus,
            "not_shown_here": [name for name in METER.readings if name not in shown],
        }

    def _read(self, edge: str) -> dict[str, float]:
        found: dict[str, float] = {}
        for names, probe in self._probes.items():
            try:
                found |= probe()
            except (OSError, ValueError) as error:
                readings = [name for name in names if name in METER.readings]
                self._lost |= dict.fromkeys(readings, f"no reading at the {edge} edge: {error}")
        return found


def flags_of(
    values: Mapping[str, float], edges: Mapping[str, tuple[float, float]], *, span_s: float, num_cpus: int
) -> tuple[str, ...]:
    """What disturbed a window of `span_s` seconds on a machine of `num_cpus` processors, one fixed phrase each."""
    flags = []
    unsure_s = (num_cpus + _NUM_BUSY_COLUMNS) * TICK_S

    def exceeds(cpu_s: float, share: float) -> bool:
        return cpu_s - unsure_s > share * span_s * num_cpus

    if exceeds(values.get("machine_steal_s", 0.0), MAX_STEAL_SHARE):
        flags.append("processor time stolen by the hypervisor")
    if "machine_busy_s" in values and "process_cpu_s" in values:
        others_s = values["machine_busy_s"] - values["process_cpu_s"]
        if exceeds(others_s, MAX_OTHERS_SHARE):
            flags.append("other processes on the processor")
    before, after = edges.get("cpu_frequency_hz", (1.0, 1.0))
    if abs(after / before - 1) > MAX_FREQUENCY_CHANGE:
        flags.append("CPU frequency changed")
    if values.get("cpu_throttled_s", 0.0) > 0 or values.get("num_throttled_periods", 0.0) > 0:
        flags.append("container CPU quota throttled this window")
    return tuple(flags)


def probes_here() -> dict[tuple[str, ...], Callable[[], dict[str, float]]]:
    """Names of readings → how to read them, for what this machine shows."""
    probes: dict[tuple[str, ...], Callable[[], dict[str, float]]] = {
        ("process_cpu_s", "num_involuntary_switches"): _process,
        tuple(_machine()): _machine,
        ("load_average_tasks",): lambda: {"load_average_tasks": os.getloadavg()[0]},
    }
    files = throttle_files()
    if files:
        probes["cpu_throttled_s", "num_throttled_periods"] = lambda: throttling(files)
    if _frequency():
        probes[("cpu_frequency_hz",)] = _frequency
    return probes


def _process() -> dict[str, float]:
    switches = resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw
    return {"process_cpu_s": time.process_time(), "num_involuntary_switches": float(switches)}


def _machine() -> dict[str, float]:
    times = psutil.cpu_times()
    readings = {"machine_busy_s": times.user + times.system + times.nice}
    if hasattr(times, "steal"):  # Linux only
        readings["machine_steal_s"] = times.steal
    return readings


def _frequency() -> dict[str, float]:
    """Clock of the fastest core in Hz; empty where the machine shows none."""
    if not hasattr(psutil, "cpu_freq"):  # psutil leaves it out on platforms without one
        return {}
    fastest_mhz = max((core.current for core in psutil.cpu_freq(percpu=True) or []), default=0.0)
    return {"cpu_frequency_hz": fastest_mhz * 1e6} if fastest_mhz > 0 else {}


def throttle_files(root: Path = _CGROUP_ROOT, membership: Path = _CGROUP_MEMBERSHIP) -> tuple[Path, ...]:
    """The `cpu.stat` files that count throttling of this process: its control group's and those above it."""
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return ()
    found: list[Path] = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        for base in (root / controllers, root / "cpu") if controllers else (root,):
            group = base / path.strip("/")
            candidates = [each / "cpu.stat" for each in (group, *group.parents) if each.is_relative_to(base)]
            found.extend(file for file in candidates if _counts_throttling(file) and file not in found)
    return tuple(found)


def _counts_throttling(file: Path) -> bool:
    try:
        return "nr_throttled" in file.read_text()
    except OSError:
        return False


def throttling(files: tuple[Path, ...]) -> dict[str, float]:
    """Seconds, and scheduling periods, in which a quota held the process back, since the groups were made."""
    throttled_s, num_periods = 0.0, 0.0
    for file in files:
        counts = dict(line.split() for line in file.read_text().splitlines())
        num_periods += float(counts["nr_throttled"])
        throttled_s += float(counts.get("throttled_usec", 0)) / 1e6 + float(counts.get("throttled_time", 0)) / 1e9
    return {"cpu_throttled_s": throttled_s, "num_throttled_periods": num_periods}


METER = MeterSpec(
    title="who had the processors: this process, others, the hypervisor; clock frequency and quota",
    readings={
        "process_cpu_s": "processor seconds of this process, all threads (kernel)",
        "num_involuntary_switches": "times the kernel took a processor from this process (getrusage)",
        "machine_busy_s": "processor seconds in which any process ran (kernel, /proc/stat)",
        "machine_steal_s": "processor seconds the hypervisor gave to others (kernel, /proc/stat)",
        "cpu_throttled_s": "seconds a container's CPU quota held this process back (kernel, cpu.stat)",
        "num_throttled_periods": "scheduling periods in which it did (kernel, cpu.stat)",
        "cpu_frequency_hz": "clock of the fastest core, mean of the two edges (cpufreq or /proc/cpuinfo)",
    },
    why_unavailable=lambda _device: None,
    open=lambda _device: ClockMeter(),
)
