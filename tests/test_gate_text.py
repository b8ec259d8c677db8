"""What a gate writes for people and for other programs, from simulated gates; hostile names stay text everywhere."""

import json
import re
from dataclasses import replace
from functools import cache
from xml.etree import ElementTree as ET

import jsonschema
import pytest
from gate_lanes import BOTH, GENERATE, TRAIN, UNIT_COUNTS, Machine
from markdown_it import MarkdownIt

from bench.errors import UsageError
from bench.gate.exports import EXPORTS, bencher, github_action_benchmark, junit_xml, parse_exports
from bench.gate.text import MARKER, gate_markdown, gate_text, inert

HOSTILE = "<img src=x>|@octocat #1 **b** `c` [l](http://e.org) www.e.org\x1b[31m\u202e]]>&\n| x"
# The schema of bencher.dev/docs/reference/bencher-metric-format: two levels of names, then numbers.
BENCHER_SCHEMA = {
    "type": "object",
    "additionalProperties": {
        "type": "object",
        "additionalProperties": {
            "type": "object",
            "properties": {each: {"type": "number"} for each in ("value", "lower_value", "upper_value")},
            "required": ["value"],
            "additionalProperties": False,
        },
    },
}


@cache
def gate(verdict):
    """A simulated gate that ends so."""
    machines = {
        "ok": Machine(),
        "improved": Machine(slowdown={TRAIN.name: 0.8}),
        "regression": Machine(slowdown={TRAIN.name: 1.2}),
        "inconclusive": Machine(noise=0.6),
        "invalid": Machine(fails={("head", TRAIN.name, "prepare"): "crash"}),
        "counts": Machine(facts={("head", TRAIN.name): {"exact": UNIT_COUNTS | {"macs_per_iteration": 6000}}}),
    }
    outcome = machines[verdict].gate([TRAIN, GENERATE], budget_s=240)
    assert outcome.verdict == ("regression" if verdict == "counts" else verdict)
    return outcome


@cache
def hostile():
    """Every string that comes from outside is HOSTILE."""
    outcome = gate("regression")
    workload = outcome.workloads[0]
    decision = workload.decisions[0].model_copy(update={"reason": HOSTILE})
    bad = workload.model_copy(
        update={
            "name": f"train_step:{HOSTILE}",
            "unit": HOSTILE,
            "decisions": (decision,),
            "not_counted": {HOSTILE: HOSTILE},
        }
    )
    version = outcome.head.model_copy(update={"asked": HOSTILE})
    machine = outcome.machine.model_copy(update={"hostname": HOSTILE, "cpu": HOSTILE})
    return outcome.model_copy(
        update={"workloads": (bad,), "head": version, "base": version, "notes": (HOSTILE,), "machine": machine}
    )


ALL = ("ok", "improved", "regression", "inconclusive", "invalid", "counts")


@pytest.mark.parametrize("verdict", ALL)
def test_the_table_says_verdict_reason_and_what_it_could_have_seen(verdict):
    outcome = gate(verdict)
    text = gate_text(outcome)
    assert text.splitlines()[-1].startswith(f"{outcome.verdict}: ")
    assert text.splitlines()[-1].endswith(f"(exit code {outcome.exit_code})")
    assert "would have seen" in text.splitlines()[0]
    for each in outcome.workloads:
        assert each.decisions[0].reason in text
        if each.decisions[0].smallest_detectable is not None:
            assert f"{each.decisions[0].smallest_detectable:.1%}" in text
    is_timed = any(each.rounds for each in outcome.workloads)
    assert ("s of processor time" in text) is is_timed and ("nothing was timed" in text) is not is_timed


def test_counts_that_differ_are_listed_with_their_share():
    text = gate_text(gate("counts"))
    assert "macs_per_iteration 5000 → 6000 (+20.00%), a regression" in text


@pytest.mark.parametrize("verdict", ALL)
def test_the_markdown_is_one_table_a_verdict_and_folded_explanations(verdict):
    outcome = gate(verdict)
    text = gate_markdown(outcome)
    html = MarkdownIt("commonmark", {"html": True}).enable("table").render(text)
    assert text.startswith(MARKER) and text.endswith("</details>\n")
    assert html.count("<tr>") == 1 + sum(len(each.decisions) for each in outcome.workloads)
    assert f"bench gate: {outcome.verdict}</h3>" in html
    assert html.count("<details>") == html.count("</details>") == 1
    assert len(text) < 65_536  # of a comment on GitHub


def test_hostile_names_are_inert_in_markdown():
    text = gate_markdown(hostile())
    html = MarkdownIt("commonmark", {"html": True, "linkify": False}).enable("table").render(text)
    tags = {found.lower() for found in re.findall(r"<\s*/?\s*([a-zA-Z][\w-]*)", html)}
    assert tags <= {
        "h3",
        "p",
        "table",
        "thead",
        "tbody",
        "tr",
        "th",
        "td",
        "ul",
        "li",
        "strong",
        "details",
        "summary",
        "em",
        "code",
    }
    assert "<img" not in html and "href" not in html and "<strong>b" not in html and "<code>c" not in html
    outside = re.sub(r"<!-- ?-->|<!--.*?-->", "\x00", html)
    for forbidden in ("@octocat", "#1", "http://", "www.e"):
        assert forbidden not in outside
    assert html.count("<tr>") == 2
    assert "\x1b" not in text and "\u202e" not in text


def test_hostile_names_move_no_cursor_in_a_terminal():
    text = gate_text(hostile())
    assert all(line.isprintable() for line in text.splitlines())
    assert len(text.splitlines()[2].split("  ")[0]) <= 60


def test_a_word_is_broken_only_where_it_would_become_a_link():
    assert inert("a@b") == "a@<!-- -->b" and inert("train_step:ladagan") == "train_step:ladagan"


# --- JUnit


def check_junit(text):
    """The rules of Windy Road's JUnit.xsd: elements, their order, required attributes, types and counts."""
    root = ET.fromstring(text)
    (suite,) = root
    assert root.tag == "testsuites" and suite.tag == "testsuite"
    assert set(suite.attrib) == {
        "id", "package", "name", "timestamp", "hostname", "tests", "failures", "errors", "skipped", "time",
    }  # fmt: skip
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", suite.get("timestamp")) and suite.get("hostname")
    tags = [each.tag for each in suite]
    assert tags == ["properties", *["testcase"] * (len(tags) - 3), "system-out", "system-err"]
    assert all(set(each.attrib) == {"name", "value"} for each in suite[0])
    cases = suite.findall("testcase")
    kinds = []
    for case in cases:
        assert set(case.attrib) == {"name", "classname", "time"} and float(case.get("time")) >= 0
        assert len(case) <= 1
        for each in case:
            kinds.append(each.tag)
            assert each.tag in {"skipped", "error", "failure"} and (each.tag == "skipped" or each.get("type"))
    for name, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        assert int(suite.get(name)) == kinds.count(tag)
    assert int(suite.get("tests")) == len(cases)
    return kinds


@pytest.mark.parametrize(
    ("verdict", "kinds"),
    [
        ("ok", []),
        ("improved", []),
        ("regression", ["failure"]),
        ("counts", ["failure"]),
        ("invalid", ["error", "error"]),
        ("inconclusive", ["skipped", "skipped"]),
    ],
)
def test_junit_follows_its_schema(verdict, kinds):
    assert check_junit(junit_xml(gate(verdict))) == kinds


def test_an_inconclusive_gate_that_shall_fail_fails_in_junit_too():
    outcome = gate("inconclusive").model_copy(update={"inconclusive": "fail"})
    assert check_junit(junit_xml(outcome)) == ["failure", "failure"]


def test_hostile_names_make_valid_xml():
    text = junit_xml(hostile())
    assert check_junit(text) == ["failure"]
    (case,) = ET.fromstring(text)[0].findall("testcase")
    assert case.get("name").startswith("train_step:<img src=x>|@octocat") and case.get("name").isprintable()


# --- dashboards


@pytest.mark.parametrize("verdict", ALL)
def test_github_action_benchmark_gets_named_numbers_with_units(verdict):
    entries = json.loads(github_action_benchmark(gate(verdict)))
    names = [each["name"] for each in entries]
    assert len(set(names)) == len(names)
    for each in entries:
        assert set(each) <= {"name", "unit", "value", "range", "extra"} and {"name", "unit", "value"} <= set(each)
        assert isinstance(each["value"], int | float) and each["unit"]
    if verdict == "regression":
        by_name = {each["name"]: each for each in entries}
        assert by_name["train_step:ladagan"]["unit"] == "s/image"
        assert by_name["train_step:ladagan"]["value"] == pytest.approx(0.05 / 16 * 1.2, rel=0.02)
        assert by_name["train_step:ladagan head / base"]["value"] == pytest.approx(1.2, rel=0.02)
        assert by_name["train_step:ladagan macs_per_iteration"]["value"] == 5000


@pytest.mark.parametrize("verdict", ALL)
def test_bencher_gets_its_own_format(verdict):
    document = json.loads(bencher(gate(verdict)))
    jsonschema.validate(document, BENCHER_SCHEMA)
    if verdict == "regression":
        measures = document["train_step:ladagan"]
        latency = measures["latency"]
        assert latency["value"] == pytest.approx(0.05 / 16 * 1.2 * 1e9, rel=0.02)
        assert latency["lower_value"] <= latency["value"] <= latency["upper_value"]
        assert measures["head-over-base"]["lower_value"] > 1.1
        assert measures["macs-per-iteration"] == {"value": 5000}


def test_hostile_names_are_short_and_printable_in_the_exports():
    jsonschema.validate(json.loads(bencher(hostile())), BENCHER_SCHEMA)
    assert all(name.isprintable() and len(name) <= 1024 for name in json.loads(bencher(hostile())))
    assert all(each["name"].isprintable() for each in json.loads(github_action_benchmark(hostile())))


def test_the_same_document_gives_the_same_bytes():
    for write in (gate_text, gate_markdown, junit_xml, *EXPORTS.values()):
        assert write(gate("regression")) == write(gate("regression"))


def test_exports_are_named_with_their_files():
    found = parse_exports("bencher=a.json, github-action-benchmark=b/c.json")
    assert {name: str(path) for name, path in found.items()} == {
        "bencher": "a.json",
        "github-action-benchmark": "b/c.json",
    }
    with pytest.raises(UsageError):
        parse_exports("")


def test_versions_with_changes_are_called_so():
    outcome = Machine().gate()
    assert BOTH.head.is_dirty is False and "uncommitted" not in gate_markdown(outcome)
    dirty = outcome.model_copy(update={"head": outcome.head.model_copy(update={"is_dirty": True})})
    assert "with uncommitted changes" in gate_markdown(dirty)
    assert replace(BOTH.head, is_dirty=True).is_dirty
