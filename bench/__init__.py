"""What a GAN costs, and what it gives.

    import bench
    record = bench.run(bench.RunSpec(model="ladagan", dataset="scenes", size="tiny", preset="smoke"))
    print(record.quantity("generate_images_per_s"))

The names are looked up when they are first used, so that `bench --help` loads no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bench.records import Quantity, Record, RunSpec
    from bench.runner import run

__all__ = ["Quantity", "Record", "RunSpec", "__version__", "run"]

__version__ = "0.3.0"

_HOMES = {"Quantity": "bench.records", "Record": "bench.records", "RunSpec": "bench.records", "run": "bench.runner"}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'bench' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOMES[name]), name)
