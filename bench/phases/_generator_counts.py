"""Parameters and multiply-accumulates of a generator by name, on `meta`: for tables of models, without a run.

Of a multi-step sampler one network call is counted and multiplied, because the calls are alike; what one call costs
without attention's products is kept too, since that is the figure papers print for diffusion models.
"""

from __future__ import annotations

from functools import cache

import torch

from bench.catalog import build_gan, find_model
from bench.phases._op_counter import OpCounter
from bench.phases.cost import count_params

_ATTENTION_PRODUCTS = ("aten.bmm", "aten.baddbmm")


@cache
def counts(model: str, size: str, resolution: int) -> dict[str, float]:
    """Parameters and multiply-accumulates of one generator, counted on `meta`.

    Raises:
        BenchError: the model cannot be built here (an optional package is missing, for example).
    """
    found = find_model(model)
    with torch.device("meta"), torch.no_grad():
        generator = build_gan(found, resolution, size, None)
        network = generator.generator.eval()
        counter = OpCounter()
        with counter:
            one_step = getattr(network, "one_step", None)  # of a multi-step sampler
            if one_step is not None:
                one_step(torch.empty(1, 3, resolution, resolution))
            else:
                network(torch.empty(1, generator.latent_dim))
    tally = counter.tally
    attention = sum(tally.macs_by_product[name] for name in _ATTENTION_PRODUCTS)
    attention += sum(macs for name, macs in tally.macs_by_product.items() if "scaled_dot_product" in name)
    num_steps = getattr(network, "num_steps", 1)
    return {
        "params_generator": float(count_params(network)),
        "macs_generator": float(tally.num_macs * num_steps),
        "macs_step_conv_linear": float(tally.num_macs - attention),
    }
