"""One figure and how it is known: value, interval, provenance. Base of every stored document.

Storage is SI and unrounded; unknown is `value=None` with a note that says why, never 0. Users import these names from
`bench.records`.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

Kind = Literal["measured", "attributed", "estimated", "simulated", "computed"]
EnergyLabel = Literal[
    "measured:nvml-energy-counter",
    "measured:nvml-power-polling",
    "measured:rapl",
    "measured:wall",
    "attributed:replay",
    "estimated:tdp",
    "estimated:codecarbon",
    "unavailable",
    "simulated:fake-nvml",
]


def _finite(value: float) -> float:
    if not math.isfinite(value):
        raise ValueError("must be finite; unknown is None with a note")
    return value


Finite = Annotated[float, AfterValidator(_finite)]


class Frozen(BaseModel):
    """Base of every document: immutable, no coercion, no unknown field, keyword arguments only."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", protected_namespaces=())


class Quantity(Frozen):
    """One figure.

    Attributes:
        value: the figure in `unit`, or None where it is unknown (then `note` says why).
        unit: SI unit or count, for example `image/s`, `s`, `B`, `MAC`, `1`.
        low, high: ends of the 95 % interval, both or neither.
        n: number of samples behind the value.
        kind: how it is known. An estimate cannot pass for a measurement.
        source: what produced it, for example `perf_counter windows` or `rfd_v1`.
        note: anything a reader must know; required where value is None.
        label: provenance of an energy, and of what is computed from one; None for every other figure.
        systematic: relative error of the sensor itself; repeating does not average it away, the interval is without it.
    """

    value: Finite | None
    unit: str
    low: Finite | None = None
    high: Finite | None = None
    n: int | None = Field(default=None, ge=0)
    kind: Kind
    source: str
    note: str = ""
    label: EnergyLabel | None = None
    systematic: Finite | None = Field(default=None, ge=0)

    @model_validator(mode="after")
    def _consistent(self) -> Quantity:
        if (self.low is None) != (self.high is None):
            raise ValueError("low and high come together")
        if self.value is None:
            if not self.note or self.low is not None:
                raise ValueError("an unknown quantity has a note that says why, and no interval")
        elif self.low is not None and self.high is not None and not self.low <= self.value <= self.high:
            raise ValueError(f"the interval [{self.low}, {self.high}] does not hold the value {self.value}")
        self._check_label()
        return self

    def _check_label(self) -> None:
        if self.label is None:
            return
        if (self.value is None) != (self.label == "unavailable"):
            raise ValueError("an energy is `unavailable` exactly where its value is None")
        if self.label != "unavailable" and self.kind not in {self.label.split(":")[0], "computed"}:
            raise ValueError(f"a figure of kind {self.kind} cannot carry the label {self.label}")


def unknown(
    unit: str, note: str, *, source: str, kind: Kind = "measured", label: EnergyLabel | None = None
) -> Quantity:
    """A quantity that could not be known, with the reason in one sentence; an energy has the label `unavailable`."""
    return Quantity(value=None, unit=unit, kind=kind, source=source, note=note, label=label)
