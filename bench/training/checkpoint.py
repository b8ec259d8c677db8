"""Checkpoints: all that decides the rest of a training, in one safetensors file that is replaced as a whole.

Weights, moving average, both optimisers, the counters, and what the training phase remembers (JSON). No random state:
every draw is a function of (seed, images shown), so a resumed training is the uninterrupted one, bit for bit. No
pickle: reading a checkpoint runs no code.

A file is written under a temporary name, synchronised and renamed, and only then are older ones removed, so that a kill
or a full disk at any moment leaves the last good one. The last two are kept, and the best.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench.errors import CheckpointError, StorageError
from bench.store import storage_errors
from bench.training.step import Trainer
from bench.training.weights import load_state, read_tensors, write_tensors

FORMAT = 1  # raised when the names of the tensors or the meaning of the header change
NUM_KEPT = 2
BEST_FILE = "best.safetensors"
_KIND = "checkpoint"


class Checkpoints:
    """The checkpoints of one run.

    Args:
        folder: theirs alone.
        run_id: of the run; a checkpoint of another run is refused.
    """

    def __init__(self, folder: Path, run_id: str) -> None:
        self.folder = folder
        self._run_id = run_id

    def save(self, trainer: Trainer, memory: Mapping[str, Any]) -> None:
        """Write the state after `trainer.num_images_shown` images. Raises StorageError; older files then stay."""
        write_tensors(self._path(trainer.num_images_shown), _tensors(trainer), self._facts(trainer, memory))
        with storage_errors(self.folder):
            for path in self._all()[:-NUM_KEPT]:
                path.unlink()

    def save_best(self, trainer: Trainer, memory: Mapping[str, Any]) -> None:
        """Write it as the best one so far. Raises StorageError."""
        write_tensors(self.folder / BEST_FILE, _tensors(trainer), self._facts(trainer, memory))

    def load_latest(self, trainer: Trainer) -> tuple[dict[str, Any] | None, list[str]]:
        """Put the newest readable checkpoint into the trainer.

        Returns:
            what the phase had asked to remember, None where there is no checkpoint; and one sentence for each newer
            checkpoint that had to be passed over.

        Raises:
            CheckpointError: there are checkpoints and none can be used.
        """
        problems: list[str] = []
        for path in reversed(self._all()):
            try:
                return self._load(path, trainer), problems
            except CheckpointError as error:
                problems.append(str(error))
        if problems:
            raise CheckpointError(f"{problems[0]} No other checkpoint is left; --fresh trains from the start.")
        return None, []

    def _load(self, path: Path, trainer: Trainer) -> dict[str, Any]:
        tensors, facts = read_tensors(path)
        if facts.get("kind") != _KIND:
            raise CheckpointError(f"'{path}' is not a checkpoint of gan-bench.")
        if facts["format"] != FORMAT:
            raise CheckpointError(f"'{path}' has format {facts['format']}; this version reads format {FORMAT}.")
        if facts["run_id"] != self._run_id:
            raise CheckpointError(f"'{path}' belongs to run {facts['run_id']}, not to {self._run_id}.")
        _restore(trainer, tensors, path)
        trainer.num_images_shown = int(facts["num_images_shown"])
        trainer.num_steps = int(facts["num_steps"])
        memory: dict[str, Any] = facts["memory"]
        return memory

    def _facts(self, trainer: Trainer, memory: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "kind": _KIND,
            "format": FORMAT,
            "run_id": self._run_id,
            "num_images_shown": trainer.num_images_shown,
            "num_steps": trainer.num_steps,
            "memory": dict(memory),
        }

    def _path(self, num_images_shown: int) -> Path:
        return self.folder / f"{num_images_shown:012d}.safetensors"

    def _all(self) -> list[Path]:
        """Oldest first, without the best one."""
        return sorted(path for path in self.folder.glob("*.safetensors") if path.name != BEST_FILE)


def try_to_save(checkpoints: Checkpoints, trainer: Trainer, memory: Mapping[str, Any]) -> str:
    """Save; where the disk is full or not writable, the sentence that says so: days of training do not die of that."""
    try:
        checkpoints.save(trainer, memory)
    except StorageError as error:
        return f"No checkpoint at {trainer.num_images_shown} images: {error} The training goes on."
    return ""


def _networks(trainer: Trainer) -> dict[str, nn.Module]:
    return {"generator": trainer.gan.generator, "discriminator": trainer.gan.discriminator, "ema": trainer.ema}


def _optimisers(trainer: Trainer) -> dict[str, torch.optim.Adam]:
    return {"generator_adam": trainer.generator_optimiser, "discriminator_adam": trainer.discriminator_optimiser}


def _tensors(trainer: Trainer) -> dict[str, Tensor]:
    """Every tensor of the state under a name that says whose it is."""
    found = {
        f"{part}.{name}": tensor
        for part, network in _networks(trainer).items()
        for name, tensor in network.state_dict().items()
    }
    for part, optimiser in _optimisers(trainer).items():
        for index, parameter in _parameters(optimiser):
            found |= {f"{part}.{index}.{name}": each for name, each in optimiser.state.get(parameter, {}).items()}
    return found | {
        "num_nonfinite": trainer.num_nonfinite,
        "num_nonfinite_in_a_row": trainer.num_nonfinite_in_a_row,
    }


def _restore(trainer: Trainer, tensors: dict[str, Tensor], path: Path) -> None:
    """Everything is checked before anything is changed, but for the networks, whose checks name the difference."""
    parts: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        part, _, rest = name.partition(".")
        parts.setdefault(part, {})[rest] = tensor
    counters = {"num_nonfinite": trainer.num_nonfinite, "num_nonfinite_in_a_row": trainer.num_nonfinite_in_a_row}
    required = {*_networks(trainer), *counters}  # Adam has no state before its first update
    for part in sorted((required - parts.keys()) | (parts.keys() - required - _optimisers(trainer).keys())):
        raise CheckpointError(f"'{path}' is not a state of this trainer: '{part}' is missing or unknown.")
    for part, network in _networks(trainer).items():
        load_state(network, parts[part], path)
    for part, optimiser in _optimisers(trainer).items():
        _restore_adam(optimiser, parts.get(part, {}), path)
    for name, counter in counters.items():
        counter.copy_(tensors[name])


def _restore_adam(optimiser: torch.optim.Adam, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Moments in the memory layout of their parameters: the fused update walks through both alike."""
    optimiser.state.clear()
    for index, parameter in _parameters(optimiser):
        saved = {name.partition(".")[2]: each for name, each in tensors.items() if name.startswith(f"{index}.")}
        for name, tensor in saved.items():
            like = torch.empty_like(parameter) if name != "step" else torch.empty((), device=parameter.device)
            if like.shape != tensor.shape:
                raise CheckpointError(f"'{path}' does not fit this model: Adam's '{name}' of parameter {index}.")
            optimiser.state[parameter][name] = like.copy_(tensor)


def _parameters(optimiser: torch.optim.Adam) -> Iterator[tuple[int, nn.Parameter]]:
    return enumerate(optimiser.param_groups[0]["params"])
