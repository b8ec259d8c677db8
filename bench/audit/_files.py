"""Rules on a run's folder: its name, the files that the record names, its raw windows, the hash of its weights.

Weights and snapshots may be absent, because `results/` under version control leaves large files out; whatever else the
record names must be there. A path that leads out of the folder is not followed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from pydantic import ValidationError

from bench.audit._evidence import Hit, cannot_check, fact, listed
from bench.records import PHASES, Record, Window
from bench.store import StoredRun

MAX_HASHED_BYTES = 32 * 2**20  # ours: hashing so much takes 30 ms, and a report audits hundreds of runs
WEIGHTS_FILE = "ema.safetensors"
_LARGE = (".safetensors", ".pt", ".npz")
_LARGE_FOLDERS = ("snapshots", "checkpoints", "tensorboard")

# Rule → (what it checks, remedy).
FILE_RULES = {
    "folder_name": (
        "The folder has the run's name.",
        "Rename the folder to the run's id, or remove the copy.",
    ),
    "artifacts": (
        "The files that the record names are in its folder; weights and snapshots may be absent.",
        "Restore the folder from where it was measured, or measure again with --fresh.",
    ),
    "windows_readable": (
        "The raw windows can be read.",
        "Restore the file from where it was measured, or measure again with --fresh.",
    ),
    "weights_hash": (
        "The weights in the folder, up to 32 MiB, are those that were scored.",
        "Restore the weights from where they were trained, or score these with `bench evaluate`.",
    ),
}


def folder_hits(run: StoredRun) -> Iterator[tuple[str, Hit]]:
    """(rule, what it found) of the folder, raw windows apart."""
    if run.folder.name != run.record.run_id:
        detail = f"The folder is called '{run.folder.name}', the run '{run.record.run_id}'."
        yield "folder_name", Hit(level="error", detail=detail)
    for hit in _artifacts(run):
        yield "artifacts", hit
    for hit in _weights(run):
        yield "weights_hash", hit


def read_windows(folder: Path) -> tuple[dict[str, list[Window]], list[Hit]]:
    """(phase → its raw windows, what could not be read). A damaged file gives no windows at all."""
    found: dict[str, list[Window]] = {}
    hits: list[Hit] = []
    for phase in PHASES:
        path = folder / "windows" / f"{phase}.jsonl"
        if not path.is_file():
            continue
        windows: list[Window] = []
        try:
            for line in path.read_bytes().splitlines():
                windows.append(Window.model_validate_json(line))
        except OSError as error:
            hits.append(Hit(level="error", detail=f"windows/{phase}.jsonl cannot be read: {error.strerror or error}."))
        except ValidationError as error:
            why = error.errors()[0]["msg"].splitlines()[0][:80]
            detail = f"Line {len(windows) + 1} of windows/{phase}.jsonl is damaged: {why}."
            hits.append(Hit(level="error", detail=detail))
        else:
            found[phase] = windows
    return found, hits


def _artifacts(run: StoredRun) -> Iterator[Hit]:
    outside: list[str] = []
    missing: list[str] = []
    left_out: list[str] = []
    root = run.folder.resolve()
    for result in run.record.phases.values():
        grids = [name for key, name in sorted(result.artifacts.items()) if key.startswith("samples_")]
        for name in dict.fromkeys(result.artifacts.values()):
            path = Path(name)
            if path.is_absolute() or ".." in path.parts or not (root / path).resolve().is_relative_to(root):
                outside.append(name)
            elif not (root / path).exists():
                is_large = path.suffix in _LARGE or bool(set(path.parts) & set(_LARGE_FOLDERS))
                is_earlier_grid = name in grids[:-1]  # the last one shows what was scored
                (left_out if is_large or is_earlier_grid else missing).append(name)
    if outside:
        yield Hit(level="error", detail=f"The record names files outside of its folder: {listed(outside)}.")
    if missing:
        yield Hit(level="error", detail=f"Files that the record names are not in its folder: {listed(missing)}.")
    if left_out:
        detail = f"Large files are not kept here, as in results under version control: {listed(left_out, 2)}."
        yield Hit(level="note", detail=detail, remedy="Train again, or fetch them from where the run was measured.")


def _weights(run: StoredRun) -> Iterator[Hit]:
    scored = _scored_hash(run.record)
    path = run.folder / WEIGHTS_FILE
    if not path.is_file() or run.record.spec.weights is not None:
        return
    quality = run.record.phases.get("quality")
    if quality is None or not quality.quantities:
        return
    if scored is None:
        yield cannot_check("the record does not say which weights were scored")
    elif path.stat().st_size > MAX_HASHED_BYTES:
        yield cannot_check(f"{WEIGHTS_FILE} is above 32 MiB and was not hashed")
    elif hashlib.sha256(path.read_bytes()).hexdigest() != scored:
        yield Hit(level="error", detail=f"{WEIGHTS_FILE} is not the file that was scored: its hash is another.")


def _scored_hash(record: Record) -> str | None:
    quality = record.phases.get("quality")
    found = None if quality is None else fact(quality.protocol, "scored", "weights_sha256")
    return found if isinstance(found, str) else None
