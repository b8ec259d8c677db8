"""The verdict on the authors' claims: records, and nothing else, reach every outcome that a claim can have."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from test_report import HOSTILE, figure, make_machine, make_phases, make_record

from bench.phases._scale_record import ScalePoint, ScaleRecord
from bench.records import Finding, PhaseResult, Quantity, Record, Window, unknown
from bench.report.verdict import Verdict, verdicts
from bench.report.verdict.text import verdict_markdown
from bench.store import StoredRun

SIZES = (256, 512, 1024, 2048, 4096)
METER = "measured:nvml-energy-counter"
PUBLISHABLE = {"publishable": True, "scope": "GPU 0"}
ATTENTION, STABILITY, SPEED, QUALITY, ENERGY = range(5)


def decided(claim: int, *records: Record, scales: tuple[ScaleRecord, ...] = ()) -> Verdict:
    return verdicts([StoredRun(record, Path("nowhere")) for record in records], scales)[claim]


def changed(
    phases: dict[str, PhaseResult], phase: str, protocol=None, **quantities: Quantity
) -> dict[str, PhaseResult]:
    """The phases with other figures in one of them."""
    found = phases[phase]
    update = {"quantities": {**found.quantities, **quantities}, "protocol": {**found.protocol, **(protocol or {})}}
    return phases | {phase: found.model_copy(update=update)}


# --- linear attention


def scale_point(operator: str, num_tokens: int, macs: float, seconds: float) -> ScalePoint:
    windows = [
        Window(
            series="s", index=index, is_warmup=False, num_units=1, duration_s=seconds * (1 + index / 1e4), readings={}
        )
        for index in range(9)
    ]
    return ScalePoint(
        study="layer",
        operator=operator,
        num_tokens=num_tokens,
        resolution=None,
        num_params=100,
        macs=round(macs),
        num_bytes=round(macs),
        num_bytes_as_run=round(macs),
        peak_memory_bytes=1000,
        energy_j_per_image=unknown("J/image", "no meter", source="test", label="unavailable"),
        windows=tuple(windows),
    )


def make_scale(macs=1.0, time=1.0, softmax=2.0, wobble=1.0, sizes=SIZES) -> ScaleRecord:
    """Curves that grow with known exponents; `wobble` is by how much every second size takes longer."""
    points = [
        scale_point(operator, n, 1000.0 * n**of_macs, 1e-6 * n**of_time * (wobble if index % 2 else 1.0))
        for operator, of_macs, of_time in (("additive", macs, time), ("softmax", 2.0, softmax))
        for index, n in enumerate(sizes)
    ]
    return ScaleRecord(
        harness_version="0.1.0",
        created_at="2026-01-02T03:04:05+00:00",
        machine=make_machine(),
        fingerprint="f" * 64,
        device="cpu",
        width=64,
        num_heads=4,
        batch_size=1,
        budget_s=10.0,
        operators=("additive", "softmax"),
        protocol={},
        points=tuple(points),
        ends=(),
    )


@pytest.mark.parametrize(
    ("scale", "outcome"),
    [
        (make_scale(), "supported here"),
        (make_scale(time=0.8), "supported here"),
        (make_scale(macs=2.0, time=2.0), "contradicted here"),
        (make_scale(time=1.5), "mixed"),
        (make_scale(wobble=8.0), "cannot be told"),
        (make_scale(softmax=1.0), "cannot be told"),
        (make_scale(sizes=SIZES[:2]), "not tested here"),
    ],
)
def test_the_growth_of_time_and_counts_decides_on_linear_attention(scale, outcome):
    assert decided(ATTENTION, scales=(scale,)).outcome == outcome


def test_without_a_scale_measurement_linear_attention_is_not_tested_and_counts_of_networks_do_not_decide():
    swap = make_record(
        "softmax-1", attention="softmax", phases=changed(make_phases(), "cost", macs_generator=macs(9.0))
    )
    found = decided(ATTENTION, make_record(), swap, make_record("big-1", resolution=64))
    assert found.outcome == "not tested here"
    assert "no `bench scale` measurement" in found.sentence
    assert [each.run_ids for each in found.evidence] == [
        ("ladagan-scenes-1234abcd", "softmax-1"),
        ("ladagan-scenes-1234abcd", "big-1"),
    ]


def macs(value: float) -> Quantity:
    return figure(value * 1e9, 0.0, "MAC", kind="computed")


def test_where_softmax_is_cheaper_the_evidence_says_so():
    found = decided(ATTENTION, scales=(make_scale(time=1.0, softmax=2.0),))
    assert "time 1.00" in found.evidence[0].text and "time 2.00" in found.evidence[0].text
    assert "additive is cheaper than softmax" in found.evidence[1].text
    assert any("nothing of others" in limit for limit in found.limits)


# --- stable training


def training(run_id="a", *, end=0.06, skipped=0.0, length=200000, **facts) -> Record:
    """A whole training of 200,000 images; `length` is that of the recipe."""
    losses = {"final_loss_generator": figure(0.7), "final_loss_discriminator": figure(1.1)}
    phases = changed(make_phases(), "train", num_nonfinite_updates=figure(skipped), **losses)
    recipe = {"num_images": length}
    return make_record(run_id, phases=phases, scale=0.0612 / end, recipe=recipe, **facts)


def diverged(run_id: str, **facts) -> Record:
    reason = "The training diverged: 10 updates in a row were not finite"
    failed = PhaseResult(phase="train", status="failed", reason=reason, started_at="2026", duration_s=1.0)
    return make_record(run_id, phases=make_phases() | {"train": failed}, curve=(), **facts)


def seeds(make, num=3) -> list[Record]:
    return [make(f"seed-{seed}", seed=seed) for seed in range(num)]


@pytest.mark.parametrize(
    ("records", "outcome"),
    [
        (seeds(training), "supported here"),
        (seeds(training, 2), "cannot be told"),
        (seeds(lambda *words, **facts: training(*words, length=10**6, **facts)), "cannot be told"),
        ([*seeds(training), training("c", skipped=2.0, seed=3)], "mixed"),
        ([*seeds(training), diverged("c", seed=3)], "mixed"),
        (seeds(lambda *words, **facts: training(*words, end=2.5, **facts)), "contradicted here"),
        (seeds(diverged), "contradicted here"),
        (seeds(diverged, 1), "cannot be told"),
        ([make_record(f"old-{seed}", seed=seed) for seed in range(3)], "cannot be told"),
        ([training(preset="smoke")], "not tested here"),
        ([training(discriminator="sagan")], "not tested here"),
        ([training(attention="softmax")], "not tested here"),
        ([], "not tested here"),
    ],
)
def test_only_several_whole_trainings_decide_on_stability(records, outcome):
    assert decided(STABILITY, *records).outcome == outcome


def test_a_training_that_was_better_on_the_way_is_doubtful():
    record = training(seed=3)
    worse = record.curve[1].model_copy(update={"num_images_shown": 250000})
    found = decided(STABILITY, record.model_copy(update={"curve": (*record.curve, worse)}), *seeds(training))
    assert found.outcome == "mixed"
    assert any("it was better on the way" in each.text for each in found.evidence)


def test_softmax_attention_that_trains_as_well_takes_the_credit_from_linear_attention():
    alone = decided(STABILITY, *seeds(training))
    beside = decided(STABILITY, *seeds(training), training("soft", attention="softmax", seed=1))
    other = decided(STABILITY, *seeds(training), training("soft", attention="softmax", seed=1, batch_size=64))
    assert any("No training of the same question" in limit for limit in alone.limits)
    assert any("do not say that linear attention is the reason" in limit for limit in beside.limits)
    assert beside.evidence[-1].run_ids == ("seed-1", "soft")
    assert alone.limits == other.limits


# --- speed


def multi_step(run_id: str, times: float, *, half_width=0.01, steps=80.0, **facts) -> Record:
    """A model that is `times` slower than LadaGAN at the fixture's figures, with that relative half-width."""
    counts = {"num_sampling_steps": figure(steps, kind="computed")}
    rates = {
        "generate_images_per_s": figure(412.34 / times, 412.34 / times * half_width, "image/s"),
        "generate_latency_ms_p50": figure(31.2 * times, 31.2 * times * half_width, "ms"),
    }
    phases = changed(changed(make_phases(), "cost", **counts), "generate", **rates)
    return make_record(run_id, **({"model": "ddpm", "phases": phases} | facts))


@pytest.mark.parametrize(
    ("others", "outcome"),
    [
        ([multi_step("d", 50)], "supported here"),
        ([multi_step("d", 500)], "supported here"),
        ([multi_step("d", 3)], "contradicted here"),
        ([multi_step("d", 50), multi_step("e", 3, model="adm")], "mixed"),
        ([multi_step("d", 10.5, half_width=0.5)], "cannot be told"),
        ([multi_step("d", 50, precision="bf16")], "not tested here"),
        ([multi_step("d", 50, resolution=64)], "not tested here"),
        ([multi_step("d", 50, size="tiny")], "not tested here"),
        ([multi_step("d", 50, preset="smoke")], "not tested here"),
        ([multi_step("d", 50, machine=make_machine(hostname="elsewhere"))], "not tested here"),
        ([multi_step("d", 50, steps=1.0)], "not tested here"),
        ([], "not tested here"),
    ],
)
def test_speed_is_decided_by_intervals_at_one_setting(others, outcome):
    found = decided(SPEED, make_record(), *others)
    assert found.outcome == outcome
    assert (outcome == "not tested here") == found.sentence.startswith("Not tested here, because ")


def test_throughput_at_another_batch_size_is_shown_and_only_latency_votes():
    found = decided(SPEED, make_record(), multi_step("d", 50, batch_size=4))
    assert found.outcome == "supported here"
    assert found.sentence.startswith("Of 1 comparison of")
    shown = next(each.text for each in found.evidence if each.text.startswith("throughput"))
    assert "Batch sizes 32 and 4: no vote." in shown


def test_a_ratio_above_what_was_claimed_is_said_to_be():
    found = decided(SPEED, make_record(), multi_step("d", 500))
    assert "2 of them are above 100." in found.sentence
    assert "each of its 80 steps 6.25 times" in found.evidence[0].text


def test_the_reason_names_the_fields_in_which_two_runs_differ_and_what_was_left_out():
    elsewhere = decided(SPEED, make_record(), multi_step("d", 50, precision="bf16"))
    assert "differ in precision" in elsewhere.sentence
    smoke = decided(SPEED, make_record(), multi_step("d", 50), multi_step("e", 9, model="adm", preset="smoke"))
    assert any("1 × adm (80 steps) (smoke, not publishable)" in limit for limit in smoke.limits)


# --- quality


def rival(run_id: str, times: float, attention="none (convolutions), O(n)", **facts) -> Record:
    """A GAN whose rfd_v1 is that many times the fixture's LadaGAN's."""
    record = make_record(run_id, **({"model": run_id, "scale": 1 / times} | facts))
    return record.model_copy(update={"model": record.model.model_copy(update={"attention": attention})})


SOFTMAX = "softmax, O(n²)"


@pytest.mark.parametrize(
    ("rivals", "outcome"),
    [
        ([rival("stylegan2", 2), rival("vitgan", 3, SOFTMAX)], "supported here"),
        ([rival("stylegan2", 0.5), rival("vitgan", 0.3, SOFTMAX)], "contradicted here"),
        ([rival("stylegan2", 0.5), rival("vitgan", 3, SOFTMAX)], "mixed"),
        ([rival("stylegan2", 1.0), rival("vitgan", 3, SOFTMAX)], "mixed"),
        ([rival("stylegan2", 1.01), rival("vitgan", 1.0, SOFTMAX)], "cannot be told"),
        ([rival("stylegan2", 2)], "cannot be told"),
        ([rival("stylegan2", 2, train_for="100kimg"), rival("vitgan", 2, SOFTMAX, size="tiny")], "not tested here"),
        ([rival("stylegan2", 2, dataset="stacked-digits")], "not tested here"),
        ([rival("stylegan2", 2, preset="smoke")], "not tested here"),
        ([rival("stylegan2", 2, discriminator="sagan")], "not tested here"),
        ([rival("ladagan", 2, attention="softmax")], "not tested here"),
        ([], "not tested here"),
    ],
)
def test_quality_is_decided_by_separate_intervals_of_both_kinds_of_gan(rivals, outcome):
    assert decided(QUALITY, make_record(), *rivals).outcome == outcome


def test_a_budget_of_minutes_needs_the_same_machine_and_one_of_images_does_not():
    elsewhere = {"machine": make_machine(hostname="elsewhere")}
    by_images = decided(QUALITY, make_record(), rival("stylegan2", 2, **elsewhere))
    by_time = decided(QUALITY, make_record(train_for="2min"), rival("stylegan2", 2, train_for="2min", **elsewhere))
    assert by_images.outcome == "cannot be told"
    assert by_time.outcome == "not tested here"


def test_seeds_stand_together_and_a_single_training_says_what_it_does_not_know():
    alone = decided(QUALITY, make_record(), rival("stylegan2", 2))
    own = [make_record(f"own-{seed}", seed=seed, scale=1 + seed / 100) for seed in range(3)]
    several = decided(QUALITY, *own, *(rival(f"r-{s}", 2 + s / 50, seed=s, model="stylegan2") for s in range(3)))
    assert any("know nothing of other seeds" in limit for limit in alone.limits)
    assert not any("know nothing of other seeds" in limit for limit in several.limits)
    assert "(3 seeds)" in several.evidence[0].text
    assert len(several.evidence) == 1
    assert len(several.evidence[0].run_ids) == 6
    two = decided(QUALITY, *own[:2], rival("stylegan2", 9), rival("vitgan", 9, SOFTMAX))
    assert two.outcome == "cannot be told"


def test_the_papers_metric_goes_before_the_suites():
    def scored(run_id: str, fid: float, **facts) -> Record:
        phases = changed(
            make_phases(), "quality", fid_50k=figure(fid, 0.1), protocol={"fid_50k": {"num_images": 50000}}
        )
        return make_record(run_id, phases=phases, **facts)

    found = decided(QUALITY, scored("a", 3.3), scored("b", 5.8, model="stylegan2"))
    assert found.evidence[0].text.split(": ")[1].startswith("fid_50k of ladagan 3.30(10)")
    assert len(found.evidence) == 1


# --- energy


def metered(run_id: str, joules: float, *, label=METER, energy=None, half_width=0.01, **facts) -> Record:
    kind = label.partition(":")[0]
    found = figure(joules, joules * half_width, "J/image", kind=kind, label=label)
    protocol = {"energy": PUBLISHABLE if energy is None else energy}
    phases = changed(make_phases(), "train_step", protocol, train_step_energy_j_per_image=found)
    return make_record(run_id, phases=phases, **facts)


@pytest.mark.parametrize(
    ("others", "outcome"),
    [
        ([metered("b", 5.0, model="sagan")], "supported here"),
        ([metered("b", 1.5, model="sagan")], "contradicted here"),
        ([metered("b", 5.0, model="sagan"), metered("c", 0.5, model="hit")], "mixed"),
        ([metered("b", 2.0, model="sagan")], "cannot be told"),
        ([metered("b", 5.0, model="sagan", batch_size=64)], "not tested here"),
        ([metered("b", 5.0, model="sagan", label="estimated:tdp")], "not tested here"),
        ([metered("b", 5.0, model="sagan", label="simulated:fake-nvml")], "not tested here"),
        ([metered("b", 5.0, model="sagan", label="measured:wall")], "not tested here"),
        ([metered("b", 5.0, model="sagan", energy={"publishable": True, "scope": "GPU 0, CPU"})], "not tested here"),
        ([metered("b", 5.0, model="sagan", energy={"publishable": False})], "not tested here"),
        ([metered("b", 5.0, model="sagan", preset="smoke")], "not tested here"),
        ([metered("b", 5.0, attention="softmax")], "not tested here"),
        ([], "not tested here"),
    ],
)
def test_only_measured_joules_of_one_setting_decide_on_energy(others, outcome):
    assert decided(ENERGY, metered("a", 1.0), *others).outcome == outcome


def test_without_a_meter_the_reason_is_the_records_own_and_what_there_is_is_not_called_energy():
    nothing = unknown("J/image", "no energy meter can be read", source="meters", label="unavailable")
    phases = changed(make_phases(), "train_step", train_step_energy_j_per_image=nothing)
    phases = changed(phases, "cost", macs_step_per_image=macs(1.0))
    found = decided(ENERGY, make_record(phases=phases), make_record("b", model="sagan", phases=phases))
    assert found.outcome == "not tested here"
    assert "no run has measured joules of training: no energy meter can be read" in found.sentence
    assert len(found.evidence) == 2
    assert all("no energy" in each.text for each in found.evidence)


# --- the page


def everything() -> list[Record]:
    return [
        metered("a", 1.0, recipe={"num_images": 5000000}),
        metered("b", 5.0, model="sagan", created_at="2026-02-02T03:04:05+00:00"),
        multi_step("d", 50),
        rival("stylegan2", 2),
    ]


def page(records: list[Record], scales=()) -> str:
    found = verdicts([StoredRun(record, Path("nowhere")) for record in records], scales)
    return "\n\n".join(verdict_markdown(found, {record.run_id: f"the-{record.run_id}" for record in records}))


def test_the_page_has_a_row_and_a_section_per_claim_and_names_runs_as_the_tables_do():
    text = page(everything(), (make_scale(),))
    assert text.count("\n### ") == 5
    assert len([line for line in text.splitlines() if line.startswith("| ")]) == 7
    assert "(runs the-a, the-d)" in text
    assert "**supported here**. Exponent of n" in text
    assert text.count("What this does not say:") == 5


def test_a_page_without_records_says_for_each_claim_why_it_is_not_tested():
    text = page([])
    assert text.count("**not tested here**, because ") == 5
    assert "Evidence:" not in text


def test_the_order_in_which_runs_are_read_changes_nothing():
    records = everything()
    assert page(records) == page(records[::-1])
    twice = [*records, multi_step("older", 3, created_at="2025-01-01T00:00:00+00:00")]
    assert "the-older" not in page(twice)


def test_hostile_strings_are_inert_on_the_page():
    hostile = {"dataset": HOSTILE, "size": HOSTILE * 9, "train_for": HOSTILE, "device": HOSTILE}
    bad = Finding(rule=HOSTILE, level="error", detail=HOSTILE)
    records = [make_record("a", **hostile), make_record(HOSTILE, model=HOSTILE, **hostile)]
    records += [multi_step("d", 50, **hostile), multi_step("e", 50, model=HOSTILE, validity=(bad,))]
    records += [metered("f", 1.0, energy={"why_not_publishable": HOSTILE}), diverged("g", **hostile)]
    text = page(records, (make_scale().model_copy(update={"device": HOSTILE}),))
    assert "<script" not in text
    assert "\x1b" not in text and "\u202e" not in text
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {4}
    assert max(len(line) for line in text.splitlines()) < 4000


def test_the_verdict_loads_no_torch():
    code = "import sys, bench.report.verdict, bench.report.verdict.text; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
