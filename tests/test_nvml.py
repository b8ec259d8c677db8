"""The NVML meter against a compiled fake library whose true energy is known (tests/fake_nvml)."""

import math
import os
import random
import subprocess
import sys
import threading
import time
import types

import pynvml
import pytest
import torch
from fake_nvml_library import (
    GPU_IS_LOST,
    NO_PERMISSION,
    NOT_SUPPORTED,
    STATE_VARIABLE,
    UNKNOWN,
    UUIDS,
    FakeNvml,
    compile_library,
    loaded,
)

from bench.errors import BenchError
from bench.meters._integrators import counter_error_j
from bench.meters._nvml_match import Board, visible_uuids
from bench.meters._nvml_opening import Clock
from bench.meters.nvml import METER, NvmlMeter


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    return compile_library(tmp_path_factory.mktemp("fake_nvml"))


@pytest.fixture(scope="module")
def loaded_fake(library, tmp_path_factory):
    with loaded(library, tmp_path_factory.mktemp("state") / "nvml.bin") as fake:
        yield fake


@pytest.fixture
def fake(loaded_fake, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("CUDA_DEVICE_ORDER", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)  # a real GPU is not among the fake ones
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    loaded_fake.reset()
    return loaded_fake


@pytest.fixture
def open_meter(fake):
    meters = []

    def opened(*devices):
        meters.append(NvmlMeter(devices or ("cuda:0",), Clock(now=fake.now, sleep=fake.sleep_until_it_stands)))
        return meters[-1]

    yield opened
    for meter in meters:
        meter.close()


def window(fake, meter, duration_s):
    """One window of that many virtual seconds → readings, true joules."""
    meter.start()
    started_s = fake.now()
    fake.sleep(duration_s)
    truth_j = fake.true_energy_j(started_s, fake.now())
    return meter.stop(), truth_j


def polled_window(fake, meter, duration_s):
    """A window whose clock is moved by the polling thread itself, and then stands → readings, true joules."""
    started_s = fake.now()
    fake.stands_at_s = started_s + duration_s
    meter.start()
    give_up = time.monotonic() + 20
    while fake.now() < fake.stands_at_s:
        assert time.monotonic() < give_up, "the polling thread does not move"
        time.sleep(1e-3)
    readings = meter.stop()
    fake.stands_at_s = math.inf
    return readings, fake.true_energy_j(started_s, fake.now())


def refused(readings):
    """Why there is no energy; fails where there is one."""
    assert "gpu_energy_j" not in readings.values
    return readings.problems["gpu_energy_j"]


# ---- the interval holds the truth -------------------------------------------------------------------------------


@pytest.mark.parametrize("tick_s", [0.02, 0.1, 0.5])
def test_the_energy_is_within_its_stated_interval_every_time_or_is_refused(fake, open_meter, tick_s):
    rng = random.Random(tick_s)
    fake.device().tick_s = tick_s
    meter = open_meter()
    period_s = meter.energy_sources()["gpu_energy_j"].period_s
    assert tick_s <= period_s < 1.2 * tick_s
    num_refused, shares = 0, []
    for _ in range(40):
        for nominal_s in (0.2, 0.3, 0.7, 1.0, 1.49, 2.5, 10.0, 60.0):
            duration_s = nominal_s * rng.uniform(0.98, 1.02)
            fake.device().phase_s = rng.uniform(0, tick_s)
            fake.device().load_w = rng.uniform(20, 690)
            readings, truth_j = window(fake, meter, duration_s)
            if "gpu_energy_j" not in readings.values:
                assert "shorter than the counter's update period" in refused(readings)
                assert duration_s < tick_s
                num_refused += 1
                continue
            energy_j = readings.values["gpu_energy_j"]
            error_j = counter_error_j(energy_j, duration_s, period_s, 1e-3)
            assert abs(energy_j - truth_j) <= error_j
            assert duration_s < 100 * period_s or error_j < 0.0101 * energy_j
            shares.append(abs(energy_j - truth_j) / error_j)
            first_mj, last_mj = readings.edges[f"{UUIDS[0]} total_energy_mj"]
            assert energy_j == pytest.approx((last_mj - first_mj) / 1e3)
    assert (num_refused > 0) == (tick_s > 0.2)
    assert max(shares) > 0.8, "the interval would be wider than it has to be"


def test_nothing_is_read_inside_a_window_where_the_counter_works(fake, open_meter):
    meter = open_meter()
    meter.start()
    before = list(fake.device().num_reads)
    num_threads = threading.active_count()
    time.sleep(0.05)
    assert list(fake.device().num_reads) == before
    assert num_threads == threading.active_count()
    fake.sleep(1)
    assert meter.stop().values["gpu_energy_j"] == pytest.approx(300, rel=0.03)
    assert threading.active_count() == num_threads


# ---- faults: a reason, never a number ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "text"),
    [(NO_PERMISSION, "NO_PERMISSION"), (GPU_IS_LOST, "GPU_IS_LOST"), (UNKNOWN, "UNKNOWN"), (NOT_SUPPORTED, "NOT_SUP")],
)
@pytest.mark.parametrize(
    ("fails_s", "where"), [((-0.1, 0.1), "first edge"), ((11, 13), "middle"), ((36.5, 99), "second edge")]
)
def test_a_failed_read_at_any_point_of_a_window_leaves_no_number(fake, open_meter, code, text, fails_s, where):
    meter = open_meter()
    fake.device().fail("energy", code, fake.now() + fails_s[0], fake.now() + fails_s[1])
    meter.start()
    for _ in range(6):
        fake.sleep(6)
        meter.tick()
    fake.sleep(1)
    reason = refused(meter.stop())
    assert where in reason and text in reason and f"({code})" in reason
    fake.sleep(100)
    assert "gpu_energy_j" in window(fake, meter, 10)[0].values, "the next window is sound again"


def test_a_counter_that_is_reset_inside_a_window_leaves_no_number(fake, open_meter):
    meter = open_meter()
    fake.device().reset_s = fake.now() + 4
    assert "reset" in refused(window(fake, meter, 10)[0])


def test_a_reset_that_ends_above_the_start_is_seen_in_a_long_stretch(fake, open_meter):
    fake.device().offset_mj = -fake.now() * 300e3 + 1e6
    meter = open_meter()
    fake.device().reset_s = fake.now() + 60
    meter.start()
    for _ in range(60):
        fake.sleep(5)
        meter.tick()
    readings = meter.stop()
    first_mj, last_mj = readings.edges[f"{UUIDS[0]} total_energy_mj"]
    assert last_mj > first_mj, "the two edges alone would not show it"
    assert "reset" in refused(readings)


def test_a_counter_that_freezes_under_load_leaves_no_number(fake, open_meter):
    meter = open_meter()
    fake.device().frozen_from_s = fake.now()
    assert "frozen" in refused(window(fake, meter, 10)[0])


def test_a_counter_that_freezes_within_a_long_stretch_leaves_no_number(fake, open_meter):
    meter = open_meter()
    meter.start()
    fake.device().frozen_from_s = fake.now() + 12
    for _ in range(8):
        fake.sleep(5)
        meter.tick()
    assert "frozen" in refused(meter.stop())


def test_a_counter_that_is_frozen_from_the_beginning_never_gives_a_number(fake, open_meter):
    fake.device().frozen_from_s = 0
    meter = open_meter()
    assert "frozen" in refused(window(fake, meter, 10)[0])
    fake.device().frozen_from_s = float("inf")
    assert "frozen" in refused(window(fake, meter, 10)[0])
    assert "frozen" in meter.facts()["boards"][UUIDS[0]]["fault"]


@pytest.mark.parametrize("code", [GPU_IS_LOST, UNKNOWN])
def test_a_gpu_that_fails_while_the_meter_opens_never_gives_a_number(fake, open_meter, code):
    fake.device().fail("energy", code, fake.now() + 0.5, fake.now() + 0.6)
    assert f"({code})" in refused(window(fake, open_meter(), 10)[0])


def test_a_power_sensor_that_reads_zero_leaves_no_number(fake, open_meter):
    meter = open_meter()
    fake.device().sensor_factor = 0
    assert "0 W" in refused(window(fake, meter, 10)[0])


@pytest.mark.parametrize("factor", [0.8, 1.25])
def test_a_counter_far_from_the_power_sensor_leaves_no_number(fake, open_meter, factor):
    fake.device().counter_factor = factor
    assert "disagreed by" in refused(window(fake, open_meter(), 10)[0])


def test_a_counter_a_little_off_the_power_sensor_is_flagged_with_both_values(fake, open_meter):
    fake.device().counter_factor = 1.08
    meter = open_meter()
    readings, _ = window(fake, meter, 10)
    assert "gpu_energy_j" in readings.values
    assert any("disagreed by +8" in flag for flag in readings.flags)
    facts = meter.facts()["boards"][UUIDS[0]]
    assert facts["opening_counter_w"] == pytest.approx(324, rel=0.01)
    assert facts["opening_power_sensor_w"] == pytest.approx(300, rel=0.01)


def test_more_watts_than_the_board_may_draw_leave_no_number(fake, open_meter):
    meter = open_meter()
    fake.device().limit_w = 250
    assert "more than the board may draw" in refused(window(fake, meter, 10)[0])
    fake.device().limit_w = 290
    assert "gpu_energy_j" in window(fake, meter, 10)[0].values, "within 5 % of the limit"


def test_the_quantisation_of_a_short_window_is_not_taken_for_too_many_watts(fake, open_meter):
    fake.device().tick_s, fake.device().limit_w = 0.5, 310
    meter = open_meter()
    fake.device().phase_s = fake.now() % 0.5 + 0.01
    readings, truth_j = window(fake, meter, 0.52)
    assert readings.values["gpu_energy_j"] > 1.5 * truth_j


# ---- without the counter ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [NOT_SUPPORTED, NO_PERMISSION])
def test_power_is_polled_where_the_counter_cannot_be_called(fake, open_meter, code):
    fake.device().fail("energy", code)
    meter = open_meter()
    readings, truth_j = polled_window(fake, meter, 5)
    assert readings.values["gpu_energy_j"] == pytest.approx(truth_j, rel=1e-3)
    assert readings.edges[f"{UUIDS[0]} power_mw"] == (300e3, 300e3)
    facts = meter.facts()["boards"][UUIDS[0]]
    assert facts["method"] == "NVML_FI_DEV_POWER_INSTANT"
    assert not [thread for thread in threading.enumerate() if thread.name == "gpu-power"]


def test_polling_follows_a_load_that_begins_inside_the_window(fake, open_meter):
    fake.device().load_from_s = fake.now() + 4
    fake.device().fail("energy", NOT_SUPPORTED)
    meter = open_meter()
    readings, truth_j = polled_window(fake, meter, 10)
    energy_j = readings.values["gpu_energy_j"]
    period_s = meter.energy_sources()["gpu_energy_j"].period_s
    assert abs(energy_j - truth_j) <= 300 * period_s


def test_the_mean_power_reading_is_a_last_resort_and_says_so(fake, open_meter):
    device = fake.device()
    device.fail("energy", NOT_SUPPORTED)
    device.fail("power_instant", NOT_SUPPORTED)
    meter = open_meter()
    device.load_from_s = fake.now() + 1e-6
    readings, truth_j = polled_window(fake, meter, 1)
    assert readings.values["gpu_energy_j"] < 0.7 * truth_j, "a mean over the last second still shows the idle before"
    assert meter.energy_sources()["gpu_energy_j"].period_s == 1.0
    facts = meter.facts()["boards"][UUIDS[0]]
    assert facts["method"] == "nvmlDeviceGetPowerUsage" and "mean over the last second" in facts["note"]


def test_the_polling_interval_is_jittered(fake):
    fake.device().fail("energy", NOT_SUPPORTED)
    intervals_s = []

    def sleep(duration_s):
        intervals_s.append(duration_s)
        fake.sleep_until_it_stands(duration_s)

    meter = NvmlMeter(["cuda:0"], Clock(now=fake.now, sleep=sleep))
    polled_window(fake, meter, 5)
    meter.close()
    assert 0.01 <= min(intervals_s) < 0.012 and 0.028 < max(intervals_s) <= 0.03
    assert len({round(interval_s, 4) for interval_s in intervals_s[:200]}) > 100


@pytest.mark.parametrize("code", [NO_PERMISSION, GPU_IS_LOST, UNKNOWN])
@pytest.mark.parametrize(("fails_s", "where"), [((-0.1, 0.001), "first edge"), ((2, 3), "middle"), ((5, 99), "edge")])
def test_a_failed_power_sample_leaves_no_number(fake, open_meter, code, fails_s, where):
    fake.device().fail("energy", NOT_SUPPORTED)
    meter = open_meter()
    fake.device().fail("power_instant", code, fake.now() + fails_s[0], fake.now() + fails_s[1])
    readings, _ = polled_window(fake, meter, 5)
    reason = refused(readings)
    assert f"({code})" in reason
    assert where in reason or (where == "edge" and "middle" in reason), "at a standing clock either may come first"


def test_polled_power_of_zero_leaves_no_number(fake, open_meter):
    fake.device().fail("energy", NOT_SUPPORTED)
    meter = open_meter()
    fake.device().sensor_factor = 0
    assert "0 W" in refused(polled_window(fake, meter, 2)[0])


def test_a_hole_in_the_power_samples_leaves_no_number(fake, open_meter):
    fake.device().fail("energy", NOT_SUPPORTED)
    meter = open_meter()
    meter.start()
    fake.sleep(30)
    assert "no power sample for" in refused(meter.stop())


def test_a_board_with_neither_counter_nor_power_is_unavailable_with_the_remedy(fake):
    for call in ("energy", "power_instant", "power_average"):
        fake.device().fail(call, NOT_SUPPORTED)
    reason = METER.why_unavailable("cuda:0")
    assert "neither energy nor power" in reason and "bare machine" in reason
    with pytest.raises(BenchError, match="neither energy nor power"):
        NvmlMeter(["cuda:0"])


def test_a_lost_gpu_is_unavailable_with_the_reason(fake):
    fake.device().fail("energy", GPU_IS_LOST)
    assert "GPU_IS_LOST (15)" in METER.why_unavailable("cuda:0")


# ---- which GPU --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variable", "device", "index"),
    [
        (None, "cuda:1", 1),
        ("0,1", "cuda:1", 1),
        ("1", "cuda:0", 1),
        ("1,0", "cuda:1", 0),
        (UUIDS[1], "cuda:0", 1),
        (f"{UUIDS[1]},{UUIDS[0]}", "cuda:0", 1),
        ("GPU-11111111-bbbb", "cuda:0", 1),
        ("GPU-11111111-b,GPU-11111111-a", "cuda:1", 0),
    ],
)
def test_the_gpu_behind_a_mask_is_read_and_no_other(fake, monkeypatch, open_meter, variable, device, index):
    fake.reset(num_devices=2)
    if variable is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", variable)
    meter = open_meter(device)
    readings, _ = window(fake, meter, 20)
    expected_w = (300, 350)[index]
    assert readings.values["gpu_energy_j"] == pytest.approx(20 * expected_w, rel=0.01)
    assert list(meter.facts()["boards"]) == [UUIDS[index]]
    assert fake.device(1 - index).num_calls("energy") == 0


def boards(*names):
    return [
        Board(uuid=uuid, name=name, handle=None, has_mig=False, mig_uuids=())
        for uuid, name in zip(UUIDS, names, strict=False)
    ]


@pytest.mark.parametrize(
    ("variable", "expected"),
    [
        ("", ()),
        ("-1", ()),
        ("NoDevFiles", ()),
        ("0,-1,1", (0,)),
        ("2,7,1", (2,)),
        ("0,0", ()),
        (" 1 , 2 ", (1, 2)),
        ("1gpu,2", (1, 2)),
        ("GPU-11111111", ()),
        ("GPU-2,GPU-11111111,GPU-11111111-a", (2,)),
        ("GPU-2,GPU-22", ()),
        ("GPU-2,0", (2,)),
        ("GPU-9,GPU-2", ()),
    ],
)
def test_the_mask_is_read_as_cuda_reads_it(variable, expected):
    assert visible_uuids(variable, boards("a", "a", "a")) == [UUIDS[index] for index in expected]


def test_numbers_on_gpus_of_different_models_need_the_order_of_the_bus(monkeypatch):
    monkeypatch.delenv("CUDA_DEVICE_ORDER", raising=False)
    with pytest.raises(BenchError, match="CUDA_DEVICE_ORDER=PCI_BUS_ID"):
        visible_uuids("1", boards("slow", "fast"))
    assert visible_uuids(UUIDS[1], boards("slow", "fast")) == [UUIDS[1]]
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    assert visible_uuids("1", boards("slow", "fast")) == [UUIDS[1]]


def test_a_gpu_that_the_mask_hides_is_unavailable(fake, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert "leaves 1 of the 1 GPUs" in METER.why_unavailable("cuda:1")


@pytest.mark.parametrize("index", [0, 1])
def test_where_cuda_tells_the_uuid_it_is_believed_rather_than_the_mask(fake, monkeypatch, open_meter, index):
    fake.reset(num_devices=2)
    order = [UUIDS[1], UUIDS[0]]  # CUDA counts by speed, NVML by bus
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda i: types.SimpleNamespace(uuid=order[i].removeprefix("GPU-"))
    )
    assert list(open_meter(f"cuda:{index}").facts()["boards"]) == [order[index]]
    order[:] = ["GPU-of-another-container"] * 2
    assert "not among the 2 GPUs" in METER.why_unavailable("cuda:0")


def test_two_boards_are_summed_and_the_slower_counter_is_the_period(fake, open_meter):
    fake.reset(num_devices=2)
    fake.device(1).tick_s = 0.1
    meter = open_meter("cuda:0", "cuda:1", "cuda:0")
    started_s = fake.now()
    readings, _ = window(fake, meter, 30)
    truth_j = sum(fake.true_energy_j(started_s, fake.now(), index) for index in (0, 1))
    energy_j = readings.values["gpu_energy_j"]
    period_s = meter.energy_sources()["gpu_energy_j"].period_s
    assert period_s > 0.1
    assert abs(energy_j - truth_j) <= counter_error_j(energy_j, 30, period_s, 2e-3)
    fake.device(1).fail("energy", GPU_IS_LOST)
    reason = refused(window(fake, meter, 10)[0])
    assert UUIDS[1] in reason and "GPU_IS_LOST" in reason


@pytest.mark.parametrize("variable", [None, "0", "MIG-aaaa", "MIG-aaaa-1", f"MIG-{UUIDS[0]}/1/0"])
def test_a_mig_instance_is_read_only_where_it_is_alone_on_its_board(fake, monkeypatch, open_meter, variable):
    fake.device().add_mig_instance("MIG-aaaa-1")
    if variable is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", variable)
    assert METER.why_unavailable("cuda:0") is None
    meter = open_meter()
    assert window(fake, meter, 10)[0].values["gpu_energy_j"] == pytest.approx(3000, rel=0.01)
    assert meter.facts()["boards"][UUIDS[0]]["mig"] is True
    fake.device().add_mig_instance("MIG-bbbb-2")
    reason = METER.why_unavailable("cuda:0")
    assert "2 MIG instances" in reason and "whole" in reason


# ---- state of the board -----------------------------------------------------------------------------------------


def test_the_state_at_both_edges_is_read_and_a_quiet_window_has_no_flag(fake, open_meter):
    meter = open_meter()
    fake.device().num_processes, fake.device().pids[0] = 1, os.getpid()
    meter.start()
    fake.sleep(5)
    fake.device().temperature_c = 61
    readings = meter.stop()
    assert readings.flags == () and readings.problems == {}
    assert set(readings.values) == set(METER.readings)
    assert (readings.values["gpu_temperature_start_c"], readings.values["gpu_temperature_end_c"]) == (55, 61)
    assert readings.values["gpu_power_limit_end_w"] == 700
    assert readings.values["num_gpu_other_processes_end"] == 0


@pytest.mark.parametrize(
    ("name", "value", "flag"),
    [
        ("throttle_mask", 0x40 | 0x8, "throttled: hardware thermal slowdown"),
        ("throttle_mask", 0x20, "throttled: software thermal slowdown"),
        ("throttle_mask", 0x80, "throttled: hardware power brake"),
        ("throttle_mask", 0x4, "power cap: clocks held down to stay under the power limit"),
        ("limit_w", 500, "power limit changed from 700 to 500 W"),
        ("sm_clock_mhz", 1500, "SM clock changed from 1980 to 1500 MHz"),
    ],
)
def test_what_disturbs_a_window_is_flagged(fake, open_meter, name, value, flag):
    meter = open_meter()
    meter.start()
    fake.sleep(5)
    setattr(fake.device(), name, value)
    readings = meter.stop()
    assert flag in readings.flags
    assert "gpu_energy_j" in readings.values


def test_an_idle_gpu_and_a_small_change_of_clock_are_no_flags(fake, open_meter):
    meter = open_meter()
    meter.start()
    fake.sleep(5)
    fake.device().throttle_mask, fake.device().sm_clock_mhz = 0x1, 1900
    assert meter.stop().flags == ()


def test_other_processes_on_the_gpu_are_flagged_and_counted(fake, open_meter):
    meter = open_meter()
    fake.device().num_processes = 2
    fake.device().pids[:] = [os.getpid(), 4242, 0, 0]
    readings, _ = window(fake, meter, 5)
    assert "other processes on the GPU: 1" in readings.flags
    assert readings.values["num_gpu_other_processes_start"] == 1


def test_in_a_container_that_hides_process_ids_one_of_those_listed_is_this_process(fake, open_meter, monkeypatch):
    meter = open_meter()
    fake.device().num_processes = 1
    fake.device().pids[0] = 4242
    assert window(fake, meter, 5)[0].values["num_gpu_other_processes_end"] == 1
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    assert window(fake, meter, 5)[0].values["num_gpu_other_processes_end"] == 0


def test_a_state_that_cannot_be_read_has_its_reason_and_the_energy_stands(fake, open_meter):
    for call in ("temperature", "limit", "processes", "throttle"):
        fake.device().fail(call, NOT_SUPPORTED)
    readings, truth_j = window(fake, open_meter(), 20)
    assert "NOT_SUPPORTED (3)" in readings.problems["gpu_temperature_end_c"]
    assert "gpu_temperature_end_c" not in readings.values
    assert readings.values["gpu_energy_j"] == pytest.approx(truth_j, rel=0.01)


# ---- provenance, and NVML absent --------------------------------------------------------------------------------


@pytest.mark.parametrize("has_counter", [True, False])
def test_whatever_the_fake_gives_is_labelled_simulated(fake, open_meter, has_counter):
    if not has_counter:
        fake.device().fail("energy", NOT_SUPPORTED)
    meter = open_meter()
    source = meter.energy_sources()["gpu_energy_j"]
    assert source.label == "simulated:fake-nvml" and source.part == "gpu" and source.systematic == 0.05
    assert meter.facts()["driver"] == "999.00 fake-nvml"


@pytest.mark.parametrize(
    ("has_counter", "label"), [(True, "measured:nvml-energy-counter"), (False, "measured:nvml-power-polling")]
)
def test_a_real_driver_is_labelled_by_its_method(fake, open_meter, monkeypatch, has_counter, label):
    if not has_counter:
        fake.device().fail("energy", NOT_SUPPORTED)
    monkeypatch.setattr(pynvml, "nvmlSystemGetDriverVersion", lambda: "580.65.06")
    assert open_meter().energy_sources()["gpu_energy_j"].label == label


def test_without_a_gpu_in_the_run_the_meter_says_so():
    assert "--device cuda" in METER.why_unavailable("cpu")


_CHILD = """
import ctypes, mmap, os, sys, torch
torch.cuda.is_available = lambda: False
from bench.meters._nvml_opening import Clock
from bench.meters.nvml import METER, NvmlMeter
from fake_nvml_library import UUIDS, State

def sleep(duration_s):
    state.now_s += duration_s

print(METER.why_unavailable("cuda:0"))
if sys.argv[1:]:
    handle = ctypes.CDLL(sys.argv[1], mode=ctypes.RTLD_GLOBAL)
with open(os.environ["FAKE_NVML_STATE"], "r+b") as file:
    state = State.from_buffer(mmap.mmap(file.fileno(), 0))
print(METER.why_unavailable("cuda:0"))
meter = NvmlMeter(["cuda:0"], Clock(now=lambda: state.now_s, sleep=sleep))
started_s = state.now_s
meter.start()
while state.now_s < started_s + 10:
    if sys.argv[1:] == []:
        sleep(1)
energy_j = meter.stop().values["gpu_energy_j"]
print(energy_j / (state.now_s - started_s))
print(meter.facts()["boards"][UUIDS[0]]["method"], meter.energy_sources()["gpu_energy_j"].label)
"""


def child(library_folder, state_path, *arguments):
    """The meter in a process of its own that looks for NVML in that folder, without `nvidia-smi` → its lines."""
    FakeNvml(state_path)
    environment = {
        "PATH": "",
        "PYTHONPATH": os.pathsep.join(sys.path),
        "LD_LIBRARY_PATH": str(library_folder),
        "OMP_NUM_THREADS": "1",
        STATE_VARIABLE: str(state_path),
    }
    command = [sys.executable, "-W", "error", "-c", _CHILD, *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_a_child_process_finds_the_library_through_its_path(library, tmp_path):
    why, _, mean_w, how = child(library.parent, tmp_path / "nvml.bin")
    assert why == "None"
    assert float(mean_w) == pytest.approx(300, rel=0.01)
    assert how == "nvmlDeviceGetTotalEnergyConsumption simulated:fake-nvml"


def test_without_nvml_the_meter_says_what_it_takes_and_a_library_without_the_counter_is_polled(tmp_path):
    (tmp_path / "libnvidia-ml.so.1").write_text("hides the NVML that this machine may have")
    library = compile_library(tmp_path / "old", "NO_COUNTER")
    without, with_old, mean_w, how = child(tmp_path, tmp_path / "nvml.bin", library)
    assert "libnvidia-ml.so.1" in without and "NVIDIA driver" in without
    assert with_old == "None"
    assert float(mean_w) == pytest.approx(300, rel=0.01)
    assert how == "NVML_FI_DEV_POWER_INSTANT simulated:fake-nvml"
