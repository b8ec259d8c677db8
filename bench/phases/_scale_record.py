"""What `bench scale` found, as one frozen document: `<results>/scale/<fingerprint>-<device>-<width>x<heads>.json`.

Why it stands apart from `_scale`, which measures: a report is made from documents alone, on any computer and without
torch. Everything raw is kept, every window among it; medians, exponents and crossings are computed when reporting.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import JsonValue, ValidationError

from bench.errors import RecordError
from bench.records import Finite, Frozen, Machine, Quantity, Window
from bench.store import write_atomically

FOLDER = "scale"

Study = Literal["layer", "layer-backward", "grown-generator", "generator"]
STUDIES: dict[Study, str] = {
    "layer": "one attention layer, forward",
    "layer-backward": "one attention layer, forward and backward",
    "grown-generator": "LadaGAN's generator, grown by stages of 64 channels, one image",
    "generator": "LadaGAN's generator as published, one image, by resolution",
}
EndReason = Literal["memory", "time", "max-tokens", "all sizes"]


class ScalePoint(Frozen):
    """One operator at one number of tokens.

    Attributes:
        num_tokens: of the layer, or of the generator's largest attention stage.
        resolution: pixels per side of the image; None for a layer.
        num_params: trainable parameters of the layer or generator.
        macs: multiply-accumulates of one pass.
        num_bytes: bytes of one pass by the harness's convention: unfused, a softmax as two products.
        num_bytes_as_run: the same with a fused softmax as one op, as it was timed.
        peak_memory_bytes: estimate from shapes: parameters, input and the tensors alive at once, as it was run.
        energy_j_per_image: with the interval of the repeats; null with a reason where there is no meter.
        windows: the raw repeats, in rounds through all operators; a window's index is its round.
    """

    study: Study
    operator: str
    num_tokens: int
    resolution: int | None
    num_params: int
    macs: int
    num_bytes: int
    num_bytes_as_run: int
    peak_memory_bytes: int
    energy_j_per_image: Quantity
    windows: tuple[Window, ...]


class CurveEnd(Frozen):
    """Why an operator's curve ends where it does; tokens and resolution are of the first size not measured, if any."""

    study: Study
    operator: str
    reason: EndReason
    num_tokens: int | None
    resolution: int | None
    detail: str


class ScaleRecord(Frozen):
    """One run of `bench scale`.

    Attributes:
        fingerprint: `bench.machine.fingerprint` of the machine.
        width, num_heads: of the single layers; generators have LadaGAN's.
        batch_size: images per pass.
        protocol: how it was measured, enough to do it again.
    """

    schema_version: Literal[1] = 1
    harness_version: str
    created_at: str
    machine: Machine
    fingerprint: str
    device: str
    width: int
    num_heads: int
    batch_size: int
    budget_s: Finite
    operators: tuple[str, ...]
    protocol: dict[str, JsonValue]
    points: tuple[ScalePoint, ...]
    ends: tuple[CurveEnd, ...]


def path_of(results: Path, record: ScaleRecord) -> Path:
    """Where the measurement of that machine, device and layer lies; a new one replaces it."""
    name = f"{record.fingerprint[:16]}-{record.device.replace(':', '')}-{record.width}x{record.num_heads}.json"
    return results / FOLDER / name


def save(record: ScaleRecord, results: Path) -> Path:
    """Write it → its file. Raises StorageError where that cannot be written."""
    path = path_of(results, record)
    write_atomically(path, (record.model_dump_json() + "\n").encode())
    return path


def load(path: Path) -> ScaleRecord:
    """The stored measurement.

    Raises:
        RecordError: the file cannot be read or is no such document.
    """
    try:
        return ScaleRecord.model_validate_json(path.read_bytes())
    except OSError as error:
        raise RecordError(f"'{path}' cannot be read: {error.strerror or error}; run `bench scale` again.") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the document"
        raise RecordError(f"'{path}' is no scale record ({where}: {first['msg']}); run `bench scale` again.") from error


def load_every(results: Path) -> tuple[dict[str, ScaleRecord], list[str]]:
    """File name → measurement of all under `<results>/scale`; one sentence for each file that cannot be read."""
    found: dict[str, ScaleRecord] = {}
    problems: list[str] = []
    for path in sorted((results / FOLDER).glob("*.json")):
        try:
            found[path.name] = load(path)
        except RecordError as error:
            problems.append(str(error))
    return found, problems
