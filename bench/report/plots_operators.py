"""What `bench scale` stored, in the report: MACs, bytes, time and memory per attention operator over tokens.

The drawing is that of `bench scale` itself (`plots_scale`); here the newest stored measurement is found for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from bench.notation import plain, shortened
from bench.phases._scale_record import ScaleRecord
from bench.report.plots import Drawing
from bench.report.plots_scale import scale_drawing

_NAME_CHARS = 80


def operators(scales: Mapping[str, ScaleRecord]) -> Drawing:
    """The newest of the stored measurements, by file name; older ones are named."""
    if not scales:
        return Drawing(None, "No attention operators were measured over tokens: run `bench scale`.")
    *older, (_, record) = sorted(scales.items(), key=lambda each: (each[1].created_at, each[0]))
    drawing = scale_drawing(record)
    names = ", ".join(f"{shortened(plain(name), _NAME_CHARS)} ({_setting(each)})" for name, each in older)
    left_out = f" The newest of {len(scales)} measurements; not drawn: {names}." if older else ""
    return replace(drawing, caption=drawing.caption + left_out)


def _setting(record: ScaleRecord) -> str:
    created = shortened(plain(record.created_at), len("2026-01-01"))
    return f"{plain(record.device)}, {record.width} channels, {record.num_heads} heads, {created}"
