"""A gate for other programs: JUnit XML, github-action-benchmark, Bencher. Each is made from the document alone.

JUnit XML. There is no standard; the strictest widely used schema is followed, so that every reader takes it: Windy Road
Technology's of Ant's format (https://github.com/windyroad/JUnit-Schema, JUnit.xsd, commit 2378e66). One test case per
decision: a regression is a `failure`, invalid an `error`, inconclusive `skipped` or, with `--inconclusive fail`, a
failure.

github-action-benchmark, tool `customSmallerIsBetter`: an array of {name, unit, value, range, extra}
(https://github.com/benchmark-action/github-action-benchmark, src/extract.ts, `BenchmarkResult`, commit 04dcc2c); it
refuses an empty one. Bencher Metric Format: benchmark → measure → {value, lower_value, upper_value}
(https://bencher.dev/docs/reference/bencher-metric-format); its own measure `latency` is in nanoseconds
(https://bencher.dev/docs/how-to/track-custom-benchmarks).

Both keep history from run to run, and on shared runners only `head / base` and the counts can be compared so; the times
are given for machines that are one's own.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any
from xml.etree import ElementTree as ET

from bench.errors import UsageError
from bench.gate.outcome import TIME, DecisionOutcome, GateOutcome, WorkloadOutcome
from bench.gate.text import gate_text
from bench.notation import plain, shortened
from bench.records import Quantity
from bench.registry import suggest

RATIO = "head / base"
_BENCHMARK_CHARS, _MEASURE_CHARS = 1024, 64  # Bencher's limits
_NS_PER_S = 1e9


def junit_xml(outcome: GateOutcome) -> str:
    """One suite with a test case per decision; the whole terminal text is its output."""
    cases = [(each, decision) for each in outcome.workloads for decision in each.decisions]
    kinds = [_junit_kind(decision, outcome) for _, decision in cases]
    counts = {
        f"{kind}s" if kind != "skipped" else kind: str(kinds.count(kind)) for kind in ("failure", "error", "skipped")
    }
    whole = {"tests": str(len(cases)), "time": f"{outcome.duration_s:.3f}"} | counts
    root = ET.Element("testsuites")
    suite = ET.SubElement(
        root,
        "testsuite",
        {"id": "0", "package": "bench", "name": "bench.gate", "timestamp": outcome.started}
        | {"hostname": plain(outcome.machine.hostname) or "localhost"}
        | whole,
    )
    properties = ET.SubElement(suite, "properties")
    for name, value in _properties(outcome).items():
        ET.SubElement(properties, "property", {"name": name, "value": plain(value)})
    for (each, decision), kind in zip(cases, kinds, strict=True):
        name = plain(each.name if decision.figure == TIME else f"{each.name}, {decision.figure}")
        case = ET.SubElement(
            suite, "testcase", {"classname": "bench.gate", "name": name, "time": f"{_blocks_s(each):.3f}"}
        )
        reason = plain(decision.reason)
        if kind == "skipped":
            ET.SubElement(case, kind, {"message": reason})
        elif kind:
            ET.SubElement(case, kind, {"message": reason, "type": decision.verdict}).text = reason
    ET.SubElement(suite, "system-out").text = "\n".join(map(plain, gate_text(outcome).splitlines()))
    ET.SubElement(suite, "system-err")
    ET.indent(root)
    return ET.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _junit_kind(decision: DecisionOutcome, outcome: GateOutcome) -> str:
    if decision.verdict == "inconclusive":
        return "failure" if outcome.inconclusive == "fail" else "skipped"
    return {"regression": "failure", "invalid": "error"}.get(decision.verdict, "")


def _properties(outcome: GateOutcome) -> dict[str, str]:
    return {
        "gate": outcome.gate_id,
        "verdict": outcome.verdict,
        "exit code": str(outcome.exit_code),
        "base": f"{outcome.base.asked} {outcome.base.commit}",
        "head": f"{outcome.head.asked} {outcome.head.commit}",
        "harness version": outcome.harness_version,
    }


def _blocks_s(each: WorkloadOutcome) -> float:
    """Seconds of all blocks."""
    return sum(block.duration_s for found in each.rounds for blocks in found.restarts for block in blocks)


def github_action_benchmark(outcome: GateOutcome) -> str:
    """For the tool `customSmallerIsBetter`."""
    said = (
        f"{outcome.verdict}; gate {outcome.gate_id}; base {outcome.base.commit[:10]}, head {outcome.head.commit[:10]}"
    )
    entries: list[dict[str, Any]] = []
    for each in outcome.workloads:
        name = plain(each.name)
        for decision in each.decisions:
            what = "" if decision.figure == TIME else f" {plain(decision.figure)}"
            extra = f"{said}\n{plain(decision.reason)}"
            for label, figure in _figures(each, decision):
                if figure.value is not None:
                    entry = {"name": f"{name}{what} {label}".strip(), "unit": figure.unit, "value": figure.value}
                    entries.append(entry | _range(figure) | {"extra": extra})
        for count, value in sorted(each.head.exact.items() if each.head else ()):
            entries.append({"name": f"{name} {plain(count)}", "unit": "count", "value": value, "extra": said})
    return json.dumps(entries, indent=1, allow_nan=False) + "\n"


def _figures(each: WorkloadOutcome, decision: DecisionOutcome) -> list[tuple[str, Quantity]]:
    return [("", each.per_unit(decision.figure, "head")), (RATIO, decision.ratio)]


def _range(figure: Quantity) -> dict[str, str]:
    return {} if figure.low is None or figure.high is None else {"range": f"{figure.low:.6g} to {figure.high:.6g}"}


def bencher(outcome: GateOutcome) -> str:
    """Bencher Metric Format."""
    document: dict[str, dict[str, dict[str, float]]] = {}
    for each in outcome.workloads:
        measures: dict[str, dict[str, float]] = {}
        for decision in each.decisions:
            per_unit, ratio = each.per_unit(decision.figure, "head"), decision.ratio
            if decision.figure == TIME:
                measures |= _measure("latency", per_unit, _NS_PER_S) | _measure("head-over-base", ratio)
            else:
                measures |= _measure(decision.figure, per_unit) | _measure(f"{decision.figure}-head-over-base", ratio)
        for count, value in sorted(each.head.exact.items() if each.head else ()):
            measures[_slug(count)] = {"value": value}
        if measures:
            document[shortened(plain(each.name), _BENCHMARK_CHARS)] = measures
    return json.dumps(document, indent=1, allow_nan=False) + "\n"


def _measure(name: str, figure: Quantity, factor: float = 1.0) -> dict[str, dict[str, float]]:
    if figure.value is None:
        return {}
    ends = {"value": figure.value, "lower_value": figure.low, "upper_value": figure.high}
    return {_slug(name): {end: value * factor for end, value in ends.items() if value is not None}}


def _slug(name: str) -> str:
    return "".join(sign if sign.isascii() and sign.isalnum() else "-" for sign in name.lower())[:_MEASURE_CHARS]


EXPORTS: Mapping[str, Callable[[GateOutcome], str]] = MappingProxyType(
    {"github-action-benchmark": github_action_benchmark, "bencher": bencher}
)


def parse_exports(text: str) -> dict[str, Path]:
    """`github-action-benchmark=a.json,bencher=b.json` → format and file. Raises UsageError."""
    found: dict[str, Path] = {}
    for word in text.split(","):
        name, _, path = word.strip().partition("=")
        if name not in EXPORTS:
            raise UsageError(f"--export '{word.strip()}': unknown format '{name}'. {suggest(name, EXPORTS)}")
        if not path:
            raise UsageError(f"--export '{word.strip()}' names no file: write {name}=FILE.")
        found[name] = Path(path)
    return found
