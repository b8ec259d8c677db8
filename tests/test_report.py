"""`bench.report`: figures and strings as they are written down, the CSV, the Markdown, the terminal table, `show`."""

from __future__ import annotations

import io
import subprocess
import sys

import pandas as pd

from bench.records import (
    CurvePoint,
    DatasetFacts,
    Finding,
    Machine,
    ModelFacts,
    PhaseResult,
    Quantity,
    Record,
    RunSpec,
    status_of,
)
from bench.report.csv_long import LongTable
from bench.report.csv_table import ResultsTable
from bench.report.markdown import report_markdown
from bench.report.published import reported
from bench.report.rows import run_labels, short_ids, why_not_publishable
from bench.report.text import terminal_table

HOSTILE = "=cmd|'/C calc'!A1 | <script>alert(1)</script> \x1b[2J\u202e $x^2$ **bold** [a](javascript:b) 漢字\nnext"


def figure(value: float, half_width: float | None = None, unit: str = "1", **facts) -> Quantity:
    ends = {} if half_width is None else {"low": value - half_width, "high": value + half_width, "n": 20}
    return Quantity(value=value, unit=unit, **({"kind": "measured", "source": "perf_counter windows"} | ends | facts))


def make_phases(scale: float = 1.0) -> dict[str, PhaseResult]:
    """All five phases, ok, with plausible figures; `scale` tells runs apart."""
    exact = {"kind": "computed", "source": "meta device"}
    quantities = {
        "cost": {
            "num_params_generator": figure(19901647, 0.0, **exact),
            "num_params_discriminator": figure(28982915, 0.0, **exact),
            "macs_generator": figure(758349824, 0.0, "MAC", **exact),
            "macs_discriminator": figure(1.2e9, 0.0, "MAC", **exact),
        },
        "generate": {
            "generate_images_per_s": figure(412.34 * scale, 3.1 * scale, "image/s"),
            "generate_latency_ms_p50": figure(31.2 / scale, 0.4, "ms"),
        },
        "train_step": {
            "train_images_per_s": figure(52.718 * scale, 0.512 * scale, "image/s"),
            "peak_memory_bytes": figure(1.5e9, unit="B"),
        },
        "train": {
            "num_images_shown": figure(200000, unit="image"),
            "train_duration_s": figure(3790.2, unit="s"),
            "final_loss_generator": figure(0.7),
            "final_loss_discriminator": figure(1.3),
        },
        "quality": {
            "rfd_v1": figure(0.0612 / scale, 0.0021),
            "rfd_v1_real": figure(0.0034, 0.0002),
            "rfd_v1_untrained": figure(1.93, 0.01),
            "modes_covered": figure(612),
            "modes_covered_real": figure(1530),
            "pair_consistency": figure(0.43, 0.012),
            "pair_consistency_real": figure(0.9991),
            "mode_kl": figure(1.71, 0.05, kind="estimated"),
        },
    }
    rfd = {"num_images": 10000, "weights_sha256": "ab" * 32, "reference_sha256": "cd" * 32}
    protocol = {"quality": {"rfd_v1": rfd, "score_duration_s": 3.0 * scale}}
    return {
        name: PhaseResult(
            phase=name,
            status="ok",
            started_at=f"2026-01-02T0{3 + (name == 'quality') * 2}:0{4 + list(quantities).index(name)}:05+00:00",
            duration_s=3800.0 if name == "train" else 12.0,
            quantities=found,
            protocol=protocol.get(name, {}),
        )
        for name, found in quantities.items()
    }


def make_machine(**facts) -> Machine:
    return Machine(
        **{
            "hostname": "bench-box",
            "os": "Linux 6.1",
            "cpu": "Two-core CPU",
            "num_cpu_cores": 2,
            "memory_bytes": 8 * 2**30,
            "container_cpu_limit": None,
            "container_memory_limit_bytes": None,
            "gpus": (),
            "gpu_memory_bytes": (),
            "gpu_power_limit_w": (),
            "driver": None,
            "cuda": None,
            "python": "3.11.9",
            "torch": "2.15.0+cpu",
            "num_torch_threads": 2,
            "packages": {"numpy": "2.4.0"},
            "git_commit": "0123abcd",
            "git_dirty": False,
        }
        | facts
    )


def make_record(run_id: str = "ladagan-scenes-1234abcd", *, scale: float = 1.0, phases=None, **facts) -> Record:
    """A finished run; `facts` replace fields of the record, or of its spec where the spec has one of that name."""
    spec = {"model": "ladagan", "dataset": "scenes", "resolution": 32, "batch_size": 32}
    spec |= {"precision": "fp32", "device": "cpu", "train_for": "200kimg"}
    spec |= {name: facts.pop(name) for name in list(facts) if name in RunSpec.model_fields}
    phases = make_phases(scale) if phases is None else phases
    curve = tuple(
        CurvePoint(
            num_images_shown=shown, train_duration_s=shown / 50, quantities={"rfd_v1": figure(value, value / 20)}
        )
        for shown, value in ((0, 1.93), (50000, 0.31 / scale), (100000, 0.12 / scale), (200000, 0.0612 / scale))
    )
    document = {
        "run_id": run_id,
        "harness_version": "0.1.0",
        "created_at": "2026-01-02T03:04:05+00:00",
        "spec": RunSpec(**spec),
        "machine": make_machine(),
        "model": ModelFacts(
            title="LadaGAN",
            year=2024,
            paper="arXiv 2401.09596",
            code="https://example.org/ladagan@0123abc",
            licence="MIT",
            attention="additive, O(n)",
            configuration="ours: CIFAR layout",
            source_hash="feedbeef",
        ),
        "dataset": DatasetFacts(title="Scenes", source="procedural", licence="MIT", protocol={"version": "scenes-v1"}),
        "recipe": {"num_images": 5000000, "source": "paper, table 6"},
        "phases": phases,
        "curve": curve,
        "status": status_of(phases),
    }
    return Record(**(document | facts))


def failed_phases() -> dict[str, PhaseResult]:
    phases = make_phases()
    bad = {"started_at": "2026-01-02T03:09:05+00:00", "duration_s": 1.0}
    phases["train_step"] = PhaseResult(phase="train_step", status="oom", reason="out of memory at batch 32", **bad)
    phases["train"] = PhaseResult(phase="train", status="skipped", reason="train_step ran out of memory", **bad)
    phases["quality"] = PhaseResult(phase="quality", status="skipped", reason="there are no trained weights", **bad)
    return phases


def csv_of(table: ResultsTable | LongTable, records: list[Record], **electricity) -> str:
    """A CSV table of the records, each as a report may show it."""
    for record in records:
        table.add(reported(record, **electricity))
    return table.text()


def results_csv(records: list[Record], **electricity) -> str:
    return csv_of(ResultsTable(**electricity), records, **electricity)


def read_csv(records: list[Record]) -> pd.DataFrame:
    return pd.read_csv(io.StringIO(results_csv(records)))


def test_runs_are_told_apart_by_what_differs_and_smoke_says_so():
    same = [make_record("a-11111111"), make_record("a-22222222")]
    assert run_labels(same) == ["ladagan · 11111111", "ladagan · 22222222"]
    seeds = [make_record("a-11111111"), make_record("a-22222222", seed=1), make_record("b-3", model="sagan")]
    assert run_labels(seeds) == ["ladagan · seed 0", "ladagan · seed 1", "sagan · seed 0"]
    assert run_labels([make_record(preset="smoke", size="tiny")]) == ["ladagan tiny (smoke)"]
    long = [make_record("a", model="m" * 99, preset="smoke"), make_record("b", model="m" * 99)]
    assert all(len(label) == 44 for label in run_labels(long))
    assert run_labels(long)[0].endswith("… · a (smoke)")
    precisions = [make_record("a"), make_record("b", model="sagan", precision="bf16")]
    assert run_labels(precisions) == ["ladagan · fp32", "sagan · bf16"]


def test_short_ids_are_ends_that_tell_runs_apart():
    assert short_ids([make_record("x-1234abcd"), make_record("y-1234abcd")]) == ["x-1234abcd", "y-1234abcd"]
    assert short_ids([make_record("ladagan-1234abcd"), make_record("ladagan-99999999")]) == ["1234abcd", "99999999"]


def test_smoke_failed_and_simulated_runs_are_not_publishable():
    assert why_not_publishable(make_record()) == ""
    assert why_not_publishable(make_record(preset="smoke")) == "smoke, not publishable"
    assert "oom" in why_not_publishable(make_record(phases=failed_phases()))
    error = Finding(rule="alone", level="error", detail="another process used the GPU")
    assert "alone" in why_not_publishable(make_record(validity=(error,)))
    phases = make_phases()
    fake = figure(1.0, kind="simulated")
    phases["train"] = phases["train"].model_copy(update={"quantities": {"energy_j": fake}})
    assert "energy_j" in why_not_publishable(make_record(phases=phases))


def test_tables_of_two_hundred_runs_have_a_row_each():
    records = [make_record(f"run-{index:08d}", seed=index, scale=1 + index / 100) for index in range(200)]
    assert len(read_csv(records)) == 200
    assert report_markdown(records, [], []).count("\n### ") == 201
    assert len(terminal_table(records).splitlines()) == 200 + 4


def test_the_report_imports_no_torch():
    code = "import sys, bench.report; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
