"""Joules from windows: what is stated holds the truth, and what is unknown is null with its reason."""

import dataclasses

import numpy as np
import pytest

from bench.meters._spec import EnergySource
from bench.phases._energy import (
    NO_METER,
    EnergySetup,
    energy_protocol,
    energy_quantities,
    lengthened,
    window_energy,
)
from bench.phases._presets import PRESETS
from bench.phases._provenance import STRENGTH, kind_of, weakest
from bench.phases._replay import replay_quantities
from bench.phases._train_energy import TrainingWatch, train_energy
from bench.records import Window

COUNTER = EnergySource(label="measured:nvml-energy-counter", part="gpu", period_s=0.1, systematic=0.05)
RAPL = EnergySource(label="measured:rapl", part="cpu", period_s=0.001, systematic=0.02)
OPINION = EnergySource(label="estimated:codecarbon", part="gpu", period_s=0.0, systematic=0.0, is_cross_check=True)


def setup(sources, tdp_w=None):
    return EnergySetup(sources=sources, tdp_w=tdp_w, num_cpu_cores=2)


GPU = setup({"gpu_energy_j": COUNTER})


def window(series="x", energy_j=None, *, duration_s=10.0, num_units=100, index=0, problem=None, **readings):
    values = dict(readings)
    if energy_j is not None:
        values["gpu_energy_j"] = energy_j
    problems = {} if problem is None else {"gpu_energy_j": problem}
    return Window(
        series=series, index=index, is_warmup=False, num_units=num_units, duration_s=duration_s, readings=values,
        problems=problems,
    )  # fmt: skip


def idle(energy_j, duration_s=10.0):
    return window("x.idle", energy_j, duration_s=duration_s, num_units=1)


def test_gross_is_the_median_per_image_and_net_is_less_idle_power_times_time():
    windows = [window(energy_j=3000.0 + 10 * each, index=each) for each in range(-6, 7)]
    figures = energy_quantities("generate", [*windows, idle(500.0), idle(700.0)], "x", GPU)
    assert figures["generate_energy_j_per_image"].value == pytest.approx(30.0)
    assert figures["generate_idle_power_w"].value == pytest.approx(60.0)
    assert figures["generate_energy_net_j_per_image"].value == pytest.approx(30.0 - 60.0 * 10.0 / 100)
    assert figures["generate_power_w"].value == pytest.approx(300.0)
    gross, net = figures["generate_energy_j_per_image"], figures["generate_energy_net_j_per_image"]
    assert gross.label == net.label == "measured:nvml-energy-counter"
    assert gross.systematic == 0.05
    assert net.high - net.low > gross.high - gross.low  # idle power's uncertainty comes on top


def test_the_interval_holds_the_truth_for_a_counter_that_ticks():
    random = np.random.default_rng(0)
    power_w, period_s = 250.0, 0.5
    source = dataclasses.replace(COUNTER, period_s=period_s)
    for duration_s in (1.0, 2.3, 7.7, 40.0):
        starts = random.uniform(0, 100, 8)
        ticks = np.floor((starts + duration_s) / period_s) - np.floor(starts / period_s)
        windows = [window(energy_j=power_w * period_s * each, duration_s=duration_s) for each in ticks]
        figure = energy_quantities("generate", windows, "x", setup({"gpu_energy_j": source}))
        gross = figure["generate_energy_j_per_image"]
        assert gross.low <= power_w * duration_s / 100 <= gross.high


def test_too_many_invalid_windows_make_the_figure_unknown_with_the_reason():
    windows = [window(energy_j=3000.0) for _ in range(6)] + [window(problem="the counter was reset") for _ in range(6)]
    figure = energy_quantities("generate", windows, "x", GPU)["generate_energy_j_per_image"]
    assert figure.value is None
    assert figure.label == "unavailable"
    assert "6 of 12 windows are invalid: the counter was reset" in figure.note


def test_a_single_invalid_window_is_left_out_and_said():
    windows = [window(energy_j=3000.0) for _ in range(11)] + [window(problem="a failed read")]
    figure = energy_quantities("generate", windows, "x", GPU)["generate_energy_j_per_image"]
    assert figure.value == pytest.approx(30.0)
    assert figure.n == 11
    assert "1 of 12 windows invalid and left out: a failed read" in figure.note


def test_without_a_meter_energy_is_null_and_says_so():
    figures = energy_quantities("generate", [window(process_cpu_s=20.0)], "x", setup({}))
    for name in ("generate_energy_j_per_image", "generate_energy_net_j_per_image", "generate_power_w"):
        assert figures[name].value is None
        assert NO_METER in figures[name].note
        assert figures[name].label == "unavailable"


def test_a_design_power_gives_an_estimate_within_a_factor_of_two_and_nothing_measured():
    windows = [window(process_cpu_s=20.0) for _ in range(12)]  # both cores for 10 s
    figures = energy_quantities("generate", windows, "x", setup({}, tdp_w=65.0))
    figure = figures["generate_energy_j_per_image"]
    assert figure.value == pytest.approx(65.0 * 10 / 100)
    assert (figure.kind, figure.label) == ("estimated", "estimated:tdp")
    assert (figure.low, figure.high) == (figure.value / 2, figure.value * 2)
    protocol = energy_protocol(windows, "x", setup({}, tdp_w=65.0))
    assert protocol["publishable"] is False


def test_a_total_adds_the_parts_and_carries_the_weakest_label():
    both = setup({"gpu_energy_j": COUNTER, "cpu_energy_j": RAPL})
    windows = [window(energy_j=3000.0, cpu_energy_j=500.0) for _ in range(12)]
    figures = energy_quantities("generate", windows, "x", both)
    assert figures["generate_energy_j_per_image"].value == pytest.approx(35.0)
    assert figures["generate_gpu_energy_j_per_image"].value == pytest.approx(30.0)
    assert figures["generate_cpu_energy_j_per_image"].value == pytest.approx(5.0)
    assert figures["generate_energy_j_per_image"].label == "measured:rapl"
    assert both.scope == "gpu + cpu"


def test_a_window_lacking_one_part_has_no_total():
    both = {"gpu_energy_j": COUNTER, "cpu_energy_j": RAPL}
    assert window_energy(window(energy_j=3000.0), both) == "the meter gave no cpu_energy_j"


@pytest.mark.parametrize(
    ("period_s", "duration_s", "is_publishable"), [(0.02, 9.9, False), (0.02, 10.0, True), (0.5, 49.0, False)]
)
def test_windows_must_last_ten_seconds_and_a_hundred_periods_to_be_published(period_s, duration_s, is_publishable):
    source = dataclasses.replace(COUNTER, period_s=period_s)
    protocol = energy_protocol([window(energy_j=1.0, duration_s=duration_s)], "x", setup({"gpu_energy_j": source}))
    assert protocol["publishable"] is is_publishable
    assert bool(protocol["why_not_publishable"]) is not is_publishable


def test_only_the_publish_preset_lengthens_windows_and_only_where_there_is_a_meter():
    slow = setup({"gpu_energy_j": dataclasses.replace(COUNTER, period_s=0.5)})
    assert lengthened(PRESETS["publish"], slow).min_window_s == 50.0
    assert lengthened(PRESETS["publish"], setup({})) is PRESETS["publish"]
    assert lengthened(PRESETS["smoke"], slow) is PRESETS["smoke"]


def test_every_label_has_a_strength_and_a_kind():
    assert weakest(["measured:rapl", "measured:nvml-energy-counter"]) == "measured:rapl"
    assert weakest(["measured:rapl", "estimated:tdp"]) == "estimated:tdp"
    assert weakest(["estimated:tdp", "simulated:fake-nvml"]) == "simulated:fake-nvml"
    assert {kind_of(label) for label in STRENGTH} == {"measured", "attributed", "estimated", "simulated"}


def segments(energies, problem=None, **readings):
    found = [window("train", each, duration_s=60.0) for each in energies]
    found += [window("train.beside", None, duration_s=60.0, **readings) for each in energies if readings]
    return found if problem is None else [*found, window("train", problem=problem)]


class Opinion:
    def energy_sources(self):
        return {"codecarbon_gpu_energy_j": OPINION}


def test_a_training_is_the_sum_of_its_segments_with_codecarbon_beside_it():
    windows = segments([6000.0, 6000.0, 6000.0], codecarbon_gpu_energy_j=6060.0)
    figures = train_energy([*windows, window("train.idle", 500.0)], GPU, {"codecarbon": Opinion()})
    assert figures["train_energy_j"].value == pytest.approx(18000.0)
    assert figures["train_energy_net_j"].value == pytest.approx(18000.0 - 50.0 * 180)
    assert figures["train_energy_j_per_image"].value == pytest.approx(60.0)
    assert figures["codecarbon_gpu_energy_j"].value == pytest.approx(18180.0)
    assert figures["codecarbon_gpu_energy_j"].label == "estimated:codecarbon"
    assert figures["codecarbon_gpu_gap"].value == pytest.approx(0.01)


def test_a_training_with_an_invalid_segment_has_no_energy():
    figures = train_energy(segments([6000.0], problem="GPU is lost"), GPU, {})
    assert figures["train_energy_j"].value is None
    assert "GPU is lost" in figures["train_energy_j"].note


def test_codecarbon_without_a_meter_of_ours_has_no_gap_and_says_why():
    windows = segments([None, None], codecarbon_gpu_energy_j=100.0)
    figures = train_energy(windows, setup({}), {"codecarbon": Opinion()})
    assert figures["codecarbon_gpu_energy_j"].value == pytest.approx(200.0)
    assert figures["codecarbon_gpu_gap"].value is None
    assert NO_METER in figures["codecarbon_gpu_gap"].note


def test_the_watch_makes_one_window_per_segment():
    watch = TrainingWatch({}, {}, setup({}))
    watch.start(0)
    watch.stop(64)
    watch.start(64)
    watch.stop(96)
    assert [each.num_units for each in watch.windows] == [64, 32]
    assert [each.index for each in watch.windows] == [0, 1]


def test_the_joules_so_far_are_those_of_the_stretches_and_unknown_once_one_has_none():
    earlier = [window("train.idle", 500.0), *segments([6000.0, 6000.0])]
    watch = TrainingWatch({}, {}, GPU, windows=earlier)
    assert watch.energy_j() == pytest.approx(12000.0)
    assert TrainingWatch({}, {}, GPU).energy_j() == 0.0
    assert TrainingWatch({}, {}, setup({})).energy_j() is None
    watch.start(0)
    watch.stop(8)  # no meter reads this stretch
    assert watch.energy_j() is None


def test_the_parts_of_a_step_are_attributed_and_the_residual_closes_the_sum():
    durations_s = {
        "generator_forward": 1.0, "discriminator": 2.0, "discriminator_with_penalty": 5.0, "generator": 4.0,
        "optimiser": 0.5, "ema": 0.25, "data": 9.0,
    }  # fmt: skip
    windows = [
        window(f"replay.{part}", duration_s * 200, duration_s=duration_s, num_units=10)
        for part, duration_s in durations_s.items()
        for _ in range(6)
    ]
    windows += [window("train_step", 3000.0, duration_s=12.0, num_units=10 * 8) for _ in range(6)]
    figures = replay_quantities(windows, GPU, batch_size=8)
    assert figures["step_penalty_ms"].value == pytest.approx(300.0)
    assert figures["step_generator_ms"].value == pytest.approx(400.0)
    assert figures["step_residual_ms"].value == pytest.approx(1200 - (100 + 200 + 300 + 400 + 50 + 25))
    assert figures["step_penalty_energy_j"].value == pytest.approx(60.0)
    assert figures["step_penalty_energy_j"].label == "attributed:replay"
    assert figures["step_residual_energy_j"].value == pytest.approx(300.0 - 20 - 40 - 60 - 80 - 10 - 5)
    assert all(figure.kind == "attributed" for figure in figures.values())
    assert not any("energy" in name for name in replay_quantities(windows, setup({}), batch_size=8))
