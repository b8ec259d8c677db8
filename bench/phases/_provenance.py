"""Which provenance label is stronger, and what kind of figure a label stands for.

The closed list of labels is `bench.records.EnergyLabel`; a total carries the weakest label of its parts, so that one
estimated part makes the whole an estimate.
"""

from __future__ import annotations

from collections.abc import Sequence

from bench.records import EnergyLabel, Kind

# From the strongest to the weakest; a total carries the weakest label of its parts.
STRENGTH: tuple[EnergyLabel, ...] = (
    "measured:wall",
    "measured:nvml-energy-counter",
    "measured:rapl",
    "measured:nvml-power-polling",
    "attributed:replay",
    "estimated:codecarbon",
    "estimated:tdp",
    "simulated:fake-nvml",
    "unavailable",
)


def weakest(labels: Sequence[EnergyLabel]) -> EnergyLabel:
    """The label a total of such parts carries."""
    return max(labels, key=STRENGTH.index)


def kind_of(label: EnergyLabel) -> Kind:
    """`measured:rapl` → `measured`."""
    for kind in ("measured", "attributed", "estimated", "simulated"):
        if label.startswith(kind):
            return kind
    return "measured"
