"""`bench audit`: every rule finds the fault it is for, and is silent on a run that is in order."""

from __future__ import annotations

import copy
import hashlib
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from bench import cli_audit
from bench.audit import RULES, audit, audit_run, badge
from bench.audit import _energy as energy_rules
from bench.audit._quality import COPIES
from bench.meters import codecarbon
from bench.phases import _energy
from bench.records import Finding, Record, Window
from bench.report.audit_text import AuditedRun, audit_document, audit_markdown, audit_terminal, summary
from bench.store import RunFolder, StoredRun, read_record

ROOT = Path(__file__).parent.parent
HOSTILE = "=cmd|'/C calc'!A1 | <script>alert(1)</script> \x1b[2J\u202e [a](javascript:b)\nnext"
RUN_ID = "ladagan-paper-scenes-32-cuda0-0123456789"
WEIGHTS = b"weights"


def figure(value, half_width=None, unit="1", **facts):
    ends = {} if half_width is None else {"low": value - half_width, "high": value + half_width}
    return {"value": value, "unit": unit, "n": 30, "kind": "measured", "source": "tests", **ends, **facts}


def joules(value, half_width, unit="J/image"):
    return figure(value, half_width, unit, label="measured:nvml-energy-counter", systematic=0.05)


def series(window_s):
    return {
        "num_windows": 30,
        "median_window_s": window_s,
        "timer_overhead_share": 1e-6,
        "stationarity": {"change": 0.001, "p_value": 0.4, "is_stationary": True, "finding": ""},
        "disturbances": {"num_disturbed": 0, "by": {}, "load_average_tasks": None, "finding": ""},
    }


def energy(label="measured:nvml-energy-counter"):
    source = {"label": label, "period_s": 0.1, "systematic": 0.05}
    return {"scope": "gpu", "publishable": True, "sources": {"gpu_energy_j": source}}


def timed(**facts):
    return {
        "warmup_s": 30,
        "min_window_s": 10,
        "num_windows": 30,
        "num_warmup_windows": 9,
        "target_half_width": 0.01,
        "stop_rule": "planned",
        "roofs": {"torch": "2.15.0"},
        "energy": energy(),
    } | facts


def quality():
    quantities = {"rfd_v1": figure(0.5, 0.01), "modes_covered": figure(900, 10)}
    beside = {"rfd_v1_real": figure(0.01, 0.001), "modes_covered_real": figure(1520, 15)}
    untrained = {"rfd_v1_untrained": figure(12.0, 0.1), "modes_covered_untrained": figure(0, 1)}
    spreads = {"rfd_v1_seed_spread": figure(0.01, kind="computed")}
    metric = {
        "metric": "rfd_v1",
        "num_images": 30,
        "figures": ["rfd_v1"],
        "features": "random",
        "weights_sha256": "a" * 64,
    }
    protocol = {
        "generated": {"weights": "EMA"},
        "real": {"count": 30},
        "scored": {"weights_sha256": hashlib.sha256(WEIGHTS).hexdigest()},
        "Random features": {**metric, "num_reference": 30, "reference_sha256": "b" * 64},
        "Modes": {
            "metric": "mode_coverage",
            "num_images": 30,
            "figures": ["modes_covered"],
            "palette_sha256": "c" * 64,
        },
    }
    return {**quantities, **beside, **untrained, **spreads}, protocol


def phase(name, minute, quantities, protocol, **facts):
    backend = {"tf32": False, "num_threads": 2}
    meters = {"clock": {"num_cpus": 2}, "nvml": {"driver": "550", "label": "measured:nvml-energy-counter"}}
    return {
        "phase": name,
        "status": "ok",
        "started_at": f"2026-01-02T03:{minute:02}:00+00:00",
        "duration_s": 590.0,
        "quantities": quantities,
        "protocol": {**protocol, "backend": backend, "meters": meters},
    } | facts


def phases():
    agree = {"flag": "", "ratio": 1.0}
    cost = {"convention": "one MAC", "cross_check": {"generator": agree, "discriminator": agree}}
    generate = {
        "generate_images_per_s": figure(100.0, 0.5, "image/s"),
        "generate_latency_ms_p50": figure(20.0, 0.2, "ms"),
        "generate_latency_ms_p99": figure(22.0, 0.2, "ms"),
        "generate_mfu": figure(0.4, 0.01, kind="computed"),
        "generate_energy_j_per_image": joules(3.0, 0.03),
        "generate_energy_net_j_per_image": joules(2.0, 0.03),
        "generate_power_w": joules(300.0, 3.0, "W"),
        "generate_idle_power_w": joules(100.0, 1.0, "W"),
    }
    train = {
        "num_images_shown": figure(200000.0, unit="image"),
        "train_duration_s": figure(580.0, unit="s"),
        "train_loop_images_per_s": figure(45.0, unit="image/s"),
        "data_wait_share": figure(0.01),
        "num_nonfinite_updates": figure(0.0),
        "num_resumes": figure(0.0),
        "final_loss_discriminator": figure(1.0),
        "final_loss_generator": figure(0.9),
        "train_energy_j": joules(9000.0, 3.0, "J"),
        "train_energy_net_j": joules(8000.0, 3.0, "J"),
        "codecarbon_gpu_gap": figure(0.004, kind="computed"),
    }
    training = {"snapshots": [], "resumed_after_images": [], "loading": {}, "energy": energy()}
    step = {"train_images_per_s": figure(50.0, 0.3, "image/s")}
    batches = {"generate.batch": series(11.0), "generate.latency": series(0.02)}
    return {
        "cost": phase("cost", 1, {"counted_op_share": figure(1.0, kind="computed")}, cost, duration_s=5.0),
        "generate": phase(
            "generate", 2, generate, timed(series=batches), artifacts={"windows": "windows/generate.jsonl"}
        ),
        "train_step": phase("train_step", 12, step, timed(series={"train_step": series(11.0)})),
        "train": phase("train", 22, train, training, artifacts={"ema": "ema.safetensors"}),
        "quality": phase("quality", 32, *quality()),
    }


def point(shown, value):
    return {"num_images_shown": shown, "train_duration_s": shown / 400, "quantities": {"rfd_v1": figure(value, 0.01)}}


def sound():
    """The document of a run that nothing can be said against."""
    spec = {"model": "ladagan", "dataset": "scenes", "resolution": 32, "batch_size": 10, "precision": "fp32"}
    spec |= {"device": "cuda:0", "train_for": "200kimg", "preset": "publish"}
    machine = json.loads((ROOT / "tests/records/schema_3.json").read_text())["machine"]
    machine |= {
        "git_dirty": False,
        "num_torch_threads": 2,
        "torch": "2.15.0",
        "gpus": ["GPU"],
        "gpu_power_limit_w": [400.0],
    }
    facts = {"title": "LadaGAN", "year": 2024, "paper": "p", "code": "c", "licence": "MIT", "attention": "additive"}
    return {
        "run_id": RUN_ID,
        "harness_version": "1.0",
        "created_at": "2026-01-02T03:00:00+00:00",
        "spec": spec,
        "machine": machine,
        "model": {**facts, "configuration": "paper", "source_hash": "d" * 64},
        "dataset": {"title": "Scenes", "source": "s", "licence": "MIT", "protocol": {"version": "scenes-v1"}},
        "recipe": {"num_images": 200000},
        "phases": phases(),
        "curve": [point(0, 12.0), point(100000, 1.0), point(200000, 0.5)],
        "status": "ok",
    }


def windows_of(name="generate.batch", length_s=10.0, count=30, warm_ups=4, **facts):
    """Raw windows that give 100 images/s, and a warm-up."""
    found = []
    for index in range(warm_ups + count):
        found.append(
            {"series": name, "index": index, "is_warmup": index < warm_ups, "num_units": round(100 * length_s)}
            | {"duration_s": length_s, "readings": {"gpu_energy_j": 30.0}}
            | (facts if index >= warm_ups else {})
        )
    return found


def latencies(**facts):
    return windows_of("generate.latency", 0.02, 30, 1, **facts)


def raw():
    return {"generate": [*windows_of(), *latencies()], "train_step": windows_of("train_step", num_units=500)}


def unchanged(*_):
    """No change at all."""


def edited(change=unchanged):
    document, windows = sound(), raw()
    change(document, windows)
    record = Record.model_validate_json(json.dumps(document))
    return record, {
        name: [Window.model_validate_json(json.dumps(each)) for each in every] for name, every in windows.items()
    }


def put(path, value):
    """A change of the record at a dotted path."""

    def change(document, windows):
        *parents, last = path.split("/")
        for name in parents:
            document = document[int(name)] if isinstance(document, list) else document[name]
        document[last] = value

    return change


def drop(path):
    def change(document, windows):
        *parents, last = path.split("/")
        for name in parents:
            document = document[name]
        del document[last]

    return change


def swap(phase, *every):
    """A change of a phase's raw windows."""

    def change(document, windows):
        windows[phase] = [window for each in every for window in each]

    return change


def both(*changes):
    def change(document, windows):
        for each in changes:
            each(document, windows)

    return change


GENERATE, TRAIN, QUALITY = ("phases/generate", "phases/train", "phases/quality")
BATCH = f"{GENERATE}/protocol/series/generate.batch"
RATE = f"{GENERATE}/quantities/generate_images_per_s"
J = "generate_energy_j_per_image"
OTHERS = "other processes on the processor"
DRIFT = windows_of()[:4] + [each | {"num_units": 1000 + 2 * i} for i, each in enumerate(windows_of()[4:])]
FAULTS = [
    ("window_length", "warning", swap("generate", windows_of(length_s=5.0), latencies())),
    ("window_length", "warning", both(put(f"{BATCH}/median_window_s", 0.1), swap("generate", []))),
    ("timer_overhead", "warning", put(f"{BATCH}/timer_overhead_share", 0.002)),
    ("timer_overhead", "error", put(f"{BATCH}/timer_overhead_share", 0.02)),
    ("timer_overhead", "warning", put(f"{GENERATE}/protocol/series/generate.latency/timer_overhead_share", 0.02)),
    ("timer_overhead", "note", drop(BATCH)),
    ("num_windows", "warning", swap("generate", windows_of(count=8), latencies())),
    ("num_windows", "error", both(put(f"{RATE}/n", 5), swap("generate", []))),
    ("interval_width", "warning", put(RATE, figure(100.0, 3.0, "image/s"))),
    ("interval_width", "warning", put(RATE, figure(100.0, unit="image/s"))),
    ("stationary", "warning", put(f"{BATCH}/stationarity/is_stationary", False)),
    ("stationary", "warning", both(drop(BATCH), swap("generate", DRIFT, latencies()))),
    ("stationary", "note", both(drop(BATCH), swap("generate", []))),
    ("warm_up", "error", swap("generate", windows_of(warm_ups=0), latencies())),
    ("warm_up", "warning", swap("generate", windows_of(warm_ups=1), latencies())),
    ("warm_up", "error", both(put(f"{GENERATE}/protocol/num_warmup_windows", 0), swap("generate", []))),
    ("figures_match_windows", "error", put(RATE, figure(101.0, 0.5, "image/s"))),
    ("figures_match_windows", "note", swap("generate", [])),
    ("throttled", "error", swap("generate", windows_of(flags=["throttled: hardware slowdown"]), latencies())),
    ("throttled", "warning", swap("generate", windows_of(flags=["power cap: clocks held down"]), latencies())),
    ("throttled", "warning", both(put(f"{BATCH}/disturbances/by", {"CPU frequency changed": 2}), swap("generate", []))),
    ("throttled", "note", both(put(f"{GENERATE}/protocol/series", {}), swap("generate", []))),
    ("other_processes", "error", swap("generate", windows_of(), latencies(flags=["other processes on the GPU: 1"]))),
    ("other_processes", "warning", swap("generate", windows_of(flags=[OTHERS]), latencies())),
    ("other_processes", "error", both(put("spec/device", "cpu"), swap("generate", windows_of(flags=[OTHERS])))),
    ("disturbed", "warning", swap("generate", windows_of(flags=["the moon was full"]), latencies())),
    ("rates_agree", "warning", put(f"{GENERATE}/quantities/generate_latency_ms_p50", figure(130.0, 0.2, "ms"))),
    ("rates_agree", "warning", put(f"{GENERATE}/quantities/generate_latency_ms_p50", figure(5.0, 0.02, "ms"))),
    ("rates_agree", "error", put(f"{GENERATE}/quantities/generate_latency_ms_p99", figure(19.0, 0.2, "ms"))),
    ("rates_agree", "warning", put(f"{TRAIN}/quantities/train_loop_images_per_s", figure(90.0, unit="image/s"))),
    ("roofline", "error", put(f"{GENERATE}/quantities/generate_mfu", figure(1.4, 0.1, kind="computed"))),
    ("roofline", "warning", put(f"{GENERATE}/protocol/roofs/torch", "2.0.0")),
    ("counter_gap", "warning", put(f"{GENERATE}/protocol/energy/sources/gpu_energy_j/period_s", 0.5)),
    ("counter_gap", "error", put(f"{GENERATE}/protocol/energy/sources/gpu_energy_j/period_s", 2.0)),
    ("counter_gap", "note", put(f"{GENERATE}/protocol/energy/sources", {})),
    ("counter_gap", "warning", swap("generate", windows_of(length_s=5.0), latencies())),
    ("counter_gap", "warning", put(f"{TRAIN}/quantities/train_duration_s", figure(9.0, unit="s"))),
    ("energy_label", "error", put(f"{GENERATE}/quantities/{J}", figure(3.0, 0.01, "J/image"))),
    ("energy_label", "error", put(f"{GENERATE}/protocol/energy", energy("measured:nvml-power-polling"))),
    ("energy_label", "error", put(f"{GENERATE}/protocol/energy/sources", {})),
    ("energy_label", "note", drop(f"{GENERATE}/protocol/energy")),
    (
        "energy_estimated",
        "warning",
        put(f"{GENERATE}/quantities/{J}", figure(3.0, 1.0, "J/image", kind="estimated", label="estimated:tdp")),
    ),
    ("energy_sign", "error", put(f"{GENERATE}/quantities/{J}", joules(-3.0, 0.01))),
    ("energy_sign", "warning", put(f"{GENERATE}/quantities/generate_energy_net_j_per_image", joules(-0.1, 0.2))),
    ("energy_sign", "error", put(f"{GENERATE}/quantities/generate_energy_net_j_per_image", joules(3.5, 0.2))),
    ("energy_cross_check", "warning", put(f"{TRAIN}/quantities/codecarbon_gpu_gap/value", -0.05)),
    ("energy_cross_check", "error", put(f"{TRAIN}/quantities/codecarbon_gpu_gap/value", 0.2)),
    ("power_range", "error", put(f"{GENERATE}/quantities/generate_power_w", joules(450.0, 3.0, "W"))),
    ("power_range", "error", put(f"{GENERATE}/quantities/generate_power_w", joules(60.0, 3.0, "W"))),
    (
        "readings_lost",
        "error",
        swap("generate", windows_of(readings={}, problems={"gpu_energy_j": "the counter was reset"}), latencies()),
    ),
    ("energy_uncertainty", "warning", put(f"{GENERATE}/quantities/{J}/systematic", None)),
    ("losses", "error", drop(f"{TRAIN}/quantities/final_loss_generator")),
    ("losses", "warning", put(f"{TRAIN}/quantities/final_loss_generator/value", -5e4)),
    ("nonfinite_updates", "warning", put(f"{TRAIN}/quantities/num_nonfinite_updates/value", 3.0)),
    ("nonfinite_updates", "error", put(f"{TRAIN}/quantities/num_nonfinite_updates/value", 3000.0)),
    ("nonfinite_updates", "note", drop(f"{TRAIN}/quantities/num_nonfinite_updates")),
    ("budget_reached", "error", put(f"{TRAIN}/quantities/num_images_shown/value", 150000.0)),
    ("budget_reached", "error", both(put("spec/train_for", "20min"), put("spec/until", "rfd_v1<=0.1"))),
    ("budget_reached", "error", put("spec/train_for", "many")),
    ("budget_reached", "error", put("spec/train_for", "1kWh")),
    ("budget_reached", "note", put("spec/train_for", None)),
    ("recipe_budget", "warning", put("recipe/num_images", 5000000)),
    ("recipe_budget", "note", drop("recipe/num_images")),
    ("worse_than_untrained", "error", put(f"{QUALITY}/quantities/rfd_v1", figure(14.0, 0.1))),
    ("worse_than_untrained", "warning", put(f"{QUALITY}/quantities/modes_covered_untrained", figure(1000, 1))),
    ("past_its_best", "warning", put("curve", [point(0, 12.0), point(100000, 0.1), point(200000, 0.5)])),
    ("curve", "warning", put("curve", [point(0, 12.0), point(100000, 0.5)])),
    ("curve", "warning", put("curve", [])),
    ("curve", "error", put("curve", [point(100000, 0.5), point(0, 12.0), point(200000, 0.5)])),
    ("data_wait", "warning", put(f"{TRAIN}/quantities/data_wait_share/value", 0.4)),
    ("data_wait", "note", drop(f"{TRAIN}/quantities/data_wait_share")),
    ("resumed", "note", put(f"{TRAIN}/quantities/num_resumes/value", 2.0)),
    ("protocol_complete", "warning", drop(f"{GENERATE}/protocol/stop_rule")),
    ("protocol_complete", "note", both(drop(f"{GENERATE}/protocol/stop_rule"), put("schema_version", 2))),
    ("protocol_complete", "error", put("dataset/protocol", {})),
    ("protocol_complete", "error", put("recipe", {})),
    ("protocol_hashes", "error", drop(f"{QUALITY}/protocol/Random features/reference_sha256")),
    ("protocol_hashes", "error", drop(f"{QUALITY}/protocol/Random features/weights_sha256")),
    ("protocol_hashes", "error", put(f"{QUALITY}/protocol/Modes/palette_sha256", "short")),
    ("protocol_hashes", "error", both(drop(f"{QUALITY}/protocol/Random features"), drop(f"{QUALITY}/protocol/Modes"))),
    ("num_images", "warning", put(f"{QUALITY}/quantities/rfd_v1/n", 20)),
    ("num_images", "warning", put(f"{QUALITY}/protocol/real/count", 20)),
    ("num_images", "warning", put(f"{QUALITY}/quantities/rfd_v1_biased", figure(0.5, 0.1))),
    ("num_images", "note", drop(f"{QUALITY}/protocol/Modes/num_images")),
    ("real_floor", "warning", drop(f"{QUALITY}/quantities/modes_covered_real")),
    ("too_good", "error", put(f"{QUALITY}/quantities/rfd_v1", figure(0.001, 0.0001))),
    ("too_good", "error", put(f"{QUALITY}/quantities/rfd_v1", figure(0.5, 0.01, note=f"3 of the images {COPIES}"))),
    ("quality_interval", "note", put(f"{QUALITY}/quantities/modes_covered", figure(900))),
    ("sampling_seeds", "warning", drop(f"{QUALITY}/quantities/rfd_v1_seed_spread")),
    ("macs_cross_check", "warning", put("phases/cost/protocol/cross_check/generator/flag", "5 and 6: unexplained")),
    ("macs_cross_check", "note", put("phases/cost/protocol/cross_check/generator/flag", "it has no formula for mv")),
    ("macs_cross_check", "note", put("phases/cost/protocol/cross_check/generator", {"failed": "cannot trace"})),
    ("macs_cross_check", "note", drop("phases/cost/protocol/cross_check")),
    ("ops_counted", "warning", put("phases/cost/quantities/counted_op_share", figure(0.9, kind="computed"))),
    ("ops_counted", "note", drop("phases/cost/quantities/counted_op_share")),
    ("preset", "warning", put("spec/preset", "smoke")),
    ("dirty_tree", "warning", put("machine/git_dirty", True)),
    ("dirty_tree", "note", put("machine/git_commit", None)),
    ("source_hash", "error", put("model/source_hash", "")),
    ("source_hash", "warning", put("model/source_hash", "feedbeef")),
    ("run_id", "warning", put("spec/resolution", 64)),
    ("simulated", "error", put(f"{GENERATE}/quantities/{J}/label", "simulated:fake-nvml")),
    ("phase_status", "error", both(put(f"{TRAIN}/status", "oom"), put(f"{TRAIN}/reason", "out of memory"))),
    ("phase_status", "warning", both(put(f"{TRAIN}/status", "inconclusive"), put(f"{TRAIN}/reason", "wide"))),
    ("phase_status", "note", both(put(f"{TRAIN}/status", "skipped"), put(f"{TRAIN}/reason", "--no-data"))),
    ("phase_status", "warning", drop(TRAIN)),
    ("status_agrees", "error", put("status", "failed")),
    ("one_setting", "error", put(f"{TRAIN}/protocol/backend/tf32", True)),
    ("one_setting", "error", put(f"{TRAIN}/protocol/meters/nvml/driver", "560")),
    ("one_setting", "error", put("machine/num_torch_threads", 1)),
    ("one_setting", "error", put("machine/gpus", [])),
    ("one_setting", "note", drop(f"{TRAIN}/protocol/backend")),
    ("clock", "error", put("created_at", "2026-01-02T03:30:00+00:00")),
    ("clock", "error", put(f"{TRAIN}/duration_s", 900.0)),
    ("clock", "error", put(f"{TRAIN}/started_at", "yesterday")),
    ("clock", "error", put(f"{TRAIN}/quantities/train_duration_s/value", 800.0)),
    ("clock", "note", put(f"{QUALITY}/started_at", "2026-01-04T03:32:00")),
]


@pytest.mark.parametrize(
    ("rule", "level", "change"), FAULTS, ids=[f"{index}-{each[0]}" for index, each in enumerate(FAULTS)]
)
def test_a_rule_finds_its_fault(rule, level, change):
    if rule == "simulated":
        change = both(change, put(f"{GENERATE}/quantities/{J}/kind", "simulated"))
    found = [each for each in audit(*edited(change)) if each.rule == rule]
    assert level in {each.level for each in found}, found
    for each in found:
        assert each.detail.endswith(".")
        assert each.remedy.endswith(".")


def test_no_rule_speaks_of_a_run_that_is_in_order():
    assert audit(*edited()) == ()
    assert badge(()) == "sound"


def test_every_rule_has_a_fault_and_one_line():
    of_folders = {"folder_name", "artifacts", "windows_readable", "weights_hash"}
    assert {rule for rule, _, _ in FAULTS} | of_folders == set(RULES)
    assert all(checks.endswith(".") and "\n" not in checks for checks in RULES.values())


def test_findings_stand_in_the_order_of_their_levels():
    found = audit(*edited(both(put("model/source_hash", ""), put("spec/preset", "smoke"), drop(BATCH))))
    levels = [each.level for each in found]
    assert levels == sorted(levels, key=["error", "warning", "note"].index)
    assert badge(found) == "errors"
    assert badge([each for each in found if each.level != "error"]) == "warnings"
    assert badge([each for each in found if each.level == "note"]) == "sound"


def test_a_goal_that_was_met_is_no_early_end():
    met = both(put("spec/until", "rfd_v1<=0.6"), put("spec/train_for", "1Mimg"), put("recipe/num_images", 200000))
    assert "budget_reached" not in {each.rule for each in audit(*edited(met))}


def test_what_the_record_says_of_itself_is_carried_over_once():
    said = [{"rule": "dirty_tree", "level": "note", "detail": "uncommitted"}]
    said += [{"rule": "of_a_phase", "level": "warning", "detail": "look out"}]
    found = audit(*edited(both(put("machine/git_dirty", True), put("validity", said))))
    assert [(each.rule, each.level) for each in found] == [("dirty_tree", "warning"), ("of_a_phase", "warning")]
    assert found[1].detail == "Look out."
    assert found[1].remedy


@pytest.mark.parametrize("version", [1, 2, 3])
def test_records_of_every_schema_are_audited(version):
    record = read_record(ROOT / f"tests/records/schema_{version}.json")
    found = audit(record, {})
    assert {"preset", "figures_match_windows"} <= {each.rule for each in found}
    assert version == 3 or any(each.level == "note" and each.detail.startswith("Cannot be checked") for each in found)


def test_a_record_without_any_phase_is_audited():
    found = audit(*edited(both(put("phases", {}), put("curve", []), put("status", "incomplete"))))
    assert [each.rule for each in found] == ["phase_status"]


def test_hostile_protocols_do_not_stop_the_audit():
    for value in (None, [], "text", {}, {"a": []}, 3, True):
        document = sound()
        for result in document["phases"].values():
            result["protocol"] = {name: copy.deepcopy(value) for name in result["protocol"]}
        assert audit(Record.model_validate_json(json.dumps(document)), {})


def test_the_thresholds_are_those_of_the_measuring_code():
    assert energy_rules.MIN_PUBLISHED_WINDOW_S == _energy.MIN_PUBLISHED_WINDOW_S
    assert energy_rules.MIN_PUBLISHED_PERIODS == _energy.MIN_PUBLISHED_PERIODS
    assert (energy_rules.FLAG_GAP, energy_rules.INVALID_GAP) == (codecarbon.FLAG_GAP, codecarbon.INVALID_GAP)


def test_the_words_that_rules_look_for_are_those_the_code_writes():
    def source(name):
        return (ROOT / "bench" / name).read_text()

    assert COPIES in source("metrics/_frechet_50k.py").replace('"\n                    f"', "")
    for flag in ("throttled: ", "power cap: ", "power limit changed", "SM clock changed", "other processes on the GPU"):
        assert flag in source("meters/_nvml_state.py")
    for flag in ("CPU frequency changed", "quota", OTHERS, "stolen by the hypervisor"):
        assert flag in source("meters/clock.py")
    assert "it has no formula for" in source("phases/_cost_fvcore.py")


# The folder


@pytest.fixture
def stored(tmp_path):
    """A sound run on disk."""
    record, windows = edited()
    folder = RunFolder(tmp_path, RUN_ID)
    folder.write(record)
    for name, every in windows.items():
        folder.write_windows(name, every)
    (folder.path / "ema.safetensors").write_bytes(WEIGHTS)
    return StoredRun(record, folder.path)


def rules_of(run):
    return {each.rule: each.level for each in reversed(audit_run(run))}  # the gravest of each rule


def test_a_folder_in_order_is_sound(stored):
    assert audit_run(stored) == ()


def test_a_renamed_folder_is_an_error(stored):
    moved = stored.folder.rename(stored.folder.with_name("another"))
    assert rules_of(StoredRun(stored.record, moved)) == {"folder_name": "error"}


def test_missing_files_are_errors_and_missing_weights_a_note(stored):
    (stored.folder / "ema.safetensors").unlink()
    assert rules_of(stored) == {"artifacts": "note"}
    (stored.folder / "windows/generate.jsonl").unlink()
    assert rules_of(stored) == {"artifacts": "error", "figures_match_windows": "note"}


def test_a_missing_grid_is_an_error_where_it_is_the_last_and_a_note_where_it_is_an_earlier_one(stored):
    document = sound()
    document["phases"]["train"]["artifacts"] |= {
        "samples_0000000000": "samples/0.png",
        "samples_0000000999": "samples/9.png",
    }
    record = Record.model_validate_json(json.dumps(document))
    (stored.folder / "samples").mkdir()
    assert rules_of(StoredRun(record, stored.folder)) == {"artifacts": "error"}
    (stored.folder / "samples" / "9.png").write_bytes(b"the last grid")
    assert rules_of(StoredRun(record, stored.folder)) == {"artifacts": "note"}


def test_a_path_out_of_the_folder_is_an_error_and_not_followed(stored):
    for path in ("../../secret", "/etc/passwd", "windows/../../x"):
        document = sound()
        document["phases"]["cost"]["artifacts"] = {"log": path}
        record = Record.model_validate_json(json.dumps(document))
        assert rules_of(StoredRun(record, stored.folder)) == {"artifacts": "error"}


@pytest.mark.parametrize("damage", [b'{"series": "gen', b"\xff\xfe", b"[]", b'{"series": "x", "index": NaN}'])
def test_a_damaged_window_file_is_a_finding_and_no_crash(stored, damage):
    with (stored.folder / "windows/generate.jsonl").open("ab") as file:
        file.write(damage)
    found = {each.rule: each for each in audit_run(stored)}
    assert found["windows_readable"].level == "error"
    assert "Line 66" in found["windows_readable"].detail


def test_other_weights_than_those_scored_are_an_error(stored):
    (stored.folder / "ema.safetensors").write_bytes(b"others")
    assert rules_of(stored) == {"weights_hash": "error"}


def test_a_hash_that_nobody_wrote_down_cannot_be_checked(stored):
    document = sound()
    del document["phases"]["quality"]["protocol"]["scored"]
    record = Record.model_validate_json(json.dumps(document))
    assert rules_of(StoredRun(record, stored.folder)) == {"weights_hash": "note", "protocol_complete": "warning"}


def test_a_record_is_audited_in_a_few_milliseconds():
    """No bound on the time itself: an audit must not take more than some readings of the same record."""
    text = json.dumps(sound())
    started = time.perf_counter()
    for _ in range(20):
        record = Record.model_validate_json(text)
    reading_s = time.perf_counter() - started
    started = time.perf_counter()
    for _ in range(20):
        audit(record, {})
    assert time.perf_counter() - started < 20 * reading_s


def test_the_audit_does_not_import_torch():
    code = "import sys, bench.audit, bench.report.audit_text; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=ROOT).returncode == 0


# What is shown


def audited(*changes):
    return [AuditedRun(record=record, findings=audit(record, found)) for record, found in map(edited, changes)]


def ids(index, *changes):
    return both(put("run_id", f"ladagan-paper-scenes-32-cuda0-{index:010x}"), *changes)


def test_equal_findings_of_many_runs_stand_once():
    runs = audited(*(ids(index, put("spec/preset", "smoke")) for index in range(20)))
    text = audit_terminal(runs)
    assert text.count("warning preset:") == 1
    assert "all 20 runs" in text
    assert text.endswith("20 runs: 0 with errors, 20 with warnings only, 0 sound.")


def test_one_run_has_its_findings_in_single_lines():
    text = audit_terminal(audited(both(put("machine/git_dirty", True), put("status", "failed"))))
    assert "error status_agrees: The run is called failed, its phases say ok. Remedy: Restore" in text
    assert text.index("error status_agrees") < text.index("warning dirty_tree")
    assert summary(audited(unchanged)) == "1 run: 0 with errors, 0 with warnings only, 1 sound."
    assert audit_terminal([]) == "No runs yet. `bench run` makes one."


def test_findings_that_differ_in_numbers_share_their_remedy():
    runs = audited(*(ids(index, put("recipe/num_images", 10**6 * (index + 1))) for index in range(3)))
    lines = audit_terminal(runs).splitlines()
    heads = [line for line in lines if line.startswith("warning recipe_budget")]
    assert len(heads) == 1
    assert heads[0].startswith("warning recipe_budget: 3 of 3 runs. Remedy: Leave out --train-for")
    assert sum("of the 1000000 its recipe" in line for line in lines) == 1


def test_hostile_strings_are_inert_on_a_terminal_and_in_markdown():
    said = [{"rule": HOSTILE, "level": "error", "detail": HOSTILE}]
    flags = put(f"{BATCH}/disturbances/by", {HOSTILE: 3})
    reason = both(put(f"{TRAIN}/status", "failed"), put(f"{TRAIN}/reason", HOSTILE), put("spec/model", HOSTILE))
    runs = audited(both(put("validity", said), flags, swap("generate", []), reason))
    for text in (audit_terminal(runs), audit_markdown(runs)):
        assert not any(sign in text for sign in ("\x1b", "\u202e", "\nnext"))
    assert "<script>" not in audit_markdown(runs)
    assert "[a](javascript" not in audit_markdown(runs)


def test_equal_records_give_equal_text():
    changes = [ids(index, put("spec/preset", "smoke"), drop(BATCH)) for index in range(3)]
    first, second = audited(*changes), audited(*reversed(changes))
    assert audit_terminal(first) == audit_terminal(second)
    assert audit_markdown(first) == audit_markdown(second)
    assert audit_document(first) == audit_document(second)


# The command

app = typer.Typer()
app.command()(cli_audit.audit)


def command(*arguments):
    return CliRunner().invoke(app, [str(each) for each in arguments], standalone_mode=False)


def test_the_command_answers_1_where_there_is_an_error_and_0_otherwise(stored):
    results = stored.folder.parent
    assert command("--results", results).return_value == 0
    (stored.folder / "ema.safetensors").write_bytes(b"others")
    result = command("0123456789", "--results", results)
    assert result.return_value == 1
    assert "error weights_hash" in result.stdout


def test_the_command_lists_its_rules_and_speaks_json(stored):
    listed = command("--rules")
    assert listed.return_value == 0
    assert all(rule in listed.stdout for rule in RULES)
    document = json.loads(command("--results", stored.folder.parent, "--json").stdout)
    assert document == [{"run_id": RUN_ID, "badge": "sound", "findings": []}]


def test_a_record_that_cannot_be_read_is_an_error(stored):
    broken = stored.folder.parent / "broken"
    broken.mkdir()
    (broken / "record.json").write_text("{")
    assert command("--results", stored.folder.parent).return_value == 1


def test_a_finding_of_the_schema_fits_the_audit():
    assert set(Finding.model_fields) == {"rule", "level", "detail"}
