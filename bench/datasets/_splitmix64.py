"""SplitMix64 with random access: the hash behind every procedural image.

A data set that is a function of the index needs random bits that depend on nothing but a seed and a counter, are the
same on every computer, and cost little for a whole batch. SplitMix64 adds a constant to its state per output, so output
number k has a closed form.

Source: G. Steele, D. Lea, C. Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014, figure 16 (variant
13 of Stafford's mixers); the reference C code by S. Vigna is in the public domain, https://prng.di.unimi.it/splitmix64.c.
Difference: evaluated at arbitrary counters instead of in sequence.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

GOLDEN_GAMMA = 0x9E3779B97F4A7C15
_FIRST_MULTIPLIER = np.uint64(0xBF58476D1CE4E5B9)
_SECOND_MULTIPLIER = np.uint64(0x94D049BB133111EB)


def splitmix64(seed: int, counters: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The outputs number `counters` (from 0, any shape) of the SplitMix64 generator whose state starts at `seed`."""
    first_state = np.uint64((seed + GOLDEN_GAMMA) % 2**64)
    mixed = np.multiply(counters, np.uint64(GOLDEN_GAMMA))  # arrays of uint64 wrap around, which is what is meant
    mixed += first_state
    mixed ^= mixed >> np.uint64(30)
    mixed *= _FIRST_MULTIPLIER
    mixed ^= mixed >> np.uint64(27)
    mixed *= _SECOND_MULTIPLIER
    mixed ^= mixed >> np.uint64(31)
    return mixed
