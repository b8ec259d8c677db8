"""The RAPL counters of this machine: which zones there are, which of them count, and why they cannot be read.

Apart from the meter because finding the right zones is half of the work: added up blindly they count the same joules
two or three times. What is kept:
* every zone `package-N` once, and every zone `dram`, which is not inside the package;
* not `core` and `uncore` (inside the package), not `psys` (holds the package), not the `intel-rapl-mmio` tree (the same
  package by another road);
* dies of one package whose counters read the same energy at the same time are one counter shown several times (AMD
  processors of several dies, https://github.com/mlco2/codecarbon/issues/1274) and count once. Intel's dies have
  counters of their own (Linux commit 32fb480e0a2c, "Support multi-die/package") and are added up.

Source: https://docs.kernel.org/power/powercap/powercap.html. AMD processors use the same driver and zone names.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

POWERCAP = Path("/sys/class/powercap")
Part = Literal["cpu", "dram"]

_PART_OF: dict[str, Part] = {"package": "cpu", "dram": "dram"}
_MIRROR_ROUNDS = 3
_MIRROR_PAUSE_S = 0.02
# Ours. Two dies may show one counter up to one update apart: 0.5 J at 500 W. Two counters of their own, of 65 kJ each,
# stand this close with a chance of 3 in 100,000.
_MIRROR_SLACK_UJ = 1_000_000


@dataclass(frozen=True, kw_only=True)
class Zone:
    """One counter.

    Attributes:
        folder: where its files lie, for example `…/intel-rapl:0`.
        name: the kernel's, for example `package-0`, `package-0-die-1`, `dram`.
        part: whose energy it counts.
        package: the package it is or lies in; zones of one part and package may mirror one another.
        max_range_uj: where it starts again from 0.
    """

    folder: Path
    name: str
    part: Part
    package: str
    max_range_uj: int

    @property
    def counter(self) -> str:
        """Its name in messages and in a window's edges."""
        return f"{self.folder.name}/{self.name}/energy_uj"

    def read_uj(self) -> int:
        """The counter now. Raises OSError or ValueError where it cannot be read."""
        return int((self.folder / "energy_uj").read_text())


def find_zones(root: Path) -> list[Zone]:
    """Every package and DRAM zone below `root`, mirrored ones included.

    Raises:
        OSError, ValueError: a zone's `name` or `max_energy_range_uj` cannot be read or makes no sense.
    """
    # The kernel nests a subzone in its zone's folder and links both into the class folder: one folder name, one zone.
    patterns = ("intel-rapl:*/intel-rapl:*", "intel-rapl:*")
    folders = {folder.name: folder for pattern in patterns for folder in root.glob(pattern) if folder.is_dir()}
    names = {key: (folder / "name").read_text().strip() for key, folder in sorted(folders.items())}
    zones = []
    for key, name in names.items():
        part = _PART_OF.get(name.split("-")[0])
        if part is None:
            continue
        max_range_uj = int((folders[key] / "max_energy_range_uj").read_text())
        if max_range_uj <= 0:
            raise ValueError(f"{folders[key] / 'max_energy_range_uj'} reads {max_range_uj}")
        outermost = ":".join(key.split(":")[:2])  # intel-rapl:0:1 lies in intel-rapl:0
        package = "-".join(names.get(outermost, name).split("-")[:2])  # package-0-die-1 is a die of package-0
        zones.append(Zone(folder=folders[key], name=name, part=part, package=package, max_range_uj=max_range_uj))
    return zones


def distinct_zones(zones: Iterable[Zone]) -> list[Zone]:
    """The zones without those that show another die's counter a second time.

    Raises:
        OSError, ValueError: a counter cannot be read.
    """
    kept: dict[tuple[Part, str], list[Zone]] = defaultdict(list)
    for zone in zones:
        same_package = kept[zone.part, zone.package]
        if not any(_is_mirror(zone, other) for other in same_package):
            same_package.append(zone)
    return [zone for group in kept.values() for zone in group]


def _is_mirror(zone: Zone, other: Zone) -> bool:
    """Whether `zone` always reads between two reads of `other`: one counter, shown twice."""
    for _ in range(_MIRROR_ROUNDS):
        before, between, after = other.read_uj(), zone.read_uj(), other.read_uj()
        advance = (after - before) % other.max_range_uj
        if (between - before + _MIRROR_SLACK_UJ) % other.max_range_uj > advance + 2 * _MIRROR_SLACK_UJ:
            return False
        time.sleep(_MIRROR_PAUSE_S)
    return True


def why_unavailable(root: Path) -> str | None:
    """Why the counters below `root` cannot be read and what it would take, in one sentence, or None."""
    if not root.is_dir():
        return (
            f"there is no {root}: RAPL needs Linux on the machine itself (containers hide it, most virtual machines "
            "have none) with the kernel module intel_rapl_msr"
        )
    try:
        zones = find_zones(root)
    except (OSError, ValueError) as error:
        return f"the zones below {root} cannot be read ({error}); reloading the kernel module intel_rapl_msr may help"
    if not any(zone.part == "cpu" for zone in zones):
        return (
            f"{root} shows no processor package: load the kernel module intel_rapl_msr, or run outside the container "
            "or virtual machine that hides it"
        )
    return _why_unreadable(zones)


def _why_unreadable(zones: Iterable[Zone]) -> str | None:
    denied, broken = [], []
    for zone in zones:
        try:
            zone.read_uj()
        except PermissionError:
            denied.append(str(zone.folder / "energy_uj"))
        except (OSError, ValueError) as error:
            broken.append(f"{zone.folder / 'energy_uj'} ({error})")
    if denied:
        return (
            "since 5.10 Linux lets only root read the energy counters: allow it with "
            f"`sudo chmod o+r {' '.join(denied)}` (until the next boot) or with a udev rule"
        )
    return f"cannot read {', '.join(broken)}; reloading the kernel module intel_rapl_msr may help" if broken else None
