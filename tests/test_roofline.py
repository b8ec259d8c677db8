import numpy as np
import pytest
import torch

from bench.calibration import Calibration, calibrate
from bench.phases._roofline import NOT_CALIBRATED, bound_by, roofline
from bench.phases._windows import TimedWork, rate
from bench.records import Quantity, unknown
from bench.stats import quantile_quantity


def figure(value, unit="1", spread=0.0, kind="measured"):
    return Quantity(
        value=value, unit=unit, low=value * (1 - spread), high=value * (1 + spread), n=12, kind=kind, source="tests"
    )


def calibration(macs_per_s=1e12, bytes_per_s=1e11, spread=0.0, **more_rates):
    rates = {"fp32": figure(macs_per_s, "MAC/s", spread)}
    rates |= {name: figure(value, "MAC/s", spread) for name, value in more_rates.items()}
    return Calibration(
        fingerprint="0" * 64,
        device="cpu",
        macs_per_s=rates,
        copy_bytes_per_s=figure(bytes_per_s, "B/s", spread),
        measured_at="2026-01-01T00:00:00+00:00",
        harness_version="0",
        torch="0",
    )


def found(**changes):
    usual = {
        "macs": figure(1e9, "MAC", kind="computed"),
        "num_bytes": figure(1e7, "B", kind="computed"),
        "images_per_s": figure(500.0, "image/s"),
        "precision": "fp32",
        "calibration": calibration(),
    }
    return roofline("generate", **(usual | changes))


def shares(result):
    return result.quantities["generate_mfu"], result.quantities["generate_bandwidth_share"]


def test_the_shares_are_work_per_second_over_the_measured_rates():
    mfu, bandwidth_share = shares(found())
    assert mfu.value == pytest.approx(1e9 * 500 / 1e12)
    assert bandwidth_share.value == pytest.approx(1e7 * 500 / 1e11)
    assert (mfu.unit, mfu.kind, mfu.n) == ("1", "computed", 12)


def test_the_roof_is_that_of_the_precision():
    result = found(precision="bf16", calibration=calibration(bf16=4e12))
    assert shares(result)[0].value == pytest.approx(0.125)
    assert result.protocol["roofs"]["macs_per_s"] == 4e12


def test_the_interval_takes_the_ends_of_every_factor():
    mfu, bandwidth_share = shares(
        found(images_per_s=figure(500.0, "image/s", 0.02), calibration=calibration(spread=0.1))
    )
    assert mfu.low == pytest.approx(0.5 * 0.98 / 1.1)
    assert mfu.high == pytest.approx(0.5 * 1.02 / 0.9)
    assert bandwidth_share.low == pytest.approx(0.05 * 0.98 / 1.1)


def test_the_interval_holds_the_true_share_at_least_as_often_as_it_says():
    random = np.random.default_rng(1)
    held = 0
    for _ in range(1000):
        speeds = quantile_quantity(list(500 * (1 + 0.03 * random.standard_normal(12))), unit="image/s", source="tests")
        peaks = quantile_quantity(list(1e12 * (1 + 0.03 * random.standard_normal(9))), unit="MAC/s", source="tests")
        roofs = calibration().model_copy(update={"macs_per_s": {"fp32": peaks}})
        mfu, _ = shares(found(images_per_s=speeds, calibration=roofs))
        held += mfu.low <= 0.5 <= mfu.high
    assert held >= 940


def test_a_factor_without_an_interval_leaves_the_share_without_one_and_says_so():
    few = Quantity(value=500.0, unit="image/s", n=3, kind="measured", source="tests", note="3 samples are too few")
    mfu, bandwidth_share = shares(found(images_per_s=few))
    assert (mfu.value, mfu.low) == (pytest.approx(0.5), None)
    assert "no interval" in mfu.note and "no interval" in bandwidth_share.note


def test_a_count_without_an_interval_is_exact():
    counted = Quantity(value=1e9, unit="MAC", kind="computed", source="tests")
    mfu, _ = shares(found(macs=counted, images_per_s=figure(500.0, "image/s", 0.1)))
    assert (mfu.low, mfu.high) == (pytest.approx(0.45), pytest.approx(0.55))


def test_traffic_that_caches_served_is_not_clipped_and_the_note_says_why():
    _, bandwidth_share = shares(found(num_bytes=figure(1e9, "B")))
    assert bandwidth_share.value == pytest.approx(5.0)
    assert "unfused" in bandwidth_share.note and "above 1" in bandwidth_share.note


def test_without_a_calibration_nothing_is_known_and_the_remedy_is_named():
    result = found(calibration=None)
    for share in shares(result):
        assert share.value is None
        assert share.note == NOT_CALIBRATED == "not calibrated: run `bench doctor --calibrate`"
    assert result.protocol["bound_by"] == f"unknown: {NOT_CALIBRATED}"
    assert result.protocol["roofs"] is None


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"macs": unknown("MAC", "an op has no formula", source="tests")}, "an op has no formula"),
        ({"macs": None}, "run the cost phase"),
        ({"images_per_s": unknown("image/s", "no window was measured", source="tests")}, "no window was measured"),
        ({"precision": "tf32"}, "no tf32 rate"),
    ],
)
def test_a_missing_factor_is_an_unknown_share_with_its_reason(changes, reason):
    result = found(**changes)
    mfu, bandwidth_share = shares(result)
    assert mfu.value is None and reason in mfu.note
    assert result.protocol["bound_by"].startswith("unknown: ")
    assert (bandwidth_share.value is None) == ("images_per_s" in changes)


@pytest.mark.parametrize(
    ("mfu", "bandwidth_share", "spread", "verdict"),
    [
        (0.5, 0.2, 0.01, "compute"),
        (0.5, 1.7, 0.01, "memory"),
        (0.29, 0.1, 0.01, "neither is above 30 %"),
        (0.31, 0.1, 0.01, "compute"),
        (0.50, 0.52, 0.05, "compute and memory alike"),
    ],
)
def test_the_larger_share_bounds_the_phase_if_it_is_large_and_clear(mfu, bandwidth_share, spread, verdict):
    assert bound_by(figure(mfu, spread=spread), figure(bandwidth_share, spread=spread)) == verdict


def test_a_matrix_product_measured_as_a_phase_comes_near_the_whole_of_its_roof():
    """One end-to-end check of units; a factor of 4 either way is room for a shared machine."""
    side = 192
    roofs = calibrate(
        "cpu", lambda _: None, budget_s=0.6, block_s=0.02, matrix_sides=(side,), copy_sizes_bytes=(2**24,)
    )
    left, out = torch.randn(side, side), torch.empty(side, side)
    work = TimedWork(series="x", work=lambda: torch.mm(left, left, out=out), num_units=1, device="cpu", meters={})
    windows = [work.measure(index, num_calls=50) for index in range(12)]
    result = found(
        macs=figure(float(side**3), "MAC"), images_per_s=rate(windows, "x"), calibration=roofs, num_bytes=None
    )
    assert 0.25 < shares(result)[0].value < 4
