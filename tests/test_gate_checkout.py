"""Two versions lie in folders of their own while they are measured, and are gone afterwards."""

import os
import signal
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import pytest

from bench.errors import BenchError, UsageError
from bench.gate.checkout import NEEDED_FILES, WORKING_TREE, GateError, checked_out

ROOT = Path(__file__).resolve().parent.parent
CODE = Path("models/_spec.py")


@pytest.fixture(autouse=True)
def temporary_folder(tmp_path, monkeypatch):
    """Where the checkouts lie, empty but for them; and no git settings but these."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setenv("TMPDIR", str(folder))
    for name, value in {"GLOBAL": os.devnull, "SYSTEM": os.devnull}.items():
        monkeypatch.setenv(f"GIT_CONFIG_{name}", value)
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
def project(tmp_path):
    """A repository with what the gate looks for, one commit on main."""
    folder = tmp_path / "project"
    for name in (*NEEDED_FILES, ".gitignore"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("data/\n" if name == ".gitignore" else "")
    git(folder, "init", "--quiet", "--initial-branch=main")
    commit(folder, "first")
    return folder


def nothing_is_left(project, temporary_folder):
    return list(temporary_folder.iterdir()) == [] and len(git(project, "worktree", "list").splitlines()) == 1


def test_two_commits_lie_side_by_side_and_are_gone_afterwards(project, temporary_folder):
    first, second = git(project, "rev-parse", "HEAD"), commit(project, "second")
    with checked_out(base="HEAD~1", head="main", start=project / "models") as both:
        assert (both.base.commit, both.head.commit) == (first, second)
        assert [(each.folder / CODE).read_text() for each in (both.base, both.head)] == ["first", "second"]
        assert not both.is_same_code and not both.head.is_dirty and both.notes == ()
        assert len(git(project, "worktree", "list").splitlines()) == 3
    assert nothing_is_left(project, temporary_folder)


def test_the_working_tree_is_copied_as_it_is_without_what_git_ignores(project, temporary_folder):
    (project / CODE).write_text("changed")
    (project / "models" / "new.py").write_text("new")
    (project / "bench" / "catalog.py").unlink()
    (project / "data").mkdir()
    (project / "data" / "large").write_text("ignored")
    (project / "link").symlink_to("models")
    with checked_out(base="HEAD", start=project) as both:
        head = both.head
        (project / CODE).write_text("moved on")  # while it is measured
        assert (head.folder / CODE).read_text() == "changed"
        assert (head.folder / "models" / "new.py").is_file()
        assert not (head.folder / "bench" / "catalog.py").exists()
        assert not (head.folder / "data").exists()
        assert (head.folder / "link").is_symlink()
        assert (head.asked, head.is_dirty, both.is_same_code) == (WORKING_TREE, True, False)
        assert str(head).endswith("with uncommitted changes")
    assert nothing_is_left(project, temporary_folder)


def test_the_same_code_on_both_sides_is_a_comparison_too(project):
    with checked_out(base="HEAD", start=project) as both:
        assert both.is_same_code and not both.head.is_dirty


def test_uncommitted_changes_beside_a_named_head_are_said(project):
    (project / CODE).write_text("changed")
    with checked_out(base="HEAD", head="HEAD", start=project) as both:
        assert both.is_same_code and not both.head.is_dirty
        assert both.notes == ("uncommitted changes are not part of --head HEAD",)


def test_the_default_base_is_where_the_branch_left_main(project):
    left = git(project, "rev-parse", "HEAD")
    git(project, "switch", "--quiet", "--create", "topic")
    commit(project, "topic")
    git(project, "switch", "--quiet", "main")
    commit(project, "main went on", Path("other"))
    git(project, "switch", "--quiet", "topic")
    with checked_out(start=project) as both:
        assert (both.base.commit, both.base.asked) == (left, "merge base with main")


def test_the_default_base_on_main_is_the_parent_or_with_changes_the_commit_itself(project):
    first, second = git(project, "rev-parse", "HEAD"), commit(project, "second")
    with checked_out(start=project) as both:
        assert (both.base.commit, both.base.asked) == (first, "parent of head")
    (project / CODE).write_text("changed")
    with checked_out(start=project) as both:
        assert both.base.commit == second
    with checked_out(head="HEAD", start=project) as both:
        assert both.base.commit == first


def test_the_default_base_asks_the_remote_before_the_local_main(project, tmp_path):
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "--quiet", str(project), str(clone))
    pushed = git(clone, "rev-parse", "HEAD")
    commit(clone, "second")
    commit(clone, "third")
    with checked_out(start=clone) as both:
        assert (both.base.commit, both.base.asked) == (pushed, "merge base with origin/HEAD")


def test_hooks_of_the_user_do_not_run(project, tmp_path):
    hook = project / ".git" / "hooks" / "post-checkout"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    hook.chmod(0o755)
    with checked_out(base="HEAD", start=project):
        assert not (tmp_path / "ran").exists()


def test_the_gate_works_from_inside_a_hook(project, tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(tmp_path / "index"))
    with checked_out(base="HEAD", start=project) as both:
        assert both.is_same_code


def refusal(**asked):
    with pytest.raises(BenchError) as caught, checked_out(**asked):
        pytest.fail("this cannot be compared")
    text = str(caught.value)
    assert "\n" not in text and text.endswith("."), text
    return caught.value


@pytest.mark.parametrize("ref", ["no-such-branch", "--upload-pack=evil", "HEAD~9", ""])
def test_an_unknown_ref_is_a_wrong_question(project, temporary_folder, ref):
    error = refusal(base=ref, start=project)
    assert isinstance(error, UsageError) and error.exit_code == 2 and f"--base '{ref}'" in str(error)
    assert "--head 'gone'" in str(refusal(base="HEAD", head="gone", start=project))
    assert nothing_is_left(project, temporary_folder)


def test_a_folder_outside_every_repository_is_a_wrong_question(tmp_path):
    error = refusal(start=tmp_path)
    assert error.exit_code == 2 and "not a git repository" in str(error)


def test_without_git_there_is_no_comparison(project, monkeypatch):
    monkeypatch.setenv("PATH", "")
    error = refusal(start=project)
    assert error.exit_code == 4 and "install it" in str(error)


def test_the_first_commit_alone_has_nothing_to_be_compared_with(project):
    assert "give --base REF" in str(refusal(start=project))


def test_a_branch_without_common_history_needs_a_base(project):
    git(project, "switch", "--quiet", "--orphan", "other")
    for name in NEEDED_FILES:
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_text("")
    commit(project, "unrelated")
    assert "shares no history with main" in str(refusal(start=project))


def test_a_shallow_clone_says_how_to_deepen_it(project, tmp_path):
    first = git(project, "rev-parse", "HEAD")
    commit(project, "second")
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "--quiet", "--depth=1", f"file://{project}", str(clone))
    for asked in ({}, {"base": first}):
        error = refusal(**asked, start=clone)
        assert isinstance(error, GateError) and error.exit_code == 4
        assert "git fetch --unshallow" in str(error) and "fetch-depth: 0" in str(error)


def test_a_base_older_than_the_gate_says_what_it_lacks(project, temporary_folder):
    old = git(project, "rev-parse", "HEAD")
    (project / NEEDED_FILES[0]).unlink()
    without = commit(project, "without")
    error = refusal(base=without, head=old, start=project)
    assert error.exit_code == 4 and NEEDED_FILES[0] in str(error) and "older than the gate" in str(error)
    assert nothing_is_left(project, temporary_folder)


def test_a_full_disk_is_one_sentence_and_leaves_nothing(project, temporary_folder, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("bench.gate.checkout.shutil.copy2", full)
    error = refusal(base="HEAD", start=project)
    assert error.exit_code == 4 and "No space left on device" in str(error)
    assert nothing_is_left(project, temporary_folder)


def test_a_worktree_that_is_missing_for_now_is_not_forgotten(project, tmp_path):
    """`git worktree prune` would: it may lie on a disk that is not mounted."""
    git(project, "worktree", "add", "--quiet", "--detach", str(tmp_path / "own"))
    (tmp_path / "own").rename(tmp_path / "away")
    with checked_out(base="HEAD", start=project):
        pass
    assert len(git(project, "worktree", "list").splitlines()) == 2


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_an_interrupted_gate_leaves_neither_worktrees_nor_processes(project, temporary_folder, tmp_path, number):
    worker = tmp_path / "worker.py"
    worker.write_text("import os, sys, time\nprint('{\"ok\": {}}', flush=True)\ntime.sleep(600)\n")
    program = f"""
        import sys, time
        from pathlib import Path
        from bench.errors import BenchError
        from bench.gate import lane
        from bench.gate.checkout import checked_out
        lane._WORKER = Path({str(worker)!r})
        try:
            with checked_out(base="HEAD", start=Path({str(project)!r})) as both:
                with lane.Lane("base", both.base.folder) as base, lane.Lane("head", both.head.folder) as head:
                    base.wait_until_ready(), head.wait_until_ready()
                    print(base._process.pid, head._process.pid, flush=True)
                    time.sleep(600)
        except BenchError as error:
            print(error)
            sys.exit(error.exit_code)
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as gate:
        numbers = [int(word) for word in gate.stdout.readline().split()]
        assert len(numbers) == 2
        assert not nothing_is_left(project, temporary_folder)
        gate.send_signal(number)
        said = gate.stdout.read()
        assert gate.wait() == 75
    assert said == f"The gate was stopped by {number.name}; its worktrees and its processes are gone.\n"
    assert nothing_is_left(project, temporary_folder)
    for each in numbers:
        with pytest.raises(ProcessLookupError):
            os.kill(each, 0)
