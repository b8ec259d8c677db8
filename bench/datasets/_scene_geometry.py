"""What a scene of `scenes-v1` is made of: palettes, shapes, places and light, in unit coordinates.

The renderer (`scenes.py`) and the decoder (`_scene_decoder.py`) share this file, so that what one draws is what the
other looks for. Everything here is float32 and uses only operations that IEEE 754 rounds exactly (+ - × ÷ √ min max
abs), so that a pixel is the same on every computer; no sine, exponential or matrix product.

Source: ours. Signed distances follow https://iquilezles.org/articles/distfunctions2d/ (disc, box, ring); difference:
triangle and cross are an intersection and a union of half-planes, whose value is a distance only near an edge and not
beyond a corner, which moves no edge and costs three operations.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Levels = NDArray[np.int64]

VERSION = "scenes-v1"
RESOLUTIONS = (32, 64, 128, 256)

FACTORS = {"wall": 4, "centre_shape": 5, "centre_colour": 4, "side_shape": 5, "side_colour": 4}
NUM_MODES = 1600

SHAPES = ("disc", "square", "triangle", "cross", "ring")
COLOURS: Floats = np.array(
    [[226, 36, 44], [255, 214, 30], [30, 72, 226], [46, 196, 60]], np.float32
)  # [4, 3] red, yellow, blue, green
WALLS: Floats = np.array(
    [[236, 206, 160], [110, 190, 180], [176, 130, 214], [84, 94, 118]], np.float32
)  # [4, 3] sand, teal, lilac, slate

HORIZON = 0.75
LIGHT_RANGE = (0.8, 1.0)

_DISC_RADIUS = 0.98
_SQUARE_HALF_SIDE = 0.87
_TRIANGLE_TOP, _TRIANGLE_BOTTOM, _TRIANGLE_HALF_WIDTH = -1.0, 0.9, 1.0
_CROSS_REACH, _CROSS_HALF_WIDTH = 1.0, 0.36
_RING_MIDDLE, _RING_HALF_WIDTH = 0.72, 0.26
_TRIANGLE_SIDE = 2.147091  # √(1.9² + 1²), length of the slanted side

# Area in radii², and how far the centre of mass lies below the shape's origin in radii.
AREAS = (3.017186, 3.0276, 1.9, 2.3616, 2.352424)
MASS_OFFSETS = (0.0, 0.0, 0.266667, 0.0, 0.0)


class Window(NamedTuple):
    """Part of the image, in thirty-seconds of its side, so that its edges lie on pixel edges at every resolution."""

    top: int
    bottom: int
    left: int
    right: int

    def slices(self, resolution: int) -> tuple[slice, slice]:
        """Rows and columns at that resolution."""
        scale = resolution // 32
        return slice(self.top * scale, self.bottom * scale), slice(self.left * scale, self.right * scale)


class Stand(NamedTuple):
    """Where one of the three objects may be; unit coordinates, y grows downwards.

    Attributes:
        x, y, radius: the middle of what the jitter may give.
        window: the smallest window that holds the object whatever its jitter.
    """

    x: float
    y: float
    radius: float
    window: Window


class Place(NamedTuple):
    """Where objects are: float32 [n] each, unit coordinates."""

    x: Floats
    y: Floats
    radius: Floats


STANDS = (
    Stand(6.5 / 32, 22.25 / 32, 4.4 / 32, Window(16, 28, 0, 13)),  # left
    Stand(16 / 32, 9.5 / 32, 5.2 / 32, Window(2, 16, 9, 23)),  # centre
    Stand(25.5 / 32, 22.25 / 32, 4.4 / 32, Window(16, 28, 19, 32)),  # right
)
JITTER_X, JITTER_Y, JITTER_RADIUS = 1 / 32, 0.75 / 32, 0.1  # the last one relative; each is uniform in ± this


def pixel_centres(resolution: int) -> Floats:
    """Unit coordinates of the centres of a row or a column of pixels, [resolution]."""
    return (np.arange(resolution, dtype=np.float32) + np.float32(0.5)) / np.float32(resolution)


def shade(resolution: int) -> Floats:
    """Brightness of wall and floor by row, [resolution]: the wall darkens downwards, the floor brightens again."""
    rows = pixel_centres(resolution)
    wall = np.float32(1.0) - np.float32(0.2) * rows
    floor = np.float32(0.8) * rows - np.float32(0.1)
    return np.where(rows < np.float32(HORIZON), wall, floor)


def background(wall: Levels, light: Floats, resolution: int) -> Floats:
    """Wall and floor by row, 0 … 255: wall [n], light [n] → [n, 3, h]."""
    lit: Floats = WALLS[wall] * light[:, None]
    return lit[:, :, None] * shade(resolution)


def coverage(shape: int, place: Place, window: Window, resolution: int) -> Floats:
    """Share of each pixel of the window that an object of that shape covers, [n, h, w] in [0, 1].

    The signed distance to the edge, in pixels, becomes a ramp one pixel wide: the area a straight edge cuts off.
    """
    rows, columns = window.slices(resolution)
    centres = pixel_centres(resolution)
    scale = np.float32(resolution)
    dx: Floats = (centres[columns] - place.x[:, None])[:, None, :] * scale  # [n, 1, w] pixels
    dy: Floats = (centres[rows] - place.y[:, None])[:, :, None] * scale  # [n, h, 1]
    distance = _signed_distance(shape, dx, dy, (place.radius * scale)[:, None, None])
    np.subtract(np.float32(0.5), distance, out=distance)
    return np.clip(distance, np.float32(0), np.float32(1), out=distance)


def _signed_distance(shape: int, dx: Floats, dy: Floats, radius: Floats) -> Floats:
    """Pixels to the edge of the shape, negative inside: dx [n, 1, w], dy [n, h, 1], radius [n, 1, 1] → [n, h, w]."""
    name = SHAPES[shape]
    distance: Floats
    if name == "square":
        distance = np.maximum(np.abs(dx), np.abs(dy)) - radius * np.float32(_SQUARE_HALF_SIDE)
    elif name == "triangle":
        along_x = np.abs(dx) * np.float32((_TRIANGLE_BOTTOM - _TRIANGLE_TOP) / _TRIANGLE_SIDE)
        from_top = dy - radius * np.float32(_TRIANGLE_TOP)
        slanted = along_x - from_top * np.float32(_TRIANGLE_HALF_WIDTH / _TRIANGLE_SIDE)
        distance = np.maximum(slanted, dy - radius * np.float32(_TRIANGLE_BOTTOM))
    elif name == "cross":
        reach, half_width = radius * np.float32(_CROSS_REACH), radius * np.float32(_CROSS_HALF_WIDTH)
        lying = np.maximum(np.abs(dx) - reach, np.abs(dy) - half_width)
        distance = np.minimum(lying, np.maximum(np.abs(dx) - half_width, np.abs(dy) - reach))
    else:
        distance = np.sqrt(dx * dx + dy * dy)
        if name == "disc":
            distance -= radius * np.float32(_DISC_RADIUS)
        else:  # a ring
            distance = np.abs(distance - radius * np.float32(_RING_MIDDLE)) - radius * np.float32(_RING_HALF_WIDTH)
    return distance


def palette_hash() -> str:
    """SHA-256 of the palettes, 0 … 255 per channel, objects before walls."""
    return hashlib.sha256(COLOURS.astype(np.uint8).tobytes() + WALLS.astype(np.uint8).tobytes()).hexdigest()
