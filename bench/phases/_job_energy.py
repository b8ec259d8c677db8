"""Joules of a job of several processes: every board once, every host's processor once, wherever they were read.

Each process reads the meters it can; those of one host see the same processor, and may share a board. What is told
apart is told by the board's UUID and the host's name.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

from bench.meters._spec import Meter
from bench.phases._energy import EnergySetup, unavailable
from bench.phases._provenance import kind_of, weakest
from bench.phases._train_energy import energy_so_far
from bench.records import Machine, Quantity, Window
from bench.training.distributed import World

Figures = dict[tuple[str, ...], Quantity]  # whose energy: (part, host or boards) → joules


def job_energy(
    windows: Sequence[Window], setup: EnergySetup, world: World, own: Callable[[str], tuple[str, ...]]
) -> Quantity:
    """Joules of the training so far, of all processes. Every process must call it.

    Args:
        windows: what this process's watch kept.
        own: part (`gpu`, `cpu`, `dram`) → what tells this process's part from another's.
    """
    if world.is_alone:
        return energy_so_far(windows, setup)
    figures: Figures = {}
    for part in {source.part for source in setup.sources.values()}:
        sources = {name: source for name, source in setup.sources.items() if source.part == part}
        figures[part, *own(part)] = energy_so_far(windows, dataclasses.replace(setup, sources=sources))
    if not figures:  # an estimate, or nothing at all: of the processor
        figures["cpu", *own("cpu")] = energy_so_far(windows, setup)
    every: Figures = {}
    for found in world.gathered(figures):
        every = found | every  # the first process that read a part speaks for it
    return summed(list(every.values()))


def summed(parts: Sequence[Quantity]) -> Quantity:
    """Their sum with the ends of their intervals added; unknown where one of them is."""
    missing = next((each for each in parts if each.value is None), None)
    if missing is not None:
        return unavailable("J", missing.note)
    label = weakest([each.label for each in parts if each.label is not None])
    sensors = [each.systematic for each in parts if each.systematic is not None]
    return parts[0].model_copy(
        update={
            "value": sum(each.value or 0.0 for each in parts),
            "low": sum(each.low if each.low is not None else each.value or 0.0 for each in parts),
            "high": sum(each.high if each.high is not None else each.value or 0.0 for each in parts),
            "label": label,
            "kind": kind_of(label),
            "systematic": max(sensors, default=None),
        }
    )


def whose(machine: Machine, meters: Mapping[str, Meter]) -> Callable[[str], tuple[str, ...]]:
    """What tells this process's boards and processor from another's."""
    boards = sorted(name for meter in meters.values() for name in _names(meter.facts().get("boards")))
    return lambda part: tuple(boards) if part == "gpu" else (machine.hostname,)


def _names(boards: object) -> list[str]:
    return [str(name) for name in boards] if isinstance(boards, dict) else []
