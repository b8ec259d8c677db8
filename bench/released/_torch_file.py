"""A file of `torch.save`, read without ever running what is in it.

Such a file is a zip archive around a pickle. torch's restricted unpickler (`weights_only`) builds tensors, containers
and numbers and refuses everything else; the archive's own checksums are compared before.

One addition: LadaGAN's port stores its FID as a numpy float64 (`pytorch/train.py`), so numpy's numbers are let through;
they are built from bytes and call nothing.
"""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy._core.multiarray import scalar as numpy_scalar

from bench.errors import CheckpointError

ZIP_MAGIC = b"PK\x03\x04"
_NUMPY_NUMBERS: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    np.dtype,
    np.dtypes.Float64DType,
    (numpy_scalar, "numpy._core.multiarray.scalar"),
    (numpy_scalar, "numpy.core.multiarray.scalar"),  # as numpy before 2.0 wrote it
]
_FOREIGN = re.compile(r"GLOBAL ([\w.]+)")


def read_torch_file(path: Path) -> object:
    """What was saved, on the CPU: containers, numbers and tensors.

    Raises:
        CheckpointError: truncated or damaged, not from `torch.save`, or with a pickle payload that would run code.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except zipfile.BadZipFile as error:
        raise CheckpointError(f"'{path}' is truncated or damaged ({error}); fetch it again.") from error
    if damaged is not None:
        raise CheckpointError(f"'{path}' is damaged: the checksum of '{damaged}' in it differs; fetch it again.")
    try:
        with torch.serialization.safe_globals(_NUMPY_NUMBERS):
            found: object = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        foreign = _FOREIGN.search(str(error))
        what = f"'{foreign.group(1)}'" if foreign else "something other than tensors and numbers"
        raise CheckpointError(
            f"'{path}' contains a pickle payload ({what}) that would run code when loaded, so it is refused."
        ) from error
    except RuntimeError as error:
        raise CheckpointError(f"'{path}' is an archive, but not one that torch.save wrote.") from error
    return found
