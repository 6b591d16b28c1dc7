"""Decoding on a pool of states, as fla's kernels of Kimi Delta Attention and Gated DeltaNet-2 serve it to inference
engines.

Source: ``fla/ops/kda/fused_recurrent.py`` of fla-org/flash-linear-attention at bc3b101d.
"""

from functools import reduce
from typing import Any, NamedTuple

import torch
from torch import Tensor

from seqconv_kernels import delta_rule, delta_rule_step
from seqconv_kernels._core.errors import argument_error

from .. import pools
from ..arguments import no_others
from .gates import decay_of, strength_of, unit_lengths
from .layout import Layout, Op


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
    decay = decay_of(name, g, A_log, dt_bias, lower_bound) if use_gate_in_kernel else g
    strength = strength_of(name, beta, use_beta_sigmoid_in_kernel, allow_neg_eigval)
    q, k = unit_lengths(q, k, use_qk_l2norm_in_kernel)
    tokens: dict[str, Tensor | None] = {"q": q, "k": k, "v": v, "beta": strength, "log_decay": decay}
    pool = Pool(initial_state, inplace_final_state, state_v_first, ssm_state_indices, num_accepted_tokens)
    how = Layout(cu_seqlens, state_v_first=state_v_first)
    return move_on(name, Run(delta_rule, delta_rule_step, tokens, how, {"scale": scale}), pool, output_final_state, out)


class Pool(NamedTuple):
    """States that the caller keeps.

    Attributes:
        states: of the sequences, or a pool of them.
        inplace: whether they are written to.
        v_first: whether they are (..., d_v, d_k).
        indices: (sequences) or (sequences, tokens), rows of the pool; ``None``: one state per sequence.
        accepted: (sequences), which of the rows a sequence begins with, counted from one.
    """

    states: Tensor | None
    inplace: bool
    v_first: bool
    indices: Tensor | None
    accepted: Tensor | None


class Run(NamedTuple):
    """The op, its step and their arguments.

    Attributes:
        op: for whole sequences.
        step: for one token.
        tokens: arguments with a time axis.
        how: their layout.
        options: arguments without one.
        like: name of the token that the output is shaped and typed like.
    """

    op: Op
    step: Op
    tokens: dict[str, Tensor | None]
    how: Layout
    options: dict[str, Any]
    like: str = "v"


def move_on(
    name: str, run: Run, pool: Pool, output_final_state: bool, out: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """The output, and the last states or the pool.

    Raises:
        ValueError: a pool that is not moved on in place, or none at all.
    """
    states = pool.states
    if pool.inplace and states is None:
        raise argument_error(name, "inplace_final_state alone", "initial_state with it", "pass the states")
    if pool.indices is None:
        wanted = output_final_state or pool.inplace
        o, last = run.how.run(run.op, run.tokens, states, wanted, **run.options)
        if pool.inplace and states is not None and last is not None:
            last = states.copy_(last)
        return (o if out is None else out.copy_(o)), last
    if states is None or not pool.inplace:
        got, remedy = "ssm_state_indices without inplace_final_state", "pass the pool as initial_state"
        raise argument_error(name, got, "a pool that is moved on in place", remedy)
    o = _decode(run, states.mT if pool.v_first else states, pool.indices, pool.accepted)
    return (o if out is None else out.copy_(o)), states


def _decode(run: Run, pool: Tensor, indices: Tensor, accepted: Tensor | None) -> Tensor:
    """All sequences one token on, as often as the longest has tokens."""
    tokens = {name: t for name, t in run.tokens.items() if t is not None}
    batch, length = tokens[run.like].shape[:2]
    flat = {name: t.flatten(0, 1) for name, t in tokens.items()}
    packed = run.how.cu_seqlens
    bounds = torch.arange(0, batch * length + 1, length) if packed is None else packed.cpu().long()
    starts, lengths = bounds[:-1].to(pool.device), bounds.diff().to(pool.device)
    rows = indices[:, None] if indices.dim() == 1 else indices
    first = rows[:, 0] if accepted is None else rows.gather(1, accepted.long()[:, None] - 1)[:, 0]
    wide = reduce(torch.promote_types, (t.dtype for t in (*flat.values(), pool)), torch.float32)
    states = pools.read(pool, first).to(wide)
    o = torch.zeros_like(flat[run.like])
    for step in range(int(lengths.max())):
        here = ((lengths > step) & (first >= 0)).nonzero()[:, 0]
        token = starts[here] + step
        given = {name: t[token] for name, t in flat.items()}
        y, after = run.step(**given, state=states[here].contiguous(), **run.options)
        o[token], states[here] = y.to(o.dtype), after.to(wide)
        # One row for all tokens of a sequence holds the state after its last one.
        pools.write(pool, after, rows[here, min(step, rows.shape[1] - 1)])
    return o.view(tokens[run.like].shape)
