"""Networks' weights as safetensors: tensors and strings only, so that loading runs no code.

One header entry, `gan_bench`, holds every fact as JSON, because safetensors writes several entries in random order, and
equal weights should be equal files. A pickle is recognised by its first bytes and refused unread.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from bench.errors import CheckpointError
from bench.store import write_atomically

_HEADER = "gan_bench"
_PICKLES = (b"\x80", b"PK\x03\x04")  # a bare pickle of protocol 2 and above, and torch's zip around one


def save_weights(path: Path, network: nn.Module, facts: Mapping[str, Any]) -> None:
    """Write a network's parameters and buffers with `facts`, JSON, in the header. Raises StorageError."""
    write_tensors(path, network.state_dict(), facts)


def load_weights(path: Path, network: nn.Module) -> None:
    """Read them back into a network of the same shapes.

    Raises:
        CheckpointError: the file is missing, is not safetensors, or holds another network.
    """
    tensors, _ = read_tensors(path)
    load_state(network, tensors, path)


def write_tensors(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Replace the file at `path` by those tensors and facts, or leave it as it was. Raises StorageError."""
    on_cpu = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_atomically(path, save_tensors(on_cpu, metadata={_HEADER: json.dumps(facts, sort_keys=True)}))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(tensors on the CPU, facts of the header) of a safetensors file; no facts where another tool wrote it.

    Raises:
        CheckpointError: the file is missing, truncated, a pickle, or no safetensors.
    """
    try:
        tensors = load_tensors(path.read_bytes())
        with safe_open(path, framework="pt") as file:
            header = (file.metadata() or {}).get(_HEADER, "{}")
        return tensors, dict(json.loads(header))
    except OSError as error:
        raise CheckpointError(f"'{path}' cannot be read: {error.strerror or error}.") from error
    except (SafetensorError, ValueError) as error:
        if path.read_bytes()[:4].startswith(_PICKLES):
            raise CheckpointError(
                f"'{path}' holds a pickle, which can run code when it is read, so it is not; give a safetensors file, "
                "or use `bench import` for the official LadaGAN weights."
            ) from error
        summary = (str(error).splitlines() or ["no detail"])[0]
        raise CheckpointError(f"'{path}' is truncated or no safetensors file ({summary}).") from error


def load_state(network: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Copy tensors into a network; names and shapes must be its own.

    Raises:
        CheckpointError: they are another network's; the first difference is named.
    """
    own = network.state_dict()
    for name in sorted(own.keys() ^ tensors.keys()):
        where = "lacks" if name in own else "has an unknown"
        raise CheckpointError(f"'{path}' does not fit this model: it {where} tensor '{name}'.")
    for name, tensor in own.items():
        if tensor.shape != tensors[name].shape:
            shapes = f"{list(tensors[name].shape)} where the model has {list(tensor.shape)}"
            raise CheckpointError(f"'{path}' does not fit this model: '{name}' is {shapes}.")
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(tensors[name])
