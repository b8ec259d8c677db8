"""What a history asks of git, on real repositories; and once a real point with real workers."""

import os
import shutil
import subprocess
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from gate_history_points import Nights
from gate_lanes import TRAIN

from bench.errors import UsageError
from bench.gate.checkout import NEEDED_FILES, GateError
from bench.gate.history import history_gate
from bench.gate.history_commits import alone
from bench.gate.history_point import read_point, write_point
from bench.gate.history_text import suspects_text
from bench.gate.question import Setting
from bench.gate.sitting import Question, Surroundings

ROOT = Path(__file__).resolve().parent.parent
CODE = Path("models/_spec.py")
UNKNOWN = "f" * 40


@pytest.fixture(autouse=True)
def temporary_folder(tmp_path, monkeypatch):
    """Where the checkout lies, empty but for it; and no git settings but these."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setenv("TMPDIR", str(folder))
    for name in ("GLOBAL", "SYSTEM"):
        monkeypatch.setenv(f"GIT_CONFIG_{name}", os.devnull)
    for role in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{role}_NAME", "tests")
        monkeypatch.setenv(f"GIT_{role}_EMAIL", "tests@example.org")
    return folder


def git(folder, *arguments):
    done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def commit(folder, text, name=CODE):
    (folder / name).write_text(text)
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", text)
    return git(folder, "rev-parse", "HEAD")


@pytest.fixture
def project(tmp_path, monkeypatch):
    """What the gate looks for, one commit on main."""
    monkeypatch.setenv("GIT_COMMITTER_DATE", "2026-01-31T13:00:00+01:00")
    folder = tmp_path / "project"
    for name in NEEDED_FILES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("")
    git(folder, "init", "--quiet", "--initial-branch=main")
    commit(folder, "first")
    return folder


def nothing_is_left(project):
    folders = list(Path(tempfile.gettempdir()).glob("bench-gate-*"))
    return folders == [] and len(git(project, "worktree", "list").splitlines()) == 1


@pytest.fixture
def points(tmp_path):
    """Two points whose commits a test puts in."""
    return Nights(tmp_path / "results").many([0, 1])


def suspects(project, points, before, after, head="HEAD"):
    ends = [
        point.model_copy(update={"commit": commit, "code_hash": code})
        for point, (commit, code) in zip(points, (before, after), strict=True)
    ]
    with alone(head=head, start=project) as version:
        return version.line.suspects(*ends)


def test_the_head_lies_alone_and_is_gone_afterwards(project):
    first = git(project, "rev-parse", "HEAD")
    commit(project, "second")
    with alone(head="HEAD~1", start=project / "models") as found:
        assert (found.version.folder / CODE).read_text() == "first" and found.version.commit == first
        assert not found.version.is_dirty and found.line.date == "2026-01-31T12:00:00"  # UTC
        assert len(git(project, "worktree", "list").splitlines()) == 2
    assert nothing_is_left(project)


def test_the_working_tree_is_dirty_only_where_measured_code_changed(project):
    (project / "results").mkdir()
    (project / "results" / "point.json").write_text("{}")  # what an earlier point left there
    (project / "README.md").write_text("words")
    with alone(start=project) as found:
        assert not found.version.is_dirty and found.version.asked == "working tree"
    (project / CODE).write_text("changed")
    with alone(start=project) as found:
        assert found.version.is_dirty and (found.version.folder / CODE).read_text() == "changed"
    (project / CODE).write_text("first")
    (project / "bench" / "new.py").write_text("")
    with alone(start=project) as found:
        assert found.version.is_dirty
    with alone(head="HEAD", start=project) as found:
        assert not found.version.is_dirty
    assert nothing_is_left(project)


@pytest.mark.parametrize(("head", "error"), [("no-such", UsageError), ("-x", UsageError), ("", UsageError)])
def test_a_ref_that_nobody_knows_is_a_wrong_question(project, head, error):
    with pytest.raises(error, match="--head"), alone(head=head, start=project):
        pass


def test_a_version_without_the_gates_files_is_refused(project):
    (project / CODE).unlink()
    commit(project, "no models", Path("other"))
    with pytest.raises(GateError, match="older than the gate"), alone(head="HEAD", start=project):
        pass
    assert nothing_is_left(project)


def test_kinship_tells_the_past_from_other_branches_and_from_what_is_not_here(project):
    first, second = git(project, "rev-parse", "HEAD"), commit(project, "second")
    git(project, "checkout", "--quiet", "-b", "other", first)
    other = commit(project, "other")
    git(project, "checkout", "--quiet", "main")
    with alone(start=project) as found:
        assert [found.line.kinship(each) for each in (second, first, other, UNKNOWN)] == [
            "own", "past", "other", "unknown",
        ]  # fmt: skip


def test_a_shallow_clone_knows_only_what_it_reaches(project, tmp_path, points):
    first, second = git(project, "rev-parse", "HEAD"), commit(project, "second")
    third = commit(project, "third")
    shallow = tmp_path / "shallow"
    git(tmp_path, "clone", "--quiet", "--depth=2", project.as_uri(), str(shallow))
    with alone(start=shallow) as found:
        assert [found.line.kinship(each) for each in (third, second, first)] == ["own", "past", "unknown"]
    said = suspects_text(suspects(shallow, points, (first, "a"), (third, "b")))
    assert said == (f"an unknown number of commits, {first[:10]}..{third[:10]}: {first[:10]} is unknown to this clone")
    assert suspects(shallow, points, (second, "a"), (third, "b")).note == "this clone is shallow"


def test_a_single_suspect_is_named_with_its_subject(project, points):
    first, second = git(project, "rev-parse", "HEAD"), commit(project, "Attend to everything")
    found = suspects(project, points, (first, "a"), (second, "b"))
    assert (found.num_commits, found.subject) == (1, "Attend to everything")
    assert suspects_text(found) == f"1 commit, {second[:10]} Attend to everything"


def test_several_suspects_are_counted_between_their_ends(project, points):
    first = git(project, "rev-parse", "HEAD")
    last = [commit(project, f"number {index}") for index in range(12)][-1]
    found = suspects(project, points, (first, "a"), (last, "b"))
    assert (found.num_commits, found.subject) == (12, "")
    assert suspects_text(found) == f"12 commits, {first[:10]}..{last[:10]}"


def test_equal_code_clears_every_commit(project, points):
    first, second = git(project, "rev-parse", "HEAD"), commit(project, "words", Path("README.md"))
    said = suspects_text(suspects(project, points, (first, "a"), (second, "a")))
    assert said.startswith(f"no commit, {first[:10]}..{second[:10]}: both have the same code")


def test_dates_that_contradict_the_history_are_said_to(project, points):
    first, second = git(project, "rev-parse", "HEAD"), commit(project, "second")
    assert "whatever their dates say" in suspects(project, points, (second, "a"), (first, "b")).note


def test_a_subject_in_another_encoding_can_be_stored(project, points):
    first = git(project, "rev-parse", "HEAD")
    (project / CODE).write_text("second")
    git(project, "add", "--all")
    message = project.parent / "message"
    message.write_bytes(b"caf\xe9")
    git(project, "commit", "--quiet", "--file", str(message))
    found = suspects(project, points, (first, "a"), (git(project, "rev-parse", "HEAD"), "b"))
    assert found.subject.startswith("caf") and found.model_dump_json()


@pytest.fixture
def repository(tmp_path):
    """This project's code as it lies here, in a repository of its own."""
    folder = tmp_path / "clone"
    for name in ("bench", "models"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    git(folder, "init", "--quiet")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "first")
    return folder


def test_a_real_point_of_a_real_commit_in_a_real_repository(repository, small_gan, tmp_path, monkeypatch):
    """Worktree, workers, blocks and git as they are; three short restarts, so that it is done in seconds."""
    monkeypatch.setattr("bench.gate.history_sitting.RESTARTS_AND_LEAST_BLOCKS", ((3, 1),))
    monkeypatch.setattr("bench.gate.history_sitting.MAX_BLOCKS", 1)
    said, results = [], tmp_path / "results"
    question = Question(
        workloads=(replace(TRAIN, subject=str(small_gan)),), budget_s=120.0, setting=Setting(device="cpu")
    )
    point = history_gate(question, Surroundings(say=said.append), results=results, start=repository)
    assert (point.verdict, point.exit_code, point.is_dirty) == ("inconclusive", 3, False)
    (workload,) = point.workloads
    assert "4 more points are missing" in workload.decisions[0].reason and point.notes == ()
    assert [len(blocks) for each in workload.rounds for blocks in each.restarts] == [1, 1, 1]
    assert workload.facts.exact["macs_per_iteration"] > 0 and workload.facts.measured["batch_size"] == 16
    assert workload.figure("time") < 0 and point.parent_cpu_s < 0.1 * point.timed_s + 0.5
    assert read_point(write_point(results, point)) == point
    assert said[0].startswith("Measuring head ") and nothing_is_left(repository)
