"""What is written while a network trains: JSONL, the log of truth, and TensorBoard where it was asked for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

from bench.errors import UsageError
from bench.store import storage_errors, write_atomically


class Sink(Protocol):
    """Takes a line per look."""

    def write(self, line: Mapping[str, float | None]) -> None:
        """`images_shown` and the figures there."""
        ...

    def close(self) -> None:
        """No line will follow."""
        ...


class JsonLines:
    """One flushed line at a time, so that a killed run keeps what it had logged.

    Args:
        path: of the log.
        num_images_shown: where the training goes on: lines beyond that are of work that was lost, and go.

    Raises:
        StorageError: it cannot be written.
    """

    def __init__(self, path: Path, num_images_shown: int) -> None:
        self._path = path
        with storage_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            lines = path.read_text(encoding="utf-8").splitlines() if num_images_shown and path.exists() else []
        kept = [line for line in lines if _images_shown(line) <= num_images_shown]
        write_atomically(path, "".join(f"{line}\n" for line in kept).encode())
        with storage_errors(path):
            self._file = path.open("a", encoding="utf-8", buffering=1)

    def write(self, line: Mapping[str, float | None]) -> None:
        """Append it. Raises StorageError."""
        with storage_errors(self._path):
            self._file.write(json.dumps(line) + "\n")

    def close(self) -> None:
        """Give the file back."""
        self._file.close()


def _images_shown(line: str) -> float:
    """Of a line of the log; a line that a kill cut short counts as lost."""
    try:
        return float(json.loads(line)["images_shown"])
    except (ValueError, KeyError):
        return float("inf")


class TensorBoard:
    """Event files for TensorBoard; an optional package (`pip install 'gan-bench[tensorboard]'`).

    Args:
        folder: of the event files.
        num_images_shown: where the training goes on; TensorBoard drops what lies beyond.

    Raises:
        UsageError: the package is not installed.
    """

    def __init__(self, folder: Path, num_images_shown: int) -> None:
        check_tensorboard()
        from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415 - the adapter of an optional package

        with storage_errors(folder):
            self._writer = SummaryWriter(str(folder), purge_step=num_images_shown or None)

    def write(self, line: Mapping[str, float | None]) -> None:
        """One scalar per figure, over images shown."""
        shown = line["images_shown"]
        for name, value in line.items():
            if value is not None and name != "images_shown":
                self._writer.add_scalar(name.replace("_", "/", 1), value, int(shown or 0))

    def close(self) -> None:
        """Write what is left."""
        self._writer.close()


def check_tensorboard() -> None:
    """Raises UsageError where the package is missing."""
    if find_spec("tensorboard") is None:
        raise UsageError("--log tensorboard needs the package: pip install 'gan-bench[tensorboard]'.")
