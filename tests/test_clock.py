import subprocess
import sys
import time

import pytest

from bench.meters.clock import METER, ClockMeter, flags_of, throttle_files, throttling

STOLEN = "processor time stolen by the hypervisor"
OTHERS = "other processes on the processor"
FREQUENCY = "CPU frequency changed"
THROTTLED = "container CPU quota throttled this window"


def flags(span_s=10.0, num_cpus=4, edges=None, **values):
    return flags_of(values, edges or {}, span_s=span_s, num_cpus=num_cpus)


def test_an_undisturbed_window_has_no_flag():
    quiet = {"machine_busy_s": 11.0, "process_cpu_s": 10.0, "machine_steal_s": 0.1, "cpu_throttled_s": 0.0}
    assert flags(edges={"cpu_frequency_hz": (3.0e9, 2.8e9)}, **quiet, num_throttled_periods=0.0) == ()
    assert flags() == ()


@pytest.mark.parametrize(("steal_s", "found"), [(0.4, ()), (0.46, ()), (0.48, (STOLEN,))])
def test_steal_is_flagged_above_1_percent_of_the_machine_and_its_ticks(steal_s, found):
    assert flags(machine_steal_s=steal_s) == found


@pytest.mark.parametrize(
    ("busy_s", "found"), [(14.0, ()), (13.9, ()), (14.06, ()), (14.08, (OTHERS,)), (30.0, (OTHERS,))]
)
def test_other_processes_are_flagged_above_10_percent_of_the_machine_and_its_ticks(busy_s, found):
    assert flags(machine_busy_s=busy_s, process_cpu_s=10.0) == found


def test_a_window_too_short_for_the_tick_carries_no_flag_however_bad_it_looks():
    # two processors, each a tick behind, and three columns rounded: as much as this says nothing
    ticks = {"machine_busy_s": 0.05, "process_cpu_s": 0.0, "machine_steal_s": 0.05}
    assert flags(span_s=0.002, num_cpus=2, **ticks) == ()
    assert flags(span_s=0.2, num_cpus=2, machine_busy_s=0.08, process_cpu_s=0.0) == ()
    assert flags(span_s=0.2, num_cpus=2, machine_busy_s=0.10, process_cpu_s=0.0) == (OTHERS,)


@pytest.mark.parametrize(("second_hz", "found"), [(2.8e9, ()), (2.6e9, (FREQUENCY,)), (3.4e9, (FREQUENCY,))])
def test_a_clock_that_differs_by_more_than_10_percent_between_the_edges_is_flagged(second_hz, found):
    assert flags(edges={"cpu_frequency_hz": (3.0e9, second_hz)}) == found


def test_any_throttling_is_flagged_in_the_shortest_window_too():
    assert flags(span_s=0.001, cpu_throttled_s=0.0005, num_throttled_periods=1.0) == (THROTTLED,)
    assert flags(span_s=0.001, num_throttled_periods=1.0) == (THROTTLED,)


def cgroup(tmp_path, membership, files):
    (tmp_path / "membership").write_text(membership)
    for name, text in files.items():
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "cpu.stat").write_text(text)
    return throttle_files(tmp_path, tmp_path / "membership")


def test_the_quota_of_cgroup_v2_counts_the_own_group_and_those_above(tmp_path):
    own = "usage_usec 9\nnr_periods 8\nnr_throttled 5\nthrottled_usec 1500000\n"
    above = "nr_throttled 1\nthrottled_usec 250000\n"
    files = cgroup(tmp_path, "0::/pod/box\n", {"pod/box": own})
    (tmp_path / "pod" / "cpu.stat").write_text(above)
    (tmp_path / "cpu.stat").write_text("usage_usec 100\n")  # the root group has no quota
    assert throttling(files) == {"cpu_throttled_s": 1.5, "num_throttled_periods": 5.0}
    files = throttle_files(tmp_path, tmp_path / "membership")
    assert throttling(files) == {"cpu_throttled_s": 1.75, "num_throttled_periods": 6.0}


def test_the_quota_of_cgroup_v1_is_read_in_nanoseconds(tmp_path):
    text = "nr_periods 8\nnr_throttled 2\nthrottled_time 3000000000\n"
    files = cgroup(tmp_path, "3:cpu,cpuacct:/box\n2:cpuset:/\n", {"cpu,cpuacct/box": text})
    assert throttling(files) == {"cpu_throttled_s": 3.0, "num_throttled_periods": 2.0}


def test_a_container_that_sees_its_group_as_the_root_is_found(tmp_path):
    (tmp_path / "cpu.stat").write_text("nr_throttled 2\nthrottled_usec 1000000\n")
    files = cgroup(tmp_path, "0::/docker/abc\n", {})
    assert throttling(files) == {"cpu_throttled_s": 1.0, "num_throttled_periods": 2.0}
    assert throttle_files(tmp_path, tmp_path / "nothing here") == ()


def test_throttling_between_the_edges_is_a_reading_and_a_flag(tmp_path):
    (tmp_path / "cpu.stat").write_text("nr_throttled 2\nthrottled_usec 1000000\n")
    names = ("cpu_throttled_s", "num_throttled_periods")
    meter = ClockMeter({names: lambda: throttling((tmp_path / "cpu.stat",))})
    meter.start()
    (tmp_path / "cpu.stat").write_text("nr_throttled 3\nthrottled_usec 1050000\n")
    readings = meter.stop()
    assert readings.values["cpu_throttled_s"] == pytest.approx(0.05)
    assert readings.values["num_throttled_periods"] == 1.0
    assert readings.flags == (THROTTLED,)


def test_a_counter_that_vanishes_is_a_problem_and_not_zero(tmp_path):
    (tmp_path / "cpu.stat").write_text("nr_throttled 2\nthrottled_usec 1000000\n")
    names = ("cpu_throttled_s", "num_throttled_periods")
    meter = ClockMeter({names: lambda: throttling((tmp_path / "cpu.stat",))})
    meter.start()
    (tmp_path / "cpu.stat").unlink()
    readings = meter.stop()
    assert readings.values == {}
    assert set(readings.problems) == set(names)
    assert "second edge" in readings.problems["cpu_throttled_s"]
    assert "machine_steal_s" in meter.facts()["not_shown_here"]


def test_this_machine_is_read_and_the_work_of_this_process_is_seen():
    meter = METER.open("cpu")
    meter.start()
    spent_s = time.process_time()
    while time.process_time() - spent_s < 0.1:
        pass
    readings = meter.stop()
    assert readings.problems == {}
    assert readings.values["process_cpu_s"] >= 0.1
    assert set(readings.values) | set(meter.facts()["not_shown_here"]) == set(METER.readings)
    assert len(readings.edges["load_average_tasks"]) == 2


def test_a_busy_neighbour_is_seen_in_the_processor_time_of_the_machine():
    burn = "import time\nwhile time.process_time() < 0.8: pass\nprint(time.process_time())"
    meter = METER.open("cpu")
    meter.start()
    neighbour = subprocess.run([sys.executable, "-c", burn], capture_output=True, text=True, check=True)
    values = meter.stop().values
    others_s = values["machine_busy_s"] - values["process_cpu_s"]
    assert others_s > 0.6 * float(neighbour.stdout)
    assert values["process_cpu_s"] < 0.5 * others_s
