"""`bench best`: what surely fits, what maybe, in which order, and why the rest does not."""

import json

import pytest
import typer
from test_compare import protocol
from test_report import HOSTILE, failed_phases, figure, make_machine, make_phases, make_record
from typer.testing import CliRunner

from bench import cli_decide
from bench.errors import UsageError
from bench.report.best import best_of, limits_of
from bench.report.best_text import answer_document, answer_text, asked_about
from bench.store import RunFolder

MEASURED = {"label": "measured:nvml-energy-counter"}


def record(run_id, *, scale=1.0, joules=None, memory_bytes=None, found=None, **facts):
    phases = make_phases(scale)
    extra = {}
    if joules is not None:
        extra["generate_energy_j_per_image"] = figure(joules, joules / 20, "J/image", **(MEASURED | (found or {})))
    if memory_bytes is not None:
        extra["generate_peak_memory_bytes"] = figure(memory_bytes, unit="B")
    generate = phases["generate"]
    phases["generate"] = generate.model_copy(update={"quantities": generate.quantities | extra})
    phases["quality"] = phases["quality"].model_copy(update={"protocol": facts.pop("protocol", protocol())})
    return make_record(run_id, phases=phases, **facts)


def placed(answer):
    """Per group: its order and run ids, those that maybe fit with a question mark."""
    return [
        (group.order, [fit.record.run_id + "?" * bool(fit.unsure) for fit in group.fits]) for group in answer.groups
    ]


@pytest.mark.parametrize(
    ("latency_ms", "expected"),
    [(31.6, "surely"), (31.59, "maybe"), (31.0, "maybe"), (30.8, "maybe"), (30.7, "not")],
)
def test_the_bad_end_fits_surely_the_good_end_maybe_and_outside_not(latency_ms, expected):
    answer = best_of([record("a")], limits_of(latency_ms=latency_ms))  # 31.2(4) ms
    found = "not" if not answer.groups else "maybe" if answer.groups[0].fits[0].unsure else "surely"
    assert found == expected
    assert bool(answer.excluded) == (expected == "not")


def test_at_least_reads_the_other_end():
    answers = [best_of([record("a")], limits_of(images_per_s=rate)) for rate in (409.0, 412.0, 415.0, 416.0)]
    assert [placed(answer) for answer in answers] == [
        [("generate_latency_ms_p50", [name])] for name in ("a", "a?", "a?")
    ] + [[]]


def test_an_absolute_limit_on_joules_counts_the_sensor_s_own_error():
    limits = limits_of(energy_j=1.06)
    assert placed(best_of([record("a", joules=1.0)], limits))[0][1] == ["a"]
    assert placed(best_of([record("a", joules=1.0, found={"systematic": 0.05})], limits))[0][1] == ["a?"]


def test_a_peak_of_memory_is_its_own_bad_end():
    assert placed(best_of([record("a", memory_bytes=2**30)], limits_of(memory_gib=1.0)))[0][1] == ["a"]
    assert not best_of([record("a", memory_bytes=2**30)], limits_of(memory_gib=0.99)).groups


def test_the_order_is_by_joules_where_all_have_measured_ones_else_by_latency():
    limits = limits_of(latency_ms=100)
    both = [record("a", joules=2.0, scale=2.0), record("b", joules=1.0)]
    assert placed(best_of(both, limits)) == [("generate_energy_j_per_image", ["b", "a"])]
    one = [both[0], record("b")]
    assert placed(best_of(one, limits)) == [("generate_latency_ms_p50", ["a", "b"])]
    assert "not all have measured joules" in best_of(one, limits).groups[0].why
    estimated = record("b", joules=1.0, found={"kind": "estimated", "label": "estimated:codecarbon"})
    assert placed(best_of([both[0], estimated], limits))[0][0] == "generate_latency_ms_p50"
    assert placed(best_of(both, limits, by="throughput")) == [("generate_images_per_s", ["a", "b"])]
    assert placed(best_of(both, limits, by="quality")) == [("rfd_v1", ["a", "b"])]


def test_the_sure_ones_stand_before_the_unsure_cheaper_one():
    cheap = record("a", joules=1.0, found={"systematic": 0.5})
    answer = best_of([cheap, record("b", joules=1.2)], limits_of(energy_j=1.3))
    assert placed(answer) == [("generate_energy_j_per_image", ["b", "a?"])]


def test_runs_that_cannot_be_told_from_the_cheapest_share_its_place():
    records = [record("a", scale=1.0), record("b", scale=1.01), record("c", scale=0.5)]
    fits = best_of(records, limits_of(latency_ms=100)).groups[0].fits
    assert [(fit.record.run_id, fit.is_first) for fit in fits] == [("b", True), ("a", True), ("c", False)]


@pytest.mark.parametrize(
    "facts",
    [
        {"machine": make_machine(cpu="Another")},
        {"precision": "bf16"},
        {"resolution": 64},
        {"dataset": "stacked-digits"},
        {"protocol": protocol(rfd__num_images=500)},
        {"batch_size": 64, "joules": 1.0},
    ],
)
def test_what_is_decided_otherwise_stands_in_another_table(facts):
    answer = best_of([record("a", joules=2.0), record("b", **facts)], limits_of(quality=["rfd_v1<=1"]))
    assert len(answer.groups) == 2


def test_the_batch_size_alone_does_not_part_latencies():
    answer = best_of([record("a"), record("b", batch_size=64)], limits_of(latency_ms=100))
    assert len(answer.groups) == 1


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        (record("b", preset="smoke"), "smoke, not publishable"),
        (make_record("b", phases={}), "unknown: the phase generate has not run"),
        (record("b", scale=0.1), "not latency (p50, batch 1) <= 100 ms"),
        (record("b", joules=1.0, found={"kind": "simulated", "label": "simulated:fake-nvml"}), "simulated"),
    ],
)
def test_every_run_that_does_not_fit_is_listed_with_its_reason(other, reason):
    records = [record("a"), other]
    answer = best_of(records, limits_of(latency_ms=100))
    assert [group.fits[0].record.run_id for group in answer.groups] == ["a"]
    assert reason in answer.excluded["b"][0].reason
    assert reason in answer_text(answer, records, num_stored=2, show_all=False)


def test_a_run_whose_training_failed_may_fit_by_what_it_measured():
    answer = best_of([make_record("a", phases=failed_phases())], limits_of(latency_ms=100))
    assert placed(answer)[0][1] == ["a"]
    assert not best_of([make_record("a", phases=failed_phases())], limits_of(quality=["rfd_v1<=9"])).groups


def test_many_exclusions_are_grouped_and_named_in_full_on_request():
    records = [record(f"run-{index:08d}", preset="smoke") for index in range(30)]
    answer = best_of(records, limits_of(latency_ms=100, quality=["rfd_v1<=1"]))
    short, full = (answer_text(answer, records, num_stored=40, show_all=show_all) for show_all in (False, True))
    assert "None of 30 runs (10 others were not asked about) fits" in short
    assert "30 × smoke, not publishable: 00000000, " in short
    assert "and 25 more (--all)" in short
    assert all(f"{index:08d}" in full for index in range(30))


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({}, "Name a budget"),
        ({"latency_ms": -1.0}, "--latency-ms -1 must be more than zero"),
        ({"energy_j": float("nan")}, "--energy-j"),
        ({"memory_gib": 0.0}, "--memory-gib"),
        ({"images_per_s": float("inf")}, "--images-per-s"),
        ({"quality": ["rfd<=1"]}, "Did you mean 'rfd_v1'"),
        ({"quality": ["rfd_v1=1"]}, "--quality 'rfd_v1=1' is not a goal"),
        ({"quality": ["rfd_v1>=1"]}, "better lower, so write <="),
    ],
)
def test_a_budget_that_cannot_be_asked_is_one_sentence(facts, message):
    with pytest.raises(UsageError, match=message.replace("(", r"\(")):
        limits_of(**facts)


def test_runs_are_chosen_by_data_device_and_precision():
    records = [record("a", device="cuda:0"), record("b"), record("c", precision="bf16", resolution=64)]
    assert [each.run_id for each in asked_about(records, device="cuda")] == ["a"]
    assert [each.run_id for each in asked_about(records, precision="bf16")] == ["c"]
    assert [each.run_id for each in asked_about(records, resolution=32)] == ["a", "b"]
    with pytest.raises(UsageError, match="Did you mean 'scenes'"):
        asked_about(records, dataset="scnes")
    with pytest.raises(UsageError, match="Did you mean 'bf16'"):
        asked_about(records, precision="bf15")


def test_hostile_strings_stay_text():
    records = [
        record("a", model=HOSTILE, dataset=f"folder:{HOSTILE}", machine=make_machine(cpu=HOSTILE, torch=HOSTILE)),
        make_record(HOSTILE, phases=failed_phases()),
    ]
    answer = best_of(records, limits_of(latency_ms=100, quality=["rfd_v1<=9"]))
    text = answer_text(answer, records, num_stored=2, show_all=True)
    assert all(line.isprintable() for line in text.split("\n"))
    assert json.dumps(answer_document(answer)).isprintable()


def test_the_command_says_yes_or_no_by_its_exit_code(tmp_path):
    for run in (record("run-a", joules=1.0), record("run-b", joules=2.0, model="sagan")):
        RunFolder(tmp_path, run.run_id).write(run)
    app = typer.Typer()
    app.command()(cli_decide.best)
    asked = ["--energy-j", "5", "--quality", "rfd_v1<=0.2", "--results", str(tmp_path)]
    found = CliRunner().invoke(app, asked)
    assert found.exit_code == 0
    assert "2 of 2 runs fit" in found.stdout
    assert found.stdout == CliRunner().invoke(app, asked).stdout
    document = json.loads(CliRunner().invoke(app, [*asked, "--json"]).stdout)
    assert [fit["run_id"] for fit in document["groups"][0]["fits"]] == ["run-a", "run-b"]
    assert CliRunner().invoke(app, ["--energy-j", "0.5", "--results", str(tmp_path)]).exit_code == 1
    assert CliRunner().invoke(app, ["--energy-j", "0.5", "--results", str(tmp_path / "none")]).exit_code == 1
