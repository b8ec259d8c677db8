"""A shard of raw bytes, mapped into memory: image i is bytes i·3·h·w … (i+1)·3·h·w - 1, uint8 [3, h, w].

Why it exists: nothing is decoded, so reading costs next to no processor time and does not disturb what is measured. It
takes the most room, 49 kB an image at 128 px. No header: shape and count are in the manifest.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from bench.datasets._spec import Images, Indices
from bench.errors import BenchError

SUFFIX = ".u8"


def write(path: Path, images: Iterable[Images], _num_at_most: int) -> None:
    """Write images uint8 [3, h, w] one after the other. Raises OSError where the disk does not take them."""
    with path.open("wb") as file:
        for image in images:
            file.write(np.ascontiguousarray(image).data)


class MemmapShard:
    """Reads one such file; mapped when it is first read.

    A read-only mapping may be shared by forked processes; a copy sent to a spawned one maps the file for itself.

    Args:
        path: the file.
        num_images: images in it, at least one.
        resolution: pixels per side.
    """

    def __init__(self, path: Path, num_images: int, resolution: int) -> None:
        self._path = path
        self._shape = (num_images, 3, resolution, resolution)
        self._mapped: Images | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return MemmapShard, (self._path, self._shape[0], self._shape[2])

    def read(self, rows: Indices) -> Images:
        """rows [n] → uint8 [n, 3, h, w]. Raises BenchError where the file cannot be mapped."""
        if self._mapped is None:
            try:
                self._mapped = np.memmap(self._path, dtype=np.uint8, mode="r", shape=self._shape)
            except (OSError, ValueError) as error:
                raise BenchError(
                    f"The shard '{self._path}' cannot be read ({error}): run `bench data verify`."
                ) from error
        return np.asarray(self._mapped[rows])
