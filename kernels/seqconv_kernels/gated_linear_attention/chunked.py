"""Chunked form of :func:`seqconv_kernels.gated_linear_attention`: matrix products, and a loop over chunks only.

With the decays of a chunk multiplied up as in :func:`~seqconv_kernels._linear_attention.chunks.decayed`::

    o = scores V + q' S,   S <- total S + k'^T V

where ``scores`` holds what tokens of the chunk see of each other, ``q'`` what they read from the state ``S`` that
enters, ``k'`` what they add to it. A scalar decay takes its triangle of factors from the same construction with
queries and keys of one.
"""

import torch
from torch import Tensor

from .._core.packing import padded
from .._core.precision import accumulation_dtype, without_autocast
from .._linear_attention.chunks import carry, chunk_length, decayed, lower_product, split
from .spec import Inputs


@padded("q", "k", "v", "log_decay")
@without_autocast
def gated_linear_attention(inputs: Inputs) -> tuple[Tensor, Tensor]:
    """Key-value heads are groups; the query heads that share one are its repeats."""
    q, k, v, log_decay, scale, state, _ = inputs
    dtype = accumulation_dtype(q, k, v, log_decay, state)
    heads = k.shape[2]
    queries = scale * q.to(dtype).unflatten(2, (heads, -1)).movedim(1, 3)
    keys, values = (x.to(dtype).movedim(1, 2).unsqueeze(2) for x in (k, v))
    if log_decay is None or log_decay.dim() == 1:
        # One decay for all tokens: factors without a batch axis.
        decay = keys.new_ones(heads) if log_decay is None else log_decay.to(dtype).exp()
        decay = decay[:, None, None].expand(1, -1, -1, k.shape[1])
    else:
        decay = log_decay.to(dtype).exp().movedim(1, 2).unsqueeze(2)
    first = keys.new_zeros(*keys.shape[:3], k.shape[-1], v.shape[-1]) if state is None else state.to(dtype)[:, :, None]
    if decay.dim() == 4:
        o, last = scalar_decay(queries, keys, values, decay, first)
    else:
        o, last = vector_decay(queries, keys, values, decay, first)
    return o.movedim(3, 1).flatten(2, 3).to(v.dtype), last.squeeze(2)


def scalar_decay(
    q: Tensor, k: Tensor, v: Tensor, decay: Tensor, state: Tensor, longest: int = 64
) -> tuple[Tensor, Tensor]:
    """Decays of (batch or 1, group, repeat, length) for tensors of (batch, group, repeat, length, width)."""
    length = q.shape[3]
    chunk = chunk_length(length, longest)
    q, k, v = (split(x, chunk) for x in (q, k, v))
    steps = split(decay[..., None], chunk, 1.0)
    factors = decayed(torch.ones_like(steps), torch.ones_like(steps), steps)
    scores = (torch.einsum("...id,...jd->...ij", q, k) * factors.scores).tril()
    inflow = torch.einsum("...jk,...jv->...kv", k, v * factors.k)
    entering, state = carry(state, factors.total, inflow)
    o = lower_product(scores, v) + factors.q * torch.einsum("...ik,...kv->...iv", q, entering)
    return o.flatten(3, 4)[:, :, :, :length], state


def vector_decay(q: Tensor, k: Tensor, v: Tensor, decay: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """Decays of (batch, group, repeat, length, d_k), else as :func:`scalar_decay`."""
    length = q.shape[3]
    chunk = chunk_length(length)
    factors = decayed(split(q, chunk), split(k, chunk), split(decay, chunk, 1.0))
    v = split(v, chunk)
    inflow = torch.einsum("...jk,...jv->...kv", factors.k, v)
    entering, state = carry(state, factors.total.mT, inflow)
    o = lower_product(factors.scores, v) + torch.einsum("...ik,...kv->...iv", factors.q, entering)
    return o.flatten(3, 4)[:, :, :, :length], state
