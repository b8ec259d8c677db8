"""Networks' weights as safetensors: tensors and strings only, so that loading runs no code."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import nn

from bench.errors import RecordError
from bench.store import write_atomically


def save_weights(path: Path, network: nn.Module, facts: dict[str, str]) -> None:
    """Write a network's parameters and buffers; `facts` go into the file's header, as JSON. Raises StorageError.

    One header entry, because safetensors writes several in random order, and equal weights should be equal files.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    write_atomically(path, save_tensors(tensors, metadata={"gan_bench": json.dumps(facts, sort_keys=True)}))


def load_weights(path: Path, network: nn.Module) -> None:
    """Read them back into a network of the same shapes.

    Raises:
        RecordError: the file is missing, is not safetensors, or holds another network.
    """
    try:
        network.load_state_dict(load_tensors(path.read_bytes()))
    except OSError as error:
        raise RecordError(
            f"The weights '{path}' cannot be read ({error.strerror}); train again with --fresh."
        ) from error
    except (SafetensorError, RuntimeError) as error:
        summary = str(error).splitlines()[0]
        raise RecordError(
            f"The weights '{path}' do not fit this model ({summary}); train again with --fresh."
        ) from error
