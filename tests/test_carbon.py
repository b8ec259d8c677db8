"""CO2 and energy in reports: grids with their year and source, joules with their label, nothing simulated, no guess."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_report import HOSTILE, figure, make_phases, make_record, results_csv

from bench.errors import UsageError
from bench.notation import format_quantity, rounded
from bench.records import Quantity, Record, unknown
from bench.report.carbon import ACTIVITIES, co2_of, co2_sentence
from bench.report.grids import FIVE_GRIDS, Grid, checked_pue, chosen_grid, grid_of, pue_text
from bench.report.markdown import report_markdown
from bench.report.published import reported
from bench.report.text import show_run
from bench.report.write import write_report
from bench.store import StoredRun

GENERATE, TRAIN_STEP, TRAIN = ACTIVITIES
COUNTER, FAKE, TDP = "measured:nvml-energy-counter", "simulated:fake-nvml", "estimated:tdp"
HUNDRED = Grid(g_per_kwh=100.0, region="own figure", year=2024, source="contract")
NO_METER = "no energy meter can be read on this machine"


def energy(value: float, half_width: float | None = None, *, unit="J/image", label=COUNTER, **facts) -> Quantity:
    kind = label.split(":")[0]
    return figure(value, half_width, unit, **({"label": label, "kind": kind, "systematic": 0.05} | facts))


def energy_record(run_id="ladagan-1234abcd", *, label=COUNTER, scale=1.0, publishable=True, **facts) -> Record:
    """A run with energy in its three timed phases: 0.7264 J per image, 3.3 J per trained image, 912345 J in all."""
    found = {
        "generate": {
            "generate_energy_j_per_image": energy(0.7264 * scale, 0.0031 * scale, label=label),
            "generate_energy_net_j_per_image": energy(0.5123 * scale, 0.0061 * scale, label=label),
            "generate_gpu_energy_j_per_image": energy(0.6111 * scale, 0.0031 * scale, label=label),
            "generate_idle_power_w": energy(70.21 * scale, 1.1, unit="W", label=label),
        },
        "train_step": {"train_step_energy_j_per_image": energy(3.3 * scale, 0.02 * scale, label=label)},
        "train": {
            "train_energy_j": energy(912345.0 * scale, 3000.0 * scale, unit="J", label=label),
            "codecarbon_gpu_energy_j": energy(905007.0 * scale, unit="J", label="estimated:codecarbon"),
            "codecarbon_gpu_gap": figure(-0.00804, kind="computed"),
        },
    }
    protocol = {"scope": "gpu + cpu", "publishable": publishable, "why_not_publishable": "" if publishable else "SHORT"}
    phases = make_phases()
    for name, figures in found.items():
        quantities = phases[name].quantities | figures
        phases[name] = phases[name].model_copy(update={"quantities": quantities, "protocol": {"energy": protocol}})
    return make_record(run_id, phases=phases, **facts)


def without_meter(run_id="sagan-99990000", **facts) -> Record:
    phases = make_phases()
    for activity in ACTIVITIES:
        nothing = unknown("J", NO_METER, source="energy meters", label="unavailable")
        figures = phases[activity.phase].quantities | {activity.gross: nothing, activity.net: nothing}
        phases[activity.phase] = phases[activity.phase].model_copy(update={"quantities": figures})
    return make_record(run_id, phases=phases, model="sagan", **facts)


def rows_of(records, **options) -> pd.DataFrame:
    return pd.read_csv(io.StringIO(results_csv(records, **options))).set_index("run_id", drop=False)


def section(records, **options) -> str:
    page = report_markdown([reported(record, **options) for record in records], [], [], **options)
    return page.split("## Energy and CO2\n")[1].split("\n## ")[0]


def tables(text: str) -> list[list[dict[str, str]]]:
    """Every Markdown table as rows of heading → cell."""
    found = []
    for block in text.split("\n\n"):
        lines = [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in block.splitlines()]
        if block.startswith("|"):
            found.append([dict(zip(lines[0], cells, strict=True)) for cells in lines[2:]])
    return found


# Grids


def test_a_country_has_its_year_and_its_source_and_letters_may_be_small():
    france = grid_of(" fra ")
    assert (round(france.g_per_kwh), france.region, france.year) == (56, "FRA", 2023)
    assert france.source.startswith("codecarbon 3.")
    assert "Our World in Data" in france.source
    assert france.text() == "FRA 2023: 56 g/kWh"
    assert [round(grid_of(code).g_per_kwh) for code in FIVE_GRIDS] == [56, 238, 369, 381, 662]


def test_every_country_of_the_packaged_table_is_a_grid_or_refused_as_zero():
    folder = find_spec("codecarbon").submodule_search_locations[0]
    table = json.loads((Path(folder) / "data/private_infra/global_energy_mix.json").read_text(encoding="utf-8"))
    assert len(table) > 200
    for code, facts in table.items():
        if facts["carbon_intensity"] > 0:
            grid = grid_of(code)
            assert (grid.g_per_kwh, grid.year) == (facts["carbon_intensity"], facts["year"])
        else:
            with pytest.raises(UsageError, match=f"--grid {code}: .* 0.0 g/kWh .*--grid-g-per-kwh"):
                grid_of(code)


def test_a_grid_is_read_without_codecarbon_torch_or_pandas():
    code = (
        "import sys; from bench.report.grids import grid_of; grid_of('FRA');"
        "print(sorted({'codecarbon', 'torch', 'pandas', 'numpy', 'requests'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("code", "hint"),
    [("France", r"Did you mean FRA \(France\)\?"), ("GBT", "GBR"), ("FR", r"FRA \(France\)"), ("", "three-letter")],
)
def test_an_unknown_country_gets_a_suggestion(code, hint):
    with pytest.raises(UsageError, match=hint):
        grid_of(code)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"g_per_kwh": 30.0}, "--grid-source and --grid-year"),
        ({"g_per_kwh": 30.0, "source": "contract"}, "--grid-year"),
        ({"g_per_kwh": 30.0, "year": 2024}, "--grid-source"),
        ({"g_per_kwh": 30.0, "year": 2024, "source": "  "}, "--grid-source"),
        ({"source": "contract"}, "--grid-g-per-kwh"),
        ({"code": "FRA", "year": 2024}, "--grid-g-per-kwh"),
        ({"code": "FRA", "g_per_kwh": 30.0, "year": 2024, "source": "x"}, "one of them"),
        ({"g_per_kwh": 0.0, "year": 2024, "source": "x"}, "above zero"),
        ({"g_per_kwh": -1.0, "year": 2024, "source": "x"}, "above zero"),
        ({"g_per_kwh": float("nan"), "year": 2024, "source": "x"}, "above zero"),
        ({"g_per_kwh": float("inf"), "year": 2024, "source": "x"}, "above zero"),
        ({"g_per_kwh": 30.0, "year": 24, "source": "x"}, "--grid-year 24"),
    ],
)
def test_half_a_grid_is_a_usage_error(given, named):
    with pytest.raises(UsageError, match=named):
        chosen_grid(**given)


def test_a_figure_of_ones_own_keeps_its_source_and_nothing_given_is_no_grid():
    assert chosen_grid() is None
    assert chosen_grid(code="POL") == grid_of("POL")
    own = chosen_grid(g_per_kwh=30.0, source=" contract ", year=2024)
    assert own == Grid(g_per_kwh=30.0, region="own figure", year=2024, source="contract")


@pytest.mark.parametrize("pue", [0.99, 0.0, -1.0, float("nan"), float("inf")])
def test_a_pue_below_one_or_not_finite_is_a_usage_error(pue, tmp_path):
    with pytest.raises(UsageError, match="--pue"):
        checked_pue(pue)
    with pytest.raises(UsageError, match="--pue"):
        write_report(tmp_path / "results", tmp_path / "reports", pue=pue)
    assert not (tmp_path / "reports").exists()


def test_a_pue_of_one_is_said_as_it_only():
    assert (pue_text(checked_pue(1.0)), pue_text(checked_pue(1.25))) == ("PUE 1 (IT only)", "PUE 1.25")


# From joules to CO2


def test_co2_is_kwh_times_pue_times_the_grid():
    found = co2_of(energy(7.2e6, 3.6e5, unit="J"), TRAIN, HUNDRED, 1.5)
    assert found.unit == "kg"
    assert (found.value, found.low, found.high) == pytest.approx((0.3, 0.285, 0.315))
    assert (found.kind, found.label, found.systematic, found.n) == ("computed", COUNTER, 0.05, 20)
    per_thousand = co2_of(energy(3.6), GENERATE, HUNDRED, 1.0)
    assert (per_thousand.value, per_thousand.unit, per_thousand.low) == (pytest.approx(0.1), "g", None)


@given(
    joules=st.floats(1e-6, 1e12),
    down=st.floats(0, 1),
    up=st.floats(0, 1),
    pue=st.floats(1, 5),
    g_per_kwh=st.floats(0.1, 2000),
)
def test_the_interval_goes_along_whatever_the_factor(joules, down, up, pue, g_per_kwh):
    grid = Grid(g_per_kwh=g_per_kwh, region="own figure", year=2024, source="x")
    known = energy(joules, unit="J").model_copy(update={"low": joules * (1 - down), "high": joules * (1 + up)})
    for activity in ACTIVITIES:
        found = co2_of(known, activity, grid, pue)
        assert found.low <= found.value <= found.high
        assert found.high - found.value == pytest.approx(
            found.value * (known.high / joules - 1), abs=found.value * 1e-9
        )


def test_no_grid_and_no_energy_are_unknown_with_the_reason():
    assert co2_of(energy(1.0), GENERATE, None, 1.0).note == "no grid given"
    nothing = unknown("J/image", NO_METER, source="energy meters", label="unavailable")
    found = co2_of(nothing, GENERATE, HUNDRED, 1.0)
    assert (found.value, found.note, found.label) == (None, NO_METER, "unavailable")


def test_the_sentence_of_a_plan():
    france = grid_of("FRA")
    assert co2_sentence(12.3 * 3600, france) == "about 12 Wh, 0.69 g CO2 (FRA 2023: 56 g/kWh)"
    assert co2_sentence(7.2e7, france, 1.3) == "about 20 kWh, 1.5 kg CO2 (FRA 2023: 56 g/kWh, PUE 1.3)"
    assert co2_sentence(12 * 3600, None) == "about 12 Wh, CO2 unknown: no grid given"
    assert co2_sentence(None, None) == "energy and CO2 unknown: no grid given"
    assert co2_sentence(None, france) == "energy and CO2 unknown"


# In the CSV


def test_the_csv_has_energy_with_label_and_sensor_error_and_co2_under_the_grid_of_its_row():
    row = rows_of([energy_record()], grid=HUNDRED, pue=1.2).iloc[0]
    ends = ("", "_low", "_high", "_label", "_systematic")
    name = "generate_energy_j_per_image"
    assert [row[name + end] for end in ends] == [0.7264, 0.7264 - 0.0031, 0.7264 + 0.0031, COUNTER, 0.05]
    assert row["co2_g_per_1000_images"] == pytest.approx(0.7264 / 3.6e6 * 1.2 * 100 * 1000)
    assert row["co2_g_per_1000_images_low"] == pytest.approx((0.7264 - 0.0031) / 3.6e6 * 1.2 * 100 * 1000)
    assert row["co2_g_per_1000_train_images"] == pytest.approx(3.3 / 3.6e6 * 1.2 * 100 * 1000)
    assert row["co2_kg_train"] == pytest.approx(912345 / 3.6e6 * 1.2 * 100 / 1000)
    assert row["co2_kg_train_high"] == pytest.approx(915345 / 3.6e6 * 1.2 * 100 / 1000)
    assert (row["co2_kg_train_label"], row["co2_kg_train_systematic"]) == (COUNTER, 0.05)
    assert row[["grid_region", "grid_g_per_kwh", "grid_year", "grid_source", "pue"]].tolist() == [
        "own figure",
        100,
        2024,
        "contract",
        1.2,
    ]
    assert bool(row["generate_energy_publishable"])


def test_without_a_grid_co2_is_empty_and_the_notes_say_so():
    row = rows_of([energy_record()]).iloc[0]
    empty = [name for name in row.index if name.startswith(("co2_", "grid_", "pue")) and not name.endswith("_label")]
    assert len(empty) == 3 * 4 + 5
    assert row[empty].isna().all()
    assert row["generate_energy_j_per_image"] == 0.7264
    for activity in ACTIVITIES:
        assert f"{activity.co2}: no grid given" in row["notes"]


def test_a_run_without_a_meter_has_no_zero_but_the_reason():
    row = rows_of([without_meter()], grid=HUNDRED).iloc[0]
    assert pd.isna(row["generate_energy_j_per_image"])
    assert pd.isna(row["co2_g_per_1000_images"])
    assert row["generate_energy_j_per_image_label"] == "unavailable"
    assert pd.isna(row["generate_energy_publishable"])
    assert f"generate_energy_j_per_image: {NO_METER}" in row["notes"]
    assert f"co2_g_per_1000_images: {NO_METER}" in row["notes"]


def test_a_run_of_the_first_schema_says_that_energy_was_not_read():
    old = Record.model_validate_json((Path(__file__).parent / "records" / "schema_1.json").read_text(encoding="utf-8"))
    row = rows_of([old], grid=HUNDRED).iloc[0]
    assert "generate_energy_j_per_image: measured by a version of bench that read no energy" in row["notes"]
    assert "read no energy" in section([old], grid=HUNDRED)


def test_windows_too_short_for_joules_are_not_publishable_though_the_run_is():
    row = rows_of([energy_record(publishable=False)]).iloc[0]
    assert bool(row["publishable"])
    assert not bool(row["generate_energy_publishable"])
    assert "generate_energy_j_per_image: not publishable: SHORT" in row["notes"]
    assert tables(section([energy_record(publishable=False)]))[0][0]["publishable"] == "not publishable: SHORT"
    smoke = rows_of([energy_record(preset="smoke")]).iloc[0]
    assert not bool(smoke["generate_energy_publishable"])
    silent = energy_record()
    silent.phases["generate"].protocol.clear()
    assert "the record does not say how" in rows_of([silent]).iloc[0]["notes"]


def test_a_hostile_source_is_inert():
    grid = Grid(g_per_kwh=1.0, region="own figure", year=2024, source=HOSTILE)
    assert rows_of([energy_record()], grid=grid).iloc[0]["grid_source"].startswith("'=")
    text = section([energy_record()], grid=grid)
    assert "<script" not in text
    assert "\x1b" not in text


# In the Markdown


def test_the_section_gives_gross_net_label_sensor_scope_and_worth():
    first, *_, training = tables(section([energy_record()], grid=HUNDRED))[0]
    assert first["gross (J)"] == "0.726(3)"
    assert first["net (J)"] == "0.512(6)"
    assert (first["sensor"], first["known by"], first["scope"]) == ("± 5 %", COUNTER, "gpu + cpu")
    assert (first["CO2"], first["publishable"]) == ("0.02018(9) g per 1000 images", "yes")
    assert (training["gross (J)"], training["CO2"]) == ("912000(3000)", "0.02534(8) kg")
    text = section([energy_record()], grid=HUNDRED)
    assert "own figure 2024: 100 g/kWh; source: contract; PUE 1 (IT only)" in text
    parts = tables(text)[1]
    assert (parts[0]["GPU (J)"], parts[0]["idle (W)"]) == ("0.611(3)", "70.2(11)")
    assert parts[-1]["second meter, gap to ours"] == r"codecarbon_gpu 905007 J \[estimated\], -0.8 %"


def test_the_same_joules_stand_under_five_grids_with_their_years():
    under = tables(section([energy_record(), without_meter()]))[-1]
    assert [row["CO2 of"] for row in under] == [activity.amount_title for activity in ACTIVITIES]
    headings = [name for name in under[0] if "g/kWh" in name]
    assert headings[0] == "FRA 2023, 56 g/kWh"
    assert [heading[:3] for heading in headings] == list(FIVE_GRIDS)
    grams = [float(under[0][heading].split("(")[0]) for heading in headings]
    expected = [0.7264 / 3.6e6 * 1000 * grid_of(code).g_per_kwh for code in FIVE_GRIDS]
    assert grams == pytest.approx(expected, rel=0.01)
    assert under[2][headings[4]].endswith(" kg")


def test_without_measured_energy_a_sentence_stands_for_the_five_grids():
    for records in ([without_meter()], [energy_record(label=TDP)]):
        text = section(records, grid=HUNDRED)
        assert "No run has a measured energy" in text
        assert "POL" not in text
    assert "No runs yet." in section([])


def test_a_row_without_energy_is_a_dash_with_its_reason():
    text = section([without_meter()])
    (row,) = tables(text)[0]
    assert row["gross (J)"] == row["CO2"] == row["publishable"] == "—"
    assert f"train_energy_net_j of 99990000: {NO_METER}" in text.replace("sagan-", "")
    assert "no grid given" in text


# Simulated figures


def report_beside(record: Record, folder: Path) -> tuple[Path, Path]:
    """A whole report on a real run and on `record` → the folders of the results and of the report."""
    results, reports = folder / "results", folder / "reports"
    for each in (energy_record(), record):
        (results / each.run_id).mkdir(parents=True)
        (results / each.run_id / "record.json").write_text(each.model_dump_json(), encoding="utf-8")
    write_report(results, reports, grid=grid_of("DEU"), pue=1.1)
    return results, reports


@pytest.fixture(scope="module")
def simulated_report(tmp_path_factory) -> tuple[Path, Path]:
    return report_beside(energy_record("fake-77770000", label=FAKE, scale=8.7654321), tmp_path_factory.mktemp("first"))


def test_no_file_of_a_report_depends_on_a_simulated_energy(simulated_report, tmp_path):
    def contents(reports: Path) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in reports.iterdir()}

    other = energy_record("fake-77770000", label=FAKE, scale=3.21)
    other.phases["train"].quantities["codecarbon_gpu_gap"] = figure(0.5, kind="computed")
    first, second = contents(simulated_report[1]), contents(report_beside(other, tmp_path / "second")[1])
    assert first == second
    assert {"results.csv", "report.md", "throughput.png"} <= set(first)
    measured = energy_record("fake-77770000", scale=3.21)
    third = contents(report_beside(measured, tmp_path / "third")[1])
    assert first["results.csv"] != third["results.csv"]
    assert first["report.md"] != third["report.md"]


def test_a_simulated_row_says_that_it_is_not_published(simulated_report):
    _, reports = simulated_report
    table = pd.read_csv(reports / "results.csv").set_index("run_id")
    fake, real = table.loc["fake-77770000"], table.loc["ladagan-1234abcd"]
    withheld = [name for name in table.columns if name.startswith(("co2_", "codecarbon_")) or "energy" in name]
    withheld = [name for name in withheld if not name.endswith(("_label", "_publishable"))]
    assert len(withheld) > 30
    assert fake[withheld].isna().all()
    assert not real[["generate_energy_j_per_image", "co2_kg_train", "codecarbon_gpu_gap"]].isna().any()
    assert FAKE not in fake.astype(str).tolist()
    for name in ("generate_energy_j_per_image", "generate_idle_power_w", "co2_g_per_1000_images", "co2_kg_train"):
        assert f"{name}: simulated, not published" in fake["notes"]
    assert "codecarbon_gpu_gap: measured beside a simulated device, not published" in fake["notes"]
    assert not bool(fake["publishable"])
    assert fake["generate_images_per_s"] == real["generate_images_per_s"]
    page = (reports / "report.md").read_text(encoding="utf-8")
    row = next(row for row in tables(page.split("## Energy and CO2\n")[1])[0] if row["run"] == "77770000")
    assert row["gross (J)"] == row["CO2"] == "—"
    assert "77770000: simulated, not published" in page
    assert "simulated" in page.split("## Runs")[1].split("## Energy")[0]


def test_a_total_computed_from_a_simulated_part_is_withheld_too():
    record = energy_record()
    mixed = energy(1.25, 0.1, label=FAKE, kind="computed")
    record.phases["generate"].quantities["generate_energy_j_per_image"] = mixed
    copy = reported(record, HUNDRED)
    assert copy.quantity("generate_energy_j_per_image").value is None
    assert copy.quantity("co2_g_per_1000_images").note == "simulated, not published"
    assert not bool(rows_of([record]).iloc[0]["publishable"])


def test_reporting_leaves_the_record_as_it_was_and_never_stores_co2(simulated_report):
    results, _ = simulated_report
    for record in (energy_record(), energy_record("fake-77770000", label=FAKE, scale=8.7654321)):
        before = record.model_dump_json()
        assert reported(record, HUNDRED, 1.2).quantity("co2_kg_train") is not None
        assert record.model_dump_json() == before
        assert (results / record.run_id / "record.json").read_text(encoding="utf-8") == before
    shown = show_run(StoredRun(energy_record(label=FAKE), Path("results")))
    assert "0.726(3)  J/image" in shown
    assert f"± 5 % by the sensor itself n=20 {FAKE}" in shown


# Estimates


def test_an_estimate_has_one_digit_and_a_mark_also_after_it_became_co2():
    row = tables(section([energy_record(label=TDP)], grid=HUNDRED))[0][0]
    assert row["gross (J)"] == r"≈0.7 \[estimated\]"
    assert row["CO2"] == r"≈0.02 g per 1000 images \[estimated\]"
    assert row["publishable"] == "not publishable: not measured (estimated:tdp)"
    cells = rows_of([energy_record(label=TDP)], grid=HUNDRED).iloc[0]
    assert cells["generate_energy_j_per_image"] == 0.7264
    assert cells["co2_g_per_1000_images_label"] == TDP
    assert not bool(cells["generate_energy_publishable"])
    assert "co2_g_per_1000_images: estimated" in cells["kinds"]
    assert "generate_energy_j_per_image: estimated" in cells["kinds"]


def test_no_energy_orders_or_emphasises_a_row():
    low, high = (
        [energy_record(f"{letter}-{index}", label=TDP, model=letter, scale=scale) for index, letter in enumerate("abc")]
        for scale in (0.01, 50.0)
    )
    mixed = [high[0], low[1], high[2]]
    for records in (low, high, mixed, mixed[::-1]):
        assert [row["model"] for row in tables(section(records, grid=HUNDRED))[0][::3]] == ["a", "b", "c"]
        assert rows_of(records)["model"].tolist() == ["a", "b", "c"]
        rows = [line for line in section(records, grid=HUNDRED).splitlines() if line.startswith("|")]
        assert not any("**" in line for line in rows)


@pytest.mark.parametrize(
    ("value", "text"), [(34.7, "30"), (0.0123, "0.01"), (2.5e6, "2000000"), (1e-7, "1e-07"), (0.0, "0"), (9.6, "10")]
)
def test_one_digit_is_one_digit(value, text):
    assert rounded(value, 1) == text
    assert format_quantity(energy(value, value / 2, label=TDP)) == f"≈{text} [estimated]"


def test_a_replayed_phase_is_marked_as_attributed_and_a_measured_total_is_not():
    assert format_quantity(energy(2.0, 0.3, label="attributed:replay")) == "2.0(3) [attributed]"
    assert format_quantity(energy(2.0, 0.3, label="attributed:replay", kind="computed")) == "2.0(3) [attributed]"
    assert format_quantity(energy(2.0, 0.3, kind="computed")) == "2.0(3)"
