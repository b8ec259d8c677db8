"""The raw windows of a run as `report.html` carries them: in order, warm-up marked, thinned to what a page can hold.

Why it exists: an interval says how sure a figure is; only the windows behind it show whether they drifted, jumped or
were disturbed. Durations and readings have six significant digits here; `windows/<phase>.jsonl` in the run's folder
has every window and every digit. The files may come from anywhere: what cannot be read is left out and said.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from bench.records import Window
from bench.report.page.data import Json, Pool, clean
from bench.store import StoredRun

TIMED_PHASES = ("generate", "train_step", "train")

_MAX_WARMUP = 40  # the last ones: earlier ones say what the last ones say, with more noise
_MAX_MEASURED = 300
_MAX_SERIES = 16
_MAX_FILE_BYTES = 32 * 2**20
_READING_ENDS = ("_energy_j", "peak_memory_bytes")


def windows_of(run: StoredRun, pool: Pool) -> tuple[dict[str, Json], list[str]]:
    """{phase: {series: its windows}} and one sentence for each file that cannot be read.

    A series is `{"duration_s": […], "num_units": n or […], "num_warmup": how many of them come first, "left_out": how
    many more there were, "flags": {index: place}, "readings": {name: value or […]}}`; an unknown reading is null.
    """
    found: dict[str, Json] = {}
    problems: list[str] = []
    for phase in TIMED_PHASES:
        path = run.folder / "windows" / f"{phase}.jsonl"
        if phase not in run.record.phases or not path.is_file():
            continue
        windows, num_broken = _read(path, run.folder)
        if num_broken:
            problems.append(f"{num_broken} lines of '{path}' are no windows; they are not shown.")
        by_series: dict[str, list[Window]] = defaultdict(list)
        for window in windows:
            by_series[window.series].append(window)
        if by_series:
            kept = list(by_series)[:_MAX_SERIES]
            found[phase] = {clean(series): _series(by_series[series], pool) for series in kept}
    return found, problems


def _read(path: Path, folder: Path) -> tuple[list[Window], int]:
    """Windows of the file and the number of lines that are none."""
    windows: list[Window] = []
    num_broken = 0
    try:
        if not path.resolve().is_relative_to(folder.resolve()):  # a link to somewhere else
            return [], 1
        if path.stat().st_size > _MAX_FILE_BYTES:
            return [], 1
        lines = path.read_bytes().splitlines()
    except OSError:
        return [], 1
    for line in lines:
        try:
            windows.append(Window.model_validate_json(line))
        except ValueError:  # pydantic's ValidationError is one
            num_broken += bool(line.strip())
    return windows, num_broken


def _series(windows: list[Window], pool: Pool) -> dict[str, Json]:
    warmup = [window for window in windows if window.is_warmup]
    measured = [window for window in windows if not window.is_warmup]
    kept = [*warmup[-_MAX_WARMUP:], *measured[:_MAX_MEASURED]]
    texts = {index: "; ".join([*each.flags, *each.problems.values()]) for index, each in enumerate(kept)}
    names = dict.fromkeys(name for window in kept for name in window.readings if name.endswith(_READING_ENDS))
    facts: dict[str, Json] = {
        "duration_s": [_six_digits(window.duration_s) for window in kept],
        "num_units": _once([window.num_units for window in kept]),
        "num_warmup": min(len(warmup), _MAX_WARMUP),
        "left_out": len(windows) - len(kept),
        "readings": {clean(name): _once([_reading(window, name) for window in kept]) for name in names},
    }
    return facts | {"flags": {str(index): pool.place(clean(text, 200)) for index, text in texts.items() if text}}


def _reading(window: Window, name: str) -> float | None:
    value = window.readings.get(name)
    return None if value is None else _six_digits(value)


def _six_digits(value: float) -> float | int:
    short = float(f"{value:.6g}")
    return int(short) if short.is_integer() and abs(short) < 1e15 else short


def _once(values: list[Json]) -> Json:
    """The value itself where all are equal."""
    return values[0] if values and all(value == values[0] for value in values) else values
