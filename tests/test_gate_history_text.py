"""What a point writes for people, from simulated histories; hostile names stay text everywhere."""

import re
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from gate_history_points import Nights
from gate_lanes import GENERATE, TRAIN, UNIT_COUNTS
from markdown_it import MarkdownIt

from bench.gate.history_point import Suspects
from bench.gate.history_text import history_markdown, history_text, suspects_text
from bench.gate.text import MARKER

HOSTILE = "<img src=x>|@octocat #1 **b** `c` [l](http://e.org) www.e.org\x1b[31m\u202e]]>&\n| x"
BOTH = [TRAIN, GENERATE]


@cache
def point(verdict):
    """A simulated point that is called so, at the end of a history."""
    last = {
        "ok": {},
        "improved": {"slowdown": 0.8},
        "regression": {"slowdown": 1.2},
        "invalid": {"fails": {("head", TRAIN.name, "block"): "crash"}},
        "counts": {"facts": {("head", TRAIN.name): {"exact": UNIT_COUNTS | {"macs_per_iteration": 6000}}}},
    }
    with TemporaryDirectory() as folder:
        nights = Nights(Path(folder))
        first = nights.measure(0, workloads=BOTH)
        if verdict == "inconclusive":
            return first
        nights.many(range(1, 7), workloads=BOTH)
        if verdict == "changed":
            return nights.many(range(7, 13), 1.1, workloads=BOTH)[-1]
        found = nights.measure(7, **last[verdict], workloads=BOTH)
    assert found.verdict == ("regression" if verdict == "counts" else verdict)
    return found


ALL = ("ok", "improved", "regression", "inconclusive", "invalid", "counts", "changed")


@cache
def hostile():
    """Every string that comes from outside is HOSTILE."""
    found = point("changed")
    workload = found.workloads[0]
    change = workload.changes[0]
    suspects = change.suspects.model_copy(update={"num_commits": 1, "subject": HOSTILE, "note": HOSTILE})
    bad = workload.model_copy(
        update={
            "name": f"train_step:{HOSTILE}",
            "facts": workload.facts.model_copy(update={"unit": HOSTILE}),
            "decisions": (workload.decisions[0].model_copy(update={"reason": HOSTILE}),),
            "changes": (change.model_copy(update={"suspects": suspects, "machine": (HOSTILE,)}),),
            "not_counted": {HOSTILE: HOSTILE},
        }
    )
    machine = found.machine.model_copy(update={"hostname": HOSTILE, "cpu": HOSTILE})
    return found.model_copy(update={"workloads": (bad,), "asked": HOSTILE, "notes": (HOSTILE,), "machine": machine})


@pytest.mark.parametrize("verdict", ALL)
def test_the_table_says_verdict_reason_and_what_it_could_have_seen(verdict):
    found, text = point(verdict), history_text(point(verdict))
    assert text.splitlines()[-1].startswith(f"{found.verdict}: ")
    assert text.splitlines()[-1].endswith(f"(exit code {found.exit_code})")
    assert "would have seen" in text.splitlines()[0]
    for each in found.workloads:
        for decision in each.decisions:
            assert decision.reason in text
            if decision.smallest_detectable is not None:
                assert f"{decision.smallest_detectable:.1%}" in text
    assert ("Changes over time, of 3.0% or more" in text) is (verdict == "changed")
    assert ("looked for from 10 points on" in text) is (verdict != "changed")


def test_a_long_history_without_a_change_says_so(tmp_path):
    found = Nights(tmp_path).many(range(11))[-1]
    assert "No change over time of 3.0% or more in 10 earlier points." in history_text(found)


def test_figure_level_and_number_of_points_stand_side_by_side():
    row = history_text(point("changed")).splitlines()[2]
    assert re.fullmatch(
        r"train_step:ladagan +ok +0\.0034\d+ s/image +0\.0034\d+ s/image +[01]\.\d{3} \[[01]\.\d{3}, 1\.\d{3}\]"
        r" +3\.0% +\d\.\d% +5 of 12",
        row,
    ), row


def test_a_change_says_when_by_how_much_and_who():
    lines = history_text(point("changed")).splitlines()
    row = next(line for line in lines if "slower" in line and "→" in line)
    assert re.fullmatch(
        r"train_step:ladagan +\d+\.\d% slower \(\+\d+\.\d% to \+\d+\.\d%\) +2026-01-08 12:00:00 +7 → 6"
        r" +1 commit, 0{10} Slow it down",
        row,
    ), row


@pytest.mark.parametrize(
    ("num", "fields", "text"),
    [
        (1, {"subject": "Slow it down"}, "1 commit, bbbbbbbbbb Slow it down"),
        (1, {}, "1 commit, bbbbbbbbbb"),
        (12, {}, "12 commits, aaaaaaaaaa..bbbbbbbbbb"),
        (0, {"note": "the code is equal"}, "no commit, aaaaaaaaaa..bbbbbbbbbb: the code is equal"),
        (None, {"note": "x"}, "an unknown number of commits, aaaaaaaaaa..bbbbbbbbbb: x"),
    ],
)
def test_suspects_are_one_line(num, fields, text):
    assert suspects_text(Suspects(before="a" * 40, after="b" * 40, num_commits=num, **fields)) == text


def test_counts_that_differ_are_listed_with_their_share():
    assert "macs_per_iteration 5000 → 6000 (+20.00%), a regression" in history_text(point("counts"))


@pytest.mark.parametrize("verdict", ALL)
def test_the_markdown_is_a_table_a_verdict_and_folded_explanations(verdict):
    found, text = point(verdict), history_markdown(point(verdict))
    html = MarkdownIt("commonmark", {"html": True}).enable("table").render(text)
    num_changes = sum(len(each.changes) for each in found.workloads)
    rows = 1 + sum(len(each.decisions) for each in found.workloads) + (num_changes + 1 if num_changes else 0)
    assert text.startswith(MARKER) and text.endswith("</details>\n") and html.count("<tr>") == rows
    assert f"bench gate --history: {found.verdict}</h3>" in html
    assert html.count("<details>") == html.count("</details>") == 1 and len(text) < 65_536


def test_hostile_names_are_inert():
    text = history_markdown(hostile())
    html = MarkdownIt("commonmark", {"html": True}).enable("table").render(text)
    assert "<img" not in html and "href" not in html and "<strong>b" not in html and "<code>c" not in html
    outside = re.sub(r"<!--.*?-->", "\x00", html)
    assert not any(each in outside for each in ("@octocat", "#1", "http://", "www.e"))
    assert html.count("<tr>") == 4 and "\x1b" not in text and "\u202e" not in text
    assert all(line.isprintable() for line in history_text(hostile()).splitlines())


def test_uncommitted_changes_are_called_so():
    dirty = point("ok").model_copy(update={"is_dirty": True})
    assert "with uncommitted changes" in history_markdown(dirty) and "uncommitted" not in history_markdown(point("ok"))
