"""The registries by name, and what the words of a question stand for: a model, a data set, its path."""

from __future__ import annotations

import ast
import hashlib
from dataclasses import dataclass
from pathlib import Path

from bench.datasets._spec import DatasetSpec
from bench.errors import UsageError
from bench.meters._spec import MeterSpec
from bench.metrics._spec import MetricSpec
from bench.registry import Registry
from models._spec import Gan, GanSpec

MODELS = Registry("model", "models", "SPEC", GanSpec)
DATASETS = Registry("data set", "bench.datasets", "SPEC", DatasetSpec)
METERS = Registry("meter", "bench.meters", "METER", MeterSpec)
METRICS = Registry("metric", "bench.metrics", "METRIC", MetricSpec)


@dataclass(frozen=True)
class FoundModel:
    """A model's SPEC, its short name, and the hash of the source that decides what it computes."""

    name: str
    spec: GanSpec
    source_hash: str


@dataclass(frozen=True)
class FoundDataset:
    """A data set's SPEC, its registered name, and the path that followed the colon, if any."""

    name: str
    spec: DatasetSpec
    path: str | None


def find_model(word: str) -> FoundModel:
    """`ladagan` from the zoo, or `path/to/my_gan.py` from anywhere.

    Raises:
        UsageError: neither a known name nor a file with a SPEC.
    """
    if word.endswith(".py"):
        path = Path(word)
        return FoundModel(path.stem.replace("_", "-"), MODELS.load_file(path), source_hash(path))
    return FoundModel(word, MODELS.load(word), source_hash(MODELS.file(word)))


def build_gan(model: FoundModel, resolution: int, size: str, attention: str | None) -> Gan:
    """The networks of one configuration; `attention` is None where the model offers no choice, or its default."""
    if not model.spec.attentions:
        return model.spec.build(resolution, size)
    return model.spec.build(resolution, size, attention or next(iter(model.spec.attentions)))


def find_dataset(word: str) -> FoundDataset:
    """`scenes`, or `folder:PATH` for a data set that takes a path.

    Raises:
        UsageError: an unknown name, a missing path, or a path where none is taken.
    """
    name, colon, path = word.partition(":")
    spec = DATASETS.load(name)
    if spec.takes_path and not path:
        raise UsageError(f"--dataset {name} needs a path: write --dataset {name}:PATH.")
    if colon and not spec.takes_path:
        raise UsageError(f"--dataset {name} takes no path; write --dataset {name}.")
    return FoundDataset(name, spec, path or None)


def source_hash(path: Path) -> str:
    """SHA-256 over a model file and, in order of name, the private files beside it that it imports, directly or not."""
    files, waiting = set(), [path]
    while waiting:
        file = waiting.pop()
        if file in files:
            continue
        files.add(file)
        waiting.extend(_private_imports(file))
    digest = hashlib.sha256()
    for file in sorted(files, key=lambda each: each.name):
        digest.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()


def _private_imports(path: Path) -> list[Path]:
    """Files `_name.py` beside `path`, or in the zoo, that `path` imports."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.split(".")[-1])
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.Import):
            names.update(alias.name.split(".")[-1] for alias in node.names)
    folders = (path.parent, Path(__file__).resolve().parent.parent / "models")
    candidates = [folder / f"{name}.py" for name in names if name.startswith("_") for folder in folders]
    return [candidate for candidate in dict.fromkeys(candidates) if candidate.is_file()]
