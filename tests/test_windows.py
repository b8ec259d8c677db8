import dataclasses
import gc
import itertools

import numpy as np
import pytest

from bench.meters._spec import EnergySource, Meter, Readings
from bench.phases import _windows
from bench.phases._presets import PRESETS
from bench.phases._windows import (
    TimedWork,
    counted,
    disturbances,
    drift,
    empty_window_s,
    is_settled,
    measure_latency,
    measure_throughput,
    peak_memory,
    rate,
    verdict,
    window_protocol,
)
from bench.records import Window

BRIEF = dataclasses.replace(PRESETS["smoke"], warmup_s=0.0, min_window_s=0.0, num_latency_samples=5)


class LoggingMeter(Meter):
    def __init__(self, log):
        self.log = log

    def start(self):
        self.log.append("start")

    def stop(self):
        self.log.append("stop")
        return Readings(values={"peak_memory_bytes": float(len(self.log))})


def timed(work, meters=None):
    return TimedWork(series="x", work=work, num_units=4, device="cpu", meters=meters or {})


class EnergyMeter(LoggingMeter):
    def __init__(self, log, name):
        super().__init__(log)
        self.name = name

    def start(self):
        self.log.append(f"start {self.name}")

    def stop(self):
        self.log.append(f"stop {self.name}")
        return Readings(values={f"{self.name}_energy_j": 1.0}, edges={self.name: (1.0, 2.0)}, flags=("throttled",))

    def energy_sources(self):
        source = EnergySource(label="measured:rapl", part="cpu", period_s=0.001, systematic=0.05)
        return {f"{self.name}_energy_j": source}


def test_energy_meters_are_read_nearest_the_work_and_the_edges_are_mirrored():
    log = []
    meters = {"cpu": EnergyMeter(log, "cpu"), "memory": LoggingMeter(log), "gpu": EnergyMeter(log, "gpu")}
    window = timed(lambda: log.append("work"), meters).measure(0, num_calls=1)
    assert log == ["start", "start cpu", "start gpu", "work", "stop gpu", "stop cpu", "stop"]
    assert window.edges == {"cpu": (1.0, 2.0), "gpu": (1.0, 2.0)}
    assert window.flags == ("throttled", "throttled")


def test_what_the_meters_take_is_outside_the_window_and_recorded(monkeypatch):
    clock = Clock(monkeypatch, itertools.repeat(1.0))

    class SlowMeter(LoggingMeter):
        def start(self):
            clock.now_s += 0.25

        def stop(self):
            clock.now_s += 0.5
            return Readings()

    window = timed(clock.work, {"slow": SlowMeter([])}).measure(0, num_calls=2)
    assert window.duration_s == 2.0
    assert window.readings["edge_reads_s"] == 0.75


def test_meters_are_read_around_the_work_and_no_garbage_is_collected_inside():
    log = []

    def work():
        assert not gc.isenabled()
        log.append("work")

    timed(work, {"m": LoggingMeter(log)}).measure(0, num_calls=3)
    assert log == ["start", "work", "work", "work", "stop"]
    assert gc.isenabled()


def test_warm_up_windows_are_kept_marked_and_not_counted():
    windows = measure_throughput(timed(lambda: None), BRIEF)
    warmup = [window for window in windows if window.is_warmup]
    assert len(warmup) == _windows.MIN_WARMUP_CALLS
    assert len(counted(windows, "x")) == 12
    assert [window.index for window in windows] == list(range(len(windows)))
    assert rate(windows, "x").n == 12


class Clock:
    """A clock that only work moves: what a call takes depends on how many follow each other."""

    def __init__(self, monkeypatch, durations_s):
        self.now_s = 0.0
        self._durations_s = iter(durations_s)
        monkeypatch.setattr(_windows, "perf_counter", lambda: self.now_s)

    def work(self):
        self.now_s += next(self._durations_s)


def test_a_window_chains_calls_until_it_is_long_enough(monkeypatch):
    clock = Clock(monkeypatch, itertools.repeat(0.01))
    windows = measure_throughput(timed(clock.work), dataclasses.replace(BRIEF, min_window_s=0.1))
    assert {window.num_units for window in counted(windows, "x")} == {11 * 4}


def test_windows_are_long_enough_although_chained_calls_are_faster_than_single_ones(monkeypatch):
    clock = Clock(monkeypatch, itertools.chain([0.01] * _windows.MIN_WARMUP_CALLS, itertools.repeat(0.004)))
    windows = measure_throughput(timed(clock.work), dataclasses.replace(BRIEF, min_window_s=0.1))
    assert all(window.duration_s >= 0.1 for window in counted(windows, "x"))
    trials = [window for window in windows if window.is_warmup and window.num_units > 4]
    assert 1 <= len(trials) <= 3


STEADY = dataclasses.replace(BRIEF, num_windows=(12, 60), target_half_width=0.01, max_duration_s=1e9)


def test_a_narrow_pilot_is_the_whole_series(monkeypatch):
    clock = Clock(monkeypatch, itertools.repeat(1.0))
    windows = measure_throughput(timed(clock.work), STEADY)
    assert len(counted(windows, "x")) == 12
    assert verdict({"f": rate(windows, "x")}, STEADY) == ("ok", "")


def test_a_wide_pilot_takes_more_windows_and_the_phase_is_inconclusive_where_they_are_not_enough(monkeypatch):
    clock = Clock(monkeypatch, np.random.default_rng(0).uniform(1, 2, 1000).tolist())
    windows = measure_throughput(timed(clock.work), STEADY)
    figure = rate(windows, "x")
    assert figure.n == len(counted(windows, "x")) == 59
    assert not is_settled(figure, STEADY)
    status, reason = verdict({"f": figure}, STEADY)
    assert status == "inconclusive"
    assert reason.startswith("f: ")


def test_no_more_windows_are_planned_than_the_time_cap_allows(monkeypatch):
    clock = Clock(monkeypatch, np.random.default_rng(0).uniform(1, 2, 1000).tolist())
    windows = measure_throughput(timed(clock.work), dataclasses.replace(STEADY, max_duration_s=40.0))
    assert len(counted(windows, "x")) in {20, 25}
    assert sum(window.duration_s for window in counted(windows, "x")) <= 42.0


def test_latency_is_one_call_a_window():
    calls = []
    windows = measure_latency(timed(lambda: calls.append(1)), BRIEF)
    assert len(counted(windows, "x")) == 5
    assert len(calls) == 5 + _windows.MIN_WARMUP_CALLS


def test_the_time_cap_ends_a_series_after_at_least_one_window(monkeypatch):
    ticks = itertools.count()
    monkeypatch.setattr(_windows, "perf_counter", lambda: next(ticks) * 100.0)
    windows = measure_throughput(timed(lambda: None), dataclasses.replace(BRIEF, max_duration_s=1.0))
    assert len(counted(windows, "x")) == 1
    assert rate(windows, "x").low is None


def test_peak_memory_without_a_meter_is_unknown_and_not_zero():
    windows = measure_throughput(timed(lambda: None), BRIEF)
    assert peak_memory(windows).value is None
    assert "doctor" in peak_memory(windows).note
    log = []
    windows = measure_throughput(timed(lambda: None, {"m": LoggingMeter(log)}), BRIEF)
    assert peak_memory(windows).value == max(window.readings["peak_memory_bytes"] for window in windows)


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_can_reach_a_95_percent_interval(name):
    preset = PRESETS[name]
    assert preset.num_windows[0] >= 6
    assert preset.is_publishable == (name != "smoke")
    assert preset.target_half_width is None or preset.num_windows[1] > preset.num_windows[0]


def series(durations_s, **fields):
    words = {"series": "x", "is_warmup": False, "num_units": 4, "readings": {}} | fields
    return [Window(index=index, duration_s=duration_s, **words) for index, duration_s in enumerate(durations_s)]


def test_a_series_that_slows_down_is_said_and_inconclusive():
    jitter = np.random.default_rng(1).uniform(0.999, 1.001, 20)
    windows = series((np.linspace(1, 1.08, 20) * jitter).tolist())
    finding = drift(windows, "x")
    assert finding == "x is not stationary: the second half is 4 % slower"
    assert verdict({}, STEADY, [finding]) == ("inconclusive", finding)
    assert verdict({}, BRIEF, [finding]) == ("ok", finding)  # a smoke run asks for nothing, and still says so
    observed = window_protocol(windows, STEADY, "cpu")["series"]["x"]
    assert observed["stationarity"]["is_stationary"] is False
    assert observed["stationarity"]["finding"] == finding


def test_a_series_that_stands_still_has_no_finding_and_warm_up_does_not_count():
    jitter = np.random.default_rng(1).uniform(0.99, 1.01, 20).tolist()
    windows = series([3.0] * 10, is_warmup=True) + series(jitter)
    assert drift(windows, "x") == ""
    assert verdict({}, STEADY, [drift(windows, "x")]) == ("ok", "")


def test_disturbances_count_windows_and_causes_of_any_meter():
    clean = series([1.0] * 3, edges={"load_average_tasks": (0.5, 0.75)})
    hot = series([1.0], flags=("throttled: thermal", "other processes on the processor"))
    busy = series([1.0], flags=("other processes on the processor",), edges={"load_average_tasks": (1.5, 2.5)})
    found = disturbances(clean + hot + busy)
    assert found["num_disturbed"] == 2
    assert found["by"] == {"other processes on the processor": 2, "throttled: thermal": 1}
    assert found["load_average_tasks"] == [0.5, 2.5]
    assert found["finding"].startswith("2 of 5 windows were disturbed: other processes on the processor (2); throttled")
    assert disturbances(clean)["finding"] == ""
    assert disturbances(hot)["load_average_tasks"] is None


def test_the_timer_takes_a_thousandth_of_the_shortest_window_of_any_preset_at_most():
    shortest_s = min(preset.min_window_s for preset in PRESETS.values())
    assert 0 < empty_window_s("cpu") < 0.001 * shortest_s
    observed = window_protocol(series([0.2] * 4), BRIEF, "cpu")["series"]["x"]
    assert 0 < observed["timer_overhead_share"] < 0.001
    assert observed["stationarity"]["is_stationary"] is None
