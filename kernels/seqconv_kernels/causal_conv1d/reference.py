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
) -> Tensor:
    """y_t = act(sum_k w_k x_{t-(K-1)+k} + b), segment by segment."""
    reach = weight.shape[1] - 1
    lengths = [x.shape[1]] if cu_seqlens is None else cu_seqlens.diff().tolist()
    segments = x.shape[0] if cu_seqlens is None else len(lengths)
    state = x.new_zeros(segments, reach, x.shape[2]) if initial_state is None else initial_state
    starts = [state] if cu_seqlens is None else list(state.split(1))
    dtype = torch.promote_types(torch.promote_types(x.dtype, weight.dtype), torch.float32)
    dtype = torch.promote_types(dtype, state.dtype)
    ys = []
    for past, new in zip(starts, x.split(lengths, dim=1), strict=True):
        heard = torch.cat([past.to(dtype), new.to(dtype)], dim=1)
        y = heard.new_zeros(new.shape)
        for k in range(weight.shape[1]):
            y = y + weight[:, k] * heard[:, k : k + new.shape[1]]
        y = y if bias is None else y + bias
        ys.append(silu(y) if activation == "silu" else y)
    return torch.cat(ys, dim=1).to(x.dtype)


def causal_conv1d_step(
    x: Tensor, weight: Tensor, bias: Tensor | None, activation: str | None, state: Tensor
) -> tuple[Tensor, Tensor]:
    """One step: the state moves on by one input."""
    y = causal_conv1d(x[:, None], weight, bias, activation, state, None)
    return y[:, 0], last_inputs(x[:, None], state, None, weight.shape[1] - 1)


def last_inputs(x: Tensor, initial_state: Tensor | None, cu_seqlens: Tensor | None, reach: int) -> Tensor:
    """The last ``reach`` inputs of every segment, those of its initial state where it is shorter."""
    segments = x.shape[0] if cu_seqlens is None else len(cu_seqlens) - 1
    state = x.new_zeros(segments, reach, x.shape[2]) if initial_state is None else initial_state
    dtype = torch.promote_types(x.dtype, state.dtype)
    if cu_seqlens is None:
        recent = x[:, max(0, x.shape[1] - reach) :]
        return torch.cat([state[:, recent.shape[1] :].to(dtype), recent.to(dtype)], dim=1)
    bounds = cu_seqlens.to(x.device)
    at = bounds[1:, None] + torch.arange(-reach, 0, device=x.device)
    before = at - bounds[:-1, None]  # negative: that far before the segment
    older = torch.take_along_dim(state, (before + reach).clamp(max=reach - 1)[..., None], dim=1) if reach else state
    return torch.where((before >= 0)[..., None], x[0][at.clamp(min=0)].to(dtype), older.to(dtype))
