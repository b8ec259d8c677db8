"""Weights of pretrained networks: looked for in two places, used only where their SHA-256 is the pinned one.

It exists because a network with missing or other weights gives numbers all the same: an untrained Inception says that
noise is at a distance of about 0 from anything. So a missing file is a sentence and no value, another file is refused,
and nothing in this project draws these weights at random.

A file is named by its environment variable, or lies in torch hub's cache (`torch.hub.get_dir()`/checkpoints), where
torch-fidelity and torchvision keep the same files. It is read once, hashed, and unpickled from the very bytes that were
hashed, by torch's restricted unpickler (`weights_only`). torch-fidelity 0.4.0 does neither: its loaders check no hash
and run whatever the pickle says (`weights_only=False`).

The hashes: torch hub pins the first eight digits in the file names `…-6726825d.pth` and `vgg16-397923af.pth`; all 64,
and those of DINOv2, whose file name has none, agree in ten public repositories each that pin or report them.
"""

from __future__ import annotations

import functools
import hashlib
import io
import os
import pickle
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from bench.errors import BenchError, MissingDataError

_CHUNK_BYTES = 2**20


@dataclass(frozen=True, kw_only=True)
class PinnedWeights:
    """One file of weights.

    Attributes:
        title: the network, for people.
        file_name: its name in torch hub's cache.
        url: where it is published.
        sha256: of the whole file.
        variable: environment variable that names the file elsewhere.
    """

    title: str
    file_name: str
    url: str
    sha256: str
    variable: str

    @property
    def word(self) -> str:
        """What `bench data weights` calls it: `BENCH_VGG16_WEIGHTS` is `vgg16`."""
        return self.variable.split("_")[1].lower()

    def path(self) -> Path:
        """Where the file should be: what the variable says, else torch hub's cache."""
        named = os.environ.get(self.variable)
        return Path(named).expanduser() if named else Path(torch.hub.get_dir()) / "checkpoints" / self.file_name

    def why_unavailable(self) -> str | None:
        """One sentence where the file is missing or is another one; the hash of an unchanged file is taken once."""
        path = self.path()
        try:
            status = path.stat()
            found = _sha256_of(path, status.st_size, status.st_mtime_ns)
        except OSError:
            return self._missing(path)
        return None if found == self.sha256 else self._refused(path, found)

    def load(self) -> dict[str, Tensor]:
        """The tensors by name, on the CPU.

        Raises:
            MissingDataError: there is no such file.
            BenchError: its hash is not the pinned one, or it holds something else than tensors.
        """
        path = self.path()
        try:
            content = path.read_bytes()
        except OSError as error:
            raise MissingDataError(self._missing(path)) from error
        found = hashlib.sha256(content).hexdigest()
        if found != self.sha256:
            raise BenchError(self._refused(path, found))
        try:
            state: dict[str, Tensor] = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            raise BenchError(
                f"'{path}' holds more than tensors, so it is not read as weights of {self.title}."
            ) from error
        return state

    def _missing(self, path: Path) -> str:
        return (
            f"The weights of {self.title} are not here: run `bench data weights {self.word}`, or fetch {self.url} and "
            f"put it at '{path}', or name the file with {self.variable} (rfd_v1 needs no weights)."
        )

    def _refused(self, path: Path, found: str) -> str:
        return (
            f"'{path}' has SHA-256 {found[:12]}…, not {self.sha256[:12]}…, so it is not the pinned weights of "
            f"{self.title} and nothing is computed from it: fetch {self.url} again (rfd_v1 needs no weights)."
        )


@functools.lru_cache(maxsize=8)
def _sha256_of(path: Path, num_bytes: int, modified_ns: int) -> str:  # noqa: ARG001 (they are the key of the cache)
    """Hash of a file of that size and time of change. Raises OSError."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
