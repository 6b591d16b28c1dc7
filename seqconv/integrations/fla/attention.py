"""PaTH attention and log-linear attention under fla's signatures.

    PaTH:         o[i] = sum_{j<=i} softmax_j(scale (q[i]^T H[i] … H[j+1] k[j] + G[i] - G[j])) v[j],
                  H[s] = I - beta[s] w[s] w[s]^T, G the running sum of g
    log-linear:   o[i] = sum_{j<=i} λ[i, ℓ(i, j)] (q[i] · k[j]) exp(g[j+1] + … + g[i]) v[j],
                  ℓ the binary digits up to the highest one in which i and j differ

Sources: ``fla/ops/{path_attn,log_linear_attn}`` of fla-org/flash-linear-attention at bc3b101d.
"""

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from ...attention.path import path_attention
from ...mixers.linear_attention.fenwick import log_linear_attention
from ..arguments import unserved


def parallel_path_attn(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    w: Tensor,
    beta: Tensor,
    g: Tensor | None = None,
    scale: float | None = None,
    cu_seqlens: Tensor | None = None,
    use_cache: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Softmax attention with reflections between keys and queries.

    Args:
        q: (batch, length, heads, d_k).
        k, w: (batch, length, groups, d_k).
        v: (batch, length, groups, d_v).
        beta: (batch, length, groups).
        g: logarithm of the forget gate, (batch, length, heads).
        scale: of products and gates; ``d_k ** -0.5`` if not given.
        cu_seqlens: bounds of sequences packed into a batch of one.
        use_cache: also return the keys as a query after their sequence meets them.

    Returns:
        (batch, length, heads, d_v), and (batch, length, groups, d_k) or ``None``.
    """
    wide = torch.promote_types(w.dtype, torch.float32)
    # The op divides by the root of d_k, gates included.
    factor = 1.0 if scale is None else scale * k.shape[-1] ** 0.5
    queries = factor * q.to(wide)
    keys, values, reflections, strength = (t.to(wide) for t in (k, v, w, beta))
    gate = None if g is None else factor * g.to(wide)
    outputs, caches = [], []
    for part in _parts(cu_seqlens, q.shape[1]):
        own = keys[:, part]
        visible = torch.ones(own.shape[:2], dtype=torch.bool, device=q.device)
        total = None if gate is None else gate[:, part].cumsum(1)
        o, cache = path_attention(
            queries[:, part], own, values[:, part], reflections[:, part], strength[:, part], own[:, :0], visible,
            total, False,
        )  # fmt: skip
        outputs.append(o)
        caches.append(cache)
    return torch.cat(outputs, dim=1).to(q.dtype), torch.cat(caches, dim=1).to(k.dtype) if use_cache else None


parallel_path_attention = parallel_path_attn


def chunk_log_linear_attn(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    level_scales: Tensor,
    initial_state: Any = None,
    output_final_state: bool = False,
    cu_seqlens: Tensor | None = None,
) -> tuple[Tensor, None]:
    """Decayed linear attention whose past is weighted by its distance in levels.

    Args:
        q, k: (batch, length, groups, d_k), groups that divide the heads; queries are not scaled.
        v: (batch, length, heads, d_v).
        g: logarithm of the decay, (batch, length, heads).
        level_scales: weights of the levels, (batch, length, heads, levels).
        initial_state, output_final_state: not served; the layer ``log_linear_mamba2`` of seqconv has a state.
        cu_seqlens: bounds of sequences packed into a batch of one.

    Returns:
        (batch, length, heads, d_v) and ``None``.

    Raises:
        ValueError: an argument that is not served, by its name.
    """
    unserved("chunk_log_linear_attn", initial_state=initial_state, output_final_state=output_final_state)
    (batch, length, heads, d_v), levels = v.shape, level_scales.shape[-1]
    wide = torch.promote_types(v.dtype, torch.float32)

    def rows(x: Tensor) -> Tensor:
        """A row per head: (batch * heads, length, ...)."""
        return x.to(wide).repeat_interleave(heads // x.shape[2], dim=2).transpose(1, 2).flatten(0, 1)

    queries, keys = rows(q), rows(k)
    values, decay, scales = (rows(t).unsqueeze(2) for t in (v, g, level_scales))
    outputs = []
    for part in _parts(cu_seqlens, length):
        memory = values.new_zeros(batch * heads, 1, levels - 1, q.shape[-1], d_v)
        own = [t[:, part] for t in (queries, keys, values, decay, scales)]
        position = torch.arange(own[0].shape[1], device=v.device).expand(batch * heads, -1)
        o, _ = log_linear_attention(*own, memory, position, torch.zeros_like(position[:, 0]))
        outputs.append(o)
    o = torch.cat(outputs, dim=1).unflatten(0, (batch, heads)).squeeze(3).transpose(1, 2)
    return o.to(v.dtype), None


def _parts(cu_seqlens: Tensor | None, length: int) -> list[slice]:
    """The sequences of a call, without empty ones."""
    bounds = [0, length] if cu_seqlens is None else cu_seqlens.tolist()
    return [slice(first, end) for first, end in pairwise(bounds) if end > first]
