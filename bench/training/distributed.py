"""Several processes that share one training, one device each, as `torchrun` starts them.

A batch is given globally: process r of p works on images r·b/p … (r+1)·b/p - 1 of it, and gradients are averaged, so p
processes follow one. Two things differ from one process: batch norm normalises by the statistics of each process's own
share, and what a loss draws besides the latents (augmentation, noise) comes from a generator of each process.

Every process must take the same decisions in the same order, else a collective waits for ever. So process 0 alone looks
at the clock and at signals, and tells the others.

Raw torch.distributed, no trainer framework: a benchmark must know every kernel and synchronisation it times.
Source: docs.pytorch.org/docs/stable/notes/ddp.html and …/elastic/run.html for the environment's variables.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from bench.errors import UsageError

# Process 0 scores images while the others wait: far longer than the default of 10 to 30 minutes.
_PATIENCE = timedelta(days=2)


@dataclass(frozen=True)
class World:
    """Who this process is among those that share the training; alone by default."""

    rank: int = 0
    size: int = 1

    @property
    def is_alone(self) -> bool:
        """Whether there is no other process."""
        return self.size == 1

    @property
    def is_first(self) -> bool:
        """Whether this is process 0, which looks, decides and writes."""
        return self.rank == 0

    def share_of(self, count: int) -> slice:
        """This process's part of a global batch of that many images, which the number of processes divides."""
        each = count // self.size
        return slice(self.rank * each, (self.rank + 1) * each)

    def agreed(self, value: Any) -> Any:
        """Process 0's value, in every process. Waits for all of them."""
        if self.is_alone:
            return value
        box: list[Any] = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def gathered(self, value: Any) -> list[Any]:
        """Every process's value, by rank, in every process. Waits for all of them."""
        if self.is_alone:
            return [value]
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, value)
        return found

    def summed_(self, tensor: Tensor) -> Tensor:
        """The tensor, summed over the processes in place."""
        if not self.is_alone:
            dist.all_reduce(tensor)
        return tensor

    def largest_(self, tensor: Tensor) -> Tensor:
        """The tensor, the largest of the processes' in place."""
        if not self.is_alone:
            dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
        return tensor

    def wait(self) -> None:
        """Until every process is here."""
        if not self.is_alone:
            dist.barrier()


ALONE = World()


def asked_world() -> World:
    """What `torchrun` has said in the environment; alone where it has said nothing."""
    return World(rank=int(os.environ.get("RANK", "0")), size=int(os.environ.get("WORLD_SIZE", "1")))


def own_device(device: str) -> str:
    """The device of this process: `cuda` becomes the board of its local rank.

    Raises:
        UsageError: one board was asked for by number, and there are several processes.
    """
    world = asked_world()
    if world.is_alone or device == "cpu":
        return device
    if ":" in device:
        raise UsageError(f"--device {device}: {world.size} processes cannot share one device; write --device cuda.")
    return f"{device}:{int(os.environ.get('LOCAL_RANK', '0'))}"


@contextmanager
def joined(device: str) -> Iterator[World]:
    """Meet the other processes for a `with` block; alone, there is nothing to meet."""
    world = asked_world()
    if world.is_alone:
        yield world
        return
    is_gpu = device != "cpu"
    if is_gpu:
        torch.cuda.set_device(device)
    # Objects and decisions travel by gloo on the CPU, gradients by NCCL between boards.
    dist.init_process_group("cpu:gloo,cuda:nccl" if is_gpu else "gloo", timeout=_PATIENCE)
    try:
        with warnings.catch_warnings():
            # DDP compares strides of dimensions of size 1, where they mean nothing.
            warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
            yield world
    finally:
        dist.destroy_process_group()
