"""Who had the processors during a window: this process, others, or the hypervisor.

The window's own length is read by the runner (`perf_counter`); this meter says whether that length can be trusted. The
counters are the kernel's (times(2) and /proc/stat through psutil), in ticks of 10 ms, so a reading over a short window
is coarse.
"""

from __future__ import annotations

import time

import psutil

from bench.meters._spec import MeterSpec


class ClockMeter:
    """Processor seconds over a window."""

    def start(self) -> None:
        """Read the counters at the first edge."""
        self._first = self._read()

    def stop(self) -> dict[str, float]:
        """Differences of the counters over the window, in seconds."""
        return {name: value - self._first[name] for name, value in self._read().items()}

    @staticmethod
    def _read() -> dict[str, float]:
        times = psutil.cpu_times()
        readings = {"process_cpu_s": time.process_time(), "machine_busy_s": times.user + times.system + times.nice}
        if hasattr(times, "steal"):
            readings["machine_steal_s"] = times.steal
        return readings


METER = MeterSpec(
    title="processor time of this process, of the whole machine, and stolen by the hypervisor",
    readings={
        "process_cpu_s": "processor seconds of this process, all threads (kernel)",
        "machine_busy_s": "processor seconds in which any process ran (kernel, /proc/stat)",
        "machine_steal_s": "processor seconds the hypervisor gave to others (kernel, /proc/stat)",
    },
    why_unavailable=lambda: None,
    open=lambda _device: ClockMeter(),
)
