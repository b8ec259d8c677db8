"""The command `audit`: what a careful reviewer would ask of each run, by code. Heavy imports wait."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from bench import cli_options as options
from bench.cli_views import say


def audit(
    runs: Annotated[
        list[str] | None,
        typer.Argument(metavar="[RUN]...", help="Run ids, or how they begin or end; all runs without one."),
    ] = None,
    results: options.Results = Path("results"),
    json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON on stdout.")] = False,
    rules: Annotated[bool, typer.Option("--rules", help="List the rules and stop.")] = False,
) -> int:
    """Check stored runs by rule, and say what to do; 1 where there is an error."""
    from json import dumps

    from bench.audit import audit_run, badge
    from bench.report.audit_text import AuditedRun, audit_document, audit_terminal, rules_text
    from bench.store import find_run, load_all

    if rules:
        typer.echo(rules_text())
        return 0
    stored, problems = load_all(results) if not runs else ([find_run(results, run_id) for run_id in runs], [])
    for problem in problems:
        say(f"Error: {problem}")
    found = [AuditedRun(record=run.record, findings=audit_run(run)) for run in stored]
    if json:
        sys.stdout.write(dumps(audit_document(found), indent=2, ensure_ascii=False) + "\n")
    else:
        typer.echo(audit_terminal(found))
    return int(bool(problems) or any(badge(run.findings) == "errors" for run in found))
