"""A report page to look at in a browser: `python tests/browser_page.py PAGE.html` writes one from made-up runs.

Two machines, two precisions, two resolutions, measured and estimated joules, a failed run, hostile strings.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from test_report import HOSTILE, failed_phases, figure, make_machine, make_phases, make_record

from bench.audit import AuditFinding
from bench.records import Finding, PhaseResult, Record, Window
from bench.report.grids import Grid
from bench.report.page import PagePicture, html_page
from bench.report.published import reported
from bench.report.verdict import Evidence, Verdict
from bench.store import RunFolder, StoredRun

MODELS = ("ladagan", "sagan", "stylegan2", "transgan", "hit")
HOSTILE_MODEL = "<img src=x onerror=alert(1)>"
HOSTILE_DATA = "</script><script>alert(1)</script>"
PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x02\0\0\0\x01\x08\x06\0\0\0" + bytes(40)
SVG = b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'><rect width='9' height='9' fill='teal'/></svg>"


def energy_phases(scale: float, label: str = "measured:nvml-energy-counter") -> dict[str, PhaseResult]:
    """All five phases, three of them with joules known as `label` says."""
    known = {"label": label, "kind": label.split(":", maxsplit=1)[0], "systematic": 0.05}
    source = {"gpu_energy_j": {"label": label}}
    protocol = {"energy": {"scope": "gpu", "publishable": True, "why_not_publishable": "", "sources": source}}
    found = {
        "generate": ("generate_energy{}_j_per_image", 0.0447, 0.0012, "J/image"),
        "train_step": ("train_step_energy{}_j_per_image", 1.93, 0.02, "J/image"),
        "train": ("train_energy{}_j", 905000.0, 12000.0, "J"),
    }
    phases = make_phases(scale)
    for phase, (name, joules, half_width, unit) in found.items():
        gross = figure(joules / scale, half_width, unit, **known)
        net = figure(0.7 * joules / scale, half_width, unit, **known)
        quantities = phases[phase].quantities | {name.format(""): gross, name.format("_net"): net}
        phases[phase] = phases[phase].model_copy(update={"quantities": quantities, "protocol": protocol})
    return phases


def made_up_records() -> list[Record]:
    """Nine runs, each different in what a page must tell apart."""
    gpu = {"gpus": ("NVIDIA H200",), "gpu_memory_bytes": (2**37,), "gpu_power_limit_w": (700.0,)}
    machine = make_machine(hostname="gpu-box", driver="570.1", cuda="12.8", **gpu)
    records = [
        make_record(f"{model}-gpu{index:06d}", model=model, phases=energy_phases(1 + index / 7), scale=1 + index / 7)
        for index, model in enumerate(MODELS)
    ]
    on_gpu = {"device": "cuda:0"}
    records = [
        record.model_copy(update={"machine": machine, "spec": record.spec.model_copy(update=on_gpu)})
        for record in records
    ]
    error = Finding(rule="<b>rule</b>", level="error", detail=HOSTILE)
    smoke = make_record("smoke-00000001", model="vitgan", preset="smoke", phases=make_phases(9.0))
    return [
        *records,
        make_record("estimated-00000001", phases=energy_phases(0.5, "estimated:tdp")),
        make_record("bf16-00000001", model="styleswin", precision="bf16", resolution=64, phases=make_phases(1.3)),
        make_record("broken-00000001", model="ganformer", phases=failed_phases()),
        make_record("hostile-00000001", model=HOSTILE_MODEL, dataset=HOSTILE_DATA, validity=(error,)),
        smoke,
    ]


def store(record: Record, folder: Path) -> StoredRun:
    """The record in the folder with forty windows of two phases, five of them warm-up, one disturbed."""
    windows = [
        Window(
            series="generate.batch",
            index=index,
            is_warmup=index < 5,
            num_units=64,
            duration_s=0.155 * (1 + 0.01 * ((index * 7919) % 13 - 6)),
            readings={"gpu_energy_j": 2.86 * (1 + 0.02 * ((index * 31) % 7 - 3)), "peak_memory_bytes": 1.5e9},
            flags=("throttled <b>",) if index == 17 else (),
        )
        for index in range(40)
    ]
    run = RunFolder(folder, record.run_id)
    run.write(record)
    run.write_windows("generate", windows)
    run.write_windows("train_step", [window.model_copy(update={"series": "train_step"}) for window in windows])
    return StoredRun(record, run.path)


def made_up_page(folder: Path, *, grid: Grid | None = None, pue: float = 1.0) -> str:
    """The page of the made-up runs, stored under `folder`."""
    records = made_up_records()
    runs = [StoredRun(reported(record, grid, pue), store(record, folder).folder) for record in records]
    warning = AuditFinding(rule="window length", level="warning", detail="short windows", remedy="measure longer")
    verdict = Verdict(
        claim="Attention costs O(n)",
        source="arXiv 2401.09596v5",
        outcome="not tested here",
        sentence=f"Not tested here, because {HOSTILE}",
        evidence=(Evidence(text="seen in", run_ids=("hit-gpu000004", "unknown-run")),),
        limits=("one machine",),
    )
    pictures = [
        PagePicture(name="plot", title="A plot", caption=HOSTILE, png=PNG + bytes(999), svg=SVG),
        PagePicture(name="none", title="No plot", caption="No run has a throughput.", png=None, svg=None),
    ]
    findings = {record.run_id: (warning,) if record.spec.model == "hit" else () for record in records[:-1]}
    return html_page(
        runs, pictures=pictures, verdicts=[verdict], findings=findings, problems=[HOSTILE], grid=grid, pue=pue
    )


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        Path(sys.argv[1]).write_text(made_up_page(Path(name)), encoding="utf-8")
