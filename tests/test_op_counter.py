"""The op counter against closed forms: products, attention, convolutions to the second derivative, bytes."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import flop_registry

from bench.phases._cost_shapes import shapes_only
from bench.phases._op_counter import OpCounter, Tally


def count(work, *shapes, device="meta", requires_grad=False):
    """Tally of `work` on tensors of these shapes."""
    tensors = [torch.ones(shape, device=device, requires_grad=requires_grad) for shape in shapes]
    with OpCounter() as counter:
        work(*tensors)
    return counter.tally


@pytest.mark.parametrize("device", ["meta", "cpu"])
@pytest.mark.parametrize(
    ("work", "shapes", "num_macs"),
    [
        (torch.mm, [(3, 5), (5, 7)], 3 * 5 * 7),
        (torch.addmm, [(7,), (3, 5), (5, 7)], 3 * 5 * 7),
        (torch.bmm, [(2, 3, 5), (2, 5, 7)], 2 * 3 * 5 * 7),
        (torch.baddbmm, [(2, 3, 7), (2, 3, 5), (2, 5, 7)], 2 * 3 * 5 * 7),
        (torch.addbmm, [(3, 7), (2, 3, 5), (2, 5, 7)], 2 * 3 * 5 * 7),
        (torch.mv, [(3, 5), (5,)], 15),
        (torch.addmv, [(3,), (3, 5), (5,)], 15),
        (torch.dot, [(11,), (11,)], 11),
        (torch.vdot, [(11,), (11,)], 11),
        (torch.matmul, [(2, 4, 3, 5), (5, 7)], 2 * 4 * 3 * 5 * 7),
        (functional.linear, [(2, 4, 3, 5), (7, 5), (7,)], 2 * 4 * 3 * 5 * 7),
        (lambda x, y: torch.einsum("bhnd,bhmd->bhnm", x, y), [(2, 4, 6, 3), (2, 4, 9, 3)], 2 * 4 * 6 * 9 * 3),
        (lambda x, y: torch.einsum("bhn,bhnd->bhd", x, y), [(2, 4, 6), (2, 4, 6, 3)], 2 * 4 * 6 * 3),
        (lambda x: x @ x.mT, [(2, 3, 5)], 2 * 3 * 3 * 5),
    ],
)
def test_matrix_products_have_their_closed_form(work, shapes, num_macs, device):
    assert count(work, *shapes, device=device).num_macs == num_macs
    with torch.inference_mode():  # where composite ops reach the counter undivided
        assert count(work, *shapes, device=device).num_macs == num_macs


def manual_attention(q, k, v):
    return torch.softmax(q @ k.mT / math.sqrt(q.shape[-1]), dim=-1) @ v


@pytest.mark.parametrize("device", ["meta", "cpu"])
@pytest.mark.parametrize("attention", [functional.scaled_dot_product_attention, manual_attention])
def test_softmax_attention_is_counted_on_either_device_however_it_is_written(attention, device):
    b, h, n, m, d = 2, 4, 16, 24, 8
    tally = count(attention, (b, h, n, d), (b, h, m, d), (b, h, m, d), device=device)
    assert tally.num_macs == 2 * b * h * n * m * d
    assert not tally.unknown


@pytest.mark.parametrize("device", ["meta", "cpu"])
def test_the_backward_pass_of_attention_costs_twice_the_forward_or_with_recomputed_scores_a_half_more(device):
    shape = (2, 4, 16, 8)

    def both(q, k, v):
        functional.scaled_dot_product_attention(q, k, v).sum().backward()

    tally = count(both, shape, shape, shape, device=device, requires_grad=True)
    forward = 2 * 2 * 4 * 16 * 16 * 8
    is_fused = "aten._scaled_dot_product_flash_attention_for_cpu_backward" in tally.products
    assert is_fused == (device == "cpu")
    assert tally.num_macs == forward * (3.5 if is_fused else 3)
    with sdpa_kernel(SDPBackend.MATH):
        assert count(both, shape, shape, shape, device=device, requires_grad=True).num_macs == 3 * forward


CONVOLUTIONS = [
    # name, convolution, side of the input
    ("plain", nn.Conv2d(4, 6, 3, padding=1), 8),
    ("1x1", nn.Conv2d(4, 6, 1, bias=False), 8),
    ("strided", nn.Conv2d(4, 6, 2, stride=2), 8),
    ("dilated", nn.Conv2d(4, 6, 3, padding=2, dilation=2), 8),
    ("grouped", nn.Conv2d(4, 6, 3, padding=1, groups=2), 8),
    ("depthwise", nn.Conv2d(4, 4, 3, padding=1, groups=4), 8),
    ("transposed", nn.ConvTranspose2d(4, 6, 2, stride=2), 8),
    ("transposed grouped", nn.ConvTranspose2d(4, 6, 4, stride=2, padding=1, groups=2), 8),
]


def macs_of_forward(convolution, b, side_in, side_out):
    """Each weight meets each position of the output, of a transposed convolution's input, once."""
    side = side_in if isinstance(convolution, nn.ConvTranspose2d) else side_out
    return b * convolution.weight.numel() * side**2


@pytest.mark.parametrize(("name", "convolution", "side"), CONVOLUTIONS, ids=[each[0] for each in CONVOLUTIONS])
@pytest.mark.parametrize("device", ["meta", "cpu"])
def test_a_convolution_and_its_first_and_second_derivative_have_their_closed_forms(name, convolution, side, device):
    convolution = convolution.to_empty(device=device)
    b = 3
    x = torch.zeros(b, 4, side, side, device=device, requires_grad=True)
    with OpCounter() as counter:
        y = convolution(x)
        once = macs_of_forward(convolution, b, side, y.shape[-1])
        assert counter.take().num_macs == once

        # to the input alone, as a penalty takes it; the filter's gradient is not asked for
        (gradient,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        assert counter.take().num_macs == once

        # the penalty's own gradient: the chain forward, input gradient, is differentiated with respect to x and weight
        gradient.square().sum().backward()
        second = counter.take()
    # y = W x, u = 2 y, g = Wᵀ u, P = ‖g‖², ḡ = 2 g: ū = W ḡ, W̄ = u ḡᵀ; then ȳ = 2 ū: x̄ = Wᵀ ȳ, W̄ += ȳ xᵀ
    assert second.num_macs == 4 * once
    assert not second.unknown


def test_a_strided_filter_gradient_inside_a_double_backward_counts_as_torch_computes_it_on_a_larger_kernel():
    convolution = nn.Conv2d(4, 6, 3, stride=2, padding=1, device="meta")
    x = torch.zeros(2, 4, 8, 8, device="meta", requires_grad=True)
    once = macs_of_forward(convolution, 2, 8, 4)
    with OpCounter() as counter:
        (gradient,) = torch.autograd.grad(convolution(x).square().sum(), x, create_graph=True)
        assert counter.take().num_macs == 2 * once
        gradient.square().sum().backward()
    # three products as they are, and u ḡᵀ as a convolution whose 4 × 4 outcome is cropped to 3 × 3
    assert counter.tally.num_macs == 3 * once + once * 16 // 9


def test_torch_still_takes_a_grouped_filter_gradient_for_too_much_so_our_formula_is_still_needed():
    shapes = ((3, 6, 8, 8), (3, 4, 8, 8), (6, 2, 3, 3))
    arguments = (None, [1, 1], [1, 1], [1, 1], False, [0, 0], 2, [False, True, False])
    tensors = [torch.zeros(shape, device="meta") for shape in shapes]
    result = torch.ops.aten.convolution_backward(*tensors, *arguments)
    theirs = flop_registry[torch.ops.aten.convolution_backward](*tensors, *arguments, out_val=result) // 2
    ours = count(lambda *given: torch.ops.aten.convolution_backward(*given, *arguments), *shapes).num_macs
    assert ours == 3 * 6 * 2 * 9 * 64
    assert theirs == 2 * ours


FLOAT = 4


@pytest.mark.parametrize(
    ("work", "shapes", "num_elements"),
    [
        (torch.mm, [(3, 5), (5, 7)], 3 * 5 + 5 * 7 + 3 * 7),
        (torch.add, [(3, 5), (3, 5)], 3 * 15),
        (torch.add, [(3, 5), (5,)], 15 + 5 + 15),
        (lambda x: x * x, [(3, 5)], 2 * 15),  # given twice, read once
        (lambda x: x.add_(1), [(3, 5)], 2 * 15),
        (lambda x: x.fill_(1), [(3, 5)], 15),
        (lambda x: x.zero_(), [(3, 5)], 15),
        (lambda x: x.normal_(), [(3, 5)], 15),
        (lambda x, y: x.copy_(y), [(3, 5), (3, 5)], 2 * 15),
        (lambda x, y, z: torch.add(x, y, out=z), [(3, 5)] * 3, 3 * 15),
        (lambda x: x.expand(100, 3, 5).sum(), [(1, 3, 5)], 15 + 1),  # a broadcast is read once
        (lambda x: x.t().view(-1)[3:].unsqueeze(0).detach(), [(1, 15)], 0),
        (torch.empty_like, [(3, 5)], 0),
        (torch.zeros_like, [(3, 5)], 15),
        (lambda x: x.reshape(5, 3), [(3, 5)], 0),
        (lambda x: x.t().reshape(3, 5), [(3, 5)], 2 * 15),  # a copy
        (lambda x: x.contiguous(), [(3, 5)], 0),
        (lambda x: x.t().contiguous(), [(3, 5)], 2 * 15),
        (lambda x, y: torch.cat([x, y]), [(3, 5), (4, 5)], 2 * 35),
        (lambda x: x.split(1), [(3, 5)], 0),
        (lambda x: torch._foreach_mul_([x, x.clone()], 2), [(3, 5)], 2 * 15 + 4 * 15),
    ],
)
def test_bytes_are_those_of_the_tensors_in_and_out_of_every_op(work, shapes, num_elements):
    for device in ("meta", "cpu"):
        tally = count(work, *shapes, device=device)
        assert tally.num_bytes == FLOAT * num_elements, device
        assert not tally.unknown


def test_bytes_follow_the_dtype():
    def work(x):
        return x.to(torch.bfloat16) + 1

    assert count(work, (3, 5)).num_bytes == 15 * (4 + 2) + 15 * (2 + 2)


def test_fused_adam_reads_four_tensors_and_writes_three_and_has_no_products():
    parameter = nn.Parameter(torch.zeros(10, 7))
    optimiser = torch.optim.Adam([parameter], fused=True)
    parameter.grad = torch.ones(10, 7)
    optimiser.step()  # makes the state
    with OpCounter() as counter:
        optimiser.step()
    num_bytes_of_step_count = 2 * FLOAT + FLOAT  # counted up, then read by the update
    assert counter.tally.num_bytes == 7 * 70 * FLOAT + num_bytes_of_step_count
    assert counter.tally.num_macs == 0
    assert not counter.tally.unknown


def test_an_op_that_no_list_knows_is_named_and_lowers_both_shares():
    def work(x):
        return torch.linalg.qr(x @ x)

    tally = count(work, (4, 4))
    assert dict(tally.unknown) == {"aten.linalg_qr": 1}
    assert tally.products == {"aten.mm": 1}
    assert tally.counted_op_share == 0.5
    assert tally.counted_byte_share == 2 / 5  # the product reads (once) and writes, the other reads one, writes two


def test_tallies_add_up_and_taking_starts_over():
    with OpCounter() as counter:
        torch.mm(torch.empty(2, 3, device="meta"), torch.empty(3, 4, device="meta")).relu()
        first = counter.take()
        torch.empty(5, device="meta").relu()
    both = first + counter.tally
    assert (first.num_macs, counter.tally.num_macs, both.num_macs) == (24, 0, 24)
    assert both.num_bytes == FLOAT * (6 + 12 + 8 + 8 + 8 + 5 + 5)
    assert both.without_products == {"aten.relu": 2}
    assert Tally().counted_op_share == Tally().counted_byte_share == 1


class EveryKind(nn.Module):
    """Layers of the field: norms, attention, spectral norm, resampling, in-place work, noise."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True)
        self.convolution = nn.utils.parametrizations.spectral_norm(nn.Conv2d(8, 8, 3, padding=1))
        self.norms = nn.Sequential(nn.BatchNorm2d(8), nn.GroupNorm(2, 8), nn.InstanceNorm2d(8), nn.LeakyReLU(0.2, True))
        self.up = nn.Sequential(nn.Upsample(scale_factor=2), nn.PixelShuffle(2), nn.AvgPool2d(2), nn.ReflectionPad2d(1))
        self.register_buffer("kernel", torch.ones(2, 1, 3, 3))

    def forward(self, x):
        tokens = self.encoder(x)
        image = tokens.mT.reshape(len(x), 8, 4, 4)
        image = self.up(self.norms(self.convolution(image)))
        image = functional.conv2d(image, self.kernel, groups=2)
        return image + torch.randn_like(image) * 0.1


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_on_shapes_alone_the_same_ops_are_counted_as_when_computing(training, precision):
    torch.manual_seed(0)
    network = EveryKind().train(training)

    def tally():
        network.zero_grad(set_to_none=True)
        x = torch.zeros(2, 16, 8, requires_grad=training)
        with OpCounter() as counter, torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            y = network(x)
            if training:
                (gradient,) = torch.autograd.grad(y.sum(), x, create_graph=True)
                (gradient.square().sum() + y.square().mean()).backward()
        return counter.tally

    with sdpa_kernel(SDPBackend.MATH):
        computed = tally()
    with shapes_only():
        inferred = tally()
    assert inferred.num_macs == computed.num_macs > 0
    assert inferred.products == computed.products
    # the CPU's batch norm leaves statistics out, or keeps them in another type, than it declares: a few hundred bytes
    assert inferred.num_bytes == pytest.approx(computed.num_bytes, rel=2e-3)
    if precision == "fp32":
        assert inferred.without_products == computed.without_products
    assert not inferred.unknown


def test_on_shapes_alone_nothing_is_computed_and_what_needs_a_value_raises():
    x = torch.full((4,), 3.0)
    before = torch.get_rng_state()
    with shapes_only():
        x.add_(1)
        y = torch.randn(10**5, 10**4)  # 4 GB of which not a page is touched
        assert y.shape == (10**5, 10**4) and y.device.type == "cpu"
        with pytest.raises(RuntimeError):
            y.sum().item()
        with pytest.raises((RuntimeError, NotImplementedError)):
            torch.nonzero(x)
        torch.manual_seed(99)
    assert x.tolist() == [3.0] * 4
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.backends.mha.get_fastpath_enabled()
    assert torch.backends.cuda.flash_sdp_enabled()
