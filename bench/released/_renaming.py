"""From their names and layouts to ours: one `Origin` for each of our tensors, and nothing left over on either side."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from bench.errors import CheckpointError


class NumImages(NamedTuple):
    """Images a released model has seen; None where its file does not say, and then `note` says why."""

    value: int | None
    note: str


@dataclass(frozen=True)
class Origin:
    """Where one of our tensors comes from.

    Attributes:
        name: theirs.
        change: what turns their layout into ours.
    """

    name: str
    change: Callable[[Tensor], Tensor] = field(default=torch.clone)


@dataclass(frozen=True, kw_only=True)
class Foreign:
    """The tensors of a released file.

    Attributes:
        title: what a message calls the file.
        names: those of the generator's tensors, every one of which must be used.
        tensor: reads one; only called for a name among `names`.
    """

    title: str
    names: frozenset[str]
    tensor: Callable[[str], Tensor]


def renamed(
    foreign: Foreign, origins: Mapping[str, Origin], ours: Mapping[str, Tensor], what: str
) -> dict[str, Tensor]:
    """Our state dict, filled from theirs.

    Args:
        origins: by our names. Ours without an origin (a batch norm's step count) stay as they are.
        ours: the state dict of the generator to be filled, for its shapes.
        what: the configuration, for messages.

    Raises:
        CheckpointError: a name is missing, has no place in our model, or has another shape.
    """
    for origin in origins.values():
        if origin.name not in foreign.names:
            raise CheckpointError(f"{foreign.title} lacks '{origin.name}', which {what} needs.")
    unused = sorted(foreign.names - {origin.name for origin in origins.values()})
    if unused:
        raise CheckpointError(f"{foreign.title} holds '{unused[0]}', for which {what} has no place.")
    found = dict(ours)
    for name, origin in origins.items():
        theirs = foreign.tensor(origin.name)
        try:
            changed = origin.change(theirs)
        except (RuntimeError, IndexError):  # a layout with another number of axes
            changed = theirs
        if changed.shape != ours[name].shape:
            raise CheckpointError(
                f"{foreign.title} holds another model's shapes: '{origin.name}' {tuple(theirs.shape)} does not become "
                f"'{name}' {tuple(ours[name].shape)} of {what}; check --size and --resolution."
            )
        if not changed.isfinite().all():
            raise CheckpointError(f"{foreign.title} holds numbers in '{origin.name}' that are not finite.")
        found[name] = changed.to(ours[name].dtype)
    return found
