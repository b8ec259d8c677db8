"""The parent's handle of one worker: start it, ask it, and be rid of it.

Why it exists: the gate keeps one process per version alive and lets them work in turn. Nothing of ours may run beside
the one that is timed, so the parent waits for its pipe in the kernel (`select`), never in a loop; and whatever becomes
of a worker (a crash, a hang, no memory left) becomes one sentence with the last thing it said.

A worker has a session of its own: Ctrl-C reaches the parent alone, and one signal ends the worker with all it started.
Should the parent be killed without a chance to tidy up, the worker's stdin ends and so does the worker.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import Any, Literal

from bench.gate.checkout import GateError
from bench.gate.facts import Facts
from bench.gate.question import Setting, Workload

Failure = Literal["start", "crash", "hang", "out of memory", "refused"]

START_TIMEOUT_S = 180.0  # a cold disk reads torch for a minute
PREPARE_TIMEOUT_S = 300.0
BLOCK_TIMEOUT_S = 120.0
_QUIT_TIMEOUT_S = 2.0
_END_TIMEOUT_S = 20.0  # from closing its pipe to its exit code; torch takes a while to be torn down
_WORKER = Path(__file__).with_name("worker.py")
_NUM_LAST_LINES = 20
_TAIL_BYTES = 16_384
_MOST_SAID = 300
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_JOB_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK")  # of a torchrun around us


@dataclass(frozen=True, kw_only=True)
class Block:
    """One timed block.

    Attributes:
        duration_s: wall time between synchronised edges.
        num_units: images or tokens in it.
        cpu_s: processor time of the worker, all threads; less than `duration_s` where it had to wait for a core.
        num_preemptions: how often the kernel took a core away.
        readings: joules by name; `problems` says why one is missing.
    """

    duration_s: float
    num_units: int
    cpu_s: float
    num_preemptions: int
    readings: Mapping[str, float] = field(default_factory=dict)
    problems: Mapping[str, str] = field(default_factory=dict)

    @property
    def units_per_s(self) -> float:
        """Throughput."""
        return self.num_units / self.duration_s


class LaneError(GateError):
    """A worker could not do what it was asked.

    Attributes:
        side: `base` or `head`.
        failure: what happened; after `refused` the worker lives on.
        last_lines: what it wrote to stderr at the end, for a log.
    """

    def __init__(self, message: str, *, side: str, failure: Failure, last_lines: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.side = side
        self.failure: Failure = failure
        self.last_lines = last_lines


class Lane:
    """One worker process. A context manager: leaving it ends the process, at once where an exception is under way.

    Args:
        side: what messages call it, `base` or `head`.
        folder: the version's checkout.
        setting: how it measures.
    """

    def __init__(self, side: str, folder: Path, setting: Setting | None = None) -> None:
        self.side = side
        self.folder = folder
        self.setting = setting or Setting()
        self._process: subprocess.Popen[bytes] | None = None
        self._buffer = b""
        self._is_ready = False

    def __enter__(self) -> Lane:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(at_once=error is not None)

    def start(self) -> None:
        """Begin; two lanes may load torch beside each other, since the first command waits for it."""
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        self._buffer, self._is_ready = b"", False
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(_WORKER), str(self.folder), json.dumps(asdict(self.setting))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            env=_environment(self.folder, self.setting.num_threads),
            start_new_session=True,
            bufsize=0,
        )

    def wait_until_ready(self, timeout_s: float = START_TIMEOUT_S) -> None:
        """Until the version is imported. Raises LaneError."""
        if not self._is_ready:
            self._answer("the start", timeout_s)
            self._is_ready = True

    def prepare(self, workload: Workload, *, with_counts: bool = False, timeout_s: float = PREPARE_TIMEOUT_S) -> Facts:
        """Build, count if asked to, warm up → facts. Raises LaneError."""
        self.wait_until_ready()
        asked = asdict(workload) | {"name": workload.name}
        request = {"command": "prepare", "workload": asked, "with_counts": with_counts}
        return Facts(**self._asked(request, workload.name, timeout_s))

    def block(self, workload: Workload, num_iterations: int, *, timeout_s: float = BLOCK_TIMEOUT_S) -> Block:
        """Time one block of a workload that was prepared. Raises LaneError."""
        request = {"command": "block", "name": workload.name, "num_iterations": num_iterations}
        return Block(**self._asked(request, workload.name, timeout_s))

    def close(self, *, at_once: bool = False) -> None:
        """End the worker and everything it started; harmless where it has ended already."""
        process = self._process
        if process is None:
            return
        self._process = None
        assert process.stdin is not None
        assert process.stdout is not None
        if not at_once and _write(process, {"command": "quit"}):
            _wait_for_end(process.stdout.fileno(), _QUIT_TIMEOUT_S)
        _kill_group(process.pid)
        process.wait()
        for stream in (process.stdin, process.stdout, self._stderr):
            stream.close()

    def _asked(self, request: dict[str, Any], what: str, timeout_s: float) -> dict[str, Any]:
        process = self._alive()
        _write(process, request)  # where it is gone, the answer's end says so
        reply = self._answer(what, timeout_s)
        if "error" not in reply:
            found: dict[str, Any] = reply["ok"]
            return found
        said = _plain(reply["error"])
        if reply["kind"] == "refused":
            raise LaneError(f"{self.side} cannot do {what}: {said}", side=self.side, failure="refused")
        raise self._failed(f"{self.side} ran out of memory in {what}: {said}", "out of memory")

    def _answer(self, what: str, timeout_s: float) -> dict[str, Any]:
        """The next line, waited for without using the processor. Raises LaneError."""
        process = self._alive()
        assert process.stdout is not None
        pipe, deadline_s = process.stdout.fileno(), monotonic() + timeout_s
        with selectors.DefaultSelector() as selector:
            selector.register(pipe, selectors.EVENT_READ)
            while b"\n" not in self._buffer:
                left_s = deadline_s - monotonic()
                if left_s <= 0 or not selector.select(left_s):
                    raise self._failed(f"{self.side} gave no answer to {what} for {timeout_s:g} s", "hang")
                received = os.read(pipe, 65_536)
                if not received:
                    raise self._ended(process, what)
                self._buffer += received
        line, _, self._buffer = self._buffer.partition(b"\n")
        reply: dict[str, Any] = json.loads(line)
        return reply

    def _ended(self, process: subprocess.Popen[bytes], what: str) -> LaneError:
        """The sentence for a worker that is gone."""
        try:
            code = process.wait(_END_TIMEOUT_S)  # it has closed its pipe and is about to end
        except subprocess.TimeoutExpired:
            return self._failed(f"{self.side} stopped answering in {what}", "crash")
        if code == -signal.SIGKILL:
            return self._failed(
                f"{self.side} was killed by signal 9 in {what}, as a system does that runs out of memory",
                "out of memory",
            )
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        if not self._is_ready:
            return self._failed(f"{self.side} cannot be loaded ({how})", "start")
        return self._failed(f"{self.side} crashed in {what} ({how})", "crash")

    def _failed(self, message: str, failure: Failure) -> LaneError:
        """The error with the worker's last words; the worker is ended."""
        lines = self._last_lines()
        self.close(at_once=True)
        said = f": {lines[-1]}" if lines and failure != "out of memory" else ""
        text = f"{message}{said}".rstrip(".") + "."
        return LaneError(text, side=self.side, failure=failure, last_lines=lines)

    def _last_lines(self) -> tuple[str, ...]:
        size = self._stderr.seek(0, os.SEEK_END)
        self._stderr.seek(max(0, size - _TAIL_BYTES))
        lines = self._stderr.read().decode(errors="replace").splitlines()
        return tuple(_plain(line) for line in lines if line.strip())[-_NUM_LAST_LINES:]

    def _alive(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise LaneError(f"The worker of {self.side} is not running.", side=self.side, failure="crash")
        return self._process


def _environment(folder: Path, num_threads: int) -> dict[str, str]:
    """This process's, so that data folders, caches and library paths are found, with what must be fixed."""
    environment = {name: value for name, value in os.environ.items() if name not in _JOB_VARIABLES}
    inherited = environment.get("PYTHONPATH")
    environment["PYTHONPATH"] = os.pathsep.join([str(folder), *([inherited] if inherited else [])])
    environment |= dict.fromkeys(_THREAD_VARIABLES, str(num_threads))
    return environment | {"PYTHONHASHSEED": "0"}


def _write(process: subprocess.Popen[bytes], request: dict[str, Any]) -> bool:
    """Whether there was somebody to take it."""
    assert process.stdin is not None
    try:
        process.stdin.write(json.dumps(request).encode() + b"\n")
    except BrokenPipeError:
        return False
    return True


def _wait_for_end(pipe: int, timeout_s: float) -> None:
    """Until the other end of the pipe is closed, or that long."""
    with selectors.DefaultSelector() as selector:
        selector.register(pipe, selectors.EVENT_READ)
        deadline_s = monotonic() + timeout_s
        while (left_s := deadline_s - monotonic()) > 0 and selector.select(left_s):
            if not os.read(pipe, 65_536):
                return


def _kill_group(number: int) -> None:
    """Kill the worker's session: itself where it still runs, and whatever it has started."""
    with suppress(ProcessLookupError):
        os.killpg(number, signal.SIGKILL)


def _plain(text: str) -> str:
    """One line of what a worker wrote: printable and short."""
    line = "".join(each if each.isprintable() else " " for each in text).strip()
    return line if len(line) <= _MOST_SAID else line[: _MOST_SAID - 1] + "…"
