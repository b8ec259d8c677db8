"""Where the labels of a scatter plot stand so that they cover neither markers nor one another.

A fixed list of places around each marker is tried, nearest first, and the one that covers least is taken: no random
numbers and no iteration, so the same points give the same picture. This is the greedy form of point-feature labelling
(Christensen, Marks & Shieber, ACM Transactions on Graphics 14 (1995) 203, doi:10.1145/212332.212334). Error bars may be
crossed where nothing else is left; markers and other labels cost more.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from matplotlib.axes import Axes

Box = tuple[float, float, float, float]
"""Left, bottom, right, top, in points."""

FONT_POINTS = 7.5

_POINTS_PER_INCH = 72.0
_CHAR_WIDTH, _LINE_HEIGHT, _GAP = 0.62, 1.25, 0.5  # of DejaVu Sans, in font sizes; 8 beside 4 is no 84
_NUM_DIRECTIONS = 16
_DISTANCES = (7.0, 12.0, 19.0, 28.0, 40.0, 54.0)  # from a marker's middle to the nearest point of its label
_LEADER_FROM = 12.0  # a label further away than this is joined to its marker by a line
_MARKER_RADIUS = 6.0
_PER_LABEL, _PER_MARKER, _PER_BAR, _PER_POINT_OUTSIDE, _PER_DISTANCE = 20.0, 20.0, 2.0, 5.0, 0.12
_PER_LEADER, _NUM_DOTS = 5.0, 9
_CROWDED, _FAR = 9.0, 20.0  # badness and distance from which shorter labels are tried


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """A point in data units, the ends of its error bars (low x, low y, high x, high y), and what to write at it.

    Attributes:
        texts: the longest first; the next is taken where there is no room for one.
    """

    at: tuple[float, float]
    ends: tuple[float, float, float, float]
    texts: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class _Place:
    """Where a label stands: how far from its marker's middle, its box, and how bad that is."""

    distance: float
    box: Box
    badness: float


def place_labels(
    axis: Axes,
    points: Sequence[Labelled],
    *,
    lines: Sequence[tuple[float, float]] = (),
    kept_free: Sequence[Box] = (),
) -> list[Box]:
    """Write the labels; the figure must have its layout already (`Figure.draw_without_rendering`).

    All labels of a picture are of one length: a shorter one is taken for all where one of them would be crowded.

    Args:
        points: each with the same number of texts.
        lines: corners of a line of horizontal and vertical stretches, in data units; crossed only in need.
        kept_free: boxes in fractions of the axes that no label may cover.

    Returns:
        The labels' boxes, in points.
    """
    frame = _frame(axis)
    middles = [_in_points(axis, point.at) for point in points]
    corners = [_in_points(axis, corner) for corner in lines]
    stretches = [_around(*pair) for pair in pairwise(corners)]
    bars = [*stretches, *(bar for point in points for bar in _bars(axis, point))]
    free = [_fraction_of(frame, box) for box in kept_free]
    texts: Sequence[str] = ()
    places: list[_Place] = []
    for texts in zip(*(point.texts for point in points), strict=True):
        places = _arranged(frame, middles, [_size(text) for text in texts], bars, free)
        if all(place.badness < _CROWDED and place.distance <= _FAR for place in places):
            break
    for point, text, middle, place in zip(points, texts, middles, places, strict=True):
        _write(axis, point.at, text, middle, place)
    return [place.box for place in places]


@dataclass(frozen=True, kw_only=True)
class _Obstacles:
    """What a label should not cover; it grows with every label that is placed."""

    frame: Box
    markers: list[Box]
    bars: list[Box]
    taken: list[Box]
    leaders: list[Box]

    def place(self, middle: tuple[float, float], distance: float, box: Box) -> _Place:
        """A label of that marker's there, and how bad that is."""
        frame = self.frame
        badness = _PER_LABEL * _num_touched(box, self.taken) + _PER_MARKER * _num_touched(box, self.markers)
        outside = max(frame[0] - box[0], 0) + max(frame[1] - box[1], 0)
        outside += max(box[2] - frame[2], 0) + max(box[3] - frame[3], 0)
        crossed = _num_touched(box, self.leaders)
        crossed += sum(_num_touched(dot, self.taken) for dot in _leader(middle, box, distance))
        badness += _PER_BAR * _num_touched(box, self.bars) + _PER_DISTANCE * distance
        return _Place(
            distance=distance, box=box, badness=badness + _PER_POINT_OUTSIDE * outside + _PER_LEADER * crossed
        )


def _arranged(
    frame: Box,
    middles: Sequence[tuple[float, float]],
    sizes: Sequence[tuple[float, float]],
    bars: Sequence[Box],
    free: Sequence[Box],
) -> list[_Place]:
    markers = [_around(middle, middle, _MARKER_RADIUS) for middle in middles]
    obstacles = _Obstacles(frame=frame, markers=markers, bars=list(bars), taken=list(free), leaders=[])
    found = []
    for middle, size in zip(middles, sizes, strict=True):
        places = [obstacles.place(middle, distance, box) for distance, box in _places(middle, size)]
        best = min(places, key=lambda place: place.badness)
        obstacles.taken.append(best.box)
        obstacles.leaders.extend(_leader(middle, best.box, best.distance))
        found.append(best)
    return found


def _size(text: str) -> tuple[float, float]:
    return (len(text) * _CHAR_WIDTH + _GAP) * FONT_POINTS, _LINE_HEIGHT * FONT_POINTS


def _around(start: tuple[float, float], end: tuple[float, float], margin: float = 1.0) -> Box:
    """The box of an upright or level stretch, or of a point."""
    (x_a, y_a), (x_b, y_b) = start, end
    return min(x_a, x_b) - margin, min(y_a, y_b) - margin, max(x_a, x_b) + margin, max(y_a, y_b) + margin


def _fraction_of(frame: Box, box: Box) -> Box:
    left, bottom, width, height = frame[0], frame[1], frame[2] - frame[0], frame[3] - frame[1]
    return left + box[0] * width, bottom + box[1] * height, left + box[2] * width, bottom + box[3] * height


def _places(middle: tuple[float, float], size: tuple[float, float]) -> Iterator[tuple[float, Box]]:
    """(distance, box) for every place, in a fixed order: the label's nearest edge or corner is that far away."""
    half_width, half_height = size[0] / 2, size[1] / 2
    for distance in _DISTANCES:
        for number in range(_NUM_DIRECTIONS):
            angle = 2 * math.pi * (number + 1) / _NUM_DIRECTIONS
            along, up = math.cos(angle), math.sin(angle)
            x = middle[0] + along * distance + half_width * _side(along)
            y = middle[1] + up * distance + half_height * _side(up)
            yield distance, (x - half_width, y - half_height, x + half_width, y + half_height)


def _leader(middle: tuple[float, float], box: Box, distance: float) -> list[Box]:
    """The line that joins a far label to its marker, as a row of dots; none where the label is near."""
    if distance <= _LEADER_FROM:
        return []
    along, up = (box[0] + box[2]) / 2 - middle[0], (box[1] + box[3]) / 2 - middle[1]
    shares = [step / _NUM_DOTS for step in range(1, _NUM_DOTS)]
    dots = [(middle[0] + share * along, middle[1] + share * up) for share in shares]
    return [_around(dot, dot, 0.7) for dot in dots]


def _side(share: float) -> float:
    """−1, 0 or 1: on which side of its anchor a label lies; in the middle where the direction is along the other."""
    return 0.0 if abs(share) < 0.2 else math.copysign(1.0, share)


def _num_touched(box: Box, others: Sequence[Box]) -> int:
    return sum(box[0] < other[2] and other[0] < box[2] and box[1] < other[3] and other[1] < box[3] for other in others)


def _bars(axis: Axes, point: Labelled) -> list[Box]:
    (x, y), (low_x, low_y, high_x, high_y) = point.at, point.ends
    ends = (((low_x, y), (high_x, y)), ((x, low_y), (x, high_y)))
    return [_around(_in_points(axis, start), _in_points(axis, end)) for start, end in ends]


def _in_points(axis: Axes, at: tuple[float, float]) -> tuple[float, float]:
    x, y = axis.transData.transform(at)
    scale = _POINTS_PER_INCH / axis.figure.dpi
    return float(x) * scale, float(y) * scale


def _frame(axis: Axes) -> Box:
    box = axis.get_window_extent()
    scale = _POINTS_PER_INCH / axis.figure.dpi
    return box.x0 * scale, box.y0 * scale, box.x1 * scale, box.y1 * scale


def _write(axis: Axes, at: tuple[float, float], text: str, middle: tuple[float, float], place: _Place) -> None:
    box = place.box
    offset = ((box[0] + box[2]) / 2 - middle[0], (box[1] + box[3]) / 2 - middle[1])
    leader = {"arrowstyle": "-", "color": "black", "linewidth": 0.5, "shrinkA": 0.0, "shrinkB": 0.0}
    note = axis.annotate(
        text,
        at,
        offset,
        textcoords="offset points",
        ha="center",
        va="center",
        fontsize=FONT_POINTS,
        zorder=4,
        arrowprops=leader if place.distance > _LEADER_FROM else None,
    )
    note.set_in_layout(False)  # or the panels would change their size after the labels were placed
