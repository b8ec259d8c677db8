"""Fréchet distance between two sets of features, in float64 only, from statistics gathered batch by batch.

It exists because the distance is easily got wrong: in float32 it is off by 2 to 14 %, a general matrix square root is
slow and turns complex, and null directions of a covariance each add the square root of a rounding error.

    FD(1, 2) = |μ1 − μ2|² + tr Σ1 + tr Σ2 − 2 tr (Σ1^½ Σ2 Σ1^½)^½
(Dowson and Landau 1982, https://doi.org/10.1016/0047-259X(82)90077-X; the distance of Heusel et al. 2017,
https://arxiv.org/abs/1706.08500, eq. 6). The last trace is taken from the eigenvalues of a symmetric matrix inside the
range of Σ1, after one eigendecomposition of Σ1 that serves every later distance.

Sources: merging of means and scatter matrices: Chan, Golub and LeVeque 1983, https://doi.org/10.2307/2683386.
Jackknife over groups of unequal size: Busing, Meijer and van der Leeden 1999,
https://doi.org/10.1023/A:1008800423698; its pseudo-values cancel the 1/n bias of the distance, so that
leaving a group out does not count as scatter.
"""

from __future__ import annotations

import functools
import hashlib
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student_t
from threadpoolctl import ThreadpoolController

from bench.datasets._spec import Images

Matrix = NDArray[np.float64]
AnyFeatures = NDArray[Any]

NUM_GROUPS = 10
_NUM_BUFFERED_ROWS = 1024
_CONFIDENCE = 0.95


@dataclass(frozen=True, kw_only=True)
class Moments:
    """Sufficient statistics of n features of width d.

    Attributes:
        count: n.
        mean: float64 [d].
        scatter: float64 [d, d], sum of outer products of the deviations from the mean.
    """

    count: int
    mean: Matrix
    scatter: Matrix

    @property
    def covariance(self) -> Matrix:
        """Unbiased covariance, float64 [d, d]. Raises ValueError for fewer than two features."""
        if self.count < 2:
            raise ValueError(f"a covariance takes two features, not {self.count}")
        return self.scatter / (self.count - 1)


@functools.cache
def _blas() -> ThreadpoolController:
    return ThreadpoolController()


def _one_blas_thread() -> AbstractContextManager[object]:
    """Inside, BLAS uses one thread. Its threads wait by spinning: beside torch's on a busy machine the decomposition
    of 1264 features was measured at 0.16 to 18 s with two threads, and at 0.3 to 0.8 s with one."""
    return cast("AbstractContextManager[object]", _blas().limit(limits=1, user_api="blas"))


def moments_of(features: AnyFeatures) -> Moments:
    """features [n, d] of any real type → their moments. They are cast to float64 before anything is computed."""
    rows = np.asarray(features, dtype=np.float64)
    mean = rows.mean(axis=0)
    deviations = rows - mean
    with _one_blas_thread():
        return Moments(count=len(rows), mean=mean, scatter=deviations.T @ deviations)


def merge(first: Moments, second: Moments) -> Moments:
    """Moments of both sets together (Chan et al.)."""
    count = first.count + second.count
    gap = second.mean - first.mean
    scatter = first.scatter + second.scatter
    scatter += np.outer(gap, gap * (first.count * second.count / count))
    return Moments(count=count, mean=first.mean + gap * (second.count / count), scatter=scatter)


def merge_all(parts: Sequence[Moments]) -> Moments:
    """Moments of all parts together; at least one."""
    return functools.reduce(merge, parts)


def remove(whole: Moments, part: Moments) -> Moments:
    """Moments of what is left of `whole` without `part`: `merge` solved for its first argument."""
    count = whole.count - part.count
    mean = whole.mean + (whole.mean - part.mean) * (part.count / count)
    gap = part.mean - mean
    scatter = whole.scatter - part.scatter
    scatter -= np.outer(gap, gap * (count * part.count / whole.count))
    return Moments(count=count, mean=mean, scatter=scatter)


class GroupedMoments:
    """Moments of a stream of features, one set per group, so that leaving a group out costs nothing.

    Args:
        num_groups: how many groups there are.
    """

    def __init__(self, num_groups: int = NUM_GROUPS) -> None:
        self._moments: list[Moments | None] = [None] * num_groups
        self._buffer: list[tuple[Matrix, NDArray[np.int64]]] = []
        self.count = 0

    def add(self, features: AnyFeatures, groups: NDArray[np.int64]) -> None:
        """features [n, d], groups [n] in [0, num_groups)."""
        self._buffer.append((np.array(features, dtype=np.float64), groups))
        self.count += len(groups)
        if sum(len(rows) for rows, _ in self._buffer) >= _NUM_BUFFERED_ROWS:  # a [d, d] update per image is slow
            self._flush()

    def by_group(self) -> list[Moments]:
        """Moments of every group that has an image."""
        self._flush()
        return [moments for moments in self._moments if moments is not None]

    def _flush(self) -> None:
        if not self._buffer:
            return
        features = np.concatenate([rows for rows, _ in self._buffer])
        groups = np.concatenate([labels for _, labels in self._buffer])
        self._buffer.clear()
        for group in np.unique(groups):
            update = moments_of(features[groups == group])
            so_far = self._moments[group]
            self._moments[group] = update if so_far is None else merge(so_far, update)


class ContentGroups:
    """Deals images to groups at random, by what is in them and not by when they come.

    The group is a hash of (pixels, how often these pixels came before), so a set of images is dealt the same way in
    any order and any batch size, and copies of one image are spread over the groups as different images are.
    """

    def __init__(self, num_groups: int = NUM_GROUPS) -> None:
        self._num_groups = num_groups
        self._num_copies: Counter[bytes] = Counter()

    def deal(self, images: Images) -> NDArray[np.int64]:
        """uint8 [n, 3, h, w] → groups int64 [n] in [0, num_groups)."""
        groups = np.empty(len(images), dtype=np.int64)
        for position, image in enumerate(images):
            digest = hashlib.blake2b(image.tobytes(), digest_size=16).digest()
            copy = self._num_copies[digest].to_bytes(8, "little")
            self._num_copies[digest] += 1
            key = hashlib.blake2b(digest + copy, digest_size=8).digest()
            groups[position] = int.from_bytes(key, "little") % self._num_groups
        return groups


class FrechetReference:
    """One side of the distance, decomposed once.

    Args:
        moments: of at least two features.
    """

    def __init__(self, moments: Moments) -> None:
        self.moments = moments
        with _one_blas_thread():
            values, vectors = np.linalg.eigh(moments.covariance)
        # Directions whose eigenvalue is rounding noise: each would add sqrt(noise) to the trace.
        held = values > len(values) * np.finfo(np.float64).eps * max(values[-1], 0.0)
        held &= np.arange(len(values)) >= len(values) - (moments.count - 1)
        self._root: Matrix = vectors[:, held] * np.sqrt(values[held])  # [d, rank], root @ root.T = Σ1
        self._trace = float(np.trace(moments.covariance))

    def distance(self, moments: Moments) -> float:
        """Fréchet distance to the given moments; at least two features. Off by rounding it may be a little below 0."""
        gap = self.moments.mean - moments.mean
        covariance = moments.covariance
        with _one_blas_thread():
            values = np.linalg.eigvalsh(self._root.T @ covariance @ self._root)  # ascending
        values = values[max(0, len(values) - (moments.count - 1)) :]  # the rank of Σ2 is below its count
        overlap = np.sqrt(np.clip(values, 0.0, None)).sum()
        return float(gap @ gap + self._trace + np.trace(covariance) - 2.0 * overlap)


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A distance, the ends of its 95 % interval (None where fewer than two groups have images), images behind it."""

    value: float
    low: float | None
    high: float | None
    n: int


def estimate_distance(reference: FrechetReference, features: GroupedMoments) -> Estimate:
    """Distance of everything in `features` and its delete-a-group jackknife interval, Student's t with g − 1 degrees.

    The interval speaks of the sampled images alone: the reference is held fixed, and the upward bias of about 1/n that
    both sample sizes bring stays in the value. It is cut at 0, which no distance is below.
    """
    groups = features.by_group()
    whole = merge_all(groups)
    distance = reference.distance(whole)
    value = max(0.0, distance)
    if len(groups) < 2:
        return Estimate(value=value, low=None, high=None, n=whole.count)
    ratios = np.array([whole.count / group.count for group in groups])  # h_j = n / m_j
    without = np.array([reference.distance(remove(whole, group)) for group in groups])
    pseudo_values = ratios * distance - (ratios - 1) * without
    corrected = len(groups) * distance - ((1 - 1 / ratios) * without).sum()
    variance = ((pseudo_values - corrected) ** 2 / (ratios - 1)).mean()
    reach = float(student_t.ppf(0.5 + _CONFIDENCE / 2, len(groups) - 1) * np.sqrt(variance))
    return Estimate(value=value, low=max(0.0, value - reach), high=value + reach, n=whole.count)
