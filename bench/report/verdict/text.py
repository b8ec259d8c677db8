"""The verdict as Markdown: a table of claims and outcomes, then each claim with its evidence and its limits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bench.notation import markdown_bullets, markdown_table, markdown_text
from bench.report.verdict.evidence import Evidence, Verdict

_MAX_RUNS = 6
_HOW_TO_READ = """\
* **supported here** and **contradicted here** speak of these runs, on these machines, at these sizes, and of nothing
  else. **mixed**: the findings disagree. **cannot be told**: there are findings, and they do not decide.
* A finding decides only with a 95 % interval, and only between runs whose protocol, machine and setting agree. Ratios
  and exponents are given as `1.90 (1.81 to 2.00)`. Where a question was asked twice, the newest answer speaks.
* The rules stand in the code, `bench/report/verdict/`, and know no model's result.
"""


def verdict_markdown(verdicts: Sequence[Verdict], names: Mapping[str, str]) -> list[str]:
    """Blocks of Markdown without the page's own heading, every string of a record escaped.

    Args:
        names: run id → what the tables call the run.
    """
    rows = [[markdown_text(each.claim), each.outcome, markdown_text(each.sentence)] for each in verdicts]
    blocks = [_HOW_TO_READ.rstrip(), markdown_table(["claim", "outcome", "in one sentence"], rows, num_left=2)]
    for verdict in verdicts:
        blocks += [f"### {markdown_text(verdict.claim)}", f"**{verdict.outcome}**{_after_outcome(verdict)}"]
        blocks.append(f"Where the authors say it: {markdown_text(verdict.source)}.")
        if verdict.evidence:
            lines = [markdown_text(f"{each.text}{_runs(each, names)}") for each in verdict.evidence]
            blocks.append(f"Evidence:\n\n{markdown_bullets(lines)}")
        if verdict.limits:
            blocks.append(f"What this does not say:\n\n{markdown_bullets(map(markdown_text, verdict.limits))}")
    return blocks


def _after_outcome(verdict: Verdict) -> str:
    """The sentence, without the outcome where it begins with that."""
    is_repeated = verdict.sentence.lower().startswith(f"{verdict.outcome}, ")
    return markdown_text(verdict.sentence[len(verdict.outcome) :] if is_repeated else f". {verdict.sentence}")


def _runs(evidence: Evidence, names: Mapping[str, str]) -> str:
    """` (runs 1234abcd, 99999999)`."""
    called = [names.get(run_id, run_id) for run_id in evidence.run_ids]
    if not called:
        return ""
    more = f" and {len(called) - _MAX_RUNS} more" if len(called) > _MAX_RUNS else ""
    return f" ({'run' if len(called) == 1 else 'runs'} {', '.join(called[:_MAX_RUNS])}{more})"
