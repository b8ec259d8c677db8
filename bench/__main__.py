"""`python -m bench` and the command `bench`."""

from __future__ import annotations

import os
import sys

from bench.cli import main

# GNU OpenMP, which torch's CPU kernels use, by default spins for long at the end of every parallel region. Where
# another process needs one of the cores, that stretches a training step from 0.3 s to 3 s and more (measured here: 220
# images/s alone, 20 beside one busy process; with this 205 and 120). The record keeps the value.
SPIN_COUNT = "1000"


def run() -> None:
    """Entry point of the console script. An environment variable that the user has set stays as it is."""
    os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)  # read when torch is loaded, so not later than here
    sys.exit(main(sys.argv[1:]))


if __name__ == "__main__":
    run()
