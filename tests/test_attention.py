"""The attention operators: worked by hand, equal to their equations, of the promised cost, differentiable twice."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from bench.phases._op_counter import OpCounter
from models._attention import (
    LINFORMER_RANK,
    OPERATORS,
    AdditiveAttention,
    KernelLinearAttention,
    LinformerAttention,
    SoftmaxAttention,
    WindowAttention,
    build_attention,
)


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


def scores_by_head(layer, x):
    """(q, k, v) per head, [h, n, d], of one image's tokens [n, c]."""
    named = (layer.to_q(x), layer.to_k(x), layer.to_v(x))
    return [each.unflatten(-1, (layer.num_heads, -1)).transpose(0, 1) for each in named]


def as_tokens(r):
    return r.transpose(0, 1).flatten(1)  # [h, n, d] → [n, c]


def softmax_of_each_query(q, k, v):
    """softmax(q kᵀ / √d) v, query by query."""
    rows = []
    for one in q.unbind(-2):
        weights = torch.exp((k * one.unsqueeze(-2)).sum(-1) / math.sqrt(q.shape[-1]))  # [h, n]
        rows.append((weights.unsqueeze(-1) * v).sum(-2) / weights.sum(-1, keepdim=True))
    return torch.stack(rows, dim=-2)


def test_softmax_attention_of_two_tokens_worked_by_hand():
    layer = SoftmaxAttention(width=1, num_heads=1)
    for linear in (layer.to_q, layer.to_k, layer.to_v, layer.to_out):
        torch.nn.init.ones_(linear.weight)
        torch.nn.init.zeros_(linear.bias)
    a = math.sqrt(math.log(3))  # scores of the second token: 0 and ln 3 → weights 1/4 and 3/4
    with torch.no_grad():
        y = layer(torch.tensor([[[0.0], [a]]]))
    torch.testing.assert_close(y, torch.tensor([[[a / 2], [3 * a / 4]]]))


@pytest.mark.parametrize("is_fused", [False, True])
def test_softmax_attention_is_its_equation(is_fused):
    torch.manual_seed(0)
    layer = SoftmaxAttention(6, 2, is_fused=is_fused).double()
    x = torch.randn(2, 7, 6, dtype=torch.float64)
    expected = [layer.to_out(as_tokens(softmax_of_each_query(*scores_by_head(layer, one)))) for one in x]
    torch.testing.assert_close(layer(x), torch.stack(expected))


@pytest.mark.parametrize("is_fused", [False, True])
def test_linformer_looks_at_learned_mixtures_of_keys_and_values(is_fused):
    torch.manual_seed(0)
    num_tokens = LINFORMER_RANK + 4
    layer = LinformerAttention(4, 2, num_tokens, is_fused=is_fused).double()
    x = torch.randn(2, num_tokens, 4, dtype=torch.float64)
    projection = layer.shorten.weight  # [r, n], one for all heads, for keys and values
    assert projection.shape == (LINFORMER_RANK, num_tokens)
    expected = []
    for one in x:
        q, k, v = scores_by_head(layer, one)
        expected.append(layer.to_out(as_tokens(softmax_of_each_query(q, projection @ k, projection @ v))))
    torch.testing.assert_close(layer(x), torch.stack(expected))


def test_linformer_with_no_more_tokens_than_its_rank_is_plain_softmax():
    layer, softmax = LinformerAttention(4, 2, LINFORMER_RANK), SoftmaxAttention(4, 2)
    softmax.load_state_dict(layer.state_dict())  # strict: there is no projection
    x = torch.randn(1, LINFORMER_RANK, 4)
    torch.testing.assert_close(layer(x), softmax(x))


def test_kernel_linear_attention_is_the_quadratic_sum_over_its_kernel():
    torch.manual_seed(0)
    layer = KernelLinearAttention(6, 2).double()
    x = torch.randn(9, 6, dtype=torch.float64)

    def feature(each):
        return torch.where(each > 0, each + 1, torch.exp(each))

    q, k, v = scores_by_head(layer, x)
    weights = feature(q) @ feature(k).transpose(1, 2)  # [h, n, n], never formed by the layer
    expected = layer.to_out(as_tokens(weights @ v / weights.sum(-1, keepdim=True)))
    torch.testing.assert_close(layer(x[None])[0], expected, rtol=1e-6, atol=1e-6)  # the normaliser has an eps


def tokens_that_matter(layer, grid, token):
    """Grid of booleans: which input tokens the output at `token` depends on."""
    x = torch.randn(1, grid[0] * grid[1], 4, requires_grad=True)
    layer(x)[0, token[0] * grid[1] + token[1]].sum().backward()
    return (x.grad[0].abs().sum(-1) > 0).reshape(grid)


@pytest.mark.parametrize("is_fused", [False, True])
@pytest.mark.parametrize("token", [(0, 0), (9, 17), (15, 31)])
def test_a_window_sees_all_of_itself_and_nothing_else(token, is_fused):
    torch.manual_seed(0)
    grid = (16, 32)
    seen = tokens_that_matter(WindowAttention(4, 2, grid, is_fused=is_fused), grid, token)
    expected = torch.zeros(grid, dtype=torch.bool)
    row, column = (8 * (each // 8) for each in token)
    expected[row : row + 8, column : column + 8] = True
    assert torch.equal(seen, expected)


def test_every_window_is_softmax_attention_of_its_tokens():
    torch.manual_seed(0)
    layer, softmax = WindowAttention(4, 2, (16, 24)), SoftmaxAttention(4, 2)
    softmax.load_state_dict(layer.state_dict())
    x = torch.randn(2, 16, 24, 4)
    y = layer(x.flatten(1, 2)).unflatten(1, (16, 24))
    for row in (0, 8):
        for column in (0, 8, 16):
            window = (slice(None), slice(row, row + 8), slice(column, column + 8))
            torch.testing.assert_close(y[window].flatten(1, 2), softmax(x[window].flatten(1, 2)))


@pytest.mark.parametrize("grid", [(8, 8), (2, 4), (1, 1)])
def test_a_grid_that_one_window_covers_is_plain_softmax(grid):
    layer, softmax = WindowAttention(4, 2, grid), SoftmaxAttention(4, 2)
    softmax.load_state_dict(layer.state_dict())
    x = torch.randn(2, grid[0] * grid[1], 4)
    torch.testing.assert_close(layer(x), softmax(x))


def test_windows_that_do_not_fill_the_grid_are_refused():
    for grid in ((8, 12), (4, 16)):
        with pytest.raises(ValueError, match=f"8 tokens per side do not fill a grid of {grid[0]} × {grid[1]}"):
            WindowAttention(4, 2, grid)


def macs_between_the_linear_maps(operator, n, c, h):
    """Of n tokens in c channels and h heads; Linformer and window beyond 256 and 64 tokens."""
    return {
        "additive": n * (h * c + c),
        "softmax": 2 * n * n * c,
        "linformer": 4 * 256 * n * c,
        "kernel-linear": 2 * n * c * (c // h) + n * c,
        "window": 2 * 64 * n * c,
    }[operator]


@pytest.mark.parametrize("is_fused", [False, True])
@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize(("width", "num_heads", "grid"), [(64, 4, (32, 32)), (16, 2, (16, 32)), (8, 1, (64, 64))])
def test_macs_are_those_of_the_closed_forms_whichever_way_a_softmax_is_computed(
    operator, width, num_heads, grid, is_fused
):
    num_tokens = grid[0] * grid[1]
    with torch.no_grad():
        layer = build_attention(operator, width, num_heads, grid, is_fused=is_fused)
        x = torch.zeros(1, num_tokens, width)
        with OpCounter() as counter:
            layer(x)
    between = macs_between_the_linear_maps(operator, num_tokens, width, num_heads)
    assert counter.tally.num_macs == 4 * num_tokens * width**2 + between
    assert not counter.tally.unknown


GRID_BEYOND_RANK = (16, 17)  # 272 tokens, more than Linformer's rank


@pytest.mark.parametrize("operator", OPERATORS)
def test_every_operator_is_right_in_its_first_and_second_derivatives(operator):
    torch.manual_seed(0)
    grid = {"linformer": GRID_BEYOND_RANK, "window": (8, 16)}.get(operator, (1, 3))
    layer = build_attention(operator, 2, 1, grid).double()
    x = torch.randn(1, grid[0] * grid[1], 2, dtype=torch.float64, requires_grad=True)
    check = {"fast_mode": operator in {"linformer", "window"}}
    assert torch.autograd.gradcheck(layer, (x,), **check)
    assert torch.autograd.gradgradcheck(layer, (x,), **check)


def test_a_fused_softmax_cannot_be_differentiated_twice_so_it_has_to_be_asked_for():
    x = torch.randn(1, 4, 4, requires_grad=True)

    def penalty(layer):
        (gradient,) = torch.autograd.grad(layer(x).sum(), x, create_graph=True)
        return gradient.square().sum()

    with pytest.raises(RuntimeError, match="not implemented"):
        penalty(SoftmaxAttention(4, 2, is_fused=True)).backward()
    penalty(SoftmaxAttention(4, 2)).backward()
    assert build_attention("softmax", 4, 2, (2, 2)).is_fused is False


@pytest.mark.parametrize("operator", OPERATORS)
def test_every_operator_refuses_heads_that_do_not_divide_the_width(operator):
    with pytest.raises(ValueError, match="width 6 is not a multiple of 4 heads"):
        build_attention(operator, 6, 4, (8, 8))


def test_an_unknown_operator_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"no attention 'quadratic'; known: additive, softmax"):
        build_attention("quadratic", 4, 2, (8, 8))
