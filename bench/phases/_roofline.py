"""How much of the machine a phase uses: its MACs and bytes per second over the measured rates of this machine.

Why it exists: images per second say which model is faster, these shares say whether the machine or the software is the
limit. Model-FLOP utilisation as in PaLM, appendix B (https://arxiv.org/abs/2204.02311): the work the model needs per
image times the observed images per second, over the peak; here the peak is a matrix product measured on this machine
(`bench/calibration.py`), not a data sheet's. The bounds are those of the roofline (Williams et al. 2009,
https://doi.org/10.1145/1498765.1498785).

Two things to know. The byte count is unfused traffic: the tensors in and out of every dispatched op, wherever they
lay. What a cache holds or a fused kernel keeps in registers never reaches memory, so the bandwidth share can exceed 1
and is never clipped. And a step also does work that is neither (kernel launches, Python), so both shares can be small.

The interval combines the ends of all factors, lowest over highest and highest over lowest. For independent errors that
is wider than needed, never narrower.
"""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import JsonValue

from bench.calibration import Calibration
from bench.records import Precision, Quantity, unknown

NOT_CALIBRATED = "not calibrated: run `bench doctor --calibrate`"
MIN_BOUND_SHARE = 0.3
BOUND_RULE = (
    f"the larger of the two shares, where it is at least {MIN_BOUND_SHARE:.0%}; `compute and memory alike` where their "
    "intervals overlap. The byte count is unfused traffic, so memory is favoured"
)
_SOURCE = "work per image × images/s over this machine's measured rate"
_BYTES_NOTE = "unfused traffic (every op's tensors in and out), so caches and fusion can lift it above 1"


@dataclass(frozen=True, kw_only=True)
class Roofline:
    """Two shares for the record's quantities, and the verdict with what it rests on for the phase's protocol."""

    quantities: dict[str, Quantity]
    protocol: dict[str, JsonValue]


def roofline(
    prefix: str,
    *,
    macs: Quantity | None,
    num_bytes: Quantity | None,
    images_per_s: Quantity,
    precision: Precision,
    calibration: Calibration | None,
) -> Roofline:
    """Quantities `<prefix>_mfu` and `<prefix>_bandwidth_share` (unit 1), and `bound_by` with its rule as protocol.

    Args:
        macs: multiply-accumulates per image; None where the cost phase has not spoken.
        num_bytes: bytes in and out of every op, per image; None likewise.
        images_per_s: the phase's throughput.
        precision: which matrix-product rate is the roof.
        calibration: this machine's roofs; None where it was not calibrated.
    """
    mfu = _share(macs, images_per_s, _matrix_roof(calibration, precision), what="MACs per image")
    roof = NOT_CALIBRATED if calibration is None else calibration.copy_bytes_per_s
    bandwidth_share = _share(num_bytes, images_per_s, roof, what="bytes per image", note=_BYTES_NOTE)
    return Roofline(
        quantities={f"{prefix}_mfu": mfu, f"{prefix}_bandwidth_share": bandwidth_share},
        protocol={
            "bound_by": bound_by(mfu, bandwidth_share),
            "bound_by_rule": BOUND_RULE,
            "roofs": None if calibration is None else _roofs(calibration, precision),
        },
    )


def bound_by(mfu: Quantity, bandwidth_share: Quantity) -> str:
    """`compute`, `memory`, `compute and memory alike`, `neither is above 30 %` or `unknown: …`, by BOUND_RULE."""
    if mfu.value is None or bandwidth_share.value is None:
        return f"unknown: {mfu.note if mfu.value is None else bandwidth_share.note}"
    if max(mfu.value, bandwidth_share.value) < MIN_BOUND_SHARE:
        return "neither is above 30 %"
    (mfu_low, mfu_high), (bytes_low, bytes_high) = _ends(mfu), _ends(bandwidth_share)
    if mfu_low <= bytes_high and bytes_low <= mfu_high:
        return "compute and memory alike"
    return "compute" if mfu.value > bandwidth_share.value else "memory"


def _matrix_roof(calibration: Calibration | None, precision: Precision) -> Quantity | str:
    """The matrix-product rate of that precision, or why there is none."""
    if calibration is None:
        return NOT_CALIBRATED
    rate = calibration.macs_per_s.get(precision)
    return rate or f"the calibration has no {precision} rate: run `bench doctor --calibrate` on this device"


def _share(
    per_image: Quantity | None, images_per_s: Quantity, roof: Quantity | str, *, what: str, note: str = ""
) -> Quantity:
    """per_image × images/s over the roof, with the ends of all three; unknown with the first reason there is."""
    if isinstance(roof, str):
        return unknown("1", roof, source=_SOURCE, kind="computed")
    if per_image is None:
        return unknown("1", f"{what} were not counted: run the cost phase", source=_SOURCE, kind="computed")
    if per_image.value is None:
        return unknown("1", f"{what} are unknown: {per_image.note}", source=_SOURCE, kind="computed")
    if images_per_s.value is None:
        return unknown("1", f"the images/s are unknown: {images_per_s.note}", source=_SOURCE, kind="computed")
    if not roof.value:
        return unknown("1", f"the measured rate is unknown: {roof.note}", source=_SOURCE, kind="computed")
    share = per_image.value * images_per_s.value / roof.value
    if images_per_s.low is None or roof.low is None:
        missing = "no interval: too few windows or blocks for one"
        return _computed(share, None, n=images_per_s.n, note="; ".join(filter(None, (note, missing))))
    (work_low, work_high), (rate_low, rate_high), (roof_low, roof_high) = map(_ends, (per_image, images_per_s, roof))
    ends = work_low * rate_low / roof_high, work_high * rate_high / roof_low
    return _computed(share, ends, n=images_per_s.n, note=note)


def _computed(share: float, ends: tuple[float, float] | None, *, n: int | None, note: str) -> Quantity:
    low, high = ends or (None, None)
    return Quantity(value=share, unit="1", low=low, high=high, n=n, kind="computed", source=_SOURCE, note=note)


def _ends(figure: Quantity) -> tuple[float, float]:
    """The ends of its interval; a count has none and is exact."""
    value = figure.value or 0.0
    return (value, value) if figure.low is None or figure.high is None else (figure.low, figure.high)


def _roofs(calibration: Calibration, precision: Precision) -> dict[str, JsonValue]:
    """The two rates the shares are of, enough to compute them again."""
    rate = calibration.macs_per_s.get(precision)
    return {
        "device": calibration.device,
        "precision": precision,
        "macs_per_s": None if rate is None else rate.value,
        "copy_bytes_per_s": calibration.copy_bytes_per_s.value,
        "measured_at": calibration.measured_at,
        "torch": calibration.torch,
    }
