"""How a table says which of its figures may be compared: a letter per quality protocol, bold for the best of one.

Why it exists: a table puts numbers side by side, and a reader ranks what stands side by side. So wherever protocols
differ the cells say so, and the best is only ever the best of those whose protocols or settings agree. The rules are
those of `bench/compare.py`; which figures are never called the best is `why_not_ranked`. Settings have no letters:
machine, precision and batch size stand in the row. Counts have no best: few parameters are no merit of their own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from string import ascii_lowercase

from bench.compare import comparable_groups, disagreement, leaders
from bench.directions import BETTER_COST, DIRECTIONS
from bench.records import Record
from bench.report.ranking import why_not_ranked
from bench.report.rows import COST_COLUMNS


@dataclass(frozen=True, kw_only=True)
class Marks:
    """What is said about the cells of a table.

    Attributes:
        letters: (run id, figure) → the letter of its protocol; only of figures whose protocols differ.
        best: (run id, figure) that are the best of their protocol.
        explanations: one line per pair of protocols: the figure, the letters, the fields that differ.
    """

    letters: Mapping[tuple[str, str], str]
    best: frozenset[tuple[str, str]]
    explanations: tuple[str, ...]

    def around(self, cell: str, record: Record, figure: str) -> str:
        """The cell, escaped already, as Markdown with its marks: `**0.061(3)** {a}`."""
        key = (record.run_id, figure)
        text = f"**{cell}**" if key in self.best else cell
        return f"{text} {{{self.letters[key]}}}" if key in self.letters else text


def marked_figures(records: Sequence[Record], figures: Sequence[str], names: Mapping[str, str]) -> Marks:
    """The marks of one table.

    Args:
        records: its rows, on one data set at one resolution.
        figures: its quality columns.
        names: run id → what the table calls the run.
    """
    letters: dict[tuple[str, str], str] = {}
    explanations: list[str] = []
    best: set[tuple[str, str]] = set()
    for figure in figures:
        groups = comparable_groups(records, figure)
        if len(groups) > 1 and figure not in BETTER_COST:
            letters |= {(each.run_id, figure): _letter(index) for index, group in enumerate(groups) for each in group}
            explanations += _explained(groups, figure, names)
        best |= {(run_id, figure) for run_id in best_runs(records, figure)}
    return Marks(letters=letters, best=frozenset(best), explanations=tuple(explanations))


def best_runs(records: Sequence[Record], figure: str) -> set[str]:
    """Run ids that are bold for a figure; none where it has no direction, and none for a count."""
    better = DIRECTIONS.get(figure)
    if better is None or figure in COST_COLUMNS:
        return set()
    return leaders([record for record in records if not why_not_ranked(record, figure)], figure, better)


def _explained(groups: Sequence[Sequence[Record]], figure: str, names: Mapping[str, str]) -> list[str]:
    first = groups[0][0]
    return [
        f"{figure} of {_listed(groups[0], names)} {{a}} and of {_listed(group, names)} {{{_letter(index)}}} differ in "
        f"{', '.join(disagreement(first, group[0], figure))}"
        for index, group in enumerate(groups[1:], start=1)
    ]


def _listed(group: Sequence[Record], names: Mapping[str, str]) -> str:
    return ", ".join(names[record.run_id] for record in group)


def _letter(index: int) -> str:
    """a … z, then a27, a28, …"""
    return ascii_lowercase[index] if index < len(ascii_lowercase) else f"a{index + 1}"
