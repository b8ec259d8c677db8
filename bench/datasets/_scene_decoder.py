"""Reads the factors of a `scenes-v1` image back, with a score that says how much it is such a scene.

Why it exists: with it validity, coverage of modes and the match of left and right are counted, not estimated by a
network. It needs no training. In each image it
1. projects the mean colour of two patches of bare wall on the four wall colours, which gives wall and light, and with
   them what the whole background must look like;
2. takes three fields that tile the image (upper half, lower left, lower right) and in each projects the difference
   from that background on the four object colours; the colour that explains most of the difference is the object's,
   and the projection is its coverage by pixel;
3. has, for each shape, the radius from the area and the place from the centre of mass of that coverage, renders the
   five shapes there, and takes the one that overlaps best;
4. scores the field by how far the coverage seen is that of the shape read: with p and q the two,
    overlap = 1 - Σ|p - q| / Σ(p + q),
which for pure colours is the Dice coefficient of the two masks. A wrong shape, a blur, grain or a fourth object lowers
it. What it does not see: a colour that is only nearest to the one read, and a fourth object of a colour that the
projection on the third ignores (about a quarter of images with such an object still count as scenes).

Source: ours. Dice coefficient: L. R. Dice, Ecology 26(3), 1945; its form for numbers: Bray and Curtis, Ecological
Monographs 27(4), 1957.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.datasets import _scene_geometry as geometry
from bench.datasets._scene_geometry import Floats, Levels, Place, Window
from bench.datasets._spec import Images
from bench.errors import UsageError

# 0.95 × the 1st percentile of the least overlap of an image, over real images; tests/test_scenes.py finds them again.
OVERLAP_THRESHOLDS = {32: 0.8987, 64: 0.9212, 128: 0.9356, 256: 0.9407}

_FIELDS = (Window(16, 32, 0, 16), Window(0, 16, 0, 32), Window(16, 32, 16, 32))  # left, centre, right: the whole image
_BARE_WALL = (Window(0, 14, 0, 8), Window(0, 14, 24, 32))
_LIGHT_MARGIN = 0.1  # a light this far outside the range is still read; further out it is cut off
_DEAD_ZONE = 0.2  # coverage that is taken for noise where the size and place of an object are measured
_PIXELS_PER_CHUNK = 2**16


@dataclass(frozen=True, kw_only=True)
class DecodedScenes:
    """What was read in n images. Objects are in the order left, centre, right.

    Attributes:
        resolution: pixels per side.
        wall: [n] level of the wall colour.
        light: [n] brightness.
        shapes, colours: [n, 3] levels; always the best guess, whatever its overlap.
        overlaps: [n, 3] in [0, 1], 1 where the coverage seen is exactly that of the shape read.
    """

    resolution: int
    wall: Levels
    light: Floats
    shapes: Levels
    colours: Levels
    overlaps: Floats

    @property
    def is_object(self) -> NDArray[np.bool_]:
        """[n, 3]: whether the overlap passes the threshold of this resolution."""
        passes: NDArray[np.bool_] = self.overlaps >= np.float32(OVERLAP_THRESHOLDS[self.resolution])
        return passes

    @property
    def is_valid(self) -> NDArray[np.bool_]:
        """[n]: whether all three objects are there."""
        valid: NDArray[np.bool_] = np.all(self.is_object, axis=1)
        return valid

    @property
    def is_pair(self) -> NDArray[np.bool_]:
        """[n]: whether left and right were read as the same shape and colour, whatever their overlap."""
        alike: NDArray[np.bool_] = (self.shapes[:, 0] == self.shapes[:, 2]) & (self.colours[:, 0] == self.colours[:, 2])
        return alike

    @property
    def mode(self) -> Levels:
        """[n]: the mode, with the left object standing for both sides; a mode only where `is_valid` and `is_pair`."""
        levels = (self.wall, self.shapes[:, 1], self.colours[:, 1], self.shapes[:, 0], self.colours[:, 0])
        return np.ravel_multi_index(levels, tuple(geometry.FACTORS.values()))


def decode(images: Images) -> DecodedScenes:
    """uint8 images [n, 3, h, h] → what they show; no image changes what is read in another.

    Raises:
        UsageError: the images are not square RGB of a resolution that scenes has.
    """
    resolution = images.shape[-1]
    if images.dtype != np.uint8 or images.shape[1:] != (3, resolution, resolution):
        raise UsageError(f"The scenes decoder reads uint8 images [n, 3, h, h], not {images.dtype} {images.shape}.")
    if resolution not in geometry.RESOLUTIONS:
        raise UsageError(f"The scenes decoder reads {geometry.RESOLUTIONS} pixels per side, not {resolution}.")
    num_images = len(images)
    decoded = DecodedScenes(
        resolution=resolution,
        wall=np.zeros(num_images, np.int64),
        light=np.zeros(num_images, np.float32),
        shapes=np.zeros((num_images, 3), np.int64),
        colours=np.zeros((num_images, 3), np.int64),
        overlaps=np.zeros((num_images, 3), np.float32),
    )
    step = max(1, _PIXELS_PER_CHUNK // resolution**2)
    for start in range(0, num_images, step):
        _decode_chunk(images[start : start + step], decoded, slice(start, start + step))
    return decoded


def _decode_chunk(images: Images, decoded: DecodedScenes, part: slice) -> None:
    """Reads a few images and writes what they show into that part of `decoded`."""
    resolution = decoded.resolution
    wall, light = _read_wall(images)
    decoded.wall[part], decoded.light[part] = wall, light
    backdrop = geometry.background(wall, light, resolution)  # [n, 3, h]
    for which, field in enumerate(_FIELDS):
        rows, columns = field.slices(resolution)
        behind = backdrop[:, :, rows, None]  # [n, 3, h, 1]
        difference = images[:, :, rows, columns].astype(np.float32)
        difference -= behind
        colour, seen = _read_colour(difference, behind, light)
        shape, overlap = _read_shape(seen, which, resolution)
        decoded.colours[part, which], decoded.shapes[part, which] = colour, shape
        decoded.overlaps[part, which] = overlap


def _read_wall(images: Images) -> tuple[Levels, Floats]:
    """The wall colour that the bare wall is nearest to, and the light there: [n], [n]."""
    resolution = images.shape[-1]
    patches = [images[:, :, *window.slices(resolution)] for window in _BARE_WALL]
    shade = geometry.shade(resolution)[_BARE_WALL[0].slices(resolution)[0]].mean()
    mean = np.concatenate(patches, axis=3).mean(axis=(2, 3), dtype=np.float32) / shade  # [n, 3]
    power = (geometry.WALLS**2).sum(axis=1)  # [4]
    projected = (mean[:, None] * geometry.WALLS).sum(axis=2) / power  # [n, 4]
    darkest, brightest = geometry.LIGHT_RANGE
    light = projected.clip(darkest - _LIGHT_MARGIN, brightest + _LIGHT_MARGIN).astype(np.float32)
    distance2 = ((mean[:, None] - light[..., None] * geometry.WALLS) ** 2).sum(axis=2)
    wall = distance2.argmin(axis=1)
    return wall, np.take_along_axis(light, wall[:, None], axis=1)[:, 0]


def _read_colour(difference: Floats, behind: Floats, light: Floats) -> tuple[Levels, Floats]:
    """The object colour that explains most of the difference, and its coverage by pixel: [n], [n, h, w].

    With v the way from background to colour and a = clip(d·v / v·v, 0, 1), the colour explains |d|² - |d - a·v|² =
    a·(2·d·v - a·v·v) of the difference d.
    """
    explained = np.empty((len(geometry.COLOURS), len(light)), np.float32)
    coverages = []
    for level, colour in enumerate(geometry.COLOURS):
        towards = (colour * light[:, None])[:, :, None, None] - behind  # [n, 3, h, 1]
        power = (towards**2).sum(axis=1)  # [n, h, 1]
        scaled = towards / power[:, None]
        projected = difference[:, 0] * scaled[:, 0]
        projected += difference[:, 1] * scaled[:, 1]
        projected += difference[:, 2] * scaled[:, 2]
        seen = projected.clip(0, 1)
        explained[level] = _sum((2 * projected - seen) * seen * power)
        coverages.append(seen)
    colour = explained.argmax(axis=0)
    return colour, np.stack(coverages)[colour, np.arange(len(light))]


def _read_shape(seen: Floats, which: int, resolution: int) -> tuple[Levels, Floats]:
    """The shape that overlaps the coverage seen best, and that overlap: [n, h, w] → [n], [n] in [0, 1]."""
    field, stand = _FIELDS[which], geometry.STANDS[which]
    rows, columns = field.slices(resolution)
    centres = geometry.pixel_centres(resolution)
    solid = _firm(seen)
    area: Floats = np.maximum(_sum(solid), np.float32(1))  # pixels
    x = (solid.sum(axis=1) * centres[columns]).sum(axis=1) / area
    down = (solid.sum(axis=2) * centres[rows]).sum(axis=1) / area
    best, shape = np.full(len(seen), -1.0, np.float32), np.zeros(len(seen), np.int64)
    for candidate, (unit_area, offset) in enumerate(zip(geometry.AREAS, geometry.MASS_OFFSETS, strict=True)):
        measured: Floats = np.sqrt(area / np.float32(unit_area)) / np.float32(resolution)
        radius = _within(measured, stand.radius, geometry.JITTER_RADIUS * stand.radius)
        middle = _within(down - np.float32(offset) * radius, stand.y, geometry.JITTER_Y)
        place = Place(x=_within(x, stand.x, geometry.JITTER_X), y=middle, radius=radius)
        template = geometry.coverage(candidate, place, field, resolution)
        overlap = 1 - _sum(np.abs(seen - template)) / _sum(seen + template)
        better = overlap > best
        best[better], shape[better] = overlap[better], candidate
    return shape, best


def _within(values: Floats, middle: float, half_range: float) -> Floats:
    """Cut off at twice the range that the jitter has: what lies further out is not in this place."""
    return np.clip(values, middle - 2 * half_range, middle + 2 * half_range).astype(np.float32)


def _firm(values: Floats) -> Floats:
    """0 up to the dead zone, 1 from as far below 1, straight between: a half stays a half, so areas are kept."""
    firm: Floats = ((values - _DEAD_ZONE) * (1 / (1 - 2 * _DEAD_ZONE))).clip(0, 1)
    return firm


def _sum(values: Floats) -> Floats:
    """Sum of each image [n, ...] → [n], in an order that does not depend on n."""
    sums: Floats = values.reshape(len(values), -1).sum(axis=1)
    return sums
