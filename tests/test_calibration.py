import itertools

import pytest
import torch

from bench import calibration
from bench.calibration import Calibration, calibrate, load, path_of, save
from bench.errors import BenchError, RecordError, UsageError
from bench.machine import fingerprint, look
from bench.records import Quantity
from bench.store import load_all

TICK_S = 1 / 128  # exact in binary, so that differences of the clock are


@pytest.fixture(scope="module")
def machine():
    return look("cpu")


@pytest.fixture
def ticking(monkeypatch):
    """Every read of the clock is TICK_S later, so that a block of any length lasts one tick."""
    ticks = itertools.count()
    monkeypatch.setattr(calibration, "perf_counter", lambda: next(ticks) * TICK_S)


def brief(say=lambda _: None, **changes):
    tiny = {"budget_s": 0.2, "block_s": 0.002, "matrix_sides": (16, 48), "copy_sizes_bytes": (2**16, 2**18)}
    return calibrate("cpu", say, **(tiny | changes))


def example(machine, **changes):
    def one(unit):
        return Quantity(value=2.0, unit=unit, low=1.0, high=3.0, n=6, kind="measured", source="tests")

    fields = {
        "fingerprint": fingerprint(machine),
        "device": "cpu",
        "macs_per_s": {"fp32": one("MAC/s"), "bf16": one("MAC/s")},
        "copy_bytes_per_s": one("B/s"),
        "measured_at": "2026-01-01T00:00:00+00:00",
        "harness_version": "0",
        "torch": torch.__version__,
    }
    return Calibration(**(fields | changes))


def test_a_cpu_is_measured_in_fp32_and_bf16_with_intervals_and_the_thread_count(machine):
    said = []
    found = brief(said.append)
    assert set(found.macs_per_s) == {"fp32", "bf16"}
    for rate in [*found.macs_per_s.values(), found.copy_bytes_per_s]:
        assert 0 < rate.low <= rate.value <= rate.high
        assert rate.n >= calibration.MIN_BLOCKS
        assert rate.kind == "measured"
        assert f"{torch.get_num_threads()} torch threads" in rate.note
    assert found.fingerprint == fingerprint(machine)
    assert (found.device, found.torch) == ("cpu", torch.__version__)
    assert [line.split(":")[0] for line in said] == [
        "matrix product, fp32",
        "matrix product, bf16",
        "copy (read + written)",
    ]


def test_a_product_counts_side_cubed_a_copy_counts_both_ways_and_the_best_size_wins(ticking):
    found = brief(block_s=5 * TICK_S, budget_s=100.0)
    for rate in found.macs_per_s.values():
        assert rate.value == pytest.approx(5 * 48**3 / TICK_S)
        assert "side 48, the best of 16, 48" in rate.note
    assert found.copy_bytes_per_s.value == pytest.approx(5 * 2 * 2**18 / TICK_S)


def test_more_blocks_are_taken_while_the_budget_lasts_and_never_fewer_than_an_interval_needs(ticking):
    one_size = {"matrix_sides": (16,), "copy_sizes_bytes": (2**16,)}
    hurried = brief(budget_s=1e-9, **one_size)
    patient = brief(budget_s=3.0, **one_size)
    endless = brief(budget_s=1e9, **one_size)
    counts = [found.macs_per_s["fp32"].n for found in (hurried, patient, endless)]
    assert counts[0] == calibration.MIN_BLOCKS < counts[1] < counts[2] == calibration._MAX_BLOCKS


def test_a_side_too_large_for_the_budget_is_left_out_and_that_is_said(ticking):
    said = []
    found = brief(said.append, matrix_sides=(8, 160), budget_s=1.0, block_s=TICK_S)
    assert "side 8, the best of 8;" in found.macs_per_s["fp32"].note
    assert sum("side 160 left out" in line for line in said) == 2


def switches():
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    return matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark, cudnn.deterministic


@pytest.fixture
def odd_switches():
    """A state that `set_backend` never leaves behind."""
    before = switches()
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark, cudnn.deterministic = odd = True, False, False, True
    yield odd
    matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark, cudnn.deterministic = before


def test_the_global_switches_and_the_random_state_are_as_before(odd_switches):
    random_state = torch.random.get_rng_state()
    brief()
    assert switches() == odd_switches
    assert torch.equal(torch.random.get_rng_state(), random_state)


def test_each_precision_is_measured_under_its_own_switches_and_a_failure_takes_them_back(monkeypatch, odd_switches):
    seen = []

    def fail(precision, *_):
        seen.append((precision, switches()))
        raise BenchError("midway")

    monkeypatch.setattr(calibration, "_precisions", lambda _: ("tf32",))
    monkeypatch.setattr(calibration, "_matrix_rate", fail)
    with pytest.raises(BenchError, match="midway"):
        brief()
    assert seen == [("tf32", (True, True, True, False))]
    assert switches() == odd_switches


def test_a_stored_calibration_comes_back_and_lies_where_the_fingerprint_says(tmp_path, machine):
    found = example(machine)
    path = save(found, tmp_path)
    assert path == tmp_path / "calibrations" / f"{fingerprint(machine)[:16]}-cpu.json"
    assert load(tmp_path, machine, "cpu") == found
    newer = example(machine, measured_at="2027-01-01T00:00:00+00:00")
    save(newer, tmp_path)
    assert load(tmp_path, machine, "cpu") == newer
    assert [each.name for each in path.parent.iterdir()] == [path.name]  # no temporary file is left


def test_a_machine_or_device_that_was_never_calibrated_has_none(tmp_path, machine):
    assert load(tmp_path, machine, "cpu") is None
    save(example(machine), tmp_path)
    other = machine.model_copy(update={"num_torch_threads": machine.num_torch_threads + 1})
    assert load(tmp_path, other, "cpu") is None
    assert load(tmp_path, machine, "cuda:0") is None


@pytest.mark.parametrize("change", [{"fingerprint": "0" * 64}, {"device": "cuda:0"}])
def test_a_file_of_another_machine_or_device_is_refused(tmp_path, machine, change):
    path = save(example(machine, **change), tmp_path)
    path.rename(path_of(tmp_path, fingerprint(machine), "cpu"))
    with pytest.raises(RecordError, match="another machine or device"):
        load(tmp_path, machine, "cpu")


@pytest.mark.parametrize("content", ["{", "{}", '{"fingerprint": 3}'])
def test_a_broken_file_is_named_with_the_remedy(tmp_path, machine, content):
    path = save(example(machine), tmp_path)
    path.write_text(content)
    with pytest.raises(RecordError, match=r"calibrate") as caught:
        load(tmp_path, machine, "cpu")
    assert str(path) in str(caught.value)


def test_reports_do_not_take_the_folder_of_calibrations_for_a_run(tmp_path, machine):
    save(example(machine), tmp_path)
    assert load_all(tmp_path) == ([], [])


def test_too_little_free_memory_for_the_copy_is_one_sentence(monkeypatch):
    memory = type("Memory", (), {"available": 2**20})()
    monkeypatch.setattr(calibration.psutil, "virtual_memory", lambda: memory)
    with pytest.raises(BenchError, match="--calibrate copies buffers"):
        brief(copy_sizes_bytes=None)


def test_copied_buffers_are_well_above_the_last_level_cache(monkeypatch, tmp_path):
    for index, size in enumerate(("32K", "1024K", "65536K")):
        (tmp_path / f"index{index}").mkdir()
        (tmp_path / f"index{index}" / "size").write_text(f"{size}\n")
    monkeypatch.setattr(calibration, "_CPU_CACHES", tmp_path)
    memory = type("Memory", (), {"available": 2**40})()
    monkeypatch.setattr(calibration.psutil, "virtual_memory", lambda: memory)
    assert calibration._last_level_cache_bytes("cpu") == 2**26
    assert calibration._copy_sizes_bytes("cpu") == (8 * 2**26, 16 * 2**26)
    monkeypatch.setattr(calibration, "_CPU_CACHES", tmp_path / "nothing")
    assert calibration._last_level_cache_bytes("cpu") is None


def test_a_device_or_a_budget_that_cannot_be_is_a_usage_error():
    with pytest.raises(UsageError, match="--device"):
        calibrate("abacus", lambda _: None)
    with pytest.raises(UsageError, match="--calibrate"):
        brief(budget_s=0.0)
