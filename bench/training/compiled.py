"""`--compile`: both losses together with their gradients as one compiled graph each, the gradient penalty included.

Why it exists: torch compiles a function and leaves its backward pass to autograd, and such a backward pass cannot be
differentiated again: `torch.compile(D)` with `autograd.grad(create_graph=True)`, which R1 and WGAN-GP are, raises. Here
the whole of it, loss, penalty and the gradient of both for every parameter, is traced into a single graph of ATen
operators first (`make_fx` on fake tensors: nothing is computed), in which nothing is left to differentiate; inductor
compiles that. The derivatives are autograd's own, so any model and any objective that torch can train can be traced,
unless it reads a tensor's value to decide what to do next.

It also is what makes the graph fast: forward and backward passes are scheduled together, element-wise operators between
the matrix products become one loop each, and gradients that nobody asked for are not in it (autograd takes the real
images' gradient a second time, because R1 made them a leaf).

One thing is computed otherwise than in the eager step. Inside R1 a weight's gradient is the derivative of an input
gradient, and torch expresses it as a convolution with images for kernels (`_convolution_double_backward`), for which
no library is tuned: 10 to 23 GMAC/s on one core of a Zen 4 server, where the ordinary weight gradient of the same
layers, the same sum, reaches 32 to 52. The graph uses that one.

Randomness: draws come from torch's own generators (`fallback_random`), so a compiled step sees the draws of an eager
one. Source: https://docs.pytorch.org/docs/stable/generated/torch.fx.experimental.proxy_tensor.make_fx.html and
torch._inductor.config. There is one graph per network, `step % period`, batch shape and precision; equal ones are
compiled once, so that a penalty that is due in every 16th step costs two compilations and not 16.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch._dynamo.exc import BackendCompilerFailed, TorchDynamoException
from torch.autograd.function import once_differentiable
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx

from bench.errors import BenchError
from models._spec import Gan, Loss, Objective

_LARGEST_KERNEL = 7  # pixels per side; no layer of the zoo has more, and maps of gradients that matter do

LossOf = Callable[[Tensor, Tensor, int], Loss]  # (real [b, 3, h, w], z [b, latent_dim], step) → loss
_Values = tuple[Tensor, dict[str, Tensor], list[Tensor | None]]  # total, parts, gradients


def compile_losses(gan: Gan, objective: Objective) -> tuple[LossOf, LossOf]:
    """Both losses of `objective` on `gan` as compiled functions; the networks stay as they are and in their mode.

    Returns:
        (discriminator_loss, generator_loss), each (real, z, step) → Loss with the values of the eager functions. The
        gradients are computed with the loss; `total.backward()` hands them to the parameters of the one network.
        The first call of each kind compiles, which takes from seconds to minutes.

    Raises:
        BenchError: at the first call, if the model or its losses cannot be traced or compiled.
    """
    networks = {"discriminator": gan.discriminator, "generator": gan.generator}
    losses = {"discriminator": objective.discriminator_loss, "generator": objective.generator_loss}
    discriminator_loss, generator_loss = (
        _CompiledLoss(_LossModule(gan, losses[name]), name, networks[name], objective.period) for name in networks
    )
    return discriminator_loss, generator_loss


class _LossModule(nn.Module):
    """A loss with both networks as submodules, so that `functional_call` reaches every tensor of theirs."""

    def __init__(self, gan: Gan, loss_of: Callable[[Gan, Tensor, Tensor, int], Loss]) -> None:
        super().__init__()
        self.generator, self.discriminator = gan.generator, gan.discriminator
        self._gan, self._loss_of = gan, loss_of

    def forward(self, real: Tensor, z: Tensor, step: int) -> Loss:
        return self._loss_of(self._gan, real, z, step)


class _CompiledLoss:
    """One network's loss; graphs are made when they are first needed."""

    def __init__(self, module: _LossModule, name: str, network: nn.Module, period: int) -> None:
        self._module, self._name, self._period = module, name, period
        self._trained = {f"{name}.{key}" for key, _ in network.named_parameters()}
        self._graphs: dict[tuple[object, ...], Callable[..., _Values]] = {}
        self._by_content: dict[tuple[object, ...], Callable[..., _Values]] = {}

    def __call__(self, real: Tensor, z: Tensor, step: int) -> Loss:
        phase = step % self._period
        device = real.device.type
        precision = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        state = dict(self._module.named_parameters()) | dict(self._module.named_buffers())
        kind = (real.shape, real.dtype, z.shape, precision, self._module.generator.training)
        names = list(state)
        tensors = [tensor.detach() for tensor in state.values()]  # the same memory: batch norm updates its buffers
        with torch.no_grad(), torch.autocast(device, enabled=False):  # the graph has its casts and derivatives in it
            if (phase, *kind) not in self._graphs:
                graph = self._traced(names, tensors, (real, z, phase), precision)
                self._graphs[phase, *kind] = self._compiled(graph, kind)
            try:
                total, parts, gradients = self._graphs[phase, *kind](tensors, real, z)
            except TorchDynamoException as error:  # at the first call, which compiles
                raise self._refusal(error) from error
        trained = [state[name] for name in names if name in self._trained]
        return Loss(_WithGradients.apply(total, gradients, *trained), parts)

    def _traced(
        self, names: list[str], tensors: list[Tensor], inputs: tuple[Tensor, Tensor, int], precision: torch.dtype | None
    ) -> GraphModule:
        """The graph of (tensors, real, z) → loss and gradients.

        Raises:
            BenchError: the loss cannot be traced.
        """
        real, z, phase = inputs

        def loss_and_gradients(tensors: list[Tensor], real: Tensor, z: Tensor) -> _Values:
            state = {
                name: tensor.detach().requires_grad_(name in self._trained)
                for name, tensor in zip(names, tensors, strict=True)
            }
            autocast = torch.autocast(real.device.type, precision, enabled=precision is not None, cache_enabled=False)
            with torch.enable_grad():
                with autocast:
                    loss: Loss = torch.func.functional_call(self._module, state, (real, z, phase))
                wanted = [state[name] for name in names if name in self._trained]
                gradients = torch.autograd.grad(loss.total, wanted, allow_unused=True)
            return loss.total.detach(), loss.parts, list(gradients)

        try:
            return make_fx(loss_and_gradients, _DECOMPOSITIONS, "fake", _allow_non_fake_inputs=True)(tensors, real, z)
        except RuntimeError as error:
            raise self._refusal(error) from error

    def _compiled(self, graph: GraphModule, kind: tuple[object, ...]) -> Callable[..., _Values]:
        """The graph, compiled when it is first called; steps without a penalty that is due share theirs."""
        constants = [str(constant.tolist()) for constant in graph.buffers()]
        content = (graph.code, *constants, *kind)
        if content not in self._by_content:
            self._by_content[content] = torch.compile(graph, dynamic=False, options={"fallback_random": True})
        return self._by_content[content]

    def _refusal(self, error: Exception) -> BenchError:
        cause = error.inner_exception if isinstance(error, BackendCompilerFailed) else error
        first_line = str(cause).strip().partition("\n")[0]
        return BenchError(
            f"The {self._name}'s loss of this model cannot be compiled ({first_line}); leave --compile out."
        )


def _convolution(  # noqa: PLR0913, PLR0917 - the signature is that of the operator it stands for
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    transposed: bool,
    output_padding: list[int],
    groups: int,
) -> Any:
    """aten.convolution in the graph: where the "kernel" is a batch of images, the weight gradient that it stands for.

    With x [c_in, b, h, w] and weight [c_out, b, h_out, w_out] the result [c_in, c_out, k, k] is the weight gradient,
    first two axes swapped, of the convolution of images [b, c_in, h, w] by stride `dilation`. NotImplemented, as
    `make_fx` wants it, leaves any other convolution as it is.
    """
    is_gradient = min(weight.shape[2:]) > _LARGEST_KERNEL and list(stride) == [1, 1]
    if transposed or groups != 1 or bias is not None or not is_gradient:
        return NotImplemented
    sides = [
        size + 2 * pad - step * (size_out - 1)
        for size, pad, step, size_out in zip(x.shape[2:], padding, dilation, weight.shape[2:], strict=True)
    ]
    kernel = x.new_empty(weight.shape[0], x.shape[0], *sides)  # only its shape matters
    images, gradient = x.transpose(0, 1), weight.transpose(0, 1)
    _, found, _ = torch.ops.aten.convolution_backward(
        gradient, images, kernel, None, dilation, padding, [1, 1], False, output_padding, 1, [False, True, False]
    )
    return found.transpose(0, 1)


_DECOMPOSITIONS: dict[Any, Callable[..., Any]] = {torch.ops.aten.convolution.default: _convolution}


class _WithGradients(torch.autograd.Function):
    """A scalar whose gradients are known already: backward hands them out, times what comes in."""

    @staticmethod
    def forward(ctx: Any, total: Tensor, gradients: list[Tensor | None], *parameters: Tensor) -> Tensor:
        """total [] → the same, as a function of `parameters`, gradients in their order."""
        del parameters
        ctx.gradients = gradients
        return total.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, factor: Tensor) -> tuple[Tensor | None, ...]:
        """factor [] → None for `total` and `gradients`, then a gradient per parameter."""
        gradients, ctx.gradients = ctx.gradients, None  # their memory is free once autograd has handed them on
        return (None, None, *(gradient if gradient is None else gradient * factor for gradient in gradients))
