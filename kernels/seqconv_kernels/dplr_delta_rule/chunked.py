"""Chunked form of :func:`seqconv_kernels.dplr_delta_rule`: a triangular solve and matrix products per chunk.

What row i reads, ``u_i = S[i-1]^T a_i``, depends on what the rows before it wrote. With ``S`` the state that enters
a chunk, ``a_in`` and ``q_in`` what the rows read of it, ``b_out`` and ``k_out`` what they leave in the state after it,
and ``AB``, ``AK``, ``QB``, ``QK`` the decayed products in it
(:func:`~seqconv_kernels._linear_attention.chunks.decayed`)::

    (I - AB) U = a_in S + AK V                 AB, AK strictly below the diagonal
    O = q_in S + QB U + QK V                   S <- total S + b_out^T U + k_out^T V

``U = W S + R`` is solved for all chunks at once, so that the loop over chunks holds two matrix products. Without ``b``
the key writes ``U + V``.
"""

import torch
from torch import Tensor

from .._core.packing import padded
from .._core.portable import solve_unit_lower
from .._core.precision import accumulation_dtype, without_autocast
from .._linear_attention.chunks import chunk_length, decayed_before, lower_product, split
from .spec import Inputs


@padded("q", "k", "v", "a", "b", "log_decay")
@without_autocast
def dplr_delta_rule(inputs: Inputs) -> tuple[Tensor, Tensor]:
    """Every tensor is repeated for all heads of the values."""
    v, dtype, heads = inputs.v, accumulation_dtype(*inputs[:6], inputs.initial_state), inputs.v.shape[2]
    length, d_k, chunk = v.shape[1], inputs.k.shape[3], chunk_length(v.shape[1])

    def chunks(x: Tensor, fill: float = 0.0) -> Tensor:
        wide = x.to(dtype).repeat_interleave(heads // x.shape[2], dim=2)
        return split(wide.movedim(1, 2), chunk, fill)

    q, k, values, a = chunks(inputs.scale * inputs.q.to(dtype)), chunks(inputs.k), chunks(v), chunks(inputs.a)
    b = None if inputs.b is None else chunks(inputs.b)
    decay = k.new_ones(1) if inputs.log_decay is None else chunks(inputs.log_decay.to(dtype).exp(), 1.0)
    state = k.new_zeros(v.shape[0], heads, d_k, v.shape[3]) if inputs.initial_state is None else inputs.initial_state
    o, last = _attend(q, k, values, a, b, decay.expand(*k.shape[:-1], decay.shape[-1]), state.to(dtype))
    return o.flatten(2, 3)[:, :, :length].movedim(2, 1).to(v.dtype), last


def _attend(
    q: Tensor, k: Tensor, v: Tensor, a: Tensor, b: Tensor | None, decay: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """Tensors of (batch, heads, chunk, row, width)."""
    reads = decayed_before(torch.stack([a, decay * q]), k, decay)
    (AK, QK), (a_in, q_in), k_out = reads.scores, reads.q, reads.k
    QK = QK + torch.diag_embed((q * k).sum(-1))
    if b is None:
        AB, QB, b_out = AK, QK, k_out
    else:
        reads = decayed_before(torch.stack([a, decay * q]), b, decay)
        (AB, QB), b_out = reads.scores, reads.k
        QB = QB + torch.diag_embed((q * b).sum(-1))
    known = torch.cat([lower_product(AK, v), a_in], dim=-1)
    solved = solve_unit_lower(-AB, known)
    R, W = solved.split([v.shape[-1], k.shape[-1]], dim=-1)
    inflow = torch.einsum("...jk,...jv->...kv", k_out, v)
    entering, read = [], []
    for r, w, written, new, total in zip(*(x.unbind(2) for x in (R, W, b_out, inflow, reads.total)), strict=True):
        u = r + w @ state
        entering.append(state)
        read.append(u)
        state = total.mT * state + new + torch.einsum("...jk,...jv->...kv", written, u)
    before, U = torch.stack(entering, dim=2), torch.stack(read, dim=2)
    o = torch.einsum("...ik,...kv->...iv", q_in, before) + lower_product(QB, U) + lower_product(QK, v)
    return o, state
