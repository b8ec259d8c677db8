"""`python -m bench` and the command `bench`."""

from __future__ import annotations

import os
import sys

from bench.cli import main

# GNU OpenMP, which torch's CPU kernels use, by default spins for long at the end of every parallel region. Where
# another process needs one of the cores, that stretches a training step more than tenfold; without any spinning a
# quiet machine loses a quarter of its speed. Measured on two cores, LadaGAN tiny, images/s alone and beside one busy
# process: default 240 and under 20, 10000: 250 and 43, 1000: 200 and 120. The record keeps the value.
SPIN_COUNT = "10000"


def run() -> None:
    """Entry point of the console script. An environment variable that the user has set stays as it is."""
    os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)  # read when torch is loaded, so not later than here
    sys.exit(main(sys.argv[1:]))


if __name__ == "__main__":
    run()
