"""`scenes`: procedural rooms with three objects, the data set that is always there and whose distribution is known.

Why it exists: real data sets cannot be shipped and noise cannot measure quality. Here image = f(seed, index,
resolution), a pure function without files, so that any index can be read at once, and 32, 64, 128 and 256 pixels show
the same scene. A wall (4 colours), a centre object (5 shapes × 4 colours) and two side objects (5 × 4) make 1,600
equiprobable modes, each with continuous jitter of position, size and light. **The left and right objects always share
shape and colour**, though each has its own jitter: a rule over a distance, made for attention.

How an index becomes a scene: image `index` owns the SplitMix64 outputs 8·index … 8·index + 7. Output 0 modulo 1,600 is
the mode (the bias of the modulo is 1e-16); outputs 1 to 5 give ten uniform numbers of 24 bits each, the jitters.
Pixels are float32, from exactly rounded operations only, and rounded to uint8 once: the same bytes on every computer
(golden hashes in `tests/test_scenes.py`). Any change of those bytes is another version.

Source: ours; the idea of procedural factors that can be read back is that of Shapes3D (https://github.com/google-deepmind/3d-shapes).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.datasets import _scene_geometry as geometry
from bench.datasets._scene_geometry import Floats, Levels, Place
from bench.datasets._spec import DatasetSpec, Images, Indices, OpenDataset
from bench.datasets._splitmix64 import splitmix64
from bench.errors import UsageError

SEED = 1
NUM_TRAIN_IMAGES = 2**20
NUM_REFERENCE_IMAGES = 2**17

_WORDS_PER_IMAGE = 8
_NUM_JITTERS = 10
_PIXELS_PER_CHUNK = 2**16  # keeps the working set of a chunk in a core's own cache


@dataclass(frozen=True, kw_only=True)
class Scenes:
    """The factors of n scenes, all that decides their pixels.

    Attributes:
        mode: [n] in [0, 1600), the five factors as one number.
        wall, centre_shape, centre_colour, side_shape, side_colour: [n] levels of the five factors.
        light: [n], multiplies every colour.
        places: left, centre and right object.
    """

    mode: Levels
    wall: Levels
    centre_shape: Levels
    centre_colour: Levels
    side_shape: Levels
    side_colour: Levels
    light: Floats
    places: tuple[Place, Place, Place]


def scenes_at(indices: Indices, seed: int = SEED) -> Scenes:
    """The scenes of these indices [n], n ≥ 0."""
    first = indices.astype(np.uint64) * np.uint64(_WORDS_PER_IMAGE)
    counters: NDArray[np.uint64] = np.add.outer(first, np.arange(1 + _NUM_JITTERS // 2, dtype=np.uint64))
    words = splitmix64(seed, counters)
    mode = (words[:, 0] % np.uint64(geometry.NUM_MODES)).astype(np.int64)
    wall, centre_shape, centre_colour, side_shape, side_colour = np.unravel_index(
        mode, tuple(geometry.FACTORS.values())
    )
    jitter = _symmetric(words[:, 1:])
    darkest, brightest = geometry.LIGHT_RANGE
    middle, half_range = (brightest + darkest) / 2, (brightest - darkest) / 2
    return Scenes(
        mode=mode,
        wall=wall,
        centre_shape=centre_shape,
        centre_colour=centre_colour,
        side_shape=side_shape,
        side_colour=side_colour,
        light=np.float32(middle) + np.float32(half_range) * jitter[9],
        places=(_place(0, jitter[0:3]), _place(1, jitter[3:6]), _place(2, jitter[6:9])),
    )


def _symmetric(words: NDArray[np.uint64]) -> Floats:
    """Words [n, k] → 2·k numbers [2·k, n], uniform in [-1, 1): the top 24 bits of each half, exact in float32."""
    halves = np.stack([words >> np.uint64(40), (words >> np.uint64(8)) & np.uint64(0xFFFFFF)], axis=-1)
    uniform = halves.reshape(len(words), -1).T.astype(np.float32) * np.float32(2.0**-23)
    return uniform - np.float32(1.0)


def _place(which: int, jitter: Floats) -> Place:
    stand = geometry.STANDS[which]
    return Place(
        x=np.float32(stand.x) + np.float32(geometry.JITTER_X) * jitter[0],
        y=np.float32(stand.y) + np.float32(geometry.JITTER_Y) * jitter[1],
        radius=np.float32(stand.radius) + np.float32(stand.radius * geometry.JITTER_RADIUS) * jitter[2],
    )


def render(scenes: Scenes, resolution: int) -> Images:
    """The images [n, 3, resolution, resolution] of these scenes."""
    backdrop = geometry.background(scenes.wall, scenes.light, resolution) + np.float32(
        0.5
    )  # the half rounds, see below
    images: Images = np.empty((len(scenes.mode), 3, resolution, resolution), np.uint8)
    images[...] = backdrop.astype(np.uint8)[..., None]
    side, centre = (scenes.side_shape, scenes.side_colour), (scenes.centre_shape, scenes.centre_colour)
    for stand, place, (shape, colour) in zip(geometry.STANDS, scenes.places, (side, centre, side), strict=True):
        rows, columns = stand.window.slices(resolution)
        covered = _covered(shape, place, stand.window, resolution)[:, None]  # [n, 1, h, w]
        behind = backdrop[:, :, rows, None]
        lit = geometry.COLOURS[colour] * scenes.light[:, None] + np.float32(0.5)
        blended = covered * (lit[:, :, None, None] - behind)
        blended += behind
        images[:, :, rows, columns] = blended  # truncates; with the half added above this rounds to nearest
    return images


def _covered(shape: Levels, place: Place, window: geometry.Window, resolution: int) -> Floats:
    """As `geometry.coverage`, each image with its own shape [n]."""
    rows, columns = window.slices(resolution)
    covered: Floats = np.empty((len(shape), rows.stop - rows.start, columns.stop - columns.start), np.float32)
    for candidate in range(len(geometry.SHAPES)):
        which = np.flatnonzero(shape == candidate)
        if len(which):
            chosen = Place(place.x[which], place.y[which], place.radius[which])
            covered[which] = geometry.coverage(candidate, chosen, window, resolution)
    return covered


@dataclass(frozen=True, kw_only=True)
class SceneImages:
    """A range of indices at one resolution; an `ImageSet`."""

    resolution: int
    first_index: int
    num_images: int
    seed: int = SEED

    def __len__(self) -> int:
        return self.num_images

    def read(self, indices: Indices) -> Images:
        """indices [n] in [0, len) → uint8 RGB images [n, 3, h, w].

        Raises:
            UsageError: an index outside the range.
        """
        indices = np.asarray(indices, np.int64)
        if len(indices) and not 0 <= indices.min() <= indices.max() < self.num_images:
            raise UsageError(f"scenes has the images 0 to {self.num_images - 1}; ask for indices in that range.")
        images: Images = np.empty((len(indices), 3, self.resolution, self.resolution), np.uint8)
        step = max(1, _PIXELS_PER_CHUNK // self.resolution**2)
        for start in range(0, len(indices), step):
            scenes = scenes_at(indices[start : start + step] + self.first_index, self.seed)
            images[start : start + step] = render(scenes, self.resolution)
        return images


def _open(resolution: int, path: str | None) -> OpenDataset:
    if resolution not in geometry.RESOLUTIONS:
        raise UsageError(f"--resolution {resolution} is not one of scenes: {geometry.RESOLUTIONS}.")
    if path is not None:
        raise UsageError("scenes is made from nothing; write --dataset scenes without a path.")
    return OpenDataset(
        train=SceneImages(resolution=resolution, first_index=0, num_images=NUM_TRAIN_IMAGES),
        reference=SceneImages(resolution=resolution, first_index=NUM_TRAIN_IMAGES, num_images=NUM_REFERENCE_IMAGES),
        protocol={
            "version": geometry.VERSION,
            "resolution": resolution,
            "seed": SEED,
            "train_indices": [0, NUM_TRAIN_IMAGES],
            "reference_indices": [NUM_TRAIN_IMAGES, NUM_TRAIN_IMAGES + NUM_REFERENCE_IMAGES],
            "num_modes": geometry.NUM_MODES,
            "palette_sha256": geometry.palette_hash(),
            "preparation": "rendered at the resolution: signed distances, one-pixel ramp, rounded to uint8",
        },
    )


SPEC = DatasetSpec(
    title="Scenes: a wall and three objects, 1,600 equiprobable modes, left and right alike",
    source="procedural (bench/datasets/scenes.py)",
    licence="MIT, as this project",
    resolutions=geometry.RESOLUTIONS,
    default_resolution=32,
    open=_open,
)
