"""Record ⇄ `results/<run-id>/`: one folder per run, every file written to a temporary name and renamed.

    record.json            the record (schema: `results/record.schema.json`)
    windows/<phase>.jsonl  every raw window of a timed phase, one JSON object per line
    train.jsonl            the training log
    samples/*.png          fixed-latent grids
    ema.safetensors        the generator's averaged weights
    .lock                  held by the process that is working on the run; freed by the kernel when that process dies

Nothing here imports torch, so that reports can be made on any computer.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from filelock import FileLock, Timeout
from pydantic import ValidationError

from bench.errors import RecordError, StorageError
from bench.records import Record, Window

RECORD_FILE = "record.json"
_MAX_NAMED = 6  # of the runs that a few letters fit


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn an operating-system error while writing at `path` into one sentence (StorageError)."""
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"Cannot write to '{path}': {error.strerror or error}. Choose another folder (--results; --out for a "
            "report) or free space; what was already written is kept, and the same command continues."
        ) from error


def write_atomically(path: Path, content: bytes) -> None:
    """Replace the file at `path` by `content`, or leave it as it was.

    Raises:
        StorageError: the folder cannot be written or the disk is full.
    """
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).chmod(0o644)
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise


class RunFolder:
    """One run's folder.

    Args:
        results: the results folder; made when it is first written to.
        run_id: name of the run's folder in it.
    """

    def __init__(self, results: Path, run_id: str) -> None:
        self.path = results / run_id

    @contextmanager
    def locked(self, say: Callable[[str], None]) -> Iterator[None]:
        """Hold the run alone; waits, and says so, while another process works on the same run."""
        with storage_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.path / ".lock")
            try:
                lock.acquire(timeout=0)
            except Timeout:
                say(f"Another process is working on {self.path.name}; waiting for it to end.")
                lock.acquire()
        try:
            yield
        finally:
            lock.release()

    def read(self) -> Record | None:
        """The stored record, or None where there is none yet. Raises RecordError where it is broken."""
        path = self.path / RECORD_FILE
        return read_record(path) if path.exists() else None

    def write(self, record: Record) -> None:
        """Replace the stored record."""
        write_atomically(self.path / RECORD_FILE, (record.model_dump_json(indent=2) + "\n").encode())

    def write_windows(self, phase: str, windows: Iterable[Window]) -> str:
        """Store a phase's raw windows → the file's name relative to the folder."""
        name = f"windows/{phase}.jsonl"
        write_atomically(self.path / name, "".join(window.model_dump_json() + "\n" for window in windows).encode())
        return name

    def read_windows(self, phase: str) -> list[Window]:
        """A phase's raw windows; none where there are none."""
        path = self.path / f"windows/{phase}.jsonl"
        if not path.exists():
            return []
        return [Window.model_validate_json(line) for line in path.read_text(encoding="utf-8").splitlines()]

    def clear(self, *names: str) -> None:
        """Remove those children; without names everything but the lock."""
        with storage_errors(self.path):
            for child in self.path.iterdir():
                if child.name == ".lock" or (names and child.name not in names):
                    continue
                if child.is_dir():
                    shutil.rmtree(child)
                else:
                    child.unlink()


def read_record(path: Path) -> Record:
    """The record in that file.

    Raises:
        RecordError: not readable, not JSON, another schema version, or a field that the schema does not allow.
    """
    try:
        return Record.model_validate_json(path.read_bytes())
    except OSError as error:
        raise RecordError(f"'{path}' cannot be read: {error.strerror or error}.") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the document"
        raise RecordError(
            f"'{path}' is not a record this version can read ({where}: {first['msg']}); "
            "measure again with --fresh, or remove the folder."
        ) from error


@dataclass(frozen=True)
class StoredRun:
    """A record and the folder it lies in."""

    record: Record
    folder: Path


def each_run(results: Path) -> Iterator[StoredRun | RecordError]:
    """Every run under `results`, by run id, one at a time; in place of a record that cannot be read, why."""
    for path in sorted(results.glob(f"*/{RECORD_FILE}")):
        try:
            yield StoredRun(read_record(path), path.parent)
        except RecordError as error:
            yield error


def count_records(results: Path) -> int:
    """How many records lie under `results`, readable or not."""
    return sum(1 for _ in results.glob(f"*/{RECORD_FILE}"))


def load_all(results: Path) -> tuple[list[StoredRun], list[str]]:
    """Every run under `results`, by run id, and one sentence for each record that cannot be read."""
    runs: list[StoredRun] = []
    problems: list[str] = []
    for each in each_run(results):
        if isinstance(each, StoredRun):
            runs.append(each)
        else:
            problems.append(str(each))
    return runs, problems


def load_newest(results: Path, limit: int) -> tuple[list[StoredRun], int]:
    """At most `limit` readable runs, those whose records were written last; how many records there are in all.

    Reads no more than it returns (and what is broken), so it answers at once among many thousand.
    """
    written = sorted(((path.stat().st_mtime_ns, path) for path in results.glob(f"*/{RECORD_FILE}")), reverse=True)
    runs: list[StoredRun] = []
    for _, path in written:
        if len(runs) == limit:
            break
        with suppress(RecordError):
            runs.append(StoredRun(read_record(path), path.parent))
    return runs, len(written)


def find_run(results: Path, run_id: str) -> StoredRun:
    """The run whose id is, or uniquely starts or ends with, `run_id`.

    Raises:
        RecordError: none or several match.
    """
    folders = sorted(path.parent for path in results.glob(f"*/{RECORD_FILE}"))
    exact = [folder for folder in folders if folder.name == run_id]
    near = [folder for folder in folders if folder.name.startswith(run_id) or folder.name.endswith(run_id)]
    matches = exact or near
    if len(matches) == 1:
        return StoredRun(read_record(matches[0] / RECORD_FILE), matches[0])
    if matches:
        some = ", ".join(folder.name for folder in matches[:_MAX_NAMED])
        more = f" and {len(matches) - _MAX_NAMED} more" if len(matches) > _MAX_NAMED else ""
        raise RecordError(f"'{run_id}' fits several runs: {some}{more}.")
    near_misses = get_close_matches(run_id, [folder.name for folder in folders], n=3, cutoff=0.5)
    known = f"Did you mean {' or '.join(near_misses)}? " if near_misses else ""
    raise RecordError(f"There is no run '{run_id}' in '{results}'. {known}`bench list runs` shows what is there.")
