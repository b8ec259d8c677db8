"""The attention operators of the controlled experiment, one interface: tokens [b, n, c] → tokens [b, n, c].

Why it exists: LadaGAN's own operator is additive attention. Whether it is the operator that pays is known only when the
others are put into the same skeleton: same widths, data, losses and budget. All of them share the four linear maps
q, k, v and output; only what happens between differs (n tokens of width c, h heads of width d = c / h):

                                                                       MACs beside 4 n c²
    additive       one vector per head stands for all tokens           n (h c + c)
    softmax        every token looks at every token                    2 n² c
    linformer      softmax over r = 256 learned mixtures of tokens     4 r n c, where n > r
    kernel-linear  softmax replaced by a kernel, sums taken first      2 n c d + n c
    window         every token looks at its 8 × 8 window               2 · 64 n c

Additive attention (Lada). Source: Morales-Juarez and Fuentes-Pineda, arXiv 2401.09596, the section on linear additive
attention, and the official code, class `AdditiveAttention` of `tensorflow/model.py`:
https://github.com/milmor/LadaGAN/blob/eb3ed9c53c4f4b2775aaee034d991075f670af0d/tensorflow/model.py
(MIT; facts were read there, the code is ours). For tokens x_1 … x_n:

    (1)  q_i = W_q x_i + b_q     k_i = W_k x_i + b_k     v_i = W_v x_i + b_v
    (2)  α_i = softmax over i of (W_α q_i + b_α) / √d    one scalar per token and head, from the full-width q_i
    (3)  g   = Σ_i α_i q_i                               one vector per head
    (4)  r_i = (g ⊙ k_i) ⊙ v_i                           head by head
    (5)  y_i = W_o r_i + b_o

The equations are numbered here in the order of the official code. Nothing of size n × n exists; the largest
intermediates are [b, n, c]. Differences from the official code: none in the arithmetic. Equation (3) is a batched
matrix product, as the official `einsum` is, so that counters see its n c multiply-accumulates.

The others are written from the papers and replace (2) to (4) by a mixture of values, head by head:

* softmax: Vaswani et al., arXiv 1706.03762, equation 1:  r = softmax(q kᵀ / √d) v
* linformer: Wang et al., arXiv 2006.04768, equation 7:  r = softmax(q (E k)ᵀ / √d) (E v), E [r, n] learned, without
  bias, one for all heads and for keys and values alike (the paper's "key-value sharing"), so that the generator grows
  by 1.3 % and not by 2.6 %. A stage with no more tokens than the rank has nothing to shorten and is plain softmax.
* kernel-linear: Katharopoulos et al., arXiv 2006.16236, equations 5 and 7:
  r_i = φ(q_i) Σ_j φ(k_j)ᵀ v_j / φ(q_i) · Σ_j φ(k_j), with φ(x) = elu(x) + 1.
* window: Liu et al., arXiv 2103.14030, section 3.2, without shift and without position bias: the skeleton has one block
  per stage, so there is no second one to shift, and learned positions of its own. A grid that one window holds is
  plain softmax.

Two ways to compute a softmax. torch's fused kernel holds nothing of size n × n, but its derivative cannot be
differentiated again (on a CPU and on a GPU), which R1 in a discriminator needs. `is_fused` chooses: LadaGAN's generator
uses the kernel, its discriminator plain products. Up to rounding both have the same values, and forward the same
multiply-accumulates; backward the kernel forms the scores once more instead of keeping them.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn import functional

from models._relative_position import from_windows, to_windows
from models._transformer import attend, split_heads

OPERATORS: Mapping[str, str] = {
    "additive": "additive, O(n)",
    "softmax": "softmax over all tokens, O(n²)",
    "linformer": "softmax over 256 mixtures of tokens, O(n)",
    "kernel-linear": "linear by the kernel elu + 1, O(n)",
    "window": "softmax in 8 × 8 windows, O(n)",
}
LINFORMER_RANK = 256
WINDOW_SIZE = 8  # tokens per side
_KERNEL_EPS = 1e-6  # of the normaliser, as in the authors' code


def build_attention(
    operator: str, width: int, num_heads: int, grid: tuple[int, int], *, is_fused: bool = False
) -> nn.Module:
    """One attention layer for the tokens of a grid, row by row; its tokens [b, n, c] have n = rows · columns.

    Args:
        operator: one of OPERATORS.
        width: channels c of a token.
        num_heads: heads h; must divide the width.
        grid: rows and columns of tokens.
        is_fused: a softmax may use torch's fused kernel: faster, but not differentiable twice.

    Raises:
        ValueError: an unknown operator, heads that do not divide the width, or windows that do not fill the grid.
    """
    if operator == "additive":
        return AdditiveAttention(width, num_heads)
    if operator == "softmax":
        return SoftmaxAttention(width, num_heads, is_fused=is_fused)
    if operator == "linformer":
        return LinformerAttention(width, num_heads, grid[0] * grid[1], is_fused=is_fused)
    if operator == "kernel-linear":
        return KernelLinearAttention(width, num_heads)
    if operator == "window":
        return WindowAttention(width, num_heads, grid, is_fused=is_fused)
    raise ValueError(f"There is no attention '{operator}'; known: {', '.join(OPERATORS)}.")


class AdditiveAttention(nn.Module):
    """Tokens [b, n, c] → tokens [b, n, c], for any n.

    The submodule `token_softmax` returns the attention maps α [b, h, n]; a forward hook on it reads them.

    Args:
        width: channels c of a token.
        num_heads: heads h; must divide the width.

    Raises:
        ValueError: the width is not a multiple of the number of heads.
    """

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        _check_heads(width, num_heads)
        self.num_heads = num_heads
        self.scale = (width // num_heads) ** -0.5
        self.to_q = nn.Linear(width, width)
        self.to_k = nn.Linear(width, width)
        self.to_v = nn.Linear(width, width)
        self.to_score = nn.Linear(width, num_heads)
        self.token_softmax = nn.Softmax(dim=-1)
        self.to_out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Equations (1) to (5); x [b, n, c]."""
        q, k, v = self.to_q(x), self.to_k(x), self.to_v(x)  # (1)  [b, n, c] each
        scores = (self.to_score(q) * self.scale).transpose(1, 2)  # [b, h, n]
        alpha = self.token_softmax(scores)  # (2)  [b, h, n]
        q_per_head = q.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # [b, h, n, d], a view
        g = (alpha.unsqueeze(2) @ q_per_head).flatten(1).unsqueeze(1)  # (3)  [b, 1, c]
        r = (g * k) * v  # (4)  [b, n, c]
        y: Tensor = self.to_out(r)  # (5)  [b, n, c]
        return y


class SoftmaxAttention(nn.Module):
    """Tokens [b, n, c] → tokens [b, n, c]; every token attends to every token.

    The three operators below inherit its linear maps and change what keys and values a token sees.

    Args:
        width: channels c of a token.
        num_heads: heads h; must divide the width.
        is_fused: use torch's fused kernel, which cannot be differentiated twice.

    Raises:
        ValueError: the width is not a multiple of the number of heads.
    """

    def __init__(self, width: int, num_heads: int, *, is_fused: bool = False) -> None:
        super().__init__()
        _check_heads(width, num_heads)
        self.num_heads = num_heads
        self.is_fused = is_fused
        self.to_q = nn.Linear(width, width)
        self.to_k = nn.Linear(width, width)
        self.to_v = nn.Linear(width, width)
        self.to_out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """x [b, n, c] → [b, n, c]."""
        r = self.mixed(self.to_q(x), self.to_k(x), self.to_v(x))
        y: Tensor = self.to_out(r)
        return y

    def mixed(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Queries [b, n, c], keys and values [b, m, c] → [b, n, c]; head by head softmax(q kᵀ / √d) v."""
        return attend(*(split_heads(each, self.num_heads) for each in (q, k, v)), is_fused=self.is_fused)


class LinformerAttention(SoftmaxAttention):
    """Softmax over LINFORMER_RANK learned mixtures of the tokens; plain softmax where there are no more tokens.

    Args:
        width, num_heads, is_fused: as for `SoftmaxAttention`.
        num_tokens: tokens n, to which the layer is bound.
    """

    def __init__(self, width: int, num_heads: int, num_tokens: int, *, is_fused: bool = False) -> None:
        super().__init__(width, num_heads, is_fused=is_fused)
        shortens = num_tokens > LINFORMER_RANK
        self.shorten = nn.Linear(num_tokens, LINFORMER_RANK, bias=False) if shortens else None  # E [r, n]

    def mixed(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """[b, n, c] each → [b, n, c]."""
        if self.shorten is not None:
            k, v = self.shorten.weight @ k, self.shorten.weight @ v  # [b, r, c]
        return super().mixed(q, k, v)


class WindowAttention(SoftmaxAttention):
    """Softmax inside windows of WINDOW_SIZE × WINDOW_SIZE tokens; plain softmax where one window holds the whole grid.

    Args:
        width, num_heads, is_fused: as for `SoftmaxAttention`.
        grid: rows and columns of tokens.

    Raises:
        ValueError: windows do not fill the grid.
    """

    def __init__(self, width: int, num_heads: int, grid: tuple[int, int], *, is_fused: bool = False) -> None:
        super().__init__(width, num_heads, is_fused=is_fused)
        self.is_whole = max(grid) <= WINDOW_SIZE
        if not self.is_whole and any(side % WINDOW_SIZE for side in grid):
            raise ValueError(f"Windows of {WINDOW_SIZE} tokens per side do not fill a grid of {grid[0]} × {grid[1]}.")
        self.grid = grid

    def mixed(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """[b, n, c] each → [b, n, c]."""
        if self.is_whole:
            return super().mixed(q, k, v)
        b, n, c = q.shape
        windows = (to_windows(x.reshape(b, *self.grid, c), WINDOW_SIZE) for x in (q, k, v))  # [b, windows, 64, c]
        r = super().mixed(*(x.flatten(0, 1) for x in windows))  # [b · windows, 64, c]
        r = r.reshape(b, -1, WINDOW_SIZE**2, c)
        return from_windows(r, WINDOW_SIZE, self.grid[1] // WINDOW_SIZE).reshape(b, n, c)


class KernelLinearAttention(SoftmaxAttention):
    """Attention whose softmax is replaced by φ(q) · φ(k), φ = elu + 1; keys and values are summed before queries come.

    Args:
        width, num_heads: as for `SoftmaxAttention`.
    """

    def mixed(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """[b, n, c] each → [b, n, c]."""
        q, k, v = (split_heads(each, self.num_heads) for each in (q, k, v))  # [b, h, n, d]
        q, k = functional.elu(q) + 1, functional.elu(k) + 1
        summed = k.transpose(-2, -1) @ v  # [b, h, d, d]
        normaliser = q @ k.sum(dim=2).unsqueeze(-1)  # [b, h, n, 1]
        r = (q @ summed) / (normaliser + _KERNEL_EPS)
        return r.transpose(1, 2).flatten(2)


def _check_heads(width: int, num_heads: int) -> None:
    if width % num_heads:
        raise ValueError(f"The attention width {width} is not a multiple of {num_heads} heads.")
