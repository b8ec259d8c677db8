"""Run by tests/test_distributed.py, alone or under torchrun: trains on random images and prints every loss as JSON.

python tests/follow.py MODEL NUM_STEPS
"""

import dataclasses
import json
import sys

import numpy as np
import torch

from bench.catalog import find_model
from bench.training.distributed import joined
from bench.training.feed import open_feed
from bench.training.step import Trainer
from models._losses import NonSaturatingR1

BATCH_SIZE = 8


class RandomImages:
    def __len__(self):
        return 40

    def read(self, indices):
        return np.stack([np.random.default_rng(int(i)).integers(0, 256, (3, 32, 32), dtype=np.uint8) for i in indices])


def main(model, num_steps):
    with joined("cpu") as world:
        spec = find_model(model).spec
        torch.manual_seed(0)
        # Nothing is drawn but the latents: what else a loss draws is each process's own. Small steps and a calm
        # discriminator, because a GAN multiplies rounding from step to step.
        recipe = dataclasses.replace(
            spec.recipe("scenes", 32, "tiny"),
            objective=NonSaturatingR1(r1_weight=1.0),
            generator_lr=2e-4,
            discriminator_lr=2e-4,
            adam_eps=1e-4,
        )
        trainer = Trainer(spec.build(32, "tiny"), recipe, device="cpu", precision="fp32", seed=3, world=world)
        feed = open_feed(RandomImages(), seed=3, batch_size=BATCH_SIZE, position=0, device="cpu", world=world)
        lines = []
        for _ in range(num_steps):
            batch = feed.next()
            losses = trainer.step(batch)
            means = {name: float(world.summed_(loss.clone()) / world.size) for name, loss in losses.items()}
            total = float(world.summed_(batch.double().sum()))
            lines.append({**means, "images": total, "shown": trainer.num_images_shown})
        feed.close()
        if world.is_first:
            print(json.dumps(lines))  # noqa: T201 - its one output


main(sys.argv[1], int(sys.argv[2]))
