"""Parameters, MACs, bytes and activations of both networks and of an optimiser step: exact, no noise, no compute.

Convention: one MAC is one multiply-accumulate of a matrix product, a convolution or an attention; bytes are unfused
traffic. `_op_counter` has both in full. Forward passes are in eval mode at batch 1, in the run's precision; a step is
`Trainer.step` at the run's batch size, with whatever penalty the recipe has. A network or a step that cannot be run on
shapes alone leaves its figures unknown, with the reason, and the phase goes on.
"""

from __future__ import annotations

from importlib.metadata import version

import torch
from pydantic import JsonValue
from torch import Tensor, nn

from bench.phases._context import Context, Outcome, Question
from bench.phases._cost_fvcore import TOLERANCE, compare_with_fvcore
from bench.phases._cost_shapes import CANNOT_RUN, first_line, shapes_only
from bench.phases._cost_step import StepCost, count_step, untouched_gan
from bench.phases._op_counter import OpCounter, Tally
from bench.records import Quantity, unknown

Figures = dict[str, Quantity]
_SOURCE = "one dispatch pass over shapes"
_STEP_UNITS = {
    "macs_discriminator_step": "MAC",
    "bytes_discriminator_step": "B",
    "macs_generator_step": "MAC",
    "bytes_generator_step": "B",
    "macs_penalty": "MAC",
    "macs_step_per_image": "MAC",
    "bytes_step_per_image": "B",
    "activation_bytes_discriminator_step": "B",
    "activation_bytes_generator_step": "B",
    "arithmetic_intensity_step": "MAC/B",
    "counted_op_share": "1",
}
_DISCRIMINATOR_UNITS = {"num_params_discriminator": "1", "macs_discriminator": "MAC", "bytes_discriminator": "B"}
_CONVENTIONS: dict[str, JsonValue] = {
    "convention": "1 MAC = 1 multiply-accumulate of a matrix product, convolution or attention; element-wise work, "
    "norms, softmax, resampling and optimisers have none",
    "bytes_convention": "tensors in and out of every dispatched op; views move nothing, in place reads and writes; "
    "unfused, so an upper bound of the memory traffic; attention as two products and a softmax",
    "activation_convention": "distinct storages saved for the backward pass of one update, without parameters and "
    "buffers; what a step needs besides is not in it",
    "forward": "eval mode, batch 1; bytes_generator_per_image at the run's batch size",
    "step": "Trainer.step; a network's step is its loss, backward pass and Adam update (no MACs, its bytes are "
    "counted), mean over one period of lazy penalties; the whole has the moving average too, per real image; "
    "step_parts are sums over num_steps_counted",
    "penalty": "macs_penalty is the discriminator's step with the penalty less the same without; whole batch",
    "device": "CPU tensors that hold nothing, shapes inferred on meta",
}


def measure(context: Context) -> Outcome:
    """Quantities of parameters, forward passes (`*_generator`, `*_discriminator`) and the step (`*_step*`)."""
    question = context.question
    gan = untouched_gan(question)
    outcome = Outcome(protocol=dict(_CONVENTIONS))
    outcome.protocol |= {"precision": question.precision, "batch_size": question.batch_size}
    checks: dict[str, JsonValue] = {"tool": f"fvcore {version('fvcore')}", "tolerance": TOLERANCE}
    image_shape = (3, question.resolution, question.resolution)
    networks: list[tuple[str, nn.Module, tuple[int, ...]]] = [("generator", gan.generator, (gan.latent_dim,))]
    reason = question.model.spec.why_not_trained
    if reason:
        outcome.quantities |= _unknowns(_DISCRIMINATOR_UNITS | _STEP_UNITS | {"macs_penalty": "MAC"}, reason)
    else:
        networks.append(("discriminator", gan.discriminator, image_shape))
    for name, network, shape in networks:
        outcome.quantities[f"num_params_{name}"] = _exact(count_params(network), "1", "trainable parameters")
        figures, protocol = _forward(name, network, shape, question)
        outcome.quantities |= figures
        outcome.protocol |= protocol
        num_macs = figures[f"macs_{name}"].value
        if num_macs is not None and one_step_of(network)[0] is None:  # fvcore computes; a thousand calls are too many
            checks[name] = compare_with_fvcore(network.eval(), torch.zeros(1, *shape), int(num_macs))
            outcome.quantities[f"macs_{name}"] = _flagged(figures[f"macs_{name}"], checks[name])
    outcome.protocol["cross_check"] = checks
    if not reason:
        figures, protocol = _step(question)
        outcome.quantities |= figures
        outcome.protocol |= protocol
    return outcome


def one_step_of(network: nn.Module) -> tuple[nn.Module | None, int]:
    """(what a multi-step sampler calls per step, how often per image); (None, 1) for a network that is called once."""
    one_step = getattr(network, "one_step", None)
    num_steps: int = getattr(network, "num_steps", 1)
    return (one_step, num_steps) if isinstance(one_step, nn.Module) else (None, 1)


def count_params(network: nn.Module) -> int:
    """Number of trainable parameters; buffers such as batch-norm statistics are not parameters."""
    return sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)


def count_macs(network: nn.Module, example: Tensor) -> tuple[int, dict[str, int]]:
    """MACs of one forward pass on `example`, and how often each op was called that is not known."""
    counter = OpCounter()
    with torch.no_grad(), counter:
        network.eval()(example)
    return counter.tally.num_macs, dict(counter.tally.unknown)


def _forward(
    name: str, network: nn.Module, shape: tuple[int, ...], question: Question
) -> tuple[Figures, dict[str, JsonValue]]:
    """MACs and bytes of one network's forward pass; of the generator also the intensity and the bytes in a batch."""
    units = {f"macs_{name}": "MAC", f"bytes_{name}": "B"}
    if name == "generator":
        units |= {"arithmetic_intensity_generator": "MAC/B", "bytes_generator_per_image": "B"}
    try:
        one_step, num_steps = one_step_of(network)
        called, shape = (network, shape) if one_step is None else (one_step, (3, *[question.resolution] * 2))
        single = _count_forward(called, (1, *shape), question)
        batch = _count_forward(called, (question.batch_size, *shape), question)
    except CANNOT_RUN as error:
        return _unknowns(units, f"the {name} cannot be run on shapes alone: {first_line(error)}"), {}
    values = {
        f"macs_{name}": single.num_macs * num_steps,
        f"bytes_{name}": single.num_bytes * num_steps,
        "arithmetic_intensity_generator": single.num_macs / single.num_bytes,
        "bytes_generator_per_image": batch.num_bytes * num_steps / question.batch_size,
    }
    figures = {figure: _exact(values[figure], unit) for figure, unit in units.items()}
    if one_step is not None:
        figures |= {
            "num_sampling_steps": _exact(num_steps, "1", "calls of the network per image"),
            "macs_generator_per_step": _exact(single.num_macs, "MAC"),
        }
    return figures, {f"uncounted_ops_{name}": _sorted(single.unknown)}


def _count_forward(network: nn.Module, shape: tuple[int, ...], question: Question) -> Tally:
    network.eval()
    with shapes_only(), torch.no_grad():
        example = torch.empty(shape)
        counter = OpCounter()
        with torch.autocast("cpu", torch.bfloat16, enabled=question.precision == "bf16"), counter:
            network(example)
    return counter.tally


def _step(question: Question) -> tuple[Figures, dict[str, JsonValue]]:
    """Figures of the whole step and of its two halves, with the parts in the protocol."""
    try:
        cost = count_step(question, question.recipe.objective)
    except CANNOT_RUN as error:
        return _unknowns(_STEP_UNITS, f"the step cannot be run on shapes alone: {first_line(error)}"), {}
    d, g, whole = cost.network("discriminator"), cost.network("generator"), cost.whole
    num_d, num_g = cost.num_updates["discriminator"], cost.num_updates["generator"]
    num_images = cost.num_steps * question.batch_size
    values = {
        "macs_discriminator_step": d.num_macs / num_d,
        "bytes_discriminator_step": d.num_bytes / num_d,
        "macs_generator_step": g.num_macs / num_g,
        "bytes_generator_step": g.num_bytes / num_g,
        "macs_step_per_image": whole.num_macs / num_images,
        "bytes_step_per_image": whole.num_bytes / num_images,
        "activation_bytes_discriminator_step": cost.activation_bytes["discriminator"],
        "activation_bytes_generator_step": cost.activation_bytes["generator"],
        "arithmetic_intensity_step": whole.num_macs / whole.num_bytes,
        "counted_op_share": whole.counted_op_share,
    }
    figures = {name: _exact(value, _STEP_UNITS[name]) for name, value in values.items()}
    return figures | {"macs_penalty": _penalty(question, cost)}, {
        "num_steps_counted": cost.num_steps,
        "num_updates_counted": _sorted(cost.num_updates),
        "step_parts": {name: {"macs": part.num_macs, "bytes": part.num_bytes} for name, part in cost.parts.items()},
        "counted_byte_share": whole.counted_byte_share,
        "uncounted_ops_step": _sorted(whole.unknown),
        "ops_without_macs_step": _sorted(whole.without_products),
    }


def _penalty(question: Question, with_penalty: StepCost) -> Quantity:
    objective = question.recipe.objective
    try:
        without = objective.without_penalty()
        if without == objective:
            return _exact(0, "MAC", note="the losses have no penalty")
        cost = count_step(question, without, has_stepped=False)
    except CANNOT_RUN as error:
        reason = f"the step without the penalty cannot be counted: {first_line(error)}"
        return unknown("MAC", reason, source=_SOURCE, kind="computed")
    name = "discriminator"
    with_it, without_it = (each.network(name).num_macs / each.num_updates[name] for each in (with_penalty, cost))
    return _exact(with_it - without_it, "MAC")


def _flagged(quantity: Quantity, check: JsonValue) -> Quantity:
    flag = check.get("flag", "") if isinstance(check, dict) else ""
    return quantity.model_copy(update={"note": flag})


def _unknowns(units: dict[str, str], reason: str) -> Figures:
    return {name: unknown(unit, reason, source=_SOURCE, kind="computed") for name, unit in units.items()}


def _sorted(calls: dict[str, int]) -> dict[str, JsonValue]:
    return dict(sorted(calls.items()))


def _exact(count: float, unit: str, source: str = _SOURCE, note: str = "") -> Quantity:
    value = float(count)
    return Quantity(value=value, unit=unit, low=value, high=value, kind="computed", source=source, note=note)
