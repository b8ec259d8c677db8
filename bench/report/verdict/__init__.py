"""The verdict: the claims of LadaGAN's authors, each with the evidence in these records or why it is not tested here.

Paper: Morales-Juarez and Fuentes-Pineda, "Efficient generative adversarial networks using linear additive-attention
Transformers", arXiv 2401.09596. Claims are put in our words, with where they stand.

Nothing is decided by hand. Each claim has a module whose docstring gives its rules; `evidence.py` has those that
they share. The same rules on other records may come out otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence

from bench.phases._scale_record import ScaleRecord
from bench.report.published import reported
from bench.report.rows import sort_key
from bench.report.verdict.attention import attention_verdict
from bench.report.verdict.energy import energy_verdict
from bench.report.verdict.evidence import Evidence, Outcome, Verdict
from bench.report.verdict.quality import quality_verdict
from bench.report.verdict.speed import speed_verdict
from bench.report.verdict.stability import stability_verdict
from bench.store import StoredRun

__all__ = ["Evidence", "Outcome", "Verdict", "verdicts"]


def verdicts(runs: Sequence[StoredRun], scales: Sequence[ScaleRecord]) -> tuple[Verdict, ...]:
    """One verdict per claim: attention, stability, speed, quality, energy; the order of the runs is no matter.

    Args:
        runs: as stored; figures of simulated devices are withheld here as in every table.
        scales: what `bench scale` measured.
    """
    records = sorted((reported(run.record) for run in runs), key=sort_key)
    ordered = sorted(scales, key=lambda scale: (scale.created_at, scale.fingerprint, scale.device, scale.width))
    return (
        attention_verdict(records, ordered),
        stability_verdict(records),
        speed_verdict(records),
        quality_verdict(records),
        energy_verdict(records),
    )
