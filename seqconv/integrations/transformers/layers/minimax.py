"""The lightning attention of MiniMax, on the op of gated linear attention.

Per head h, with slope s of the layer: ``S[t] = exp(-s_h) S[t-1] + k[t] v[t]^T``, ``o[t] = S[t]^T q[t]``.
"""

from typing import Any

from torch import Tensor

from seqconv_kernels import gated_linear_attention

from ..call import Call
from ..padding import skipped


def lightning_attention(
    call: Call,
    hidden_states: Tensor,
    position_embeddings: Any = None,
    **unused: Any,
) -> tuple[Tensor, Tensor]:
    """``MiniMaxLightningAttention.forward``: (batch, length, hidden_size) and the state after the last token."""
    layer: Any = call.layer
    batch, length, _ = hidden_states.shape
    qkv = layer.act_fn(layer.qkv_proj(hidden_states))
    if call.mask is not None:
        qkv = qkv * call.mask[:, :, None].to(qkv.dtype)
    q, k, v = qkv.view(batch, length, layer.num_attention_heads, -1).chunk(3, dim=-1)
    log_decay = -layer.slope_rate.flatten().expand(batch, length, -1)
    if (padding := skipped(call, length)) is not None:
        log_decay = log_decay.masked_fill(padding[..., None], 0)
    cache = call.cache
    state = None if cache is None else cache.get_linear_cache(layer.layer_idx)
    documents, bounds = call.documents, None
    if documents is not None:
        q, k, v, log_decay = (documents.pack(t) for t in (q, k, v, log_decay))
        bounds = documents.bounds
    o, state = gated_linear_attention(
        q, k, v, log_decay, scale=1.0, initial_state=state, return_final_state=True, cu_seqlens=bounds
    )
    o = layer.norm(o.reshape(batch, length, -1))
    if cache is not None:
        cache.set_linear_cache(layer.layer_idx, state)
    return layer.out_proj(layer.output_gate(hidden_states).sigmoid() * o), state
