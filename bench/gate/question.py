"""What is to be timed, and how: the words that the command line, the parent and the workers share.

Why it is a file: `workloads.py` knows how to run each kind and needs torch for it; the parent needs the words only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from bench.errors import UsageError
from bench.registry import suggest

Kind = Literal["train_step", "generate", "attention", "data"]
KINDS: tuple[Kind, ...] = ("train_step", "generate", "attention", "data")


@dataclass(frozen=True, kw_only=True)
class Workload:
    """What to time.

    Attributes:
        kind, subject: a model, an operator, or a data set (`folder:PATH` too), by kind.
        size, dataset, attention: of a model; the data set decides the recipe, not the images.
        resolution: pixels per side; None is the smallest there is.
        batch_size, precision: None is the recipe's (on a CPU, fp32).
    """

    kind: Kind
    subject: str
    size: str = "tiny"
    resolution: int | None = None
    dataset: str = "scenes"
    batch_size: int | None = None
    precision: str | None = None
    attention: str | None = None

    @property
    def name(self) -> str:
        """`train_step:ladagan`."""
        return f"{self.kind}:{self.subject}"


def parse_workload(word: str, **options: Any) -> Workload:
    """`train_step:ladagan` with the other attributes of `Workload`. Raises UsageError where it is not of that form."""
    kind, _, subject = word.partition(":")
    for known in KINDS:
        if known == kind and subject:
            return Workload(kind=known, subject=subject, **options)
    if kind in KINDS:
        raise UsageError(f"--workloads '{word}' names nothing to time: write {kind}:NAME.")
    raise UsageError(f"--workloads '{word}': '{kind}' is no kind of workload. {suggest(kind, KINDS)}")


@dataclass(frozen=True, kw_only=True)
class Setting:
    """How both workers measure.

    Attributes:
        device: `cpu` or `cuda:N`; None is the GPU where there is one.
        num_threads: of torch on a CPU. One by default: two threads that wait for each other on a shared machine vary
            far more than one, and a slower kernel is slower on one thread too.
        seed: of the weights, the latents and the order of images.
        with_energy: read the joules of every block where this machine has a meter.
    """

    device: str | None = None
    num_threads: int = 1
    seed: int = 0
    with_energy: bool = False
