"""The CSV and the Markdown report: every digit kept, every unknown explained, nothing compared that must not be."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
from test_report import HOSTILE, failed_phases, figure, make_phases, make_record, read_csv, results_csv

from bench.records import unknown
from bench.report.markdown import PictureNote, report_markdown
from bench.report.text import show_run, terminal_table
from bench.store import StoredRun


def test_the_csv_keeps_every_digit_and_leaves_unknown_empty_with_a_reason():
    phases = failed_phases()
    phases["generate"] = phases["generate"].model_copy(
        update={"quantities": {"generate_images_per_s": unknown("image/s", "clock broke", source="clock")}}
    )
    table = read_csv([make_record(), make_record("sagan-1", model="sagan", phases=phases, preset="smoke")])
    whole, broken = table.iloc[0], table.iloc[1]
    assert (whole["train_images_per_s"], whole["train_images_per_s_low"]) == (52.718, 52.718 - 0.512)
    assert bool(whole["publishable"])
    assert not bool(broken["publishable"])
    assert whole["kinds"] == "mode_kl: estimated"
    assert pd.isna(broken["train_images_per_s"])
    assert pd.isna(broken["rfd_v1"])
    assert pd.isna(broken["rfd_v1_high"])
    assert "generate_images_per_s: clock broke" in broken["notes"]
    assert "train_images_per_s: the phase train_step is oom: out of memory at batch 32" in broken["notes"]
    assert "quality: skipped: there are no trained weights" in broken["notes"]
    assert broken["status_reason"] == "train_step: out of memory at batch 32"
    assert "19901647," in results_csv([make_record()])


def test_the_csv_starts_with_the_promised_columns_even_without_runs():
    promised = [
        "run_id",
        "model",
        "size",
        "dataset",
        "resolution",
        "device",
        "precision",
        "batch_size",
        "seed",
        "preset",
        "publishable",
        "status",
    ]
    header = list(read_csv([]).columns)
    assert header[:13] == [*promised, "status_reason"]
    assert header[13:16] == ["num_params_generator", "num_params_generator_low", "num_params_generator_high"]
    assert header[-8:-2] == ["cpu", "gpus", "torch", "harness_version", "model_source_hash", "created_at"]
    assert header == list(read_csv([make_record(phases={})]).columns)


def test_a_quantity_named_like_another_column_overwrites_nothing():
    phases = make_phases()
    odd = {"model": figure(7.0), "rfd_v1_low": figure(8.0), "=evil": figure(9.0)}
    phases["train"] = phases["train"].model_copy(update={"quantities": odd})
    row = read_csv([make_record(phases=phases)]).iloc[0]
    assert row["model"] == "ladagan"
    assert row["quantity:model"] == 7
    assert row["rfd_v1_low"] == 0.0612 - 0.0021
    assert row["quantity:rfd_v1_low"] == 8
    assert row["'=evil"] == 9


def test_hostile_strings_are_inert_in_every_table():
    record = make_record(HOSTILE, model=HOSTILE, dataset=HOSTILE, size="+x", recipe={"source": HOSTILE})
    cell = read_csv([record]).iloc[0]
    assert cell["run_id"].startswith("'=")
    assert cell["size"] == "'+x"
    for text in (terminal_table([record]), show_run(StoredRun(record, Path("results")))):
        assert "\x1b" not in text
        assert "\u202e" not in text
    markdown = report_markdown([record], [], [HOSTILE])
    assert "<script" not in markdown
    assert "\x1b" not in markdown
    rows = [line for line in markdown.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows[:3]} == {15}


def test_the_report_shows_quality_beside_what_real_images_get():
    markdown = report_markdown([make_record()], [], [])
    assert "0.061(2) (18× the floor; real 0.0034(2); untrained 1.930(10))" in markdown
    assert "612 (real 1530)" in markdown
    assert "**M1** bench-box: Two-core CPU" in markdown
    assert "**—**" not in markdown
    assert "1.71(5) \\[estimated\\]" in markdown
    assert "| 412(3) |" in markdown
    assert "52.7(5)" in markdown
    assert "19.90 M" in markdown
    assert "ladagan (ours)" in markdown
    assert "ours: CIFAR layout" in markdown
    assert "paper, table 6" in markdown
    assert "licence: MIT" in markdown


def test_the_report_marks_smoke_and_failed_runs_and_names_every_unknown():
    records = [make_record(preset="smoke"), make_record("sagan-1", model="sagan", phases=failed_phases())]
    markdown = report_markdown(records, [], ["'x/record.json' is not a record"])
    assert "| ok; smoke, not publishable |" in markdown
    assert "| oom: train_step: out of memory at batch 32 |" in markdown
    assert "train_images_per_s, peak_memory_bytes of sagan-1: the phase train_step is oom: out of memory" in markdown
    assert "'x/record.json' is not a record" in markdown


def test_quality_of_two_data_sets_never_shares_a_table():
    records = [make_record("a"), make_record("b", dataset="stacked-digits"), make_record("c", resolution=64)]
    markdown = report_markdown(records, [], [])
    titles = [line for line in markdown.splitlines() if line.startswith("### ") and line.endswith(" px")]
    assert titles[:3] == ["### scenes 32 px", "### scenes 64 px", "### stacked-digits 32 px"]
    tables = re.split(r"^### ", markdown.split("## Runs")[1].split("## Energy and CO2")[0], flags=re.MULTILINE)[1:]
    assert [sum(line.startswith(("| a ", "| b ", "| c ")) for line in table.splitlines()) for table in tables] == [
        2
    ] * 3


def test_rows_of_different_protocols_carry_different_letters():
    phases = make_phases()
    rfd = {**phases["quality"].protocol["rfd_v1"], "num_images": 500}
    other = {"rfd_v1": rfd, "score_duration_s": 9.0}
    phases["quality"] = phases["quality"].model_copy(update={"protocol": other})
    same = report_markdown([make_record("a"), make_record("b", scale=2.0)], [], [])
    mixed = report_markdown([make_record("a"), make_record("b", phases=phases)], [], [])
    assert "Q2" not in same
    assert "differ in" not in same
    assert "| Q2 |" in mixed
    assert "differ in: metrics.rfd_v1.num_images." in mixed


def test_a_picture_without_data_is_a_sentence():
    notes = [PictureNote("Losses", None, "No run has a training log."), PictureNote("Samples", "samples.png", "Last.")]
    markdown = report_markdown([], notes, [])
    assert "### Losses\n\nNo run has a training log." in markdown
    assert "](samples.png)" in markdown
    assert "loss.png" not in markdown
