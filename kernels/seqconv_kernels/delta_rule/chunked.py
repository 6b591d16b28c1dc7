"""Chunked form of :func:`seqconv_kernels.delta_rule`: a triangular solve and matrix products per chunk.

The correction ``r_i`` that row i writes depends on what the rows before it wrote: with ``S`` the state that enters,
``k_in``, ``q_in`` and ``k_out`` the keys and queries decayed from the chunk's start or to its end, and ``KK``, ``QK``
the decayed products within the chunk (:func:`~seqconv_kernels._linear_attention.chunks.decayed`)::

    (I + beta KK) R = beta (V - k_in S)      KK strictly below the diagonal
    O = q_in S + QK R                        S <- total S + k_out^T R

``R = U - W S`` is solved for all chunks at once, so that the loop over chunks holds two matrix products.
"""

import torch
from torch import Tensor

from .._core.packing import padded
from .._core.portable import solve_unit_lower
from .._core.precision import accumulation_dtype, without_autocast
from .._linear_attention.chunks import chunk_length, decayed, lower_product, split
from .spec import Inputs


@padded("q", "k", "v", "beta", "log_decay")
@without_autocast
def delta_rule(inputs: Inputs) -> tuple[Tensor, Tensor]:
    """Heads are groups; the value heads that share one are its repeats."""
    q, k, v, beta, log_decay, scale, state, _ = inputs
    dtype = accumulation_dtype(q, k, v, beta, log_decay, state)
    length, heads, chunk = k.shape[1], k.shape[2], chunk_length(k.shape[1])

    def chunks(x: Tensor, fill: float = 0.0) -> Tensor:
        return split(x.to(dtype).unflatten(2, (heads, -1)).movedim(1, 3), chunk, fill)

    queries, keys, values, strength = chunks(scale * q.to(dtype)), chunks(k), chunks(v), chunks(beta[..., None])
    if log_decay is None:
        decay = torch.ones_like(strength)
    else:
        decay = chunks((log_decay if log_decay.dim() == 4 else log_decay[..., None]).to(dtype).exp(), 1.0)
    state = k.new_zeros(v.shape[0], v.shape[2], k.shape[3], v.shape[3]) if state is None else state
    o, last = _attend(queries, keys, values, strength, decay, state.to(dtype).unflatten(1, (heads, -1)))
    return o.flatten(3, 4)[:, :, :, :length].movedim(3, 1).flatten(2, 3).to(v.dtype), last.flatten(1, 2)


def _attend(q: Tensor, k: Tensor, v: Tensor, beta: Tensor, decay: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    q_in, k_in, k_out, total, qk, kk = _products(q, k, decay)
    known = torch.cat([beta * v, beta * k_in], dim=-1)
    solved = solve_unit_lower(beta * kk, known)
    U, W = solved.split([v.shape[-1], k.shape[-1]], dim=-1)
    entering, corrections = [], []
    for u, w, written, factor in zip(*(x.unbind(3) for x in (U, W, k_out, total)), strict=True):
        r = u - w @ state
        entering.append(state)
        corrections.append(r)
        state = factor.mT * state + torch.einsum("...jk,...jv->...kv", written, r)
    before, R = torch.stack(entering, dim=3), torch.stack(corrections, dim=3)
    return torch.einsum("...ik,...kv->...iv", q_in, before) + lower_product(qk, R), state


def _products(q: Tensor, k: Tensor, decay: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Decayed queries and keys, the total decay, and the products QK (with diagonal) and KK (without)."""
    if decay.shape[-1] > 1:
        reads, writes = decayed(q, k, decay), decayed(k, k, decay, diagonal=False)
        return reads.q, writes.q, reads.k, reads.total, reads.scores, writes.scores
    factors = decayed(torch.ones_like(decay), torch.ones_like(decay), decay)
    qk, kk = (torch.einsum("...id,...jd->...ij", rows, k) * factors.scores for rows in (q, k))
    return factors.q * q, factors.q * k, factors.k * k, factors.total, qk.tril(), kk.tril(-1)
