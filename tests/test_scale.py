"""`bench scale`: its costs, its sizes and ends, its fits on curves whose answer is known, and its report."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch

from bench.errors import RecordError, UsageError
from bench.machine import look
from bench.meters._spec import EnergySource, Meter, Readings
from bench.phases import _scale_study
from bench.phases._scale import measure_scale, scale_request
from bench.phases._scale_record import STUDIES, ScalePoint, ScaleRecord, load, save
from bench.phases._scale_study import NUM_ROUNDS, Clock, StudyRun
from bench.phases._scale_subjects import (
    LiveBytes,
    ScaleRequest,
    costs_of,
    grown_generators,
    layer,
    published_generators,
    sizes,
)
from bench.phases._windows import TimedWork
from bench.records import Window, unknown
from bench.report.scale import write_scale_report
from bench.report.scale_fit import Crossing, Standing, compared, counted_windows, exponent, figure
from bench.report.scale_text import scale_summary, scale_text
from models._attention import OPERATORS

NO_METER = unknown("J/image", "no meter", source="test", label="unavailable")


def one_layer(operator, num_tokens, *, is_backward=False, width=16):
    return layer(operator, num_tokens, width=width, num_heads=2, batch_size=1, is_backward=is_backward)


def request(**changes):
    small = ScaleRequest(operators=("additive", "softmax"), device="cpu", width=8, num_heads=2, budget_s=20.0)
    return dataclasses.replace(small, **changes)


# --- what is asked


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"attention": "additve"}, "--attention: unknown operator 'additve'. Did you mean 'additive'"),
        ({"width": 10, "heads": 4}, "--width 10 --heads 4: the width must be a multiple"),
        ({"heads": 0}, "--heads 0"),
        ({"max_tokens": 32}, "--max-tokens 32: the first size has 64"),
        ({"budget": "5kimg"}, "--budget '5kimg' is no length of time"),
        ({"budget": "long"}, "--budget 'long' is no length of time"),
        ({"device": "tpu"}, "--device 'tpu'"),
    ],
)
def test_a_question_that_cannot_be_asked_names_its_option(words, message):
    with pytest.raises(UsageError) as caught:
        scale_request(**words)
    assert message in str(caught.value)


def test_the_words_of_the_command_are_what_they_stand_for():
    found = scale_request(attention="window, additive,window", device="cpu", budget="90s", max_tokens=64)
    assert (found.operators, found.budget_s, found.width) == (("window", "additive"), 90.0, 256)
    assert scale_request(device="cpu").operators == tuple(OPERATORS)


# --- what it costs


def test_a_backward_pass_of_a_layer_has_twice_the_products_of_its_forward_pass():
    for operator in ("softmax", "window", "kernel-linear"):
        forward, both = (costs_of(one_layer(operator, 256, is_backward=is_backward)) for is_backward in (False, True))
        assert both.macs == 3 * forward.macs


def test_the_fused_softmax_moves_fewer_bytes_than_the_convention_counts_and_the_additive_the_same():
    softmax, additive = costs_of(one_layer("softmax", 1024)), costs_of(one_layer("additive", 1024))
    assert softmax.num_bytes > softmax.num_bytes_as_run + 2 * 2 * 1024**2 * 4  # two maps of n × n, once out and once in
    assert additive.num_bytes == additive.num_bytes_as_run


@pytest.mark.parametrize("operator", OPERATORS)
def test_no_operator_as_it_is_run_holds_a_map_of_all_pairs(operator):
    costs = costs_of(one_layer(operator, 2**16))
    assert costs.peak_memory_bytes < 20 * 2**16 * 16 * 4 + 4 * costs.num_params
    assert costs.held_bytes == 4 * costs.num_params + 2**16 * 16 * 4


def test_live_bytes_are_those_of_the_storages_that_live_at_once():
    with LiveBytes() as alive:
        a = torch.zeros(1000)
        b = a + 1
        view = b[:10]  # no storage of its own
        del a, b
        c = torch.zeros(500)
        assert alive.peak_bytes == 8000
        assert alive.restart() == 4000 + 2000
        del view
        d = c + 1
        assert alive.peak_bytes == 6000
        del c, d


def test_what_is_held_for_a_backward_pass_is_part_of_the_peak():
    forward, both = (costs_of(one_layer("additive", 1024, is_backward=each)) for each in (False, True))
    assert both.peak_memory_bytes > forward.peak_memory_bytes


# --- which sizes


def test_layers_double_and_stop_at_the_largest_size_that_is_asked_for():
    found = sizes("layer", request(max_tokens=700))
    assert [size[0].num_tokens for size in found] == [64, 128, 256, 512]
    assert [subject.operator for subject in found[0]] == ["additive", "softmax"]
    assert all(subject.shape == (1, 512, 8) for subject in found[3])


def test_a_grown_generator_of_1024_tokens_is_the_published_one():
    grown, published = grown_generators("window", 1)[2], published_generators("window", 1)[0]
    assert (grown.num_tokens, grown.resolution) == (published.num_tokens, published.resolution) == (1024, 32)
    assert costs_of(grown) == costs_of(published)


def test_published_generators_attend_to_1024_tokens_at_every_resolution():
    found = published_generators("additive", 2)
    assert [(each.resolution, each.num_tokens, each.shape) for each in found] == [
        (resolution, 1024, (2, 128)) for resolution in (32, 64, 128, 256)
    ]


# --- how it is measured


@pytest.fixture(scope="module")
def record():
    return measure_scale(
        request(budget_s=300.0, max_tokens=256, studies=("layer", "layer-backward")), say=lambda _: None
    )


def test_every_size_of_every_operator_is_measured_in_rounds(record):
    assert [(point.study, point.num_tokens, point.operator) for point in record.points] == [
        (study, num_tokens, operator)
        for study in ("layer", "layer-backward")
        for num_tokens in (64, 128, 256)
        for operator in ("additive", "softmax")
    ]
    for point in record.points:
        rounds = counted_windows(point)
        assert len(rounds) in NUM_ROUNDS
        assert [window.index for window in rounds] == list(range(len(rounds)))
        assert any(window.is_warmup for window in point.windows)
        time_s = figure(point, "seconds")
        assert time_s.low <= time_s.value <= time_s.high
    assert {end.reason for end in record.ends} == {"max-tokens"}


def test_operators_take_turns_and_who_begins_rotates(monkeypatch):
    order = []

    def measure(self, index, *, num_calls, is_warmup=False):
        if not is_warmup:
            order.append((index, self.series.split(".")[2]))
        return Window(series=self.series, index=index, is_warmup=is_warmup, num_units=1, duration_s=0.01, readings={})

    monkeypatch.setattr(TimedWork, "measure", measure)
    run_of(request(max_tokens=64)).measure(lambda _: None)
    assert order[:4] == [(0, "additive"), (0, "softmax"), (1, "softmax"), (1, "additive")]


def run_of(asked, *, study="layer", meters=None, budget_s=20.0):
    return StudyRun(asked, study, machine=look("cpu"), meters=meters or {}, clock=Clock(budget_s))


def test_a_size_that_would_not_fit_the_memory_is_not_tried(monkeypatch):
    needed = costs_of(one_layer("softmax", 128, width=8)).peak_memory_bytes
    monkeypatch.setattr(_scale_study, "free_bytes", lambda *_: 2 * needed)
    run, said = run_of(request(operators=("softmax",), max_tokens=512)), []
    run.measure(said.append)
    assert [point.num_tokens for point in run.points] == [64, 128]
    (end,) = run.ends
    assert (end.reason, end.num_tokens) == ("memory", 256)
    assert "a pass would hold" in end.detail
    assert any("ends before 256 tokens" in sentence for sentence in said)


def test_a_curve_ends_when_its_passes_no_longer_fit_the_budget(monkeypatch):
    def measure(self, index, *, num_calls, is_warmup=False):
        seconds = 1e-6 * self.work().shape[1] ** (2 if "softmax" in self.series else 1)
        return Window(
            series=self.series, index=index, is_warmup=is_warmup, num_units=1, duration_s=seconds, readings={}
        )

    monkeypatch.setattr(TimedWork, "measure", measure)
    run = run_of(request(max_tokens=1024), budget_s=2.0)
    run.measure(lambda _: None)
    ends = {end.operator: end for end in run.ends}
    # half of what is left, about 1 s, for 7 passes of 0.065 s at 256 tokens and of 0.26 s at 512
    assert (ends["softmax"].reason, ends["softmax"].num_tokens) == ("time", 512)
    assert ends["additive"].reason == "max-tokens"
    assert max(point.num_tokens for point in run.points) == 1024


def test_without_time_nothing_is_measured_and_every_curve_says_so():
    run = run_of(request(max_tokens=64), budget_s=0.0)
    run.measure(lambda _: None)
    assert run.points == []
    assert {end.reason for end in run.ends} == {"time"}


class SteadyMeter(Meter):
    """Six joules in every window."""

    def start(self):
        pass

    def stop(self):
        return Readings(values={"cpu_energy_j": 6.0})

    def energy_sources(self):
        return {"cpu_energy_j": EnergySource(label="measured:rapl", part="cpu", period_s=0.001, systematic=0.05)}


def test_joules_per_image_come_from_the_meter_and_windows_are_long_enough_for_it():
    run = run_of(request(operators=("additive",), max_tokens=64), meters={"steady": SteadyMeter()}, budget_s=16.0)
    run.measure(lambda _: None)
    (point,) = run.points
    energy = point.energy_j_per_image
    num_calls = {window.num_units for window in counted_windows(point)}
    assert energy.label == "measured:rapl"
    assert energy.value == pytest.approx(6.0 / num_calls.pop())
    # An eighth of the budget over the fewest rounds is 0.33 s a window; without a meter it would be 0.02 s. On a busy
    # machine the start-up takes its part of the budget.
    assert np.median([window.duration_s for window in counted_windows(point)]) > 0.04


def test_unknown_joules_are_null_with_a_reason(record):
    for point in record.points:
        energy = point.energy_j_per_image
        assert energy.value is not None or energy.note


def test_measuring_leaves_torchs_random_state_alone():
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    run_of(request(max_tokens=64)).measure(lambda _: None)
    assert torch.equal(before, torch.random.get_rng_state())


def test_the_document_survives_the_disk_and_a_broken_one_is_refused(record, tmp_path):
    path = save(record, tmp_path)
    assert path.parent == tmp_path / "scale"
    assert load(path) == record
    path.write_text("{}")
    with pytest.raises(RecordError, match="no scale record"):
        load(path)
    with pytest.raises(RecordError, match="cannot be read"):
        load(tmp_path / "nowhere.json")


# --- what is made of it


def point(operator, num_tokens, seconds, *, num_bytes=1, study="layer"):
    """A point whose rounds lasted `seconds`, a number or one per round."""
    each_s = [seconds] * 6 if isinstance(seconds, float) else seconds
    windows = [
        Window(series="s", index=index, is_warmup=False, num_units=1, duration_s=float(one), readings={})
        for index, one in enumerate(each_s)
    ]
    return ScalePoint(
        study=study,
        operator=operator,
        num_tokens=num_tokens,
        resolution=None,
        num_params=1,
        macs=1,
        num_bytes=int(num_bytes),
        num_bytes_as_run=int(num_bytes),
        peak_memory_bytes=1,
        energy_j_per_image=NO_METER,
        windows=tuple(windows),
    )


COUNTS = [64 * 2**step for step in range(9)]


def test_the_exponent_of_a_power_law_is_found_and_is_that_of_the_large_sizes():
    def law(n):
        return 1e-6 * n**1.5 + (1.0 if n < 1000 else 0.0)  # small sizes have a cost that large ones lack

    found = exponent([point("a", n, law(n)) for n in COUNTS], "seconds")
    assert found.value == pytest.approx(1.5)
    assert found.high - found.low < 1e-6
    assert found.note == "over 2,048 to 16,384 tokens"


def test_the_interval_of_an_exponent_holds_the_truth_about_as_often_as_it_says():
    random = np.random.default_rng(0)
    held = 0
    for _ in range(300):
        noisy = [point("a", n, float(1e-6 * n**2 * random.lognormal(0, 0.05))) for n in COUNTS[-4:]]
        found = exponent(noisy, "seconds")
        held += found.low <= 2 <= found.high
    assert 0.91 <= held / 300 <= 0.985


def test_an_exponent_of_too_few_sizes_or_of_unknown_joules_is_null_with_a_reason():
    assert "2 sizes are too few" in exponent([point("a", n, 1.0) for n in (64, 128)], "seconds").note
    unknown_energy = exponent([point("a", n, 1.0) for n in COUNTS], "joules")
    assert (unknown_energy.value, unknown_energy.note) == (None, "no meter")


def test_curves_that_cross_do_so_where_their_laws_do():
    linear = [point("linear", n, 1e-3 * n) for n in COUNTS]
    quadratic = [point("quadratic", n, 1e-6 * n * n) for n in COUNTS]  # equal at 1000 tokens
    for curves in ((linear, quadratic), (quadratic, linear)):
        (found,) = compared(*curves, "seconds")
        assert (found.below, found.above) == ("quadratic", "linear")
        assert (found.low_tokens, found.high_tokens) == (512, 1024)
        assert found.at_tokens == pytest.approx(1000)


def test_a_size_that_decides_nothing_widens_the_bracket():
    equal = [0.9, 1.1, 1.05, 0.95, 1.01, 0.99]
    first = [point("a", 64, 1.0), point("a", 128, 1.0), point("a", 256, 1.0)]
    second = [point("b", 64, 0.5), point("b", 128, equal), point("b", 256, 2.0)]
    (found,) = compared(first, second, "seconds")
    assert isinstance(found, Crossing)
    assert (found.below, found.low_tokens, found.high_tokens) == ("b", 64, 256)
    assert 64 < found.at_tokens < 256


def test_ratios_are_taken_round_by_round_so_that_a_drifting_machine_decides_nothing_wrong():
    drift = np.linspace(1.0, 3.0, 6)
    slower = [point("slower", 64, 1.1 * drift)]
    faster = [point("faster", 64, 1.0 * drift)]
    found = compared(slower, faster, "seconds")
    assert isinstance(found, Standing)
    assert found.cheaper == "faster"  # although the two intervals of their medians overlap widely


def test_exact_counts_cross_without_an_interval_and_equal_ones_decide_nothing():
    first = [point("a", n, 1.0, num_bytes=10 * n) for n in COUNTS]
    second = [point("b", n, 1.0, num_bytes=n * n / 100) for n in COUNTS]
    (found,) = compared(first, second, "bytes")
    assert (found.low_tokens, found.high_tokens) == (512, 1024)
    assert compared(first, second, "macs").cheaper is None
    assert compared(first, second, "joules").cheaper is None


def test_curves_cross_twice_and_both_crossings_are_found():
    first = [point("a", n, 1.0) for n in COUNTS[:4]]
    second = [point("b", n, seconds) for n, seconds in zip(COUNTS, (2.0, 0.5, 0.5, 2.0), strict=False)]
    found = compared(first, second, "seconds")
    assert [(each.below, each.low_tokens, each.high_tokens) for each in found] == [("a", 64, 128), ("b", 256, 512)]


def test_the_report_has_every_table_and_a_picture_and_is_the_same_each_time(record, tmp_path):
    for folder in ("one", "two"):
        files = write_scale_report(record, tmp_path / folder)
        assert all(path.stat().st_size > 100 for path in (*files.tables, *files.pictures))
    names = {path.name for path in (tmp_path / "one").iterdir()}
    assert names == {"scale.csv", "scale_exponents.csv", "scale_crossings.csv", "scale.txt", "scale.png", "scale.svg"}
    assert all((tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes() for name in names)


def test_the_csv_has_a_row_per_point_and_an_empty_cell_with_a_reason_where_nothing_is_known(record, tmp_path):
    write_scale_report(record, tmp_path)
    rows = pd.read_csv(tmp_path / "scale.csv")
    assert len(rows) == len(record.points)
    first = record.points[0]
    assert (rows["macs"][0], rows["bytes"][0]) == (first.macs, first.num_bytes)
    assert rows["seconds_per_image"][0] == pytest.approx(figure(first, "seconds").value)
    unknown_energy = rows[rows["energy_j_per_image"].isna()]
    assert unknown_energy["note"].notna().all()
    fits = pd.read_csv(tmp_path / "scale_exponents.csv")
    fit = fits[(fits.study == "layer") & (fits.operator == "additive") & (fits.figure == "macs")].iloc[0]
    assert (fit.exponent, fit.num_sizes) == (pytest.approx(1.0), 3)
    crossings = pd.read_csv(tmp_path / "scale_crossings.csv")
    layers = crossings[(crossings.study == "layer") & (crossings.figure == "macs")]
    assert list(layers.finding) == [
        "additive is cheaper than softmax at all 3 sizes from 64 to 256 tokens, and dearer at none"
    ]


def test_the_text_names_exponents_crossings_and_why_curves_end(record):
    text = scale_text(record)
    assert STUDIES["layer-backward"] in text
    summary = scale_summary(record)
    assert summary in text
    for words in ("Exponent in tokens", "Where additive is cheaper", "Where each curve ends", "256 at most"):
        assert words in summary


def test_a_record_without_points_has_a_report_that_says_so(record, tmp_path):
    empty = ScaleRecord(**{**dict(record), "points": ()})
    files = write_scale_report(empty, tmp_path)
    assert files.pictures == ()
    assert "Where each curve ends" in (tmp_path / "scale.txt").read_text()


def test_a_report_of_a_scale_record_loads_no_torch():
    code = "import sys, bench.report.scale, bench.phases._scale_record; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
