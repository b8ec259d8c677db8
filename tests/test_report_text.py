"""What a terminal shows: the table of all runs and one run in full."""

from __future__ import annotations

from pathlib import Path

from test_report import failed_phases, figure, make_record

from bench.records import Finding, unknown
from bench.report.text import show_run, terminal_table
from bench.store import StoredRun


def test_the_terminal_table_fits_and_says_why_a_run_failed():
    records = [
        make_record("ladagan-tiny-scenes-32-cpu-0123456789", preset="smoke", size="tiny"),
        make_record("stylegan2-paper-stacked-digits-32-cuda0-abcdef0123", model="stylegan2", dataset="stacked-digits"),
        make_record("transgan-paper-scenes-32-cpu-9876543210", model="transgan", phases=failed_phases()),
    ]
    text = terminal_table(records)
    assert max(map(len, text.splitlines())) <= 120
    assert "412(3)" in text
    assert "0.061(2)" in text
    assert "ok, smoke" in text
    assert "76543210 oom: train_step: out of memory at batch 32" in text
    assert terminal_table([]).startswith("No runs")


def test_show_gives_every_quantity_and_every_reason():
    note = "the counter was read once"
    phases = failed_phases()
    phases["generate"].quantities["generate_latency_ms_p99"] = unknown("ms", "fewer than 300 samples", source="clock")
    phases["cost"].quantities["odd"] = figure(3.0, 0.2, "W", kind="estimated", note=note)
    record = make_record(phases=phases, validity=(Finding(rule="dirty_tree", level="note", detail="uncommitted"),))
    text = show_run(StoredRun(record, Path("results") / record.run_id))
    for name in (name for phase in record.phases.values() for name in phase.quantities):
        assert f"  {name} " in text
    assert "exactly 19901647" in text
    assert "[409.2, 415.4]" in text
    assert "n=20" in text
    assert f"3.0(2)  W [2.800, 3.200] n=20 estimated from perf_counter windows ({note})" in text
    assert "(fewer than 300 samples)" in text
    assert "Phase train_step: oom: out of memory at batch 32" in text
    assert "Phase quality: skipped: there are no trained weights" in text
    assert "note: dirty_tree: uncommitted" in text
    assert "Two-core CPU" in text
    assert "200kimg" in text
