"""How long and how often each preset measures."""

from __future__ import annotations

from dataclasses import dataclass

from bench.records import PresetName


@dataclass(frozen=True, kw_only=True)
class Preset:
    """How long and how often a timed phase measures.

    Attributes:
        warmup_s: the real work is repeated at least this long (and 3 times) before the first window that counts.
        min_window_s: a window chains iterations until it is about this long.
        num_windows: fewest and most windows; equal numbers mean a fixed count and no stop rule.
        target_half_width: stop once the median's 95 % interval is within ± this share; reaching the most windows
            or the time cap before that makes the phase inconclusive.
        max_duration_s: cap of one series of windows, warm-up apart; one window is always measured.
        num_latency_samples: single calls timed for the latency.
        idle_s: idle power is read this long before and after each series, where there is an energy meter.
        replay_s: each part of a step is replayed alone about this long.
        has_long_windows: where there is an energy meter, windows are long enough for joules that may be published.
        train_for: default training budget; None is the recipe's number of images.
    """

    warmup_s: float
    min_window_s: float
    num_windows: tuple[int, int]
    target_half_width: float | None
    max_duration_s: float
    num_latency_samples: int
    idle_s: float
    replay_s: float
    has_long_windows: bool
    train_for: str | None
    is_publishable: bool


# Windows of at least 0.2 s keep the timer's share under 0.1 %; from 12 windows on, the median's exact 95 % interval
# leaves the extremes out; 300 latency samples are the fewest that give a p99.
PRESETS: dict[PresetName, Preset] = {
    "smoke": Preset(
        warmup_s=0.5,
        min_window_s=0.2,
        num_windows=(12, 12),
        target_half_width=None,
        max_duration_s=30,
        num_latency_samples=30,
        idle_s=1,
        replay_s=0.5,
        has_long_windows=False,
        train_for="10s",
        is_publishable=False,
    ),
    "standard": Preset(
        warmup_s=3,
        min_window_s=1,
        num_windows=(12, 60),
        target_half_width=0.01,
        max_duration_s=180,
        num_latency_samples=300,
        idle_s=10,
        replay_s=3,
        has_long_windows=False,
        train_for="5min",
        is_publishable=True,
    ),
    "publish": Preset(
        warmup_s=30,
        min_window_s=10,
        num_windows=(12, 60),
        target_half_width=0.01,
        max_duration_s=1200,
        num_latency_samples=1000,
        idle_s=30,
        replay_s=10,
        has_long_windows=True,
        train_for=None,
        is_publishable=True,
    ),
}
