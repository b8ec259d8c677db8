"""A history's commits: one version in a folder of its own, which points lie on its line, who is suspect of a change.

Why it is apart from `checkout.py`: side by side, git is asked for two folders; here it is asked about the past.

On its line. A point is only compared with points of commits that the measured one contains, because a branch that was
given up, or a commit that was amended, is no part of its past. A commit that this clone does not know may be one or
not: its points stay in use, in the place that their dates give them. A shallow clone knows no other than its last ones.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Literal, Protocol

from bench.gate.checkout import (
    CODE,
    WORKING_TREE,
    GateError,
    Repository,
    Version,
    stopped_by_signals,
    version_of,
)
from bench.gate.history_point import HistoryPoint, Suspects

Kinship = Literal["own", "past", "other", "unknown"]
TIME_FORMAT = "%Y-%m-%dT%H:%M:%S"
_SHORT = 10


class Line(Protocol):
    """What a history asks of the measured commit's past."""

    @property
    def date(self) -> str:
        """When the measured commit was made, by its committer's clock; UTC, `2026-01-31T12:00:00`."""

    def kinship(self, commit: str) -> Kinship:
        """The measured commit itself, one of its past, another that is known here, or an unknown one."""

    def suspects(self, before: HistoryPoint, after: HistoryPoint) -> Suspects:
        """Who may have changed something after the one point, up to the other."""


@dataclass(frozen=True, kw_only=True)
class Alone:
    """One version, checked out.

    Attributes:
        version: dirty only where `bench/` or `models/` differ from the commit: nothing else is measured.
    """

    version: Version
    line: Line


class Commits:
    """The past of one commit, as a clone knows it."""

    def __init__(self, repository: Repository, commit: str) -> None:
        self._repository = repository
        self._commit = commit
        self._kinship: dict[str, Kinship] = {}

    @property
    def date(self) -> str:
        """See `Line`. Raises GateError."""
        done = self._repository.run("show", "--no-patch", "--format=%ct", self._commit)
        if done.returncode:
            raise GateError(f"git does not tell the date of {self._commit[:_SHORT]}; `git fsck` may say why.")
        return datetime.fromtimestamp(int(done.stdout), UTC).strftime(TIME_FORMAT)

    @cached_property
    def _past(self) -> frozenset[str]:
        return frozenset(self._repository.run("rev-list", self._commit).stdout.split())

    def kinship(self, commit: str) -> Kinship:
        """See `Line`."""
        if commit not in self._kinship:
            self._kinship[commit] = self._asked_kinship(commit)
        return self._kinship[commit]

    def _asked_kinship(self, commit: str) -> Kinship:
        if commit in self._past:
            return "own" if commit == self._commit else "past"
        is_known = bool(self._repository.resolved(commit)) and not self._repository.is_shallow()
        return "other" if is_known else "unknown"

    def suspects(self, before: HistoryPoint, after: HistoryPoint) -> Suspects:
        """See `Line`."""
        ends = {"before": before.commit, "after": after.commit}
        if before.code_hash == after.code_hash:
            note = "both have the same code under bench/ and models/, so something else changed"
            return Suspects(**ends, num_commits=0, note=note)
        if missing := [commit[:_SHORT] for commit in ends.values() if not self._repository.resolved(commit)]:
            note = f"{' and '.join(missing)} {'are' if len(missing) > 1 else 'is'} unknown to this clone"
            return Suspects(**ends, num_commits=None, note=note)
        if self._repository.is_shallow():
            return Suspects(**ends, num_commits=None, note="this clone is shallow")
        commits = self._repository.run("rev-list", f"{before.commit}..{after.commit}").stdout.split()
        if not commits:
            note = "the later point's commit is contained in the earlier one's, whatever their dates say"
            return Suspects(**ends, num_commits=0, note=note)
        subject = self._subject(commits[0]) if len(commits) == 1 else ""
        return Suspects(**ends, num_commits=len(commits), subject=subject)

    def _subject(self, commit: str) -> str:
        found = self._repository.run("show", "--no-patch", "--format=%s", commit).stdout.strip()
        return found.encode(errors="replace").decode()  # whatever bytes it was written in


@contextmanager
def alone(*, head: str | None = None, start: Path | None = None) -> Iterator[Alone]:
    """One version, for a `with` block; of signals see `bench.gate.checkout.checked_out`.

    Args:
        head: a ref; None is the working tree as it is now.
        start: a folder inside the repository; None is the current one.

    Raises:
        UsageError: not a repository, or a ref it does not know.
        GateError: git is missing, the version is older than the gate, or git or the disk refuses.
        InterruptedRunError: SIGINT, SIGTERM or SIGHUP.
    """
    with ExitStack() as undo:
        ignore_signals = undo.enter_context(stopped_by_signals())
        repository = Repository(start or Path.cwd())
        commit = repository.commit("HEAD" if head is None else head, "--head")
        asked = WORKING_TREE if head is None else head
        repository.check_files(commit, f"The head {asked}")
        is_dirty = head is None and repository.is_dirty(*CODE)
        parent = Path(tempfile.mkdtemp(prefix="bench-gate-"))
        folder = parent / "head"
        undo.callback(shutil.rmtree, parent, ignore_errors=True)
        undo.callback(repository.remove_worktrees, [folder])
        undo.callback(ignore_signals)
        if head is None:
            repository.copy_working_tree(folder)
        else:
            repository.add_worktree(folder, commit)
        version = version_of("head", asked, commit, folder, is_dirty=is_dirty)
        yield Alone(version=version, line=Commits(repository, commit))
