"""The scripts that put `bench gate` into CI, run here step by step as GitHub and GitLab would.

`bench`, `gh` and `python` are stand-ins that note what they were asked; the slow test at the end runs the project's own
workflow with the real gate. GitHub and GitLab themselves are not at hand: what they make of the files is not tested.
"""

import os
import shutil
import subprocess
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from composite_action import UnknownSyntaxError, checked_out, git, load_yaml, run_action

from bench.gate.outcome import read_gate
from bench.gate.text import MARKER

ROOT = Path(__file__).resolve().parent.parent
ACTION = ROOT / ".github" / "actions" / "bench-gate"
PULL = "refs/pull/7/merge"
HOSTILE = "; touch pwned; $(touch pwned) `touch pwned` ' \" \\ * ${{ github.token }}"

STAND_INS = {
    "bench": r"""
printf '%s\0' "$@" >"$STUB/bench.asked"
env >"$STUB/bench.environment"
for word; do
    if [ -n "$SAID" ]; then
        case "$word" in
        --markdown=*) printf '<!-- bench gate -->\nsaid\n' >"${word#*=}" ;;
        --junit=*) echo '<testsuites/>' >"${word#*=}" ;;
        --json) echo "{\"verdict\": $SAID}" ;;
        esac
    fi
done
exit "$CODE"
""",
    "gh": r"""
echo "$*" >>"$STUB/gh.asked"
last=${!#}
case "$GH_TOKEN $*" in
full*--paginate* | read-only*--paginate*) jq -r "$last" "$STUB/comments.json" ;;
full*) cp "${last#body=@}" "$STUB/gh.body" ;;
*) echo 'gh: Resource not accessible by integration (HTTP 403)' >&2; exit 1 ;;
esac
""",
    "python": r"""printf '%s\0' "$@" >"$STUB/python.asked" """,
}


@pytest.fixture
def stub(tmp_path, monkeypatch):
    """The folder where the stand-ins note what they were asked; they come first on the PATH."""
    folder = tmp_path / "stub"
    for name, text in STAND_INS.items():
        path = folder / "bin" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/usr/bin/env bash\n{text}")
        path.chmod(0o755)
    (folder / "comments.json").write_text("[]")
    monkeypatch.setenv("PATH", f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("STUB", str(folder))
    return folder


def asked(stub, name="bench"):
    path = stub / f"{name}.asked"
    return path.read_text().split("\0")[:-1] if path.exists() else []


@pytest.fixture
def author(monkeypatch):
    """Git's settings are these and no others."""
    for name in ("GLOBAL", "SYSTEM"):
        monkeypatch.setenv(f"GIT_CONFIG_{name}", os.devnull)
    for role in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{role}_NAME", "tests")
        monkeypatch.setenv(f"GIT_{role}_EMAIL", "tests@example.org")


def merged(server):
    """`change`, which left `main` earlier, merged into it as GitHub does for a pull request."""
    git(server, "checkout", "--quiet", "--detach", "main")
    git(server, "merge", "--quiet", "--no-ff", "--message=merge", "change")
    git(server, "update-ref", PULL, "HEAD")


@pytest.fixture
def server(tmp_path, author):
    folder = tmp_path / "server"
    git(tmp_path, "init", "--quiet", "--initial-branch=main", str(folder))
    git(folder, "commit", "--quiet", "--allow-empty", "--message=where the change left main")
    git(folder, "branch", "change")
    git(folder, "commit", "--quiet", "--allow-empty", "--message=of others, meanwhile")
    git(folder, "checkout", "--quiet", "change")
    git(folder, "commit", "--quiet", "--allow-empty", "--message=change")
    merged(folder)
    return folder


def event_of(server, event, before):
    """(context `github`, GITHUB_SHA); as on GitHub, the base may be older than the first parent of the merge."""
    if event == "pull_request":
        body = {"pull_request": {"number": 7, "base": {"sha": git(server, "rev-parse", "main^")}}}
        return {"event_name": event, "event": body}, git(server, "rev-parse", PULL)
    body = {"before": git(server, "rev-parse", before) if before.startswith("main") else before}
    return {"event_name": event, "event": body if event == "push" else {}}, git(server, "rev-parse", "main")


@pytest.fixture
def act(server, stub, tmp_path):
    """Run the action on a checkout; `said` and `code` are the gate's."""

    def run(said='"ok"', code=0, *, event="pull_request", ref=PULL, before="0" * 40, token="full", **inputs):
        github, commit = event_of(server, event, before)
        workspace = tmp_path / "checkout"
        return run_action(
            ACTION,
            inputs={name.replace("_", "-"): value for name, value in inputs.items()},
            github=github | {"token": token},
            workspace=workspace if workspace.exists() else checked_out(server, ref, workspace),
            scratch=tmp_path / "runner",
            environment={"GITHUB_SHA": commit, "GITHUB_REPOSITORY": "owner/bench", "SAID": said, "CODE": str(code)},
        )

    return run


def test_what_the_runner_of_these_tests_does_not_know_it_refuses(act):
    with pytest.raises(UnknownSyntaxError, match="bugdet"):
        act(bugdet="6min")


# --- the verdict


@pytest.mark.parametrize(
    ("verdict", "code"),
    [("ok", 0), ("improved", 0), ("regression", 1), ("inconclusive", 3), ("inconclusive", 0), ("invalid", 4)],
)
def test_verdict_files_summary_and_exit_code_come_out(act, verdict, code):
    ran = act(f'"{verdict}"', code)
    assert ran.exit_code == code and ran.outputs["verdict"] == verdict and ran.outputs["exit-code"] == str(code)
    files = {name: Path(ran.outputs[name]) for name in ("markdown", "json", "junit")}
    assert ran.summary == files["markdown"].read_text() == f"{MARKER}\nsaid\n"
    artifact = ran.used["actions/upload-artifact"]
    assert {path.parent for path in files.values()} == {Path(artifact["path"])} and artifact["name"] == "bench-gate"
    assert {path.name for path in Path(artifact["path"]).iterdir()} == {path.name for path in files.values()}
    assert ("::warning title=bench gate::Not decided" in ran.log) is (verdict == "inconclusive")


@pytest.mark.parametrize(
    ("said", "code", "verdict"),
    [("", 2, "none"), ("", 4, "invalid"), ("", 127, "none"), (r'"ok\nexit-code=0"', 1, "none"), ("[}", 1, "none")],
)
def test_a_gate_that_could_not_judge_is_never_taken_for_a_verdict(act, said, code, verdict):
    ran = act(said, code)
    assert (ran.exit_code, ran.outputs["verdict"], ran.outputs["exit-code"]) == (code, verdict, str(code))
    assert ran.summary.startswith(MARKER + "\n")
    if not said:
        assert f"bench gate: {verdict}\n\nNothing was compared (exit code {code})" in ran.summary
        assert ran.outputs["json"] == ran.outputs["junit"] == ""


# --- what the gate is asked


def test_without_inputs_the_gates_own_defaults_hold(act, stub, server):
    ran = act()
    out = Path(ran.outputs["markdown"]).parent
    options = [f"--base={git(server, 'rev-parse', 'main')}", "--head=HEAD", "--budget=6min", "--inconclusive=report"]
    files = [f"--results={out}.results", f"--markdown={out}/gate.md", f"--junit={out}/gate.xml", "--json"]
    assert asked(stub) == ["gate", *options, *files]
    assert ran.used["actions/setup-python"] == {"python-version": "3.11"}
    assert asked(stub, "python")[-2:] == [str(ROOT / "constraints.txt"), str(ROOT)]


def test_an_empty_python_takes_the_bench_that_is_there(act, stub):
    assert "actions/setup-python" not in act(python="").used
    assert asked(stub) and not asked(stub, "python")


@pytest.mark.parametrize(
    ("given", "base"),
    [
        ({}, "main"),  # not main^, which the event still says
        ({"ref": "refs/heads/change"}, "change^"),
        ({"base": "v1"}, "v1"),
        ({"head": "v2"}, None),
        ({"event": "push", "ref": "refs/heads/main", "before": "main^"}, "main^"),
        ({"event": "push", "ref": "refs/heads/main"}, None),
        ({"event": "push", "ref": "refs/heads/main", "before": "1" * 40}, None),
        ({"event": "schedule", "ref": "refs/heads/main"}, None),
    ],
)
def test_a_change_is_compared_with_what_it_would_change(act, stub, server, given, base):
    assert act(**given).exit_code == 0
    commit = git(server, "rev-parse", base) if base in {"main", "main^", "change^"} else base
    assert [word for word in asked(stub) if word.startswith("--base")] == ([f"--base={commit}"] if base else [])
    assert f"--head={given.get('head', 'HEAD')}" in asked(stub)


def test_a_history_that_cannot_be_fetched_is_said_and_left_to_the_gate(act, server, tmp_path):
    nowhere = (tmp_path / "nowhere").as_uri()
    git(checked_out(server, PULL, tmp_path / "checkout"), "remote", "set-url", "origin", nowhere)
    ran = act("", 4)
    assert ran.exit_code == 4 and "::warning title=bench gate::The history cannot be fetched" in ran.log


def test_hostile_inputs_stay_text(act, stub, tmp_path):
    names = ("base", "head", "models", "workloads", "size", "budget", "min-effect", "inconclusive")
    ran = act(python="", artifact=HOSTILE, **{name.replace("-", "_"): HOSTILE for name in names})
    assert {f"--{name}={HOSTILE}" for name in names} <= set(asked(stub))
    assert ran.used["actions/upload-artifact"]["name"] == HOSTILE
    assert list(tmp_path.rglob("pwned")) == []


# --- the comment


def calls(stub):
    path = stub / "gh.asked"
    return path.read_text().splitlines() if path.exists() else []


EARLIER = """[
{"id": 1, "user": {"login": "stranger"}, "body": "<!-- bench gate -->"},
{"id": 2, "user": {"login": "github-actions[bot]"}, "body": "of another workflow"},
{"id": 3, "user": {"login": "github-actions[bot]"}, "body": "<!-- bench gate -->\\nearlier"},
{"id": 4, "user": {"login": "github-actions[bot]"}, "body": "<!-- bench gate -->\\none too many"}
]"""
needs_jq = pytest.mark.skipif(shutil.which("jq") is None, reason="gh has a jq of its own, its stand-in needs one")


@needs_jq
def test_the_first_comment_is_created_where_it_is_asked_for(act, stub):
    ran = act('"regression"', 1, comment=True)
    assert ran.exit_code == 1 and "Comment on the pull request" in ran.names
    listed, created = calls(stub)
    assert listed.startswith("api --paginate repos/owner/bench/issues/7/comments?per_page=100 --jq ")
    assert created.startswith("api --silent --method POST repos/owner/bench/issues/7/comments --field body=@")
    assert (stub / "gh.body").read_text() == Path(ran.outputs["markdown"]).read_text()
    assert "GH_TOKEN" not in (stub / "bench.environment").read_text()


@needs_jq
def test_later_the_same_comment_is_replaced_and_nobody_elses(act, stub):
    (stub / "comments.json").write_text(EARLIER)
    act(comment=True)
    _, replaced = calls(stub)
    assert replaced.startswith("api --silent --method PATCH repos/owner/bench/issues/comments/3 --field body=@")


@pytest.mark.parametrize(
    ("token", "earlier", "num_calls"),
    [("none", "[]", 1), ("read-only", "[]", 2), ("read-only", EARLIER, 2)],
)
@needs_jq
def test_a_token_that_may_only_read_changes_nothing_but_the_log(act, stub, token, earlier, num_calls):
    (stub / "comments.json").write_text(earlier)
    ran = act('"regression"', 1, comment=True, token=token)
    assert ran.exit_code == 1 and ran.names[-1] == "Give the verdict" and ran.outputs["verdict"] == "regression"
    assert "HTTP 403" in ran.log and "::warning title=bench gate::No comment was written" in ran.log
    assert len(calls(stub)) == num_calls and not (stub / "gh.body").exists()


@pytest.mark.parametrize("given", [{}, {"event": "push", "ref": "refs/heads/main", "comment": True}])
def test_there_is_no_comment_unasked_or_without_a_pull_request(act, stub, given):
    assert "Comment on the pull request" not in act(**given).names and calls(stub) == []


# --- GitLab


@pytest.mark.parametrize(
    ("variables", "base"),
    [
        ({"CI_MERGE_REQUEST_DIFF_BASE_SHA": "fork", "CI_COMMIT_BEFORE_SHA": "0" * 40}, "fork"),
        ({"CI_MERGE_REQUEST_DIFF_BASE_SHA": "fork", "CI_MERGE_REQUEST_TARGET_BRANCH_SHA": "target"}, "target"),
        ({"CI_COMMIT_BEFORE_SHA": "main^"}, "main^"),
        ({"CI_COMMIT_BEFORE_SHA": "0" * 40}, None),
        ({"BENCH_GATE_BASE": HOSTILE, "CI_COMMIT_BEFORE_SHA": "main^"}, HOSTILE),
    ],
)
def test_gitlabs_script_asks_the_same_and_ends_with_the_gates_exit_code(server, stub, variables, base):
    job = load_yaml(ROOT / ".gitlab" / "bench-gate.gitlab-ci.yml")["bench-gate"]
    variables = {
        name: git(server, "rev-parse", value) if value == "main^" else value for name, value in variables.items()
    }
    environment = os.environ | job["variables"] | {"SAID": '"inconclusive"', "CODE": "3"} | variables
    (server / "bench-gate").mkdir()
    script = "\n".join(["set -e", *job["script"]])
    done = subprocess.run(
        ["sh", "-c", script], cwd=server, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 3 and (server / job["artifacts"]["reports"]["junit"]).is_file()
    commit = git(server, "rev-parse", base) if base == "main^" else base
    files = ["--results=bench-gate", "--markdown=bench-gate/gate.md", "--junit=bench-gate/gate.xml"]
    options = ["--head=HEAD", "--budget=6min", "--inconclusive=report"]
    assert asked(stub) == ["gate", *([f"--base={commit}"] if base else []), *options, *files]
    assert asked(stub, "python")[-3:] == ["--constraint", "constraints.txt", "."]
    assert list(server.rglob("pwned")) == []


# --- the real thing


@pytest.mark.slow
@pytest.mark.parametrize("is_larger", [True, False])
def test_the_projects_own_workflow_judges_a_pull_request_on_a_clean_checkout(author, stub, tmp_path, is_larger):
    """A larger model is found by its counts, without a clock; a change of words is no regression."""
    for name in ("bench", "python"):
        (stub / "bin" / name).unlink()
    (stub / "bin" / "bench").symlink_to(shutil.which("bench", path=ROOT / ".venv" / "bin") or shutil.which("bench"))
    server = tmp_path / "server"
    git(tmp_path, "clone", "--quiet", str(ROOT), str(server))
    git(server, "checkout", "--quiet", "-B", "main")
    git(server, "checkout", "--quiet", "-b", "change")
    changed = server / ("models/ladagan.py" if is_larger else "README.md")
    old, new = ("generator_widths=(64, 32, 8)", "generator_widths=(64, 32, 16)") if is_larger else ("MIT", "MIT!")
    assert old in changed.read_text()
    changed.write_text(changed.read_text().replace(old, new))
    git(server, "commit", "--quiet", "--all", "--message=change")
    merged(server)
    github, commit = event_of(server, "pull_request", "")
    workflow = load_yaml(ROOT / ".github" / "workflows" / "gate.yml")
    inputs = workflow["jobs"]["gate"]["steps"][-1]["with"] | {"python": "", "budget": "30s"}
    ran = run_action(
        ACTION,
        inputs=inputs,
        github=github | {"token": "read-only"},
        workspace=checked_out(server, PULL, tmp_path / "checkout"),
        scratch=tmp_path / "runner",
        environment={"GITHUB_SHA": commit, "GITHUB_REPOSITORY": "owner/bench"},
    )
    assert (ran.outputs["verdict"] == "regression") is is_larger, ran.log
    assert ran.exit_code == int(ran.outputs["exit-code"]) == (1 if is_larger else 0)
    outcome = read_gate(Path(ran.outputs["json"]))
    assert outcome.verdict == ran.outputs["verdict"] and outcome.base.commit == git(server, "rev-parse", "main")
    assert outcome.head.commit == commit and not any("uncommitted" in note for note in outcome.notes)
    assert f"bench gate: {outcome.verdict}" in ran.summary and ran.summary.startswith(MARKER)
    assert len(list(ET.parse(ran.outputs["junit"]).iter("failure"))) >= is_larger
    assert git(tmp_path / "checkout", "status", "--porcelain") == ""
