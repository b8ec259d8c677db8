"""`bench gate --history`: compare with this machine's own earlier points. Heavy imports wait."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from bench.cli_gate import written

if TYPE_CHECKING:
    from bench.gate.history_point import HistoryPoint
    from bench.gate.sitting import Question, Surroundings


def measured(
    question: Question,
    around: Surroundings,
    *,
    head: str | None,
    results: Path,
    json: bool,
    markdown: Path | None,
) -> int:
    """Measure a point, store it, say what it says → the exit code."""
    from bench.gate.history import history_gate
    from bench.gate.history_point import write_point
    from bench.gate.history_text import history_markdown
    from bench.store import write_atomically

    point = history_gate(question, around, results=results, head=head)
    path = written(lambda: write_point(results, point))
    if markdown is not None:
        written(lambda: write_atomically(markdown, history_markdown(point).encode()))
    _show(point, path, json)
    return point.exit_code


def _show(point: HistoryPoint, path: Path, as_json: bool) -> None:
    from bench.gate.history_text import history_text

    if as_json:
        sys.stdout.write(point.json_text())
    else:
        typer.echo(history_text(point))
        typer.echo(f"This point: {path}")
