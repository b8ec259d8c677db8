"""The files that put `bench gate` into CI say only what exists, and nothing of a stranger gets into their scripts.

What the scripts do is tested in `test_gate_ci_steps.py`.
"""

import re
from pathlib import Path

import pytest
from composite_action import load_yaml

from bench.cli import main
from bench.gate.text import MARKER

ROOT = Path(__file__).resolve().parent.parent
ACTION_FILE = ROOT / ".github" / "actions" / "bench-gate" / "action.yml"
WORKFLOW_FILES = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
ACTION = load_yaml(ACTION_FILE)
WORKFLOWS = {path.stem: load_yaml(path) for path in WORKFLOW_FILES}
GITLAB_JOB = load_yaml(ROOT / ".gitlab" / "bench-gate.gitlab-ci.yml")["bench-gate"]
SCRIPTS = {step["name"]: step["run"] for step in ACTION["runs"]["steps"] if "run" in step}


def words_of_help(capsys):
    assert main(["gate", "--help"]) == 0
    return set(re.findall(r"^  (--[a-z-]+)", capsys.readouterr().out, re.MULTILINE))


def test_every_option_in_the_scripts_is_one_of_bench_gate(capsys):
    known = words_of_help(capsys)
    for script in (SCRIPTS["Run the gate"], GITLAB_JOB["script"][-1]):
        used = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", script.split("bench gate ", 1)[1]))
        assert {"--base", "--head", "--markdown", "--junit", "--inconclusive"} <= used <= known


def test_every_input_and_output_is_described_and_used():
    text = ACTION_FILE.read_text()
    assert set(re.findall(r"\binputs\.([\w-]+)", text)) == set(ACTION["inputs"])
    for each in ACTION["inputs"].values():
        assert set(each) == {"description", "default"} and each["description"] and isinstance(each["default"], str)
    for each in ACTION["outputs"].values():
        assert set(each) == {"description", "value"} and each["description"]


@pytest.mark.parametrize("path", [ACTION_FILE, *WORKFLOW_FILES], ids=lambda path: path.stem)
def test_no_strange_text_gets_into_a_script_and_others_actions_are_pinned(path):
    document = load_yaml(path)
    steps = [step for job in document.get("jobs", {"": document.get("runs")}).values() for step in job["steps"]]
    for step in steps:
        if "run" in step:
            assert step["shell"] == "bash" and "${{" not in step["run"]
        elif step["uses"].startswith("./"):
            assert (ROOT / step["uses"] / "action.yml").is_file()
        else:
            assert re.fullmatch(r"[\w.-]+/[\w.-]+@[0-9a-f]{40}", step["uses"])
            assert re.search(re.escape(step["uses"]) + r" # v\d+\.\d+\.\d+\n", path.read_text())
        if step.get("uses", "").startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] is False


def test_the_workflows_may_do_no_more_than_they_need():
    granted = {"ci": {"contents": "read"}, "gate": {"contents": "read", "pull-requests": "write"}}
    assert set(WORKFLOWS) == set(granted)
    for name, workflow in WORKFLOWS.items():
        assert set(workflow[True]) == {"pull_request", "push"}  # YAML 1.1 reads the key `on` as true
        assert workflow["permissions"] == {} and workflow["concurrency"]["cancel-in-progress"] is True
        (job,) = workflow["jobs"].values()
        assert job["permissions"] == granted[name] and job["timeout-minutes"] <= 90


def test_the_projects_own_gate_uses_inputs_that_exist_and_states_what_inconclusive_does():
    checkout, gate = WORKFLOWS["gate"]["jobs"]["gate"]["steps"]
    assert checkout["with"]["fetch-depth"] == 0
    assert ROOT / gate["uses"] == ACTION_FILE.parent and set(gate["with"]) <= set(ACTION["inputs"])
    assert "${{" not in str(gate["with"])
    assert gate["with"]["inconclusive"] in {"report", "pass", "fail"}


def test_ci_runs_what_the_project_runs():
    assert WORKFLOWS["ci"]["jobs"]["ci"]["steps"][-1]["run"] == "bash .ci/run"


def test_gitlab_keeps_the_junit_report_and_warns_of_an_inconclusive_gate():
    assert GITLAB_JOB["variables"]["GIT_DEPTH"] == "0" and GITLAB_JOB["allow_failure"] == {"exit_codes": [3]}
    junit = GITLAB_JOB["artifacts"]["reports"]["junit"]
    assert f"--junit={junit}" in GITLAB_JOB["script"][-1] and GITLAB_JOB["artifacts"]["when"] == "always"


def test_the_action_knows_its_comment_by_the_mark_that_the_gate_writes():
    assert f"'{MARKER}'" in SCRIPTS["Run the gate"]
    assert f'startswith("{MARKER}")' in SCRIPTS["Comment on the pull request"]


def test_only_the_script_that_comments_is_given_the_token():
    with_token = [step["name"] for step in ACTION["runs"]["steps"] if "github.token" in str(step)]
    assert with_token == ["Comment on the pull request"]
    assert not any("secrets" in path.read_text() for path in [ACTION_FILE, *WORKFLOW_FILES])
