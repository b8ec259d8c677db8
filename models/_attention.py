"""Linear additive attention (Lada): one vector per head stands for all tokens, so the cost is linear in their number.

Why it exists: it is the layer that gives LadaGAN its name, in the generator and in the discriminator.

Source: Morales-Juarez and Fuentes-Pineda, arXiv 2401.09596, the section on linear additive attention, and the official
code, class `AdditiveAttention` of `tensorflow/model.py`:
https://github.com/milmor/LadaGAN/blob/eb3ed9c53c4f4b2775aaee034d991075f670af0d/tensorflow/model.py
(MIT; facts were read there, the code is ours). For tokens x_1 … x_n of width c and heads of width d = c / h:

    (1)  q_i = W_q x_i + b_q     k_i = W_k x_i + b_k     v_i = W_v x_i + b_v
    (2)  α_i = softmax over i of (W_α q_i + b_α) / √d    one scalar per token and head, from the full-width q_i
    (3)  g   = Σ_i α_i q_i                               one vector per head
    (4)  r_i = (g ⊙ k_i) ⊙ v_i                           head by head
    (5)  y_i = W_o r_i + b_o

The equations are numbered here in the order of the official code. Multiply-accumulates per image: n (4 c² + h c + c).
Nothing of size n × n exists; the largest intermediates are [b, n, c].

Differences from the official code: none in the arithmetic. Equation (3) is a batched matrix product, as the official
`einsum` is, so that counters see its n c multiply-accumulates.
"""

from __future__ import annotations

from torch import Tensor, nn


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
        if width % num_heads:
            raise ValueError(f"The attention width {width} is not a multiple of {num_heads} heads.")
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
