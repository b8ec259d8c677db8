"""Parameters and MACs of generator and discriminator, counted on the `meta` device: exact, no noise, no compute.

Convention: one MAC is one multiply-accumulate of a matrix product or convolution, batch 1, forward pass, eval mode.
Element-wise work, norms and softmax are not counted; the protocol lists them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bench.phases._context import Context, Outcome
from bench.phases._mac_counter import MacCounter
from bench.records import Quantity

_DEVICE = "meta"


def measure(context: Context) -> Outcome:
    """Quantities `num_params_*` and `macs_*` of both networks."""
    question = context.question
    gan = question.build(_DEVICE)
    z = torch.empty(1, gan.latent_dim, device=_DEVICE)
    image = torch.empty(1, 3, question.resolution, question.resolution, device=_DEVICE)
    outcome = Outcome(
        protocol={"convention": "1 MAC = 1 multiply-accumulate; forward, batch 1, eval", "device": _DEVICE}
    )
    for name, network, example in (("generator", gan.generator, z), ("discriminator", gan.discriminator, image)):
        num_macs, uncounted = count_macs(network, example)
        outcome.quantities[f"num_params_{name}"] = _exact(count_params(network), "1", "trainable parameters")
        outcome.quantities[f"macs_{name}"] = _exact(num_macs, "MAC", "torch.utils.flop_counter formulas on meta")
        outcome.protocol[f"uncounted_ops_{name}"] = dict(sorted(uncounted.items()))
    return outcome


def count_params(network: nn.Module) -> int:
    """Number of trainable parameters; buffers such as batch-norm statistics are not parameters."""
    return sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)


def count_macs(network: nn.Module, example: Tensor) -> tuple[int, dict[str, int]]:
    """MACs of one forward pass on `example`, and how often each uncounted op was called."""
    counter = MacCounter()
    with torch.no_grad(), counter:
        network.eval()(example)
    return counter.num_macs, dict(counter.uncounted)


def _exact(count: int, unit: str, source: str) -> Quantity:
    return Quantity(value=float(count), unit=unit, low=float(count), high=float(count), kind="computed", source=source)
