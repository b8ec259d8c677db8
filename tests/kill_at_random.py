"""Run by tests/test_endurance.py: kills a training with SIGKILL at random moments and looks at what it left.

    python tests/kill_at_random.py MODEL RESULTS NUM_KILLS

Prints one JSON object. Each training is a fork of this process, so that torch is loaded once.
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import bench
from bench.runner import Sitting, run
from bench.training.weights import read_tensors

EVERY = 320  # images between checkpoints


def spec_of(model, num_images):
    return bench.RunSpec(
        model=model, dataset="scenes", resolution=32, batch_size=8, device="cpu", preset="smoke",
        train_for=f"{num_images}img",
    )  # fmt: skip


def train(model, results, num_images):
    said = []
    sitting = Sitting(checkpoint_every=f"{EVERY}img")
    run(spec_of(model, num_images), results=results, phases=("train",), say=said.append, sitting=sitting)


def newest(folder):
    """Images of the newest checkpoint; every checkpoint is read whole."""
    found = []
    for path in folder.glob("*/checkpoints/*.safetensors"):
        _, facts = read_tensors(path)  # raises where it does not load
        found.append(facts["num_images_shown"])
    return max(found, default=0)


def last_logged(folder):
    lines = [line for path in folder.glob("*/train.jsonl") for line in path.read_text().splitlines()]
    return max((json.loads(line)["images_shown"] for line in lines if line.endswith("}")), default=0)


def main(model, results, num_kills):
    results, lost, reached = Path(results), [], []
    for index in range(num_kills):
        child = os.fork()
        if not child:
            train(model, results, 10**7)
            os._exit(0)
        before = last_logged(results)
        deadline = time.monotonic() + 60
        while last_logged(results) == before and time.monotonic() < deadline:  # until it trains again
            time.sleep(0.01)
        time.sleep(random.Random(index).uniform(0.0, 0.5))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        reached.append(newest(results))
        lost.append(last_logged(results) - reached[-1])
    print(json.dumps({"lost": lost, "reached": reached}))  # noqa: T201 - its one output


main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
