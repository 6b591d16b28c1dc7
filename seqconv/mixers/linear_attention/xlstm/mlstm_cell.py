"""The cell of mLSTM on gated linear attention: exponential gates, stabilised by a running maximum.

Equation, per head, with a memory C of (d_k, d_v), a normaliser n of d_k and gates i, f of one number::

    C_t = σ(f) C_{t-1} + e^i k v^T      n_t = σ(f) n_{t-1} + e^i k      h_t = C_t^T q / max(|n_t · q|, 1)

with q scaled by ``d_k ** -0.5``. The stabiliser keeps the exponentials in range: with

    m_t = max(log σ(f_t) + m_{t-1}, i_t)

the state holds ``C̃ = e^{-m} C`` and ``ñ = e^{-m} n``, whose decay is ``exp(log σ(f) + m_{t-1} - m_t)`` and whose inputs
are weighed by ``exp(i - m)``, both at most 1, and ``h = C̃^T q / (max(|ñ · q|, e^{-m}) + ε)``. This is gated linear
attention with a scalar decay: ñ is one more column of the memory, for values of one, so that all its forms (whole
sequences in chunks, from a state, step by step) agree. The recurrence of m is a running maximum of ``i_t - F_t``, where
``F`` sums ``log σ(f)``.

Source: Beck et al. 2024 (arXiv 2405.04517), equations 19 to 27 and appendix A.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from seqconv_kernels import gated_linear_attention, gated_linear_attention_step
from seqconv_kernels._core.portable import running_max
from seqconv_kernels._core.precision import accumulation_dtype

EPS = 1e-6
"""Added to the denominator, as in the original."""


def mlstm(
    q: Float[Tensor, "batch length heads d_k"],
    k: Float[Tensor, "batch length heads d_k"],
    v: Float[Tensor, "batch length heads d_v"],
    i: Float[Tensor, "batch length heads"],
    f: Float[Tensor, "batch length heads"],
    memory: Float[Tensor, "batch heads d_k columns"],
    stabilizer: Float[Tensor, "batch heads"],
    mask: Bool[Tensor, "batch length"] | None = None,
    *,
    eps: float = EPS,
) -> tuple[Tensor, Tensor, Tensor]:
    """Whole sequences from a state.

    Args:
        q, k, v: queries, keys and values.
        i, f: gates before their activations.
        memory: C̃, and ñ as its last column.
        stabilizer: m; ``-inf`` for a state that saw no token yet and leaves no trace, 0 as some originals start.
        mask: padding in front of a row leaves its state alone.
        eps: ε of the denominator.

    Returns:
        h typed like ``v``, the memory and the stabiliser after the last token.
    """
    i, kept = _gates(i, f, stabilizer)
    if mask is not None:
        i, kept = i.masked_fill(~mask[..., None], -torch.inf), kept.masked_fill(~mask[..., None], 0)
    total = kept.cumsum(1)
    m = total + torch.maximum(running_max(i - total), stabilizer[:, None])
    before = torch.cat([stabilizer[:, None], m], dim=1)[:, :-1]
    weight, log_decay, least = i - m, kept + before - m, -m
    if mask is not None:
        padding = ~mask[..., None]
        weight, log_decay = weight.masked_fill(padding, -torch.inf), log_decay.masked_fill(padding, 0)
        least = least.masked_fill(padding, 0)
    keys = (k * weight.exp()[..., None]).to(k.dtype)
    pair = gated_linear_attention(q, keys, _with_ones(v), log_decay, initial_state=memory, return_final_state=True)
    assert isinstance(pair, tuple)
    return _normalised(pair[0], least, eps).to(v.dtype), pair[1], m[:, -1]


def mlstm_step(
    q: Float[Tensor, "batch heads d_k"],
    k: Float[Tensor, "batch heads d_k"],
    v: Float[Tensor, "batch heads d_v"],
    i: Float[Tensor, "batch heads"],
    f: Float[Tensor, "batch heads"],
    memory: Float[Tensor, "batch heads d_k columns"],
    stabilizer: Float[Tensor, "batch heads"],
    *,
    eps: float = EPS,
) -> tuple[Tensor, Tensor, Tensor]:
    """One token of :func:`mlstm`."""
    i, kept = _gates(i, f, stabilizer)
    m = torch.maximum(kept + stabilizer, i)
    keys = (k * (i - m).exp()[..., None]).to(k.dtype)
    o, memory = gated_linear_attention_step(q, keys, _with_ones(v), kept + stabilizer - m, state=memory)
    return _normalised(o, -m, eps).to(v.dtype), memory, m


def _gates(i: Tensor, f: Tensor, stabilizer: Tensor) -> tuple[Tensor, Tensor]:
    """The input gate and ``log σ(f)``, in the dtype of the sums."""
    wide = accumulation_dtype(i, f, stabilizer)
    return i.to(wide), F.logsigmoid(f.to(wide))


def _with_ones(v: Tensor) -> Tensor:
    """Values whose last channel is one: what its memory adds up is the normaliser."""
    return torch.cat([v, torch.ones_like(v[..., :1])], dim=-1)


def _normalised(o: Tensor, least: Tensor, eps: float) -> Tensor:
    wide = o.to(accumulation_dtype(o))
    denominator = torch.maximum(wide[..., -1].abs(), least.exp()) + eps
    return wide[..., :-1] / denominator[..., None]
