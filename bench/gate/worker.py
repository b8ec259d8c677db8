"""The child: one version of the code, loaded once, that times a block when it is told to and sleeps in between.

    python -P worker.py CHECKOUT '{"device": "cpu", "num_threads": 1, "seed": 0, "with_energy": false}'

with PYTHONPATH=CHECKOUT, so that `bench` and `models` are the checkout's; that they are is verified, because a project
that is installed in place would otherwise be timed against itself. This file and `workloads.py` beside it are the
running gate's. One JSON object per line comes in on stdin, one goes out on stdout; what the version under test prints
goes to stderr. Between two commands the process waits in a blocking read and uses no processor time.

    {"command": "prepare", "workload": {…}, "with_counts": true}        → facts (see facts.py)
    {"command": "block", "name": "…", "num_iterations": 12}             → what the block took
    {"command": "quit"}

Answers are {"ok": …} or {"error": "a sentence", "kind": "refused" | "out of memory"}. Anything else that goes wrong
ends the process with its traceback on stderr, and the parent makes a sentence of it.

How a block is timed: collect garbage, turn collection off, synchronise, start the meters, read the clock | chained
iterations | synchronise, read the clock, stop the meters. Meters are the version's own; the facts say which code.
"""

from __future__ import annotations

import gc
import hashlib
import importlib.util
import json
import math
import os
import resource
import signal
import sys
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from types import ModuleType
from typing import Any, TextIO

import torch

from bench.catalog import METERS
from bench.errors import BenchError

_BENCHMARK_FILES = ("bench/gate/worker.py", "bench/gate/workloads.py")
_ENERGY_METERS = ("nvml", "rapl")
_SAMPLE_S = 0.02  # of a warm-up sample; on a quiet core such a sample repeats within 2 %
_WINDOW = 5
_MAX_GAIN = 0.05  # ours: warming up makes things faster; five samples 5 % faster than the five before are still warming
_WARMUP_CAP_S = 3.0


def load_workloads() -> Any:
    """`workloads.py` from this file's folder, whatever the version under test has there."""
    path = Path(__file__).with_name("workloads.py")
    spec = importlib.util.spec_from_file_location("gate_workloads", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up here
    spec.loader.exec_module(module)
    return module


class Bench:
    """The workloads that were prepared, and the meters."""

    def __init__(self, checkout: Path, setting: dict[str, Any]) -> None:
        self._checkout = checkout
        self._workloads = load_workloads()
        with_energy = setting.pop("with_energy")
        device = setting.pop("device") or ("cuda:0" if torch.cuda.is_available() else "cpu")
        self._setting = self._workloads.Setting(device=device, **setting)
        torch.set_num_threads(self._setting.num_threads)
        self._meters = _energy_meters(device) if with_energy else []
        self._prepared: dict[str, Any] = {}
        self._next: dict[str, int] = {}  # the first iteration of the coming block

    def prepare(self, workload: dict[str, Any], with_counts: bool) -> dict[str, object]:
        """Build, count and warm up one workload → its facts."""
        exact, unknown = self._workloads.counts(workload, self._setting) if with_counts else ({}, {})
        prepared = self._workloads.prepare(workload, self._setting)
        name = workload["name"]
        self._prepared[name], self._next[name] = prepared, 0
        gc.collect()
        gc.freeze()  # so that the collection before every block takes less than a millisecond
        warmup = self._warm_up(name)
        self._next[name] = 0  # a block reads the same images on both sides, however long each warmed up
        check_modules(self._checkout)
        return {
            "workload": name,
            "unit": prepared.unit,
            "num_units_per_iteration": prepared.num_units,
            **warmup,
            "measured": prepared.measured | {"benchmark_code": self._benchmark_hash()},
            "exact": {f"num_params_{each}": count for each, count in prepared.num_params.items()} | exact,
            "unknown": unknown,
            "counter_code": self._workloads.counter_hash(),
            "energy": {name: source.label for meter in self._meters for name, source in meter.energy_sources().items()},
            "energy_code": _meter_hash(self._checkout) if self._meters else "",
        }

    def _benchmark_hash(self) -> str | None:
        """Of the version's own benchmark code, comments and layout left out; None where it has none."""
        files = [self._checkout / name for name in _BENCHMARK_FILES]
        if not all(file.is_file() for file in files):
            return None
        found: str = self._workloads.hash_of([file.read_text(encoding="utf-8") for file in files])
        return found

    def block(self, name: str, num_iterations: int) -> dict[str, object]:
        """So many chained iterations, timed at their edges."""
        prepared, first = self._prepared[name], self._next[name]
        self._next[name] += num_iterations
        work = prepared.work
        gc.collect()
        gc.disable()
        self._synchronise()
        for meter in self._meters:
            meter.start()
        preempted, cpu_s = resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw, process_time()
        started = perf_counter()
        for index in range(first, first + num_iterations):
            work(index)
        self._synchronise()
        duration_s = perf_counter() - started
        cpu_s, preempted = process_time() - cpu_s, resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw - preempted
        found = [meter.stop() for meter in reversed(self._meters)]
        gc.enable()
        readings = {name: value for each in found for name, value in each.values.items() if name.endswith("_energy_j")}
        problems = {name: reason for each in found for name, reason in each.problems.items()}
        return {
            "duration_s": duration_s,
            "num_units": num_iterations * prepared.num_units,
            "cpu_s": cpu_s,
            "num_preemptions": preempted,
            "readings": readings,
            "problems": problems,
        }

    def _warm_up(self, name: str) -> dict[str, object]:
        """Samples until the last five are no faster than the five before, or the cap."""
        samples_s: list[float] = []
        num_iterations, is_stationary = 1, False
        started = perf_counter()
        while not is_stationary and perf_counter() - started < _WARMUP_CAP_S:
            duration_s = float(str(self.block(name, num_iterations)["duration_s"]))
            samples_s.append(duration_s / num_iterations)
            num_iterations = math.ceil(_SAMPLE_S / min(samples_s))
            recent_s, earlier_s = samples_s[-_WINDOW:], samples_s[-2 * _WINDOW : -_WINDOW]
            if len(earlier_s) == _WINDOW:
                is_stationary = median(recent_s) >= (1 - _MAX_GAIN) * median(earlier_s)
        return {
            "iteration_s": median(samples_s[-_WINDOW:]),
            "warmup_s": perf_counter() - started,
            "is_stationary": is_stationary,
        }

    def _synchronise(self) -> None:
        if self._setting.device != "cpu":
            torch.cuda.synchronize(self._setting.device)


def _energy_meters(device: str) -> list[Any]:
    specs = [METERS.load(name) for name in _ENERGY_METERS if name in METERS.names()]
    return [spec.open(device) for spec in specs if spec.why_unavailable(device) is None]


def _meter_hash(checkout: Path) -> str:
    """Of the version's meters: joules read by different code are not compared."""
    digest = hashlib.sha256()
    for file in sorted((checkout / "bench" / "meters").glob("*.py")):
        digest.update(file.name.encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


def check_modules(checkout: Path) -> None:
    """Whether every module of `bench` and `models` lies in the checkout; ends the process where one does not."""
    for name, module in sorted(sys.modules.items()):
        if name.partition(".")[0] in {"bench", "models"} and not _lies_in(module, checkout):
            place = getattr(module, "__file__", None)
            sys.exit(f"the module {name} was loaded from '{place}', outside the version under test")


def _lies_in(module: ModuleType, checkout: Path) -> bool:
    file = getattr(module, "__file__", None)
    return file is not None and checkout in Path(file).resolve().parents


def _is_out_of_memory(error: BaseException) -> bool:
    """CUDA raises its own class; on a CPU torch raises a RuntimeError that says so, NumPy a MemoryError."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return "allocate memory" in str(error)


def answer(worker: Bench, request: dict[str, Any]) -> dict[str, object]:
    """To one command; what is neither a sentence of the version under test nor memory running out is raised."""
    try:
        if request["command"] == "prepare":
            return {"ok": worker.prepare(request["workload"], request["with_counts"])}
        return {"ok": worker.block(request["name"], request["num_iterations"])}
    except BenchError as error:
        return {"error": str(error), "kind": "refused"}
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        lines = str(error).strip().splitlines() or [type(error).__name__]
        return {"error": lines[0], "kind": "out of memory"}


def main(arguments: list[str]) -> None:
    """Serve the parent until it says `quit` or is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's affair
    checkout = Path(arguments[0]).resolve()
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what the version under test prints is no answer
    worker = Bench(checkout, json.loads(arguments[1]))
    check_modules(checkout)
    _send(replies, {"ok": {"pid": os.getpid()}})
    for line in iter(sys.stdin.readline, ""):
        request = json.loads(line)
        if request["command"] == "quit":
            return
        _send(replies, answer(worker, request))


def _send(replies: TextIO, reply: dict[str, object]) -> None:
    replies.write(json.dumps(reply) + "\n")
    replies.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
