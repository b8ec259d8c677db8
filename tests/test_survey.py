"""Many records: one pass, few in memory, every run in the CSV files; the long table; what the audit takes out."""

from __future__ import annotations

import io
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from test_report import HOSTILE, failed_phases, figure, make_machine, make_phases, make_record

from bench.audit import TOPICS, audit
from bench.records import unknown
from bench.report import survey as survey_module
from bench.report.ranking import why_each_is_not_ranked, why_not_ranked
from bench.report.survey import judged, survey
from bench.report.text import MAX_TERMINAL_RUNS, newest_runs
from bench.report.write import write_report
from bench.store import load_newest

MANY = 10_000


def keep(results: Path, record) -> None:
    (results / record.run_id).mkdir(parents=True)
    (results / record.run_id / "record.json").write_text(record.model_dump_json(), encoding="utf-8")


@pytest.fixture(scope="module")
def dozen(tmp_path_factory) -> Path:
    results = tmp_path_factory.mktemp("dozen")
    for day in range(1, 13):
        created = f"2026-02-{day:02d}T00:00:00+00:00"
        keep(results, make_record(f"run-{day:08d}", seed=day, created_at=created, scale=1 + day / 100))
    (results / "torn").mkdir()
    (results / "torn" / "record.json").write_text("{")
    return results


def test_the_newest_runs_are_shown_and_every_run_is_in_the_tables(dozen, tmp_path, monkeypatch):
    monkeypatch.setattr(survey_module, "MAX_SHOWN_RUNS", 3)
    found = survey(dozen)
    assert [run.record.run_id for run in found.shown] == ["run-00000010", "run-00000011", "run-00000012"]
    assert set(found.findings) == {run.record.run_id for run in found.shown}
    assert (found.num_runs, len(found.problems)) == (12, 1)
    files = write_report(dozen, tmp_path)
    assert files.left_out == "The 3 newest of 12 runs are shown; the CSV files hold all of them."
    assert files.left_out in files.markdown.read_text()
    assert len(pd.read_csv(tmp_path / "results.csv")) == 12
    assert pd.read_csv(tmp_path / "measurements.csv")["run_id"].nunique() == 12


def test_the_long_table_has_a_row_per_figure_with_types_that_a_spreadsheet_keeps(dozen, tmp_path):
    keep(tmp_path / "results", make_record(HOSTILE.replace("/", " ").replace("\n", " "), model=HOSTILE))
    keep(tmp_path / "results", make_record("oom", phases=failed_phases(), preset="smoke"))
    table = pd.read_csv(io.StringIO(survey(tmp_path / "results").tables["measurements.csv"].text()))
    assert [str(table[name].dtype) for name in ("value", "low", "high", "n")] == ["float64"] * 4
    assert [str(table[name].dtype) for name in ("resolution", "batch_size", "seed")] == ["int64"] * 3
    assert str(table["ranked"].dtype) == "bool"
    rfd = table[(table.figure == "rfd_v1")].iloc[0]
    assert (rfd.value, rfd.n, rfd.provenance, rfd.phase) == (0.0612, 20, "measured", "quality")
    assert rfd.run_id.startswith("'=")
    unknown = table[table.figure == "co2_g_per_1000_images"].iloc[0]
    assert pd.isna(unknown.value)
    assert "no such figure" in unknown.note or "no grid" in unknown.note
    smoke = table[(table.run_id == "oom") & (table.figure == "generate_images_per_s")].iloc[0]
    assert (smoke.ranked, smoke.why_not_ranked) == (False, "smoke, not publishable")
    counted = table[(table.run_id == "oom") & (table.figure == "macs_generator")].iloc[0]
    assert counted.ranked


def test_one_reason_for_each_figure_and_for_all_at_once_agree():
    for record in (make_record(), make_record(preset="smoke"), make_record(phases=failed_phases())):
        reasons = why_each_is_not_ranked(record)
        assert reasons == {name: why_not_ranked(record, name) for name in reasons}
        assert len(reasons) > 5


def test_an_error_of_the_audit_takes_the_figures_of_its_topic_out_of_every_ranking():
    phases = make_phases()
    gone = {key: fact for key, fact in phases["quality"].protocol["rfd_v1"].items() if not key.endswith("sha256")}
    phases["quality"] = phases["quality"].model_copy(update={"protocol": {"rfd_v1": gone}})
    record = make_record(phases=phases)
    findings = audit(record, {})
    assert "protocol_hashes" in {finding.rule for finding in findings if finding.level == "error"}
    assert TOPICS["protocol_hashes"] == "quality"
    assert why_not_ranked(record, "rfd_v1") == ""
    assert why_not_ranked(judged(record, findings), "rfd_v1") == "not publishable: protocol_hashes"
    assert why_not_ranked(judged(record, findings), "train_images_per_s") == ""


def test_the_list_of_runs_reads_no_more_than_it_shows(dozen, monkeypatch):
    runs, num_records = load_newest(dozen, 5)
    assert (len(runs), num_records) == (5, 13)
    assert "12 readable runs" in newest_runs(dozen)
    monkeypatch.setattr("bench.report.text.MAX_TERMINAL_RUNS", 4)
    assert "The 4 readable runs that were written last, of 13 records" in newest_runs(dozen)
    assert MAX_TERMINAL_RUNS > 12


@pytest.mark.slow
def test_ten_thousand_records_take_time_in_proportion_and_less_than_two_gib(tmp_path):
    template = make_record().model_dump(mode="json")
    results = tmp_path / "results"
    for index in range(MANY):
        folder = results / f"run-{index:08d}"
        folder.mkdir(parents=True)
        facts = {"run_id": folder.name, "spec": template["spec"] | {"seed": index}}
        (folder / "record.json").write_text(json.dumps(template | facts, indent=2), encoding="utf-8")
    fewer = tmp_path / "fewer"
    fewer.mkdir()
    for folder in sorted(results.iterdir())[: MANY // 4]:
        (fewer / folder.name).symlink_to(folder)
    seconds = []
    for source in (fewer, results):
        started = time.perf_counter()
        command = [sys.executable, "-m", "bench", "report", "--results", str(source), "--out", str(tmp_path / "out")]
        subprocess.run(command, check=True, capture_output=True)
        seconds.append(time.perf_counter() - started)
    assert seconds[1] < 6 * seconds[0]
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss < 2 * 2**20  # KiB
    assert len((tmp_path / "out" / "report.html").read_bytes()) <= 2_000_000


def nothing_known(phases):
    """Every figure of every phase unknown."""
    return {
        name: result.model_copy(
            update={"quantities": {key: unknown("1", "nobody looked", source="x") for key in result.quantities}}
        )
        for name, result in phases.items()
    }


@pytest.fixture(scope="module")
def motley(tmp_path_factory) -> Path:
    """Two machines, protocols and precisions; smoke, failed, invalid, simulated, unknown, of an older schema."""
    results = tmp_path_factory.mktemp("motley")
    other_protocol = make_phases(9.0)
    rfd = {**other_protocol["quality"].protocol["rfd_v1"], "num_images": 500}
    other_protocol["quality"] = other_protocol["quality"].model_copy(update={"protocol": {"rfd_v1": rfd}})
    invalid = make_phases(9.0)
    bad = {"status": "invalid", "reason": "the counter went back"}
    invalid |= {name: invalid[name].model_copy(update=bad) for name in ("generate", "train_step", "quality")}
    simulated = make_phases(9.0)
    fake = {"kind": "simulated", "label": "simulated:fake-nvml"}
    joules = {"generate_energy_j_per_image": figure(0.001, 0.0001, "J/image", **fake)}
    found = simulated["generate"].quantities | joules
    simulated["generate"] = simulated["generate"].model_copy(update={"quantities": found})
    for record in (
        make_record("sound-aaaaaaa1"),
        make_record("slower-aaaaaaa2", model="sagan", scale=0.5),
        make_record("machine-bbbbbbb1", model="hit", scale=9.0, machine=make_machine(cpu="Another", torch="2.99.0")),
        make_record("precision-bbbbbbb2", model="vitgan", scale=9.0, precision="bf16"),
        make_record("protocol-bbbbbbb3", model="r3gan", phases=other_protocol),
        make_record("smoke-ccccccc1", model="stylegan2", scale=9.0, preset="smoke"),
        make_record("failed-ccccccc2", model="transgan", phases=failed_phases(), curve=()),
        make_record("invalid-ccccccc3", model="styleswin", phases=invalid),
        make_record("simulated-ccccccc4", model="ganformer", phases=simulated),
        make_record("nulls-ccccccc5", model="styleformer", phases=nothing_known(make_phases()), curve=()),
        make_record("empty-ccccccc6", model="ddpm", phases={}, curve=()),
    ):
        keep(results, record)
    old = json.loads((Path(__file__).parent / "records" / "schema_1.json").read_text())
    (results / old["run_id"]).mkdir()
    (results / old["run_id"] / "record.json").write_text(json.dumps(old))
    return results


def test_of_a_motley_of_records_nothing_wrong_is_ranked_and_every_exclusion_has_its_reason(motley, tmp_path):
    files = write_report(motley, tmp_path, grid=None)
    text = files.markdown.read_text()
    rows = [line for line in text.splitlines() if line.startswith("|")]
    for short in ("ccccccc1", "ccccccc2", "ccccccc3", "ccccccc4", "ccccccc5", "ccccccc6"):
        of_run = [row for row in rows if short in row.split("|")[1]]
        assert of_run, short
        assert not any("**" in row for row in of_run), of_run
    fastest = [row.split("|")[2].strip() for row in rows if "**474(5)**" in row]
    assert fastest == ["r3gan (ours)"]  # as fast as the one on another machine and the one in bf16, which stand alone
    best = [row.split("|")[2].strip() for row in rows if "**0.007(2)" in row]
    assert best == ["hit (ours)", "vitgan (ours)"]  # the machine does not matter; r3gan's protocol is another
    table = pd.read_csv(tmp_path / "measurements.csv").set_index("run_id")
    for run_id in ("smoke-ccccccc1", "invalid-ccccccc3", "simulated-ccccccc4", "nulls-ccccccc5"):
        of_run = table.loc[run_id]
        measured = of_run[of_run.phase.isin(("generate", "train_step", "quality"))]
        assert not measured.ranked.any(), run_id
        assert measured.why_not_ranked.str.len().gt(0).all(), run_id
    assert "the counter went back" in text
    assert "nobody looked" in text
    assert "simulated" in text
    assert "0.001" not in (tmp_path / "results.csv").read_text().split("ganformer")[1].split("\n")[0]
    page = files.page.read_text()
    assert "nobody looked" in page
    assert [path.name for path in (files.page, *files.tables)] == [
        "report.html",
        "results.csv",
        "curve.csv",
        "measurements.csv",
    ]
