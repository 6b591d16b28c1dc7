"""``chunk_gated_delta_rule``, ``chunk_kda`` and their recurrent forms as transformers calls them."""

from typing import Any

from torch import Tensor

from seqconv_kernels import delta_rule, delta_rule_step

from ..fla.layout import unit_length
from .call import Call, for_backward
from .padding import skipped


def chunk_gated_delta_rule(
    call: Call,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    g: Tensor,
    beta: Tensor,
    chunk_size: int = 64,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    use_qk_l2norm_in_kernel: bool = False,
    **unused: Any,
) -> tuple[Tensor, Tensor | None]:
    """Attend over whole sequences or one token; the result does not depend on ``chunk_size``.

    Args:
        call: of the layer.
        query, key: (batch, length, heads, d_k).
        value: (batch, length, v_heads, d_v).
        g: logarithm of the decay, (batch, length, v_heads) or with an axis d_k.
        beta: (batch, length, v_heads).
        chunk_size: of transformers' own form.
        initial_state: (batch, v_heads, d_k, d_v).
        output_final_state: also return the state after the last token.
        use_qk_l2norm_in_kernel: give queries and keys unit length first.
        unused: ``cu_seqlens`` and others: boundaries are those of the call.
    """
    if use_qk_l2norm_in_kernel:
        query, key = unit_length(query), unit_length(key)
    documents, dtype = call.documents, value.dtype
    if documents is None and query.shape[1] == 1 and initial_state is not None:
        q, k, v, decay, strength = (t[:, 0] for t in (query, key, value, g, beta))
        o, last = delta_rule_step(q, k, v, strength, decay, state=initial_state.clone())
        return o[:, None].to(dtype), last if output_final_state else None
    if (padding := skipped(call, query.shape[1])) is not None:
        beta = beta.masked_fill(padding[..., None], 0)
        g = g.masked_fill(padding.view(*padding.shape, *[1] * (g.dim() - 2)), 0)
    bounds = None
    if documents is not None:
        query, key, value, g, beta = (documents.pack(t) for t in (query, key, value, g, beta))
        bounds, initial_state = documents.bounds, None
    o, last = delta_rule(
        query,
        key,
        value,
        beta,
        g,
        initial_state=for_backward(initial_state),
        return_final_state=True,
        cu_seqlens=bounds,
    )
    o = o if documents is None else documents.unpack(o)
    return o, last if output_final_state else None


def fused_recurrent_gated_delta_rule(
    call: Call,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    g: Tensor,
    beta: Tensor,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    use_qk_l2norm_in_kernel: bool = False,
    **unused: Any,
) -> tuple[Tensor, Tensor | None]:
    """The same function, under the name that transformers calls for single tokens."""
    return chunk_gated_delta_rule(
        call,
        query,
        key,
        value,
        g,
        beta,
        initial_state=initial_state,
        output_final_state=output_final_state,
        use_qk_l2norm_in_kernel=use_qk_l2norm_in_kernel,
    )
