"""What fla's kernels of the delta rule compute before the scan: norms, sigmoids, decays; and states before the chunks.

Sources: ``fla/ops/{gated_delta_rule,kda}`` of fla-org/flash-linear-attention at bc3b101d.
"""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from seqconv_kernels import delta_rule
from seqconv_kernels._core.errors import argument_error

from .layout import Layout, Op, unit_length


def unit_lengths(q: Tensor, k: Tensor, unit: bool) -> tuple[Tensor, Tensor]:
    """Queries and keys, of unit length if asked for."""
    return (unit_length(q), unit_length(k)) if unit else (q, k)


def strength_of(function: str, beta: Tensor, sigmoid: bool, negative: bool) -> Tensor:
    """Beta, after its sigmoid if asked for, or after twice of it.

    Raises:
        ValueError: twice without a sigmoid.
    """
    if not sigmoid:
        if negative:
            got, remedy = "allow_neg_eigval alone", "pass twice the beta, or use_beta_sigmoid_in_kernel=True too"
            raise argument_error(function, got, "use_beta_sigmoid_in_kernel with it", remedy)
        return beta
    strength = beta.to(torch.promote_types(beta.dtype, torch.float32)).sigmoid()
    return 2 * strength if negative else strength


def decay_of(
    function: str, g: Tensor, A_log: Tensor | None, dt_bias: Tensor | None, lower_bound: float | None
) -> Tensor:
    """The logarithm of the decay: per head (``g`` of rank 3) or per channel of the keys.

    Raises:
        ValueError: no ``A_log``.
    """
    if A_log is None and lower_bound is None:
        raise argument_error(function, "use_gate_in_kernel without A_log", "A_log", "pass A_log")
    g = g.to(torch.promote_types(g.dtype, torch.float32))
    g = g if dt_bias is None else g + dt_bias.view(g.shape[2:])
    rate = None if A_log is None else A_log.to(g.dtype).exp().view(-1, *[1] * (g.dim() - 3))
    if lower_bound is not None:
        return lower_bound * torch.sigmoid(g if rate is None else rate * g)
    assert rate is not None
    return -rate * F.softplus(g)


def fused_kda_gate(
    g: Tensor,
    A_log: Tensor | None = None,
    dt_bias: Tensor | None = None,
    lower_bound: float | None = None,
    output_dtype: torch.dtype = torch.float32,
) -> Tensor:
    """The logarithm of Kimi Delta Attention's decay from ``g`` (..., heads, d_k); see :func:`decay_of`."""
    rows = g.reshape(1, -1, *g.shape[-2:])
    return decay_of("fused_kda_gate", rows, A_log, dt_bias, lower_bound).view(g.shape).to(output_dtype)


def fused_gdn_gate(
    g: Tensor, A_log: Tensor, dt_bias: Tensor | None = None, output_dtype: torch.dtype = torch.float32
) -> Tensor:
    """The logarithm of the gated delta rule's decay from ``g`` (..., heads): ``-exp(A_log) softplus(g + dt_bias)``."""
    rows = g.reshape(1, -1, g.shape[-1])
    return decay_of("fused_gdn_gate", rows, A_log, dt_bias, None).view(g.shape).to(output_dtype)


def states_before_chunks(
    how: Layout, tokens: dict[str, Tensor | None], initial_state: Tensor | None, size: int, op: Op = delta_rule
) -> Tensor:
    """(batch, chunks, v_heads, d_k, d_v): one scan of each chunk from the state before it."""
    given = {name: t for name, t in tokens.items() if t is not None}
    k, v = given["k"], given["v"]
    bounds = [0, k.shape[1]] if how.cu_seqlens is None else how.cu_seqlens.tolist()
    rows, states = k.shape[0], []
    for row, (first, end) in enumerate(pairwise(bounds)):
        state = initial_state if initial_state is None or how.cu_seqlens is None else initial_state[row : row + 1]
        if state is None:
            state = v.new_zeros(rows, v.shape[2], k.shape[3], v.shape[3], dtype=torch.float32)
        elif how.state_v_first:
            state = state.mT
        for start in range(first, end, size):
            states.append(state)
            part = {name: t[:, start : min(start + size, end)] for name, t in given.items()}
            _, state = op(**part, initial_state=state, return_final_state=True)
    before = torch.stack(states, dim=1).to(k.dtype)
    return before.mT.contiguous() if how.state_v_first else before
