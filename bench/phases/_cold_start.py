"""Cold start, apart from throughput: what a fresh process pays before its first image and no longer afterwards.

This process is warm: torch is loaded, the GPU has a context, kernels are compiled and chosen. So every repeat is a new
process, which times its own stages with `perf_counter`: import (torch and the model's file), build (both networks, on
the CPU), move (the generator to the device; on a GPU this makes the context), first call and second call (one image,
synchronised). What the second call is faster by is paid once: kernel choice, allocations, lazy loading.

Left out: the start of the interpreter itself, and reading libraries from a cold disk, since the present process has
just read them. The harness's own imports happen between the stages and are not counted. A stage that compiles the
networks would be one more entry of `STAGES`.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import torch

import models
from bench.catalog import MODELS
from bench.phases._context import Question
from bench.records import PresetName, Quantity, unknown
from bench.stats import quantile_quantity

STAGES = ("import", "build", "move", "first_call", "second_call")
NUM_REPEATS: dict[PresetName, int] = {"smoke": 1, "standard": 3, "publish": 5}
TIMEOUT_S = 300.0
_SOURCE = "perf_counter in fresh processes, one image; interpreter start left out, files already in the page cache"
# Runs in the fresh process. It is a text because its imports are what is timed.
_CHILD = """
import importlib.util, json, sys
from time import perf_counter
asked = json.loads(sys.argv[1])
sys.path.insert(0, asked["root"])
times = [perf_counter()]
import torch
file = importlib.util.spec_from_file_location(asked["module"], asked["file"])
module = importlib.util.module_from_spec(file)
sys.modules[asked["module"]] = module
file.loader.exec_module(module)
times.append(perf_counter())
from bench.machine import set_backend
set_backend(asked["precision"])
torch.set_num_threads(asked["num_threads"])
device = torch.device(asked["device"])
def now():
    if device.type != "cpu":
        torch.cuda.synchronize(device)
    return perf_counter()
stages = {"import": times[1] - times[0]}
started = perf_counter()
gan = module.SPEC.build(*asked["configuration"])
stages["build"] = perf_counter() - started
started = perf_counter()
generator = gan.generator.eval().to(device)
stages["move"] = now() - started
z = torch.randn(1, gan.latent_dim).to(device)
with torch.no_grad(), torch.autocast(device.type, dtype=torch.bfloat16, enabled=asked["precision"] == "bf16"):
    for call in ("first_call", "second_call"):
        started = now()
        generator(z)
        stages[call] = now() - started
print()
print(json.dumps(stages))
"""


def measure_cold_start(question: Question) -> dict[str, Quantity]:
    """`cold_start_<stage>_s` for each of STAGES: medians over the preset's repeats, unknown where a process failed."""
    repeats: list[dict[str, float]] = []
    for _ in range(NUM_REPEATS[question.spec.preset]):
        found = _one_start(question)
        if isinstance(found, str):
            return {f"cold_start_{stage}_s": unknown("s", found, source=_SOURCE) for stage in STAGES}
        repeats.append(found)
    return {
        f"cold_start_{stage}_s": quantile_quantity([each[stage] for each in repeats], unit="s", source=_SOURCE)
        for stage in STAGES
    }


def _one_start(question: Question) -> dict[str, float] | str:
    """Stage → seconds in one fresh process, or why there are none."""
    word = question.spec.model
    file = Path(word) if word.endswith(".py") else MODELS.file(word)
    assert models.__file__ is not None
    root = Path(models.__file__).parent.parent
    attention = question.spec.attention or next(iter(question.model.spec.attentions), None)
    asked = {
        "root": str(root),
        "module": f"models.{file.stem}" if file.parent == root / "models" else f"models_outside_{file.stem}",
        "file": str(file),
        "configuration": [
            question.resolution,
            question.spec.size,
            *([attention] if attention else []),
        ],
        "device": question.device,
        "precision": question.precision,
        "num_threads": torch.get_num_threads(),
    }
    command = [sys.executable, "-P", "-c", _CHILD, json.dumps(asked)]  # -P: nothing from the working folder is imported
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"the fresh process did not finish: {type(error).__name__}"
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return f"the fresh process failed with code {done.returncode}: {last}"
    try:
        stages: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        return "the fresh process ended without its figures: does the model's file leave Python?"
    return stages
