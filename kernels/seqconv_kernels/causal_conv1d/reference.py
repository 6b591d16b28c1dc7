"""Readable form of :func:`seqconv_kernels.causal_conv1d`: one shifted product per tap, any floating dtype."""

import torch
from torch import Tensor
from torch.nn.functional import silu


def causal_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    activation: str | None,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """y_t = act(sum_k w_k x_{t-(K-1)+k} + b), segment by segment; and the last K - 1 inputs of each."""
    reach = weight.shape[1] - 1
    lengths = [x.shape[1]] if cu_seqlens is None else cu_seqlens.diff().tolist()
    segments = x.shape[0] if cu_seqlens is None else len(lengths)
    state = x.new_zeros(segments, reach, x.shape[2]) if initial_state is None else initial_state
    dtype = torch.promote_types(x.dtype, state.dtype)
    starts = [state] if cu_seqlens is None else list(state.split(1))
    ys, ends = [], []
    for past, new in zip(starts, x.split(lengths, dim=1), strict=True):
        heard = torch.cat([past.to(dtype), new.to(dtype)], dim=1)
        ys.append(_taps(heard, weight, bias, activation, x.dtype))
        ends.append(heard[:, heard.shape[1] - reach :])
    return torch.cat(ys, dim=1), torch.cat(ends)


def causal_conv1d_step(
    x: Tensor, weight: Tensor, bias: Tensor | None, activation: str | None, state: Tensor
) -> tuple[Tensor, Tensor]:
    """One step: the state moves on by one input."""
    y, state = causal_conv1d(x[:, None], weight, bias, activation, state, None)
    return y[:, 0], state


def _taps(heard: Tensor, weight: Tensor, bias: Tensor | None, activation: str | None, dtype: torch.dtype) -> Tensor:
    width = weight.shape[1]
    length = heard.shape[1] - (width - 1)
    sums = torch.promote_types(torch.promote_types(heard.dtype, weight.dtype), torch.float32)
    y = heard.new_zeros(heard.shape[0], length, heard.shape[2], dtype=sums)
    for k in range(width):
        y = y + weight[:, k] * heard[:, k : k + length].to(sums)
    y = y if bias is None else y + bias
    return (silu(y) if activation == "silu" else y).to(dtype)
