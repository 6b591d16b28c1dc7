"""The cell of xLSTM on the op of gated linear attention: one call for any length, in training and inference.

transformers loops over chunks, and token by token over what is left of the length. Heads come before the length there.
"""

from typing import Any

import torch
from torch import Tensor

from seqconv_kernels._core.packing import Segments

from ....mixers.linear_attention.xlstm.mlstm_cell import mlstm
from ..call import Call, for_backward


def mlstm_backend(
    call: Call,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    igate: Tensor,
    fgate: Tensor,
    c_initial: Tensor | None = None,
    n_initial: Tensor | None = None,
    m_initial: Tensor | None = None,
    return_last_states: bool | None = None,
    mode: str | None = None,
) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
    """``xLSTMBackend.forward``.

    Args:
        call: of the module.
        query, key: (batch, heads, length, d_k).
        value: (batch, heads, length, d_v).
        igate, fgate: before their activations, (batch, heads, length).
        c_initial, n_initial, m_initial: (batch, heads, d_k, d_v), (batch, heads, d_k) and (batch, heads, 1).
        return_last_states, mode: of transformers' own kernels.

    Returns:
        (batch, heads, length, d_v), and the states, which the layer takes in every mode.
    """
    layer: Any = call.layer
    c_initial, n_initial, m_initial = map(for_backward, (c_initial, n_initial, m_initial))
    rows = [t.transpose(1, 2) for t in (query, key, value, igate, fgate)]
    documents = call.documents
    segments = None if documents is None else Segments(documents.bounds, query.device)
    if documents is not None and segments is not None:  # a row per document
        rows = [segments.unpack(documents.pack(t)) for t in rows]
        c_initial = None
    batch, _, heads, d_k = rows[0].shape
    wide = getattr(torch, layer.config.inference_state_dtype)
    if c_initial is None or n_initial is None or m_initial is None:
        memory = query.new_zeros(batch, heads, d_k, value.shape[-1] + 1, dtype=wide)
        stabilizer = memory[:, :, 0, 0]
    else:
        memory = torch.cat([c_initial, n_initial[..., None]], dim=-1).to(wide)
        stabilizer = m_initial[..., 0].to(wide)
    q, k, v, i, f = rows
    h, memory, stabilizer = mlstm(q, k, v, i, f, memory, stabilizer, eps=layer.config.eps)
    if documents is not None and segments is not None:
        h = documents.unpack(segments.pack(h))
    return h.transpose(1, 2), (memory[..., :-1], memory[..., -1], stabilizer[..., None])
