"""The one error tree. A message says what is wrong, with which option, and what to do; `cli.main` prints it once.

Exit codes: 1 the answer is "no" (a failed run), 2 usage, 3 inconclusive, 4 invalid, 75 stopped by a signal: the same
command goes on.
"""

from __future__ import annotations


class BenchError(Exception):
    """A failure that one sentence can explain; anything else that is raised is a bug and keeps its traceback."""

    exit_code = 1


class UsageError(BenchError):
    """The question itself cannot be asked: an unknown name, a wrong number, a budget without a unit."""

    exit_code = 2


class MissingDataError(BenchError):
    """The data set is known but its files are not here; the message says what to fetch and where to put it."""


class RecordError(BenchError):
    """A stored record cannot be read: broken JSON, an unknown schema version, a field that is not allowed."""


class StorageError(BenchError):
    """A folder cannot be written or the disk is full; what was already on disk is kept."""


class CheckpointError(BenchError):
    """A checkpoint or a weights file cannot be read, or belongs to another model, run or version."""


class InterruptedRunError(BenchError):
    """SIGTERM or SIGINT: what there was is saved, and the same command goes on. 75 is EX_TEMPFAIL of sysexits.h."""

    exit_code = 75
