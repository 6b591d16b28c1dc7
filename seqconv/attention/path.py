"""Attention whose scores pass Householder-like reflections between key and query (PaTH), in chunks and from a cache.

Equation, per head, with unit vectors w and strengths β in (0, 2)::

    H_s = I - β_s w_s w_s^T
    o_i = sum_{j<=i} softmax_j(scale (q_i^T H_i H_{i-1} … H_{j+1} k_j + G_i - G_j)) v_j

G is the running sum of the forget gate's logarithms, zero without one. The cache holds ``H_t … H_{j+1} k_j`` of every
past token, so that a query after it meets them as they are. Within a chunk, with the rows of W, K, Q and B = diag(β)::

    A = I + tril(B W W^T, -1)     U = A^{-1} B W     C = A^{-1} tril(B W K^T, -1)
    H_i … H_1 = I - sum_{s<=i} w_s u_s^T
    scores = tril(Q K^T) - tril(Q W^T) C             of the chunk's own keys
    scores = (Q - tril(Q W^T) U) K'^T                of the keys K' in the cache
    K' <- K' - (K' U^T) W,    K <- K - C^T W         the cache after the chunk

Source: Yang et al. 2025 (arXiv 2505.16381), sections 3 and 4; ``fla/ops/path_attn/naive.py`` of
fla-org/flash-linear-attention at bc3b101d, where the gate's sum is scaled with the product, too.
"""

import torch
from torch import Tensor

from seqconv_kernels._core.operator.composed import Composed
from seqconv_kernels._core.portable import solve_unit_lower
from seqconv_kernels._core.precision import no_autocast

CHUNK = 64
"""Tokens whose reflections are multiplied out at once."""


def _attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    w: Tensor,
    beta: Tensor,
    key: Tensor,
    visible: Tensor,
    gate: Tensor | None,
    float32_scores: bool,
) -> tuple[Tensor, Tensor]:
    with no_autocast(q):
        past, groups = key.shape[1], k.shape[2]
        scale, q = q.shape[-1] ** -0.5, q.unflatten(2, (groups, -1)).permute(0, 2, 3, 1, 4)
        k, v, w, key = (t.transpose(1, 2) for t in (k, v, w, key))
        strength = beta.transpose(1, 2)[..., None]
        total = None if gate is None else gate.unflatten(2, (groups, -1)).permute(0, 2, 3, 1)
        outputs = []
        for start in range(0, k.shape[2], CHUNK):
            span = slice(start, min(start + CHUNK, k.shape[2]))
            scores, key = _chunk(q[..., span, :], k[:, :, span], w[:, :, span], strength[:, :, span], key)
            seen = past + span.stop
            if float32_scores:
                scores = scores.float().to(q.dtype)
            if total is not None:
                scores = scores + (total[..., past + start : seen, None] - total[..., None, :seen])
            hidden = _hidden(past + start, visible[:, :seen])[:, None, None]
            weights = torch.softmax((scores * scale).masked_fill(hidden, -torch.inf), dim=-1)
            outputs.append(weights @ v[:, :, None, :seen])
        return torch.cat(outputs, dim=-2).permute(0, 3, 1, 2, 4).flatten(2, 3), key.transpose(1, 2)


def _hidden(start: int, visible: Tensor) -> Tensor:
    """Which keys the queries from ``start`` on don't see; each sees itself, so that no row of a softmax is empty."""
    key = torch.arange(visible.shape[1], device=visible.device)
    query = key[start:, None]
    return (key > query) | (~visible[:, None] & (key != query))


def _chunk(q: Tensor, k: Tensor, w: Tensor, beta: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
    """Unscaled scores of the keys in the cache and of the chunk's own, and the keys after the chunk."""
    written, size, width = beta * w, w.shape[-2], w.shape[-1]
    right = torch.cat([written, (written @ k.mT).tril(-1)], dim=-1)
    solved = solve_unit_lower(written @ w.mT, right)
    u, c = solved.split([width, size], dim=-1)
    reflected = (q @ w[:, :, None].mT).tril()
    own = (q @ k[:, :, None].mT).tril() - reflected @ c[:, :, None]
    before = (q - reflected @ u[:, :, None]) @ key[:, :, None].mT
    after = torch.cat([key - (key @ u.mT) @ w, k - c.mT @ w], dim=2)
    return torch.cat([before, own], dim=-1), after


path_attention = Composed(
    "path_attention",
    _attend,
    lambda q, k, v, w, beta, key, visible, gate, float32_scores: (
        q.new_empty(*q.shape[:3], v.shape[-1]),
        k.new_empty(k.shape[0], key.shape[1] + k.shape[1], *k.shape[2:]),
    ),
)
"""``path_attention(q, k, v, w, beta, key, visible, gate, float32_scores)``: outputs and the keys after them.

Outputs and ``q`` are (batch, length, heads, d); ``k`` and ``w`` are (batch, length, groups, d), ``beta`` without d;
``key`` is the cache, (batch, past, groups, d). ``v``, ``visible`` (batch, past + length) and ``gate``, the running sum
of the forget gate's logarithms (batch, past + length, heads), cover past and new tokens. ``float32_scores`` rounds the
products of queries and keys to float32.

An operator, since there are as many steps as chunks of :data:`CHUNK` tokens.
"""
