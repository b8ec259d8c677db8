"""The two pictures that need files of a run besides its record: losses over the training, and sample images.

Both files may be damaged or may have been put there by someone else: a line or an image that cannot be read is left out
and named in the report, and no path of a record leads out of its run's folder.
"""

from __future__ import annotations

import json
import math
import textwrap
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from bench.report.plots import COLOURS, Drawing, drawable, newest, tick_text
from bench.report.rows import run_labels
from bench.store import StoredRun

TRAIN_LOG_FILE = "train.jsonl"

_MAX_PANELS = 12
_MAX_LOSS_POINTS = 150
_MAX_SAMPLE_PIXELS = 640  # per side of one grid: what a panel can show
_TITLE_CHARS = 42
_LOSSES = (("discriminator", COLOURS[0], "-"), ("generator", COLOURS[1], "--"))


@dataclass(frozen=True)
class LossLog:
    """What a training log says.

    Attributes:
        losses: network → [n, 2], images shown (rising) and loss; not finite where the training was not.
        num_broken: lines that are no log entry; a killed run may leave one.
    """

    losses: dict[str, NDArray[np.float64]]
    num_broken: int


def loss(runs: Sequence[StoredRun]) -> Drawing:
    """The two losses over images shown, one panel per run: the mean of neighbouring steps, and their range."""
    logged = [run for run in runs if (run.folder / TRAIN_LOG_FILE).is_file()]
    kept, left_out = newest(logged, _MAX_PANELS)
    drawn, problems = [], []
    for run in kept:
        path = run.folder / TRAIN_LOG_FILE
        try:
            log = read_loss_log(path)
        except OSError as error:
            problems.append(f"'{path}' cannot be read: {error.strerror or error}; its losses are not drawn.")
            continue
        if log.num_broken:
            problems.append(f"'{path}' has {log.num_broken} lines that are no log entries; they are not drawn.")
        if any(len(points) for points in log.losses.values()):
            drawn.append((run, log))
    if not drawn:
        return Drawing(None, "No run has a training log with entries.", tuple(problems))
    figure, axes, titles = _panels([run for run, _ in drawn], panel_inches=(3.6, 2.6))
    for axis, title, (_, log) in zip(axes, titles, drawn, strict=True):
        _loss_panel(axis, log)
        axis.set_title(title)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    caption = (
        "Losses of discriminator and generator over images shown. Lines: mean of neighbouring steps; shade: their "
        f"range. Losses of different models do not compare.{left_out}"
    )
    return Drawing(figure, caption, tuple(problems))


def read_loss_log(path: Path) -> LossLog:
    """Read a training log line by line. Raises OSError where the file cannot be read."""
    points: dict[str, list[tuple[float, float]]] = {name: [] for name, _, _ in _LOSSES}
    num_broken = 0
    with path.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            entry = _loss_entry(line)
            if entry is None:
                num_broken += bool(line.strip())
                continue
            for name, point in entry.items():
                points[name].append(point)
    losses = {name: np.array(sorted(found), dtype=np.float64).reshape(-1, 2) for name, found in points.items()}
    return LossLog(losses, num_broken)


def _loss_entry(line: str) -> dict[str, tuple[float, float]] | None:
    """Network → (images shown, loss), null as nan; None for a line that is no entry.

    A step may be without one network's loss: where the discriminator is updated more often than the generator.
    """
    try:
        entry = json.loads(line)
        images_shown = float(entry["images_shown"])
        losses = {name: entry[name] for name, _, _ in _LOSSES if name in entry}
        points = {name: (images_shown, math.nan if loss is None else float(loss)) for name, loss in losses.items()}
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return None
    return points if points and math.isfinite(images_shown) and images_shown >= 0 else None


def _loss_panel(axis: Axes, log: LossLog) -> None:
    num_not_finite = 0
    for name, colour, line_style in _LOSSES:
        finite = np.isfinite(log.losses[name][:, 1])
        num_not_finite += int((~finite).sum())
        shown, values = log.losses[name][finite].T
        if not len(values):
            continue
        starts = np.unique(np.linspace(0, len(values), _MAX_LOSS_POINTS, endpoint=False).astype(np.int64))
        counts = np.diff(starts, append=len(values))
        kimg = np.add.reduceat(shown, starts) / counts / 1e3
        mean = np.add.reduceat(values, starts) / counts
        low, high = np.minimum.reduceat(values, starts), np.maximum.reduceat(values, starts)
        axis.fill_between(kimg, low, high, color=colour, alpha=0.2, linewidth=0)
        marker = "o" if len(mean) == 1 else ""
        axis.plot(kimg, mean, color=colour, linestyle=line_style, marker=marker, linewidth=1.3, label=name)
    if num_not_finite:
        axis.annotate(f"{num_not_finite} not finite", (0.98, 0.96), xycoords="axes fraction", ha="right", va="top")
    for side in (axis.xaxis, axis.yaxis):
        side.set_major_formatter(FuncFormatter(tick_text))
    axis.set_xlabel("images shown (kimg)")
    axis.set_ylabel("loss")


def samples(runs: Sequence[StoredRun]) -> Drawing:
    """The last sample grid of each run, side by side."""
    with_grids = [run for run in runs if last_grid(run) is not None]
    kept, left_out = newest(with_grids, _MAX_PANELS)
    drawn, problems = [], []
    for run in kept:
        image = read_grid(run)
        if isinstance(image, str):
            problems.append(image)
        else:
            drawn.append((run, image))
    if not drawn:
        return Drawing(None, "No run has a sample grid.", tuple(problems))
    figure, axes, titles = _panels([run for run, _ in drawn], panel_inches=(3.4, 3.8))
    for axis, title, (run, image) in zip(axes, titles, drawn, strict=True):
        axis.imshow(image)
        axis.set_axis_off()
        axis.set_title(f"{title}\n{num_images_text(run)}")
    caption = f"Images from the same fixed latents at the end of each training, not selected.{left_out}"
    return Drawing(figure, caption, tuple(problems))


def last_grid(run: StoredRun) -> tuple[str, str] | None:
    """Key and path of the grid with the most images shown."""
    result = run.record.phases.get("train")
    keys = [key for key in result.artifacts if key.startswith("samples_")] if result else []
    return (max(keys), result.artifacts[max(keys)]) if result and keys else None


def num_images_text(run: StoredRun) -> str:
    """`after 200,000 images`, or nothing where the run has no grid."""
    grid = last_grid(run)
    digits = grid[0].removeprefix("samples_") if grid else ""
    return f"after {int(digits) / 1e3:,.10g} kimg" if digits.isascii() and digits.isdigit() else ""


def read_grid(run: StoredRun) -> NDArray[np.uint8] | str:
    """RGB pixels [h, w, 3], or the sentence that says why not."""
    grid = last_grid(run)
    path = run.folder / (grid[1] if grid else "")
    if not path.resolve().is_relative_to(run.folder.resolve()):
        return f"The sample grid '{path}' lies outside its run's folder; it is not drawn."
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=["PNG"]) as file:
                image = file.convert("RGB")
    except (
        OSError,
        SyntaxError,  # what Pillow raises for a broken PNG chunk
        ValueError,
        UnidentifiedImageError,
        Image.DecompressionBombError,
        Image.DecompressionBombWarning,
    ) as error:
        return f"The sample grid '{path}' cannot be read ({error}); it is not drawn."
    image.thumbnail((_MAX_SAMPLE_PIXELS, _MAX_SAMPLE_PIXELS), Image.Resampling.LANCZOS)
    return np.asarray(image)


def _panels(runs: Sequence[StoredRun], *, panel_inches: tuple[float, float]) -> tuple[Figure, list[Axes], list[str]]:
    """A grid of panels, at most four in a row, and a title for each."""
    num_columns = min(len(runs), 4 if len(runs) > 6 or len(runs) == 4 else 3)
    num_rows = math.ceil(len(runs) / num_columns)
    width, height = panel_inches
    figure = Figure(figsize=(max(5.0, width * num_columns), 0.4 + height * num_rows), layout="constrained")
    axes = list(figure.subplots(num_rows, num_columns, squeeze=False).flat)
    for unused in axes[len(runs) :]:
        unused.remove()
    labels = [drawable(label) for label in run_labels([run.record for run in runs])]
    return figure, axes[: len(runs)], [textwrap.fill(label, _TITLE_CHARS) for label in labels]
