"""The last inputs of packed sequences.

Source: ``causal_conv1d/causal_conv1d_varlen.py`` of Dao-AILab/causal-conv1d at 0d2252d1.
"""

import torch
from torch import Tensor


def causal_conv1d_varlen_states(x: Tensor, cu_seqlens: Tensor, state_len: int) -> Tensor:
    """The last ``state_len`` inputs of each sequence, zeros before its first.

    Args:
        x: (total, dim).
        cu_seqlens: (sequences + 1), bounds.
        state_len: inputs to keep.

    Returns:
        (sequences, dim, state_len).
    """
    token = cu_seqlens[1:, None].long() + torch.arange(-state_len, 0, device=x.device)
    own = token >= cu_seqlens[:-1, None]
    states: Tensor = x[token.clamp(min=0)].masked_fill(~own[..., None], 0).mT
    return states


causal_conv1d_varlen_states_ref = causal_conv1d_varlen_states
