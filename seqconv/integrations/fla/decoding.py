"""Decoding on a pool of states, as fla's kernel of Kimi Delta Attention serves it to inference engines.

Source: ``fla/ops/kda/fused_recurrent.py`` of fla-org/flash-linear-attention at bc3b101d.
"""

from functools import reduce
from typing import Any

import torch
from torch import Tensor

from seqconv_kernels import delta_rule_step
from seqconv_kernels._core.errors import argument_error

from .. import pools
from ..arguments import no_others
from .delta_rule import fused_recurrent_kda
from .gates import decay_of, strength_of, unit_lengths


def fused_recurrent_kda_fwd(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    beta: Tensor,
    A_log: Tensor | None = None,
    dt_bias: Tensor | None = None,
    initial_state: Tensor | None = None,
    scale: float | None = None,
    output_final_state: bool = False,
    inplace_final_state: bool = True,
    state_v_first: bool = False,
    cu_seqlens: Tensor | None = None,
    ssm_state_indices: Tensor | None = None,
    num_accepted_tokens: Tensor | None = None,
    use_qk_l2norm_in_kernel: bool = False,
    use_gate_in_kernel: bool = False,
    use_beta_sigmoid_in_kernel: bool = False,
    allow_neg_eigval: bool = False,
    lower_bound: float | None = None,
    out: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """:func:`~.delta_rule.fused_recurrent_kda`, with the states of a pool moved on in place.

    Args:
        q, k, v, g, beta, A_log, dt_bias, scale, state_v_first, cu_seqlens: as there.
        initial_state: states of the sequences, or a pool of them.
        output_final_state: return the last states; always done with ``inplace_final_state``.
        inplace_final_state: write the last states to ``initial_state``.
        ssm_state_indices: (sequences) or (sequences, tokens): row of the pool for the state after each token; -1 for a
            sequence that is not there. A sequence begins with the state of its first row.
        num_accepted_tokens: (sequences): it begins with that of its row ``num_accepted_tokens - 1`` instead.
        use_qk_l2norm_in_kernel, use_gate_in_kernel, use_beta_sigmoid_in_kernel, allow_neg_eigval: as there.
        lower_bound: as there.
        out: where the output is written.

    Raises:
        ValueError: a pool without ``inplace_final_state``; an argument that is not served, by its name.
    """
    name = "fused_recurrent_kda_fwd"
    no_others(name, kwargs)
    if inplace_final_state and initial_state is None:
        raise argument_error(name, "inplace_final_state alone", "initial_state with it", "pass the states")
    if ssm_state_indices is None:
        o, last = fused_recurrent_kda(
            q, k, v, g, beta, A_log, dt_bias, scale, initial_state, output_final_state or inplace_final_state,
            use_qk_l2norm_in_kernel, use_gate_in_kernel, use_beta_sigmoid_in_kernel, allow_neg_eigval, lower_bound,
            state_v_first, cu_seqlens,
        )  # fmt: skip
        if inplace_final_state and initial_state is not None and last is not None:
            last = initial_state.copy_(last)
        return (o if out is None else out.copy_(o)), last
    if initial_state is None or not inplace_final_state:
        got, remedy = "ssm_state_indices without inplace_final_state", "pass the pool as initial_state"
        raise argument_error(name, got, "a pool that is moved on in place", remedy)
    decay = decay_of(name, g, A_log, dt_bias, lower_bound) if use_gate_in_kernel else g
    strength = strength_of(name, beta, use_beta_sigmoid_in_kernel, allow_neg_eigval)
    q, k = unit_lengths(q, k, use_qk_l2norm_in_kernel)
    pool = initial_state.mT if state_v_first else initial_state
    o = _decode((q, k, v, strength, decay), pool, cu_seqlens, ssm_state_indices, num_accepted_tokens, scale)
    return (o if out is None else out.copy_(o)), initial_state


def _decode(
    tokens: tuple[Tensor, ...],
    pool: Tensor,
    cu_seqlens: Tensor | None,
    indices: Tensor,
    accepted: Tensor | None,
    scale: float | None,
) -> Tensor:
    """All sequences one token on, as often as the longest has tokens."""
    batch, length = tokens[0].shape[:2]
    flat = [t.flatten(0, 1) for t in tokens]
    bounds = torch.arange(0, batch * length + 1, length) if cu_seqlens is None else cu_seqlens.cpu().long()
    starts, lengths = bounds[:-1].to(pool.device), bounds.diff().to(pool.device)
    rows = indices[:, None] if indices.dim() == 1 else indices
    first = rows[:, 0] if accepted is None else rows.gather(1, accepted.long()[:, None] - 1)[:, 0]
    wide = reduce(torch.promote_types, (t.dtype for t in (*tokens, pool)), torch.float32)
    states = pools.read(pool, first).to(wide)
    o = torch.zeros_like(flat[2])
    for step in range(int(lengths.max())):
        here = ((lengths > step) & (first >= 0)).nonzero()[:, 0]
        token = starts[here] + step
        y, after = delta_rule_step(*(t[token] for t in flat), state=states[here].contiguous(), scale=scale)
        o[token], states[here] = y.to(o.dtype), after.to(wide)
        # One row for all tokens of a sequence holds the state after its last one.
        pools.write(pool, after, rows[here, min(step, rows.shape[1] - 1)])
    return o.view(tokens[2].shape)
