"""Quality against images, time and energy: what may share a picture, what a line is, and what reaching it took."""

from __future__ import annotations

import io
import math
from pathlib import Path

import matplotlib as mpl
import pandas as pd
import pytest
from test_report import HOSTILE, csv_of, figure, make_phases, make_record, read_csv

from bench.catalog import METRICS
from bench.directions import BETTER
from bench.records import CurvePoint, Quantity, Record, RunSpec, unknown
from bench.report import plots, plots_quality
from bench.report.csv_long import curve_table
from bench.report.curves import ENERGY, IMAGES, TIME, Configuration, aligned, averages_of, groups_of, quality_protocol
from bench.report.energy_to_quality import (
    Threshold,
    reach,
    reach_blocks,
    summary,
    threshold_of,
    thresholds_of,
)
from bench.report.markdown import COST_TITLE, CURVE_TITLE, PictureNote, report_markdown
from bench.store import StoredRun

MEASURED = "measured:nvml-energy-counter"
GOAL = Threshold(metric="rfd_v1", value=0.2)


def joules(value: float | None, label: str = MEASURED) -> Quantity:
    if value is None:
        return unknown("J", "no meter reads this machine", source="meters", label="unavailable")
    return Quantity(value=value, unit="J", kind=label.partition(":")[0], source="meters", label=label)


def curved(
    run_id: str, values: list[float | None], *, watts: float | None = 100.0, label: str = MEASURED, step=10_000, **facts
) -> Record:
    """A run evaluated every `step` images from 0 on, at 100 images per second."""
    curve = []
    for index, value in enumerate(values):
        shown = index * step
        found = unknown("1", "too few", source="rfd_v1") if value is None else figure(value, value / 50)
        curve.append(
            CurvePoint(
                num_images_shown=shown,
                train_duration_s=shown / 100,
                train_energy=None if watts is None else joules(watts * shown / 100, label),
                quantities={"rfd_v1": found},
                evaluation_duration_s=7.0,
                evaluation_energy=None if watts is None else joules(70.0, label),
            )
        )
    return make_record(run_id, curve=tuple(curve), **({"eval_every": f"{step}img"} | facts))


def only(records: list[Record]) -> Configuration:
    (group,) = groups_of(records)
    (configuration,) = group.configurations
    return configuration


def stored(*records: Record) -> list[StoredRun]:
    return [StoredRun(record, Path("nowhere")) for record in records]


def drawn(draw, *records: Record):
    with plots.house_style():
        drawing = draw(stored(*records))
        assert drawing.figure is not None, drawing.caption
        drawing.figure.draw_without_rendering()
    return drawing.figure


def texts(figure_drawn) -> str:
    return "\n".join(text.get_text() for text in figure_drawn.findobj(mpl.text.Text))


def table_rows(records: list[Record]) -> list[list[str]]:
    lines = "\n\n".join(reach_blocks(records)).splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| rfd")]


# What may stand together


def test_the_direction_of_every_metric_is_that_of_its_own_file():
    figures = {name: each for metric in METRICS.names() for name, each in METRICS.load(metric).figures.items()}
    assert {name: each.better for name, each in figures.items() if each.better is not None} == BETTER


def test_seeds_are_one_configuration_and_everything_else_is_another():
    records = [
        curved("a", [2.0, 1.0], seed=0),
        curved("b", [2.0, 1.0], seed=1),
        curved("c", [2.0, 1.0], seed=0, precision="bf16"),
        curved("d", [2.0, 1.0], seed=0, compile=True),
        curved("e", [2.0, 1.0], seed=0, preset="smoke"),
        curved("f", [2.0, 1.0], seed=2, harness_version="9.9"),
    ]
    (group,) = groups_of(records)
    found = {each.label: [record.run_id for record in each.records] for each in group.configurations}
    assert sorted(found.values()) == [["a", "b"], ["c"], ["d"], ["e"], ["f"]]
    assert len(found) == 5
    assert next(label for label, ids in found.items() if ids == ["e"]).endswith("(smoke)")
    assert any("bf16" in label for label in found)


def test_other_data_resolution_or_protocol_never_share_a_group():
    phases = make_phases()
    phases["quality"] = phases["quality"].model_copy(update={"protocol": {"rfd_v1": {"num_images": 500}}})
    records = [
        curved("a", [2.0]),
        curved("b", [2.0], dataset="stacked-digits"),
        curved("c", [2.0], resolution=64),
        curved("d", [2.0], phases=phases),
        make_record("e", curve=()),
    ]
    groups = groups_of(records)
    assert [group.title for group in groups] == [
        "scenes 32 px, protocol Q1",
        "scenes 32 px, protocol Q2",
        "scenes 64 px",
        "stacked-digits 32 px",
    ]
    assert [[each.records[0].run_id for each in group.configurations] for group in groups] == [
        ["a"],
        ["d"],
        ["c"],
        ["b"],
    ]


def test_a_run_without_a_recorded_protocol_stands_alone():
    phases = {name: result for name, result in make_phases().items() if name != "quality"}
    groups = groups_of([curved("a", [2.0], phases=phases), curved("b", [2.0], phases=phases), curved("c", [2.0])])
    assert sorted(group.title for group in groups) == [
        "scenes 32 px, protocol Q1",
        "scenes 32 px, protocol not recorded",
        "scenes 32 px, protocol not recorded",
    ]


def test_training_speaks_for_the_protocol_while_the_quality_phase_is_missing():
    whole = make_phases()
    killed = {name: result for name, result in whole.items() if name != "quality"}
    killed["train"] = killed["train"].model_copy(update={"protocol": {"quality": dict(whole["quality"].protocol)}})
    assert quality_protocol(make_record("a", phases=killed)) == quality_protocol(make_record("b", phases=whole)) != ""


def test_without_rfd_v1_the_metrics_that_every_evaluation_has_are_shown():
    def point(shown: int, **values: float | None) -> CurvePoint:
        found = {
            name: figure(value) if value is not None else unknown("1", "no valid image", source="modes")
            for name, value in values.items()
        }
        return CurvePoint(num_images_shown=shown, train_duration_s=shown / 50, quantities=found)

    first = point(0, rfd_v1=None, rfd_v1_biased=3.0, validity=0.0, mode_kl=None, digit_labeller_accuracy=0.9)
    last = point(100, rfd_v1=None, rfd_v1_biased=1.0, validity=0.5, mode_kl=2.0, digit_labeller_accuracy=0.9)
    record = make_record(curve=(first, last))
    assert groups_of([record])[0].metrics == ("rfd_v1_biased", "validity")
    picture = drawn(plots_quality.quality_curves, record)
    assert [axis.get_yscale() for axis in picture.axes[::3]] == ["log", "linear"]  # a logarithm has no 0


# Joules keep what they are


def test_joules_of_a_simulated_device_are_shown_nowhere():
    record = curved("a", [2.0, 0.1], label="simulated:fake-nvml")
    assert only([record]).energy_label is None
    assert "no run here has an energy meter" in texts(drawn(plots_quality.quality_curves, record))
    assert [row[5] for row in table_rows([record])] == ["—"] * len(table_rows([record]))
    table = pd.read_csv(io.StringIO(csv_of(curve_table(), [record])))
    assert table[["train_energy_j", "evaluation_energy_j", "train_energy_j_label"]].isna().all(axis=None)


def test_estimated_joules_are_dashed_and_named_and_have_one_digit():
    record = curved("a", [2.0, 0.1], label="estimated:tdp")
    picture = drawn(plots_quality.quality_curves, record)
    assert [axis.lines[0].get_linestyle() for axis in picture.axes] == ["-", "-", "--"]
    assert "energy estimated" in texts(picture).replace("\n", " ")
    assert "estimated" in texts(drawn(plots_quality.cost_of_quality, record))
    assert {row[5] for row in table_rows([record])} == {"≈3 \\[estimated\\]"}  # 10 kJ are 2.8 Wh


def test_seeds_with_joules_of_two_kinds_are_not_put_together():
    records = [curved("a", [2.0, 0.1]), curved("b", [2.0, 0.1], seed=1, label="estimated:tdp")]
    configuration = only(records)
    assert averages_of(configuration, "rfd_v1", ENERGY) == []
    assert len(averages_of(configuration, "rfd_v1", IMAGES)) == 2
    assert "known in several ways" in "\n".join(reach_blocks(records))


# What a line is


def test_one_seed_has_the_metrics_own_interval_and_two_have_none():
    one = averages_of(only([curved("a", [2.0, 1.0])]), "rfd_v1", TIME)
    assert [(each.cost, each.value, each.low) for each in one] == [(0.0, 2.0, 1.96), (100.0, 1.0, 0.98)]
    two = averages_of(only([curved("a", [4.0]), curved("b", [1.0], seed=1)]), "rfd_v1", TIME)
    assert two[0].value == pytest.approx(2.0)  # the mean of the logarithms
    assert (two[0].low, two[0].high) == (None, None)


def test_three_seeds_have_students_interval_of_their_logarithms():
    values = [1.0, 2.0, 4.0]
    records = [curved(f"r{index}", [value], seed=index) for index, value in enumerate(values)]
    (average,) = averages_of(only(records), "rfd_v1", IMAGES)
    # t(0.975, 2) = 4.302653 (any table); the logarithms' standard deviation is ln 2
    factor = math.exp(4.302653 * math.log(2) / math.sqrt(3))
    assert (average.low, average.value, average.high) == pytest.approx((2 / factor, 2.0, 2 * factor), rel=1e-6)


def test_six_seeds_have_the_median_and_its_exact_interval():
    records = [curved(f"r{index}", [value], seed=index) for index, value in enumerate((1.0, 2.0, 3.0, 5.0, 6.0, 9.0))]
    (average,) = averages_of(only(records), "rfd_v1", IMAGES)
    assert (average.low, average.value, average.high) == (1.0, 4.0, 9.0)


def test_an_average_stops_where_the_first_seed_does():
    records = [curved("a", [2.0, 1.0, 0.5]), curved("b", [2.0, 1.0], seed=1)]
    assert len(averages_of(only(records), "rfd_v1", IMAGES)) == 2


def test_evaluations_by_images_are_matched_by_images_and_those_by_the_clock_by_order():
    whole = curved("a", [2.0, 1.0, 0.5])
    holed = curved("b", [2.0, 1.0, 0.5], seed=1)
    holed = holed.model_copy(update={"curve": (holed.curve[0], holed.curve[2])})
    assert [[each.num_images_shown for each in points] for points in aligned(only([whole, holed]))] == [
        [0, 0],
        [20_000, 20_000],
    ]
    fast = curved("c", [2.0, 1.0], step=300, eval_every="5min")
    slow = curved("d", [2.0, 1.0], step=200, eval_every="5min", seed=1)
    pairs = aligned(only([fast, slow]))
    assert [[each.num_images_shown for each in points] for points in pairs] == [[0, 0], [300, 200]]
    assert averages_of(only([fast, slow]), "rfd_v1", IMAGES)[1].cost == 250


def test_an_unknown_value_leaves_a_gap_and_not_a_zero():
    found = averages_of(only([curved("a", [2.0, None, 0.5])]), "rfd_v1", IMAGES)
    assert [each.value for each in found] == [2.0, 0.5]


# What reaching a quality took


def test_the_later_end_of_the_bracket_is_reported_and_nothing_interpolated():
    configuration = only([curved("a", [2.0, 0.9, 0.19, 0.4, 0.1])])
    record = configuration.records[0]
    found = {cost.name: reach(configuration, record, GOAL, cost) for cost in (IMAGES, TIME, ENERGY)}
    assert [(each.is_reached, each.before, each.spent) for each in found.values()] == [
        (True, 10_000, 20_000),
        (True, 100, 200),
        (True, 10_000, 20_000),
    ]


def test_evaluations_cost_is_in_none_of_it():
    record = curved("a", [2.0, 0.1])
    dear = record.model_copy(
        update={"curve": tuple(p.model_copy(update={"evaluation_duration_s": 1e6}) for p in record.curve)}
    )
    assert reach_blocks([record]) == reach_blocks([dear])


def test_a_run_that_never_gets_there_is_a_lower_bound():
    rows = table_rows([curved("a", [2.0, 0.5]), curved("b", [2.0, 0.05], model="sagan")])
    row = next(row for row in rows if row[0].endswith("0.05") and row[1] == "ladagan")
    assert row[2:6] == ["0/1", "not reached (&gt; 10)", "not reached (&gt; 100)", "not reached (&gt; 2.78)"]


def test_a_threshold_held_before_training_says_so():
    rows = table_rows([curved("a", [0.3, 0.2]), curved("b", [9.0, 0.5], model="sagan")])
    assert [row[3] for row in rows if row[0].endswith("0.5") and row[1] == "ladagan"] == ["before training"]
    assert thresholds_of(groups_of([curved("a", [0.04, 0.04])])[0]) == []


@pytest.mark.parametrize(
    ("last_values", "amount", "is_bound", "text"),
    [
        ([[2, 0.1], [2, 1, 0.1], [2, 1, 1, 0.1]], 20_000, False, "20 (10 to 30)"),
        ([[2, 0.1], [2, 1, 0.1], [2, 1, 1, 1]], 20_000, False, "20 (10 to > 30)"),
        ([[2, 0.1], [2, 1, 1, 1], [2, 1, 1, 1]], 30_000, True, "> 30 (10 to > 30)"),
        ([[2, 0.1], [2, 1, 1, 1]], 20_000, True, "> 20 (10 to > 30)"),
        ([[2, 1, 1, 0.1], [2, 1, 1, 0.1], [2, 1]], 30_000, False, "30 (10 to 30)"),
        ([[2, 1, 1, 0.1], [2, 1]], 20_000, True, "> 20 (10 to 30)"),
    ],
)
def test_a_median_is_given_only_where_the_seeds_that_failed_cannot_move_it(last_values, amount, is_bound, text):
    records = [curved(f"r{index}", values, seed=index) for index, values in enumerate(last_values)]
    found = summary(only(records), GOAL, IMAGES)
    assert (found.amount, found.is_bound) == (amount, is_bound)
    assert found.num_reached == sum(values[-1] == 0.1 for values in last_values)
    shown = table_rows([record.model_copy(update={"spec": with_goal(record)}) for record in records])
    assert [row[3].replace("&gt;", ">") for row in shown if row[0] == GOAL.text] == [text]


def with_goal(record: Record) -> RunSpec:
    return record.spec.model_copy(update={"until": "rfd_v1<=0.2"})


def test_thresholds_are_round_lie_between_the_ends_and_take_in_until():
    records = [
        curved("a", [2.0, 0.31]),
        curved("b", [2.0, 0.042], model="sagan", until="rfd_v1 <= 0.033"),
        curved("c", [2.0, 0.1], model="vitgan", until="pair_consistency>=0.9"),
    ]
    found = thresholds_of(groups_of(records)[0])
    of_rfd = [each.value for each in found if each.metric == "rfd_v1"]
    assert of_rfd == sorted(of_rfd, reverse=True)  # from easy to hard
    assert of_rfd[-1] == 0.033
    assert len(of_rfd) <= 6 and {0.05, 0.3} <= set(of_rfd) and max(of_rfd) == 0.5  # 0.5 is what all of them reach
    assert [each.text for each in found if each.metric != "rfd_v1"] == ["pair_consistency ≥ 0.9"]


@pytest.mark.parametrize("until", [None, "", "rfd_v1", "rfd_v1>=0.1", "nothing<=1", "rfd_v1<=1.2.3", "validity<0.5"])
def test_what_is_no_threshold_of_a_known_direction_is_none(until):
    assert threshold_of(until) is None


# Pictures


def test_the_picture_has_three_panels_a_line_per_configuration_and_their_units():
    records = [curved(f"r{index}", [2.0, 1.0, 0.5], seed=index) for index in range(2)]
    records += [curved("s", [2.0, 0.7, 0.2], model="sagan", preset="smoke")]
    picture = drawn(plots_quality.quality_curves, *records)
    assert [axis.get_xlabel() for axis in picture.axes] == [
        "images shown (kimg)",
        "training time (minutes)",
        "training energy (Wh)",
    ]
    assert {axis.get_yscale() for axis in picture.axes} == {"log"}
    legend = [text.get_text() for text in picture.axes[-1].get_legend().get_texts()]
    assert legend == ["ladagan, n=2 seeds", "sagan (smoke)", "real images: 0.0034 (off the axis)"]
    thick = [line for line in picture.axes[0].lines if line.get_linewidth() > 1]
    assert len(thick) == 2
    assert list(thick[0].get_xdata()) == [0.0, 10.0, 20.0]
    with plots.house_style():
        assert set(plots.encoded(picture)) == {"png", "svg"}


def test_a_run_with_one_evaluation_is_a_marker():
    picture = drawn(plots_quality.quality_curves, curved("a", [0.5], preset="smoke"))
    (line,) = [line for line in picture.axes[0].lines if len(line.get_xdata()) == 1]
    assert line.get_marker() not in ("", "None", None)


def test_a_panel_without_a_meter_says_so_in_words():
    for energy in (None, joules(None)):
        record = curved("a", [2.0, 0.1], watts=None)
        points = (point.model_copy(update={"train_energy": energy}) for point in record.curve)
        record = record.model_copy(update={"curve": tuple(points)})
        for draw in (plots_quality.quality_curves, plots_quality.cost_of_quality):
            panel = drawn(draw, record).axes[2]
            assert "no run here has an energy meter" in [text.get_text() for text in panel.texts]
            assert not any(len(line.get_xdata()) for line in panel.lines)
    assert "training energy of ladagan: no meter reads this machine" in "\n".join(reach_blocks([record]))


def test_what_was_not_reached_is_hollow_with_an_arrow():
    records = [curved("a", [2.0, 0.5]), curved("b", [2.0, 0.05], model="sagan")]
    picture = drawn(plots_quality.cost_of_quality, *records)
    faces = [line.get_markerfacecolor() for line in picture.axes[0].lines if line.get_marker() in plots.MARKERS]
    arrows = [text for text in picture.axes[0].texts if text.arrow_patch is not None]
    assert faces.count("white") == len(arrows) > 0
    assert faces.count("white") < len(faces)


def test_many_configurations_and_data_sets_draw_some_and_say_so():
    many = [
        curved(f"m{i:02d}", [2.0, 1.0], model=f"m{i:02d}", created_at=f"2026-01-01T00:00:{i:02d}") for i in range(20)
    ]
    data = [curved(f"d{i}", [2.0, 1.0], dataset=f"folder:{i}") for i in range(8)]
    with plots.house_style():
        assert "the 12 newest of 20 configurations" in plots_quality.quality_curves(stored(*many)).caption
        assert "2 more rows are not drawn" in plots_quality.quality_curves(stored(*data)).caption
        shown = texts(plots_quality.quality_curves(stored(*many)).figure)
    assert "m19" in shown
    assert "m07" not in shown


def test_runs_without_a_curve_are_a_sentence():
    for draw in (plots_quality.quality_curves, plots_quality.cost_of_quality):
        drawing = draw(stored(make_record(curve=())))
        assert drawing.figure is None
        assert drawing.caption.startswith("No run has")
    assert reach_blocks([])[0].startswith("No run has")


def test_a_data_set_whose_evaluations_know_nothing_together_is_named():
    with plots.house_style():
        drawing = plots_quality.quality_curves(
            stored(curved("a", [2.0]), curved("b", [None], dataset="stacked-digits"))
        )
    assert "stacked-digits 32 px: no figure that every evaluation has." in drawing.caption


# Tables


def test_the_curve_csv_has_a_row_per_evaluation_and_metric():
    record = curved("a", [2.0, None], seed=3)
    table = pd.read_csv(io.StringIO(csv_of(curve_table(), [record, make_record("b", curve=())])))
    assert list(table.columns[:17]) == [
        "run_id",
        "model_title",
        "dataset",
        "resolution",
        "seed",
        "num_images_shown",
        "train_duration_s",
        "train_energy_j",
        "train_energy_j_low",
        "train_energy_j_high",
        "train_energy_j_label",
        "metric",
        "value",
        "low",
        "high",
        "evaluation_duration_s",
        "evaluation_energy_j",
    ]
    assert table["value"].isna().tolist() == [False, True]
    assert table.loc[1, "note"] == "too few"
    assert table[["num_images_shown", "train_energy_j", "evaluation_energy_j"]].to_numpy().tolist() == [
        [0, 0, 70],
        [10_000, 10_000, 70],
    ]
    assert table["train_energy_j_label"].tolist() == [MEASURED] * 2
    assert table["seed"].tolist() == [3, 3]


def test_hostile_strings_stay_inert_in_the_curve_tables():
    record = curved("=" + HOSTILE, [2.0, 0.1], model="=" + HOSTILE, dataset=HOSTILE)
    table = pd.read_csv(io.StringIO(csv_of(curve_table(), [record])))
    assert table["run_id"].str.startswith("'=").all()
    page = "\n\n".join(reach_blocks([record]))
    assert "<script" not in page
    assert "\x1b" not in page + csv_of(curve_table(), [record])
    drawn(plots_quality.quality_curves, record)


def test_results_csv_says_how_training_was_evaluated_stopped_and_sped_up():
    row = read_csv([make_record(eval_every="50kimg", until="rfd_v1<=0.1", capture=True, num_processes=4)]).iloc[0]
    assert (row["eval_every"], row["until"], row["num_processes"]) == ("50kimg", "rfd_v1<=0.1", 4)
    assert [bool(row[name]) for name in ("compile", "capture", "channels_last")] == [False, True, False]
    assert row["num_accumulation_steps"] == 1


def test_the_page_has_a_section_with_pictures_table_and_how_to_read_them():
    notes = [PictureNote(CURVE_TITLE, "quality.png", "c"), PictureNote(COST_TITLE, "cost_of_quality.png", "c")]
    page = report_markdown([curved("a", [2.0, 0.1])], [*notes, PictureNote("Losses", "loss.png", "l")], [])
    section, rest = page.split("## Quality against images, time and energy\n")[1].split("\n## Pictures\n")
    assert "](quality.png)" in section
    assert "](cost_of_quality.png)" in section
    assert "| rfd\\_v1 ≤" in section or "| rfd_v1 ≤" in section
    assert "nothing is interpolated" in section
    assert "](loss.png)" in rest
    assert "quality.png" not in rest
