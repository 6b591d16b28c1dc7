"""The lightning attention of MiniMax, on the op of gated linear attention.

Per head h, with slope s of the layer: ``S[t] = exp(-s_h) S[t-1] + k[t] v[t]^T``, ``o[t] = S[t]^T q[t]``.

transformers takes the length of the first layer's cache for that of all, and a lightning attention has none there:
masks and positions of a second call are those of a first one. It also leaves states in the order of the last beams.
:class:`LightningCacheLayer` has a length and follows the beams.
"""

from typing import Any

from torch import Tensor
from transformers.cache_utils import DynamicLayer

from seqconv_kernels import gated_linear_attention

from ..call import Call
from ..padding import skipped


class LightningCacheLayer(DynamicLayer):
    """The place of a lightning attention among the layers of a cache, which keeps its state in a list of its own.

    Args:
        cache: of the whole model.
        index: of the layer.
        tokens: read so far.
    """

    def __init__(self, cache: Any, index: int, tokens: int) -> None:
        super().__init__()
        self.cache, self.index, self.tokens = cache, index, tokens

    def get_seq_length(self) -> int:
        """Tokens read."""
        return self.tokens

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Rows of the state in another order."""
        state = self.cache.linear_cache[self.index]
        self.cache.linear_cache[self.index] = state.index_select(0, beam_idx.to(state.device))


def count_tokens(cache: Any, index: int, length: int) -> None:
    """Count the tokens of a call in the cache's layer, after those that the other layers have read before it."""
    while len(cache.layers) <= index:
        cache.layers.append(DynamicLayer())
    if not isinstance(cache.layers[index], LightningCacheLayer):
        read = [layer.get_seq_length() - length * (i < index) for i, layer in enumerate(cache.layers) if i != index]
        cache.layers[index] = LightningCacheLayer(cache, index, max(read, default=0))
    cache.layers[index].tokens += length


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
        count_tokens(cache, layer.layer_idx, length)
    return layer.out_proj(layer.output_gate(hidden_states).sigmoid() * o), state
