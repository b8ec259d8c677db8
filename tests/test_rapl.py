"""The rapl meter on a fake powercap tree whose true energy is known, under a virtual clock."""

import itertools
import os
import shutil
import statistics
import tempfile
import threading
import time
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bench.errors import BenchError
from bench.meters._rapl_zones import distinct_zones, find_zones, why_unavailable
from bench.meters.rapl import METER, RaplMeter

RANGE_UJ = 65_712_999_613  # Skylake's: 219 s at 300 W


class FakeMachine:
    """Zones under `root`, linked as the kernel does, whose counters follow a virtual clock and a power in watts."""

    def __init__(self, root):
        self.root = root
        self.time_s = 1000.0
        self.zones = {}  # key: folder, power in W, true energy in uJ, range in uJ
        root.mkdir(exist_ok=True)

    def add(self, key, name, *, power_w=0.0, energy_uj=0.0, range_uj=RANGE_UJ):
        parent = key.rsplit(":", 1)[0]
        folder = (self.zones[parent]["folder"] if parent in self.zones else self.root) / key
        folder.mkdir()
        if parent in self.zones:
            (self.root / key).symlink_to(folder)
        (folder / "name").write_text(f"{name}\n")
        (folder / "max_energy_range_uj").write_text(f"{range_uj}\n")
        self.zones[key] = {"folder": folder, "power_w": power_w, "energy_uj": energy_uj, "range_uj": range_uj}
        self.write(key)
        return self

    def write(self, key):
        zone = self.zones[key]
        (zone["folder"] / "energy_uj").write_text(f"{round(zone['energy_uj']) % zone['range_uj']}\n")

    def run(self, seconds):
        self.time_s += seconds
        for key, zone in self.zones.items():
            zone["energy_uj"] += zone["power_w"] * seconds * 1e6
            if (zone["folder"] / "energy_uj").is_file():
                self.write(key)

    def file(self, key):
        return self.zones[key]["folder"] / "energy_uj"

    def meter(self):
        return RaplMeter(self.root, now=lambda: self.time_s, period_s=0.001)

    def measure(self, seconds, meter=None):
        meter = meter or self.meter()
        meter.start()
        self.run(seconds)
        return meter.stop()


@pytest.fixture
def machine(tmp_path):
    return FakeMachine(tmp_path / "powercap")


@pytest.fixture
def server(machine):
    """Two packages with everything the kernel may show beside them."""
    (machine.root / "intel-rapl").mkdir()
    machine.add("intel-rapl:0", "package-0", power_w=100, energy_uj=5e9)
    machine.add("intel-rapl:0:0", "core", power_w=60, energy_uj=3e9)
    machine.add("intel-rapl:0:1", "uncore", power_w=10, energy_uj=1e9)
    machine.add("intel-rapl:0:2", "dram", power_w=7, energy_uj=2e9)
    machine.add("intel-rapl:1", "package-1", power_w=80, energy_uj=6e9)
    machine.add("intel-rapl:1:0", "dram", power_w=5, energy_uj=4e9)
    machine.add("intel-rapl:2", "psys", power_w=250, energy_uj=9e9)
    machine.add("intel-rapl-mmio:0", "package-0", power_w=100, energy_uj=5e9)
    return machine


def test_packages_and_memory_add_up_and_nothing_is_counted_twice(server):
    readings = server.measure(10)
    assert readings.problems == {}
    assert readings.values == pytest.approx({"cpu_energy_j": 1800, "dram_energy_j": 120}, abs=1e-6)


def test_the_raw_counters_of_both_edges_are_kept(server):
    readings = server.measure(10)
    assert readings.edges == {
        "intel-rapl:0/package-0/energy_uj": (5e9, 6e9),
        "intel-rapl:0:2/dram/energy_uj": (2e9, 2.07e9),
        "intel-rapl:1/package-1/energy_uj": (6e9, 6.8e9),
        "intel-rapl:1:0/dram/energy_uj": (4e9, 4.05e9),
    }


def test_every_energy_says_how_it_is_known(server):
    meter = server.meter()
    sources = meter.energy_sources()
    assert {name: (source.part, source.label) for name, source in sources.items()} == {
        "cpu_energy_j": ("cpu", "measured:rapl"),
        "dram_energy_j": ("dram", "measured:rapl"),
    }
    assert set(sources) <= set(METER.readings)
    assert not any(source.is_cross_check for source in sources.values())
    assert meter.facts()["mirrors_left_out"] == []


def test_a_machine_without_a_memory_zone_promises_no_memory_energy(machine):
    machine.add("intel-rapl:0", "package-0", power_w=50)
    meter = machine.meter()
    assert set(meter.energy_sources()) == {"cpu_energy_j"}
    readings = machine.measure(10, meter)
    assert readings.values == pytest.approx({"cpu_energy_j": 500})
    assert readings.problems == {}


@pytest.mark.parametrize("power_w", [0.5, 35.0, 500.0])
def test_constant_power_is_exact(machine, power_w):
    machine.add("intel-rapl:0", "package-0", power_w=power_w)
    assert machine.measure(12.5).values["cpu_energy_j"] == pytest.approx(power_w * 12.5, abs=2e-6)


@pytest.mark.parametrize(("seconds", "num_wraps"), [(100, 1), (350, 2)])
def test_a_wrap_is_added_however_often_it_comes(machine, seconds, num_wraps):
    start_uj = RANGE_UJ - 10e9
    machine.add("intel-rapl:0", "package-0", power_w=300, energy_uj=start_uj)
    meter = machine.meter()
    meter.start()
    for _ in range(seconds):
        machine.run(1)
        meter.tick()
    readings = meter.stop()
    assert (start_uj + 300e6 * seconds) // RANGE_UJ == num_wraps
    assert readings.values["cpu_energy_j"] == pytest.approx(300 * seconds, abs=1e-5)


def test_a_gap_in_which_a_wrap_may_hide_is_no_energy(server):
    readings = server.measure(31)
    assert readings.values == {}
    assert "skipped wrap" in readings.problems["cpu_energy_j"]
    assert "skipped wrap" in readings.problems["dram_energy_j"]


def test_a_training_without_ticks_in_its_middle_is_no_energy(server):
    meter = server.meter()
    meter.start()
    for seconds in (10, 10, 45, 10):
        server.run(seconds)
        meter.tick()
    readings = meter.stop()
    assert readings.values == {}
    assert "45.0 s" in readings.problems["cpu_energy_j"]


def test_ticks_read_only_every_ten_seconds(machine):
    machine.add("intel-rapl:0", "package-0", power_w=50)
    meter = machine.meter()
    meter.start()
    machine.time_s += 9.9
    machine.file("intel-rapl:0").write_text("a read would fail")
    meter.tick()
    machine.run(0.05)
    assert meter.stop().problems == {}
    meter.start()
    machine.time_s += 10.1
    machine.file("intel-rapl:0").write_text("a read fails")
    meter.tick()
    machine.run(0.05)
    assert set(meter.stop().problems) == {"cpu_energy_j"}


def dies(machine, first_uj, second_uj):
    machine.add("intel-rapl:0", "package-0-die-0", power_w=68, energy_uj=first_uj)
    machine.add("intel-rapl:1", "package-0-die-1", power_w=68, energy_uj=second_uj)
    return machine


def test_dies_that_mirror_one_counter_count_once(machine):
    meter = dies(machine, 7e9, 7e9).meter()
    assert machine.measure(10, meter).values["cpu_energy_j"] == pytest.approx(680)
    assert meter.facts()["mirrors_left_out"] == ["intel-rapl:1/package-0-die-1/energy_uj"]


def test_dies_that_mirror_one_counter_an_update_apart_count_once(machine):
    dies(machine, RANGE_UJ - 0.1e6, RANGE_UJ + 0.1e6)  # and across the wrap
    assert len(distinct_zones(find_zones(machine.root))) == 1


def test_dies_with_counters_of_their_own_are_added(machine):
    assert dies(machine, 7e9, 9e9).measure(10).values["cpu_energy_j"] == pytest.approx(1360)


def test_packages_that_read_alike_are_still_two(machine):
    machine.add("intel-rapl:0", "package-0", power_w=50, energy_uj=7e9)
    machine.add("intel-rapl:1", "package-1", power_w=50, energy_uj=7e9)
    assert machine.measure(10).values["cpu_energy_j"] == pytest.approx(1000)


def test_the_zone_that_vanishes_takes_only_its_part_along(server):
    meter = server.meter()
    meter.start()
    server.run(10)
    server.file("intel-rapl:1").unlink()
    readings = meter.stop()
    assert set(readings.values) == {"dram_energy_j"}
    assert "intel-rapl:1/package-1" in readings.problems["cpu_energy_j"]
    assert "No such file" in readings.problems["cpu_energy_j"]
    assert "intel-rapl:1/package-1/energy_uj" not in readings.edges


@pytest.mark.parametrize("edge", ["first", "middle", "last"])
@pytest.mark.parametrize("content", ["", "none"])
def test_a_failed_read_leaves_no_number_and_the_next_window_is_whole(machine, edge, content):
    machine.add("intel-rapl:0", "package-0", power_w=50)
    meter = machine.meter()

    def broken(is_here, act):
        if is_here:
            machine.file("intel-rapl:0").write_text(content)
        act()
        machine.write("intel-rapl:0")

    broken(edge == "first", meter.start)
    machine.run(15)
    broken(edge == "middle", meter.tick)
    machine.run(15)
    machine.write("intel-rapl:0")
    readings = []
    broken(edge == "last", lambda: readings.append(meter.stop()))
    assert readings[0].values == {}
    assert "could not be read" in readings[0].problems["cpu_energy_j"]
    assert (readings[0].edges == {}) == (edge != "middle")
    assert machine.measure(10, meter).values["cpu_energy_j"] == pytest.approx(500)


def test_a_frozen_counter_is_a_problem_and_never_0(server):
    server.zones["intel-rapl:1"]["power_w"] = 0
    readings = server.measure(10)
    assert "cpu_energy_j" not in readings.values
    assert "frozen" in readings.problems["cpu_energy_j"]


def test_a_counter_that_freezes_in_the_middle_is_a_problem(machine):
    machine.add("intel-rapl:0", "package-0", power_w=50)
    meter = machine.meter()
    meter.start()
    machine.run(10)
    meter.tick()
    machine.zones["intel-rapl:0"]["power_w"] = 0
    machine.run(10)
    assert "frozen" in meter.stop().problems["cpu_energy_j"]


def test_a_window_below_the_update_period_says_so(machine):
    machine.add("intel-rapl:0", "package-0", power_w=0, energy_uj=1e9)
    reason = machine.measure(0.0005).problems["cpu_energy_j"]
    assert "no update fell into the window" in reason


@given(
    missing_uj=st.integers(min_value=1, max_value=RANGE_UJ - 1),  # to the top of the range
    after_uj=st.integers(min_value=0, max_value=10_000_000),
    elapsed_s=st.floats(min_value=0.01, max_value=29.0),
)
@example(missing_uj=20_000_000_000, after_uj=1_000_000, elapsed_s=1.0)  # less than half the range, but 20 kW
@settings(max_examples=100, deadline=None)
def test_a_reset_is_told_from_a_wrap_by_the_power_it_would_mean(tmp_path_factory, missing_uj, after_uj, elapsed_s):
    before_uj = RANGE_UJ - missing_uj
    machine = FakeMachine(tmp_path_factory.mktemp("reset") / "powercap")
    machine.add("intel-rapl:0", "package-0", energy_uj=before_uj)
    meter = machine.meter()
    meter.start()
    machine.time_s += elapsed_s
    machine.file("intel-rapl:0").write_text(str(after_uj))
    readings = meter.stop()
    power_w = ((after_uj - before_uj) % RANGE_UJ) * 1e-6 / elapsed_s
    if power_w > 2500:
        assert readings.values == {}
        assert "reset" in readings.problems["cpu_energy_j"]
    elif readings.values:  # nothing in the reads tells it from a wrap
        assert readings.values["cpu_energy_j"] == pytest.approx(power_w * elapsed_s)


@given(
    steps=st.lists(
        st.tuples(st.floats(min_value=0.01, max_value=19.0), st.floats(min_value=0.5, max_value=900.0)),
        min_size=2,
        max_size=40,
    ),
    start_uj=st.integers(min_value=0, max_value=RANGE_UJ - 1),
    cut=st.integers(min_value=1, max_value=39),
)
@settings(max_examples=60, deadline=None)
def test_windows_add_up_to_the_truth(tmp_path_factory, steps, start_uj, cut):
    machine = FakeMachine(tmp_path_factory.mktemp("add") / "powercap")
    machine.add("intel-rapl:0", "package-0", energy_uj=start_uj)
    whole, part = machine.meter(), machine.meter()
    whole.start()
    parts_j = []
    cut = min(cut, len(steps) - 1)
    for piece in (steps[:cut], steps[cut:]):
        part.start()
        for elapsed_s, power_w in piece:
            machine.zones["intel-rapl:0"]["power_w"] = power_w
            machine.run(elapsed_s)
            part.tick()
            whole.tick()
        parts_j.append(_stopped(part, machine))
    true_j = sum(elapsed_s * power_w for elapsed_s, power_w in steps)
    assert sum(parts_j) == pytest.approx(true_j, rel=1e-9, abs=1e-5)
    assert _stopped(whole, machine) == pytest.approx(true_j, rel=1e-9, abs=1e-5)


def _stopped(meter, machine):
    machine.time_s += 1e-9  # a tick and a stop are never at the same moment
    return meter.stop().values["cpu_energy_j"]


def test_counters_for_root_only_say_which_files_and_what_to_do():
    """Root may read everything, so root becomes another user for the length of the look."""
    root = Path(tempfile.mkdtemp())  # pytest's own folder is closed to other users
    try:
        root.chmod(0o755)
        machine = FakeMachine(root / "powercap").add("intel-rapl:0", "package-0").add("intel-rapl:0:0", "dram")
        machine.file("intel-rapl:0").chmod(0o400 if os.geteuid() == 0 else 0o000)
        reason = _as_another_user(lambda: why_unavailable(machine.root))
        with pytest.raises(BenchError, match="sudo chmod"):
            _as_another_user(lambda: RaplMeter(machine.root))
    finally:
        shutil.rmtree(root)
    assert "sudo chmod o+r" in reason
    assert str(machine.file("intel-rapl:0")) in reason
    assert str(machine.file("intel-rapl:0:0")) not in reason


def _as_another_user(look):
    if os.geteuid() != 0:
        return look()
    try:
        os.seteuid(65534)
    except PermissionError:
        pytest.skip("this container's root may not become another user, and root may read every file")
    try:
        return look()
    finally:
        os.seteuid(0)


def test_no_powercap_no_package_or_a_masked_one_is_a_sentence(tmp_path):
    assert "containers hide it" in why_unavailable(tmp_path / "nothing")
    (tmp_path / "intel-rapl:0").symlink_to(tmp_path / "masked")
    assert "no processor package" in why_unavailable(tmp_path)
    FakeMachine(tmp_path).add("intel-rapl:1", "psys")
    assert "no processor package" in why_unavailable(tmp_path)
    with pytest.raises(BenchError, match="rapl meter cannot be opened"):
        RaplMeter(tmp_path)


@pytest.mark.parametrize("file", ["energy_uj", "max_energy_range_uj", "name"])
def test_a_zone_with_a_file_missing_is_a_sentence(machine, file):
    machine.add("intel-rapl:0", "package-0")
    (machine.zones["intel-rapl:0"]["folder"] / file).unlink()
    reason = why_unavailable(machine.root)
    assert "cannot" in reason and file in reason and "\n" not in reason


def test_a_range_of_zero_is_refused(machine):
    machine.add("intel-rapl:0", "package-0", range_uj=RANGE_UJ)
    (machine.zones["intel-rapl:0"]["folder"] / "max_energy_range_uj").write_text("0")
    assert "reads 0" in why_unavailable(machine.root)


def test_the_update_period_is_measured(machine):
    machine.add("intel-rapl:0", "package-0")
    file, stamps_s, is_over = machine.file("intel-rapl:0"), [], threading.Event()

    def update():
        fresh = file.with_name("fresh")
        while not is_over.wait(0.01):
            fresh.write_text(str(len(stamps_s) + 1))
            fresh.replace(file)
            stamps_s.append(time.perf_counter())

    thread = threading.Thread(target=update)
    thread.start()
    try:
        meter = RaplMeter(machine.root)
    finally:
        is_over.set()
        thread.join()
    gap_s = statistics.median(b - a for a, b in itertools.pairwise(stamps_s))
    assert gap_s / 2 < meter.energy_sources()["cpu_energy_j"].period_s < gap_s * 2
    assert "median of" in meter.facts()["period_note"]


def test_a_counter_that_stands_still_at_the_start_has_a_period_no_shorter_than_the_look(machine):
    machine.add("intel-rapl:0", "package-0", energy_uj=1e9)
    meter = RaplMeter(machine.root)
    assert meter.energy_sources()["cpu_energy_j"].period_s >= 0.25
    assert "frozen" in meter.facts()["period_note"]


@pytest.mark.parametrize("device", ["cpu", "cuda:0"])
def test_on_this_machine_it_reads_or_says_why_not(device):
    reason = METER.why_unavailable(device)
    if reason is not None:
        assert len(reason) > 40 and "\n" not in reason
        with pytest.raises(BenchError):
            METER.open(device)
        return
    meter = METER.open(device)
    meter.start()
    time.sleep(0.1)
    readings = meter.stop()
    assert readings.values["cpu_energy_j"] > 0
    assert set(readings.values) == set(meter.energy_sources())
