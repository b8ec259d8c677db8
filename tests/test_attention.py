"""Additive attention: worked by hand, equal to its equations, linear in tokens, differentiable twice."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from models._attention import AdditiveAttention


class CountNewBytes(TorchDispatchMode):
    """Adds up the bytes of every tensor an operation creates; a view creates none."""

    def __init__(self):
        super().__init__()
        self.num_bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if not func.is_view:
            self.num_bytes += sum(leaf.nbytes for leaf in tree_leaves(out) if isinstance(leaf, torch.Tensor))
        return out


def cost(width, num_heads, num_tokens):
    with torch.device("meta"):
        layer, x = AdditiveAttention(width, num_heads), torch.empty(1, num_tokens, width)
        with FlopCounterMode(display=False) as flops, CountNewBytes() as created:
            layer(x)
    return flops.get_total_flops() // 2, created.num_bytes


def as_identity(layer):
    for linear in (layer.to_q, layer.to_k, layer.to_v, layer.to_out):
        torch.nn.init.eye_(linear.weight)
        torch.nn.init.zeros_(linear.bias)
    torch.nn.init.zeros_(layer.to_score.weight)
    torch.nn.init.zeros_(layer.to_score.bias)


def from_the_equations(layer, x):
    """Equations (1) to (5), token by token and head by head, in float64."""
    depth = x.shape[1] // layer.num_heads
    q, k, v = layer.to_q(x), layer.to_k(x), layer.to_v(x)
    r = torch.empty_like(x)
    for head in range(layer.num_heads):
        part = slice(head * depth, (head + 1) * depth)
        score = [(layer.to_score.weight[head] @ q_i + layer.to_score.bias[head]) / math.sqrt(depth) for q_i in q]
        total = sum(torch.exp(s) for s in score)
        g = sum(torch.exp(s) / total * q_i[part] for s, q_i in zip(score, q, strict=True))
        for i in range(len(x)):
            r[i, part] = g * k[i, part] * v[i, part]
    return layer.to_out(r)


def test_three_tokens_and_two_heads_worked_by_hand():
    layer = AdditiveAttention(width=2, num_heads=2)
    as_identity(layer)
    with torch.no_grad():
        layer.to_score.weight[0, 0] = math.log(2)  # head 1 scores 0, ln 2, 2 ln 2 → weights 1/7, 2/7, 4/7
        layer.to_out.bias.copy_(torch.tensor([1.0, -1.0]))
        y = layer(torch.tensor([[[0.0, 1.0], [1.0, 2.0], [2.0, 3.0]]]))
    # head 1: g = (0 · 1 + 1 · 2 + 2 · 4) / 7 = 10/7; head 2: equal weights, g = (1 + 2 + 3) / 3 = 2; r = g k v
    expected = torch.tensor([[[0 + 1, 2 - 1], [10 / 7 + 1, 8 - 1], [40 / 7 + 1, 18 - 1]]])
    torch.testing.assert_close(y, expected)


def test_scores_are_divided_by_the_root_of_the_head_width():
    layer = AdditiveAttention(width=4, num_heads=1)
    as_identity(layer)
    maps = []
    layer.token_softmax.register_forward_hook(lambda _layer, _args, out: maps.append(out))
    with torch.no_grad():
        layer.to_score.weight[0, 0] = 2 * math.log(3)  # over √4: ln 3
        layer(torch.tensor([[[0.0, 0, 0, 0], [1, 0, 0, 0]]]))
    torch.testing.assert_close(maps[0], torch.tensor([[[0.25, 0.75]]]))


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 17), st.sampled_from([(4, 1), (4, 4), (6, 2)]), st.integers(0, 99))
def test_any_number_of_tokens_gives_what_the_equations_give(num_tokens, shape, seed):
    torch.manual_seed(seed)
    layer = AdditiveAttention(*shape).double()
    x = torch.randn(2, num_tokens, shape[0], dtype=torch.float64)
    with torch.no_grad():
        expected = torch.stack([from_the_equations(layer, one) for one in x])
        torch.testing.assert_close(layer(x), expected)


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 300), st.sampled_from([(8, 1), (8, 4), (64, 4)]))
def test_macs_and_bytes_are_linear_in_tokens(num_tokens, shape):
    width, num_heads = shape
    (macs, size), (macs_2, size_2), (macs_3, size_3) = (cost(*shape, num_tokens * factor) for factor in (1, 2, 3))
    assert macs == num_tokens * (4 * width**2 + num_heads * width + width)
    assert (macs_2, macs_3) == (2 * macs, 3 * macs)
    assert size_3 - size_2 == size_2 - size > 0


def test_a_million_tokens_never_meet_pairwise():
    _, num_bytes = cost(8, 4, 2**20)
    assert num_bytes < 2**20 * 8 * 4 * 20  # twenty copies of the input; one n × n map would be 4 TiB


def test_order_of_tokens_does_not_matter_to_the_output_of_each():
    torch.manual_seed(0)
    layer, x = AdditiveAttention(8, 2), torch.randn(2, 9, 8)
    order = torch.randperm(9)
    torch.testing.assert_close(layer(x)[:, order], layer(x[:, order]))


def test_attention_maps_are_read_by_a_hook_and_sum_to_one_over_tokens():
    layer, maps = AdditiveAttention(8, 2), []
    layer.token_softmax.register_forward_hook(lambda _layer, _args, out: maps.append(out))
    layer(torch.randn(3, 5, 8))
    assert maps[0].shape == (3, 2, 5)
    torch.testing.assert_close(maps[0].sum(-1), torch.ones(3, 2))


def test_first_and_second_derivatives_are_right():
    torch.manual_seed(0)
    layer = AdditiveAttention(4, 2).double()
    x = torch.randn(1, 3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(layer, (x,))
    assert torch.autograd.gradgradcheck(layer, (x,))


def test_bfloat16_autocast_stays_near_float32():
    torch.manual_seed(0)
    layer, x = AdditiveAttention(16, 4), torch.randn(2, 32, 16)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        low = layer(x)
    with torch.no_grad():
        full = layer(x)
    assert low.dtype == torch.bfloat16
    torch.testing.assert_close(low.float(), full, atol=0.03, rtol=0.05)


def test_a_width_that_the_heads_do_not_divide_is_refused():
    with pytest.raises(ValueError, match="width 6 is not a multiple of 4 heads"):
        AdditiveAttention(6, 4)
