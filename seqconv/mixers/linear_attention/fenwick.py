"""Log-linear attention: a decayed linear attention whose past is weighted by logarithmically many distance levels.

Equation, per head, with a decay ``α = exp(g)`` and weights ``λ_t`` of (levels,) that every token computes::

    o_i = sum_{j<=i} λ_{i, ℓ(i,j)} (q_i · k_j) exp(g_{j+1} + … + g_i) v_j        ℓ(i,j) = min(bits(i ⊕ j), levels - 1)

ℓ is the number of binary digits up to the highest one in which the positions i and j differ: 0 for the token itself,
l for the bucket of 2^(l-1) tokens that the Fenwick tree of [0, i) holds where bit l-1 of i is set. Beyond the last
level all buckets share its weight. The memory before position p has one matrix for each level,
``S_l = sum_{j: ℓ(p,j)=l} exp(…) k_j v_j^T``: of size d_k × d_v × (levels - 1), cost O(length · levels).

A token i >= p reads ``S_l`` at level ``max(l, ℓ(i,p))``, since one of the two highest differing digits is the higher
one; for the same reason ``S_l`` becomes part of level ``max(l, ℓ(n,p))`` of the memory before a later position n.

Source: Guo et al. 2025, "Log-Linear Attention" (arXiv 2506.04761); ``fla/ops/log_linear_attn/naive.py`` of
fla-org/flash-linear-attention at bc3b101d.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from seqconv_kernels._core.operator.composed import Composed
from seqconv_kernels._core.precision import no_autocast

CHUNK = 64
"""Tokens whose weights are held at once."""


def level(a: Tensor, b: Tensor, last: int) -> Tensor:
    """ℓ of two positions, at most ``last``."""
    powers = 2 ** torch.arange(last, device=a.device)
    return ((a ^ b)[..., None] >= powers).sum(-1)


def _attend(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, scales: Tensor, memory: Tensor, position: Tensor, start: Tensor
) -> tuple[Tensor, Tensor]:
    with no_autocast(q):
        v, g, scales, outputs = v.transpose(1, 2), g.transpose(1, 2), scales.transpose(1, 2), []
        for first in range(0, q.shape[1], CHUNK):
            span = slice(first, first + CHUNK)
            value, decay, weight = (t[:, :, span] for t in (v, g, scales))
            o, memory = _chunk(q[:, span], k[:, span], value, decay, weight, position[:, span], memory, start)
            start = position[:, span][:, -1] + 1
            outputs.append(o)
        return torch.cat(outputs, dim=2).transpose(1, 2), memory


def _chunk(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, scales: Tensor, position: Tensor, memory: Tensor, start: Tensor
) -> tuple[Tensor, Tensor]:
    """Outputs (batch, heads, chunk, d_v) and the memory (batch, heads, levels - 1, d_k, d_v) after the chunk."""
    last, end = scales.shape[-1] - 1, position[:, -1] + 1
    token = position.clamp(min=0)  # padding in front, whose keys are zero
    own, total = torch.arange(1, last + 1, device=q.device), g.cumsum(-1)
    future = torch.ones(2 * g.shape[-1:], dtype=torch.bool, device=g.device).triu(1)
    decay = (total[..., :, None] - total[..., None, :]).masked_fill(future, -torch.inf).exp()
    weights = _at_level(scales, level(token[:, :, None], token[:, None, :], last))
    o = (weights * decay * (q @ k.mT)[:, None]) @ v
    # The past: every old level is read at the level that it has for the query.
    moved = torch.maximum(own, level(token, start[:, None], last)[..., None])
    read = torch.einsum("bcn,bhlnp->bhclp", q, memory)
    o = o + (_at_level(scales, moved)[..., None] * read).sum(-2) * total.exp()[..., None]
    # The memory before position ``end``: old levels move up, tokens of the chunk enter the level that they have.
    moves = F.one_hot(torch.maximum(own, level(end, start, last)[:, None]) - 1, last).to(v.dtype)
    kept = torch.einsum("blm,bhlnp->bhmnp", moves, memory) * total[..., -1, None, None, None].exp()
    enters = F.one_hot((level(token, end[:, None], last) - 1).clamp(min=0), last).to(v.dtype)
    late = (total[..., -1:] - total).exp()[..., None] * v
    return o, kept + torch.einsum("bcl,bcn,bhcp->bhlnp", enters, k, late)


def _at_level(scales: Tensor, levels: Tensor) -> Tensor:
    """Weights (batch, heads, chunk, …) of the levels (batch, chunk, …)."""
    return scales.gather(-1, levels[:, None].expand(-1, scales.shape[1], -1, -1))


log_linear_attention = Composed(
    "log_linear_attention",
    _attend,
    lambda q, k, v, g, scales, memory, position, start: (v.new_empty(v.shape), memory.new_empty(memory.shape)),
)
"""``log_linear_attention(q, k, v, g, scales, memory, position, start)``: outputs and the memory after them.

``q`` and ``k`` are (batch, length, d_k), shared by all heads; outputs and ``v`` (batch, length, heads, d_v); ``g``
(batch, length, heads); ``scales`` (batch, length, heads, levels); ``memory`` (batch, heads, levels - 1, d_k, d_v);
``position`` (batch, length), the index of each token in its row, -1 before its first one; ``start`` (batch) the
position of the first one to come.

An operator, since there are as many steps as chunks of :data:`CHUNK` tokens.
"""
