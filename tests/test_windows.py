import dataclasses
import gc
import itertools

import numpy as np
import pytest

from bench.phases import _windows
from bench.phases._context import PRESETS
from bench.phases._windows import (
    TimedWork,
    counted,
    is_settled,
    measure_latency,
    measure_throughput,
    peak_memory,
    rate,
    verdict,
)

BRIEF = dataclasses.replace(PRESETS["smoke"], warmup_s=0.0, min_window_s=0.0, num_latency_samples=5)


class LoggingMeter:
    def __init__(self, log):
        self.log = log

    def start(self):
        self.log.append("start")

    def stop(self):
        self.log.append("stop")
        return {"peak_memory_bytes": float(len(self.log))}


def timed(work, meters=None):
    return TimedWork(series="x", work=work, num_units=4, device="cpu", meters=meters or {})


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


def test_a_window_chains_calls_until_it_is_long_enough(monkeypatch):
    ticks = itertools.count()
    monkeypatch.setattr(_windows, "perf_counter", lambda: next(ticks) * 0.01)  # every read of the clock is 10 ms later
    windows = measure_throughput(timed(lambda: None), dataclasses.replace(BRIEF, min_window_s=0.045))
    assert {window.num_units for window in counted(windows, "x")} == {5 * 4}


def test_measuring_stops_when_the_interval_is_narrow_and_is_inconclusive_at_the_cap(monkeypatch):
    steady = dataclasses.replace(BRIEF, num_windows=(12, 60), target_half_width=0.01, max_duration_s=1e9)
    ticks = itertools.count()
    monkeypatch.setattr(_windows, "perf_counter", lambda: float(next(ticks)))
    windows = measure_throughput(timed(lambda: None), steady)
    assert len(counted(windows, "x")) == 12
    assert verdict({"f": rate(windows, "x")}, steady) == ("ok", "")

    jitter = itertools.accumulate(np.random.default_rng(0).uniform(1, 2, 1000).tolist())
    monkeypatch.setattr(_windows, "perf_counter", lambda: next(jitter))
    windows = measure_throughput(timed(lambda: None), dataclasses.replace(steady, num_windows=(12, 30)))
    assert len(counted(windows, "x")) == 30
    figure = rate(windows, "x")
    assert not is_settled(figure, steady)
    status, reason = verdict({"f": figure}, steady)
    assert status == "inconclusive"
    assert "f:" in reason


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
