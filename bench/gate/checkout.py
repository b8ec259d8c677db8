"""Two versions of this project in two folders of their own, and nothing left of them afterwards.

Why it exists: the gate times base and head in turn, for minutes. Both must lie still meanwhile, whatever happens in the
user's folder, and both must be gone at the end, Ctrl-C and SIGTERM included. A commit becomes a detached worktree
(https://git-scm.com/docs/git-worktree) in a temporary folder. The working tree, uncommitted changes included, becomes a
copy of every file that git tracks or would offer to track; what `.gitignore` names stays out.

The default base. With D the default branch (`origin/HEAD`, else the first there is of `origin/main`, `origin/master`,
`main`, `master`) it is the merge base of head and D: what a pull request is compared with. A branch's own upstream is
not asked, because it is mostly the branch itself, pushed a moment ago. Where head's commit lies on D, the merge base is
that commit itself; then uncommitted changes are compared with it, and without any it is compared with its parent.

Exit codes of what is raised: 2 where the question is wrong (a ref nobody knows, a folder outside every repository), 4
where it is right and there is no valid comparison (no git, a shallow clone, a base older than the gate), 75 stopped.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Literal

from bench.errors import BenchError, InterruptedRunError, UsageError

Side = Literal["base", "head"]
WORKING_TREE = "working tree"
# The least that the gate's worker imports; what a version lacks, it cannot be asked.
NEEDED_FILES = ("bench/catalog.py", "bench/training/step.py", "models/_spec.py")
_DEFAULT_BRANCHES = ("origin/HEAD", "origin/main", "origin/master", "main", "master")
CODE = ("bench", "models")
# Set where git itself has started us (a hook), and they would lead every command below astray.
_INHERITED = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX", "GIT_OBJECT_DIRECTORY", "GIT_COMMON_DIR")
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_GIT_TIMEOUT_S = 300.0
_UNSHALLOW = "this clone is shallow: run `git fetch --unshallow` (in a GitHub workflow, `fetch-depth: 0`)"


class GateError(BenchError):
    """No valid comparison can be made; the message says why."""

    exit_code = 4


@dataclass(frozen=True, kw_only=True)
class Version:
    """One side of the comparison.

    Attributes:
        asked: the ref as it was given, WORKING_TREE, or how the default base was found.
        commit: full hash; of the working tree, what it is based on.
        is_dirty: whether the folder holds changes that the commit does not.
        folder: where it lies while the comparison lasts.
        code_hash: SHA-256 over the files under `bench/` and `models/`.
    """

    side: Side
    asked: str
    commit: str
    is_dirty: bool
    folder: Path
    code_hash: str

    def __str__(self) -> str:
        changes = " with uncommitted changes" if self.is_dirty else ""
        return f"{self.side} {self.commit[:10]}{changes}"


@dataclass(frozen=True, kw_only=True)
class Checkouts:
    """Both sides, and what a reader of the verdict should know of how they were chosen."""

    base: Version
    head: Version
    notes: tuple[str, ...] = ()

    @property
    def is_same_code(self) -> bool:
        """Whether the two sides are byte for byte the same: an A/A comparison."""
        return self.base.code_hash == self.head.code_hash


@contextmanager
def checked_out(*, base: str | None = None, head: str | None = None, start: Path | None = None) -> Iterator[Checkouts]:
    """Both versions, for a `with` block.

    Args:
        base: a ref; None is the default base, see above.
        head: a ref; None is the working tree as it is now.
        start: a folder inside the repository; None is the current one.

    Raises:
        UsageError: not a repository, or a ref it does not know.
        GateError: git is missing, the clone is shallow, a version is older than the gate, or git or the disk refuses.
        InterruptedRunError: SIGINT, SIGTERM or SIGHUP; raised inside the block, so whoever started a process there
            gets to end it. Later signals are ignored until all is tidied up.
    """
    with ExitStack() as undo:
        ignore_signals = undo.enter_context(stopped_by_signals())
        repository = Repository(start or Path.cwd())
        head_commit = repository.commit(head, "--head") if head is not None else repository.commit("HEAD", "--head")
        is_dirty = repository.is_dirty()
        if base is None:
            base_commit, base = repository.default_base(head_commit, has_changes=head is None and is_dirty)
        else:
            base_commit = repository.commit(base, "--base")
        repository.check_files(base_commit, f"The base {base}")
        repository.check_files(head_commit, f"The head {head or WORKING_TREE}")
        folder = Path(tempfile.mkdtemp(prefix="bench-gate-"))
        undo.callback(shutil.rmtree, folder, ignore_errors=True)
        undo.callback(repository.remove_worktrees, [folder / "base", folder / "head"])
        undo.callback(ignore_signals)
        repository.add_worktree(folder / "base", base_commit)
        if head is None:
            repository.copy_working_tree(folder / "head")
        else:
            repository.add_worktree(folder / "head", head_commit)
        notes = ["uncommitted changes are not part of --head " + head] if head is not None and is_dirty else []
        yield Checkouts(
            base=version_of("base", base, base_commit, folder / "base", is_dirty=False),
            head=version_of("head", head or WORKING_TREE, head_commit, folder / "head", is_dirty=is_dirty and not head),
            notes=tuple(notes),
        )


def version_of(side: Side, asked: str, commit: str, folder: Path, *, is_dirty: bool) -> Version:
    """What lies in the folder."""
    return Version(
        side=side, asked=asked, commit=commit, is_dirty=is_dirty, folder=folder, code_hash=code_hash_of(folder)
    )


def code_hash_of(folder: Path) -> str:
    """SHA-256 over names and bytes of what lies under `bench/` and `models/`, byte code left out."""
    files = (path for part in CODE for path in (folder / part).rglob("*") if path.is_file())
    digest = hashlib.sha256()
    for path in sorted(files):
        if path.suffix != ".pyc":
            digest.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


class Repository:
    """The user's repository, read by git; nothing in it changes but the list of worktrees."""

    def __init__(self, start: Path) -> None:
        self._git = shutil.which("git")
        if self._git is None:
            raise GateError("bench gate compares two versions with git, and there is no git here: install it.")
        self._folder = start
        found = self.run("rev-parse", "--show-toplevel")
        if found.returncode:
            raise UsageError(
                f"bench gate cannot use '{start}': {_reason(found)}; run it inside a clone of the project."
            )
        self._folder = Path(found.stdout.strip())

    def commit(self, ref: str, option: str) -> str:
        """The commit that a ref means. Raises UsageError, or GateError where the clone is shallow."""
        found = "" if ref.startswith("-") else self.resolved(ref)
        if found:
            return found
        if self.is_shallow():
            raise GateError(f"{option} {ref} is not in this clone, and {_UNSHALLOW}.")
        raise UsageError(f"{option} '{ref}' is no commit, branch or tag of this repository; `git fetch` may bring it.")

    def default_base(self, head: str, *, has_changes: bool) -> tuple[str, str]:
        """(commit, what it is) that head is compared with where nobody says it. Raises UsageError or GateError."""
        found = {each: self.resolved(each) for each in _DEFAULT_BRANCHES}
        branch = next((each for each in _DEFAULT_BRANCHES if found[each]), None)
        merge_base = "" if branch is None else self.run("merge-base", head, found[branch]).stdout.strip()
        if merge_base and (merge_base != head or has_changes):
            return merge_base, f"merge base with {branch}"
        if branch is not None and not merge_base:
            self._refuse_shallow(f"the commit where head left {branch}")
            raise UsageError(f"--base is not given, and head shares no history with {branch}; give --base REF.")
        parent = self.resolved(f"{head}^")
        if parent:
            return parent, "parent of head"
        self._refuse_shallow("the parent of head")
        raise UsageError("--base is not given, and head is the first commit; give --base REF.")

    def resolved(self, ref: str) -> str:
        """The commit's hash, or nothing."""
        return self.run("rev-parse", "--verify", "--quiet", f"{ref}^{{commit}}").stdout.strip()

    def _refuse_shallow(self, missing: str) -> None:
        if self.is_shallow():
            raise GateError(f"--base is not given, {missing} is not in this clone, and {_UNSHALLOW}.")

    def is_shallow(self) -> bool:
        """Whether older commits were never fetched."""
        return self.run("rev-parse", "--is-shallow-repository").stdout.strip() == "true"

    def is_dirty(self, *below: str) -> bool:
        """Whether the working tree, or what lies below, differs from HEAD in a file that git tracks or would track."""
        return bool(self._asked("status", "--porcelain", "-unormal", "--ignore-submodules=all", "--", *below).strip())

    def check_files(self, commit: str, name: str) -> None:
        """Raises GateError where the commit has not what the worker imports."""
        listed = self._asked("ls-tree", "-r", "--name-only", "--full-tree", commit, *NEEDED_FILES).splitlines()
        missing = [each for each in NEEDED_FILES if each not in listed]
        if missing:
            raise GateError(
                f"{name} ({commit[:10]}) has no {', '.join(missing)}: it is older than the gate, or not this project; "
                "give a later ref."
            )

    def add_worktree(self, folder: Path, commit: str) -> None:
        """A detached worktree, without running the user's hooks. Raises GateError."""
        hooks = f"core.hooksPath={os.devnull}"
        self._asked("-c", hooks, "worktree", "add", "--detach", "--quiet", str(folder), commit)

    def remove_worktrees(self, folders: list[Path]) -> None:
        """Those of ours and no others: `prune` would also forget a worktree on a disk that is not mounted now."""
        for folder in folders:
            self.run("worktree", "remove", "--force", str(folder))

    def copy_working_tree(self, folder: Path) -> None:
        """Every file that git tracks or would offer to track; a link stays a link. Raises GateError: disk full."""
        names = self._asked("ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0")
        try:
            for name in sorted(set(names) - {""}):
                source, target = self._folder / name, folder / name
                if source.is_symlink() or source.is_file():  # neither deleted nor a submodule
                    target.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy2(source, target, follow_symlinks=False)
        except OSError as error:
            raise GateError(
                f"The working tree cannot be copied to '{folder}': {error.strerror or error}; free space there, or "
                "name another temporary folder with TMPDIR."
            ) from error

    def _asked(self, *arguments: str) -> str:
        """What git answers. Raises GateError with git's own last line."""
        done = self.run(*arguments)
        if done.returncode:
            raise GateError(f"`git {' '.join(arguments[:4])} …` failed in '{self._folder}': {_reason(done)}.")
        return done.stdout

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """A git command in the repository, whatever its exit code. Raises GateError: git cannot be run."""
        assert self._git is not None
        environment = {name: value for name, value in os.environ.items() if name not in _INHERITED}
        try:
            return subprocess.run(
                [self._git, "-C", str(self._folder), *arguments],
                capture_output=True,
                text=True,
                encoding="utf-8",
                errors="surrogateescape",
                check=False,
                timeout=_GIT_TIMEOUT_S,
                env=environment | {"LC_ALL": "C", "GIT_TERMINAL_PROMPT": "0", "GIT_OPTIONAL_LOCKS": "0"},
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise GateError(f"git cannot be run: {error}.") from error


def _reason(done: subprocess.CompletedProcess[str]) -> str:
    """The last line that git wrote to stderr, without its full stop."""
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    return (lines[-1] if lines else f"exit code {done.returncode}").rstrip(".")


@contextmanager
def stopped_by_signals() -> Iterator[Callable[[], None]]:
    """The first signal raises InterruptedRunError, later ones do nothing; gives what makes even a first one harmless.

    A signal that is ignored already stays so (nohup); outside the main thread, where Python cannot, none is caught.
    """
    is_main = threading.current_thread() is threading.main_thread()
    handlers = {number: signal.getsignal(number) for number in _SIGNALS if is_main}
    caught = {number: each for number, each in handlers.items() if each not in {signal.SIG_IGN, None}}

    def ignore() -> None:
        for number in caught:
            signal.signal(number, signal.SIG_IGN)

    def stop(number: int, _: FrameType | None) -> None:
        ignore()
        name = signal.Signals(number).name
        raise InterruptedRunError(f"The gate was stopped by {name}; its worktrees and its processes are gone.")

    for number in caught:
        signal.signal(number, stop)
    try:
        yield ignore
    finally:
        for number, handler in caught.items():
            signal.signal(number, handler)
