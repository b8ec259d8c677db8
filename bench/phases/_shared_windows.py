"""Windows of work that several processes do together, timed by the first of them.

The first process decides how many calls a window has, tells the others, and reads the clock; each reads its own meters,
and their joules are added, every board and every host once. Throughput is of the whole batch, so it is the sum.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bench.meters._spec import EnergySource
from bench.phases._windows import TimedWork
from bench.records import Window
from bench.training.distributed import World

Identity = tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class SharedWork(TimedWork):
    """A `TimedWork` that every process of `world` calls; `own` tells whose energy a part is."""

    world: World
    own: Callable[[str], Identity]

    def measure(self, index: int, *, num_calls: int, is_warmup: bool = False) -> Window:
        """One window of that many calls, in every process; only the first one calls this."""
        self.world.agreed(num_calls)
        return self._measured(index, num_calls, is_warmup)

    def release(self) -> None:
        """Let the others go: no window will follow."""
        self.world.agreed(0)

    def follow(self) -> None:
        """What the others do until they are released."""
        while num_calls := self.world.agreed(0):
            self._measured(0, num_calls, False)

    def _measured(self, index: int, num_calls: int, is_warmup: bool) -> Window:
        window = super().measure(index, num_calls=num_calls, is_warmup=is_warmup)
        sources = {name: each for meter in self.meters.values() for name, each in meter.energy_sources().items()}
        whose = {name: (source.part, *self.own(source.part)) for name, source in sources.items()}
        return with_others(window, self.world.gathered((window, whose)), sources)


def with_others(
    window: Window, every: list[tuple[Window, dict[str, Identity]]], sources: dict[str, EnergySource]
) -> Window:
    """The window with the energies of all processes; one that failed anywhere has none.

    Args:
        window: the first process's.
        every: each process's window, and whose energy each reading is.
        sources: the first process's energy readings.
    """
    readings, problems = dict(window.readings), dict(window.problems)
    for name in sources:
        seen: dict[Identity, Window] = {}
        for each, whose in every:
            if name in whose:
                seen.setdefault(whose[name], each)
        failed = [each.problems[name] for each in seen.values() if name in each.problems]
        if failed:
            readings.pop(name, None)
            problems[name] = failed[0]
        else:
            readings[name] = sum(each.readings[name] for each in seen.values())
    return window.model_copy(update={"readings": readings, "problems": problems})
