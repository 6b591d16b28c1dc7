"""Readable form of :func:`seqconv_kernels.causal_conv1d`: one shifted product per tap, any floating dtype."""

import torch
from torch import Tensor
from torch.nn.functional import silu

from .._core.packing import in_reverse, reversible
from .._core.precision import accumulation_dtype
from .spec import Inputs


@reversible("x")
def causal_conv1d(inputs: Inputs) -> Tensor:
    """y_t = act(sum_k w_k x_{t-(K-1)+k} + b), segment by segment."""
    x, weight, bias, activation, state, cu_seqlens, _ = inputs
    dtype, reach = accumulation_dtype(x, weight, state), weight.shape[1] - 1
    lengths = [x.shape[1]] if cu_seqlens is None else cu_seqlens.diff().tolist()
    segments = x.shape[0] if cu_seqlens is None else len(lengths)
    state = x.new_zeros(segments, reach, x.shape[2]) if state is None else state
    starts = [state] if cu_seqlens is None else list(state.split(1))
    # Widened once, outside the loop: their gradients are then sums over the segments in that dtype, too.
    weight, bias = weight.to(dtype), None if bias is None else bias.to(dtype)
    ys = []
    for past, new in zip(starts, x.split(lengths, dim=1), strict=True):
        extended = torch.cat([past.to(dtype), new.to(dtype)], dim=1)
        y = extended.new_zeros(new.shape)
        for k in range(weight.shape[1]):
            y = y + weight[:, k] * extended[:, k : k + new.shape[1]]
        y = y if bias is None else y + bias
        ys.append(silu(y) if activation == "silu" else y)
    return torch.cat(ys, dim=1).to(x.dtype)


def causal_conv1d_step(inputs: Inputs) -> tuple[Tensor, Tensor]:
    """One step: the state moves on by one input."""
    x, reach = inputs.x[:, None], inputs.weight.shape[1] - 1
    return causal_conv1d(inputs._replace(x=x))[:, 0], last_inputs(x, inputs.initial_state, None, reach)


def final_state(inputs: Inputs) -> Tensor:
    """The inputs that a convolution of what comes next would need, see :func:`last_inputs`."""
    x, reach = inputs.x, inputs.weight.shape[1] - 1
    if not inputs.reverse:
        return last_inputs(x, inputs.initial_state, inputs.cu_seqlens, reach)
    if inputs.cu_seqlens is None and torch.compiler.is_compiling():  # sizes may be open, as in last_inputs
        state = x.new_zeros(x.shape[0], reach, x.shape[2]) if inputs.initial_state is None else inputs.initial_state
        dtype = torch.promote_types(x.dtype, state.dtype)
        return torch.cat([x.to(dtype), state.flip(1).to(dtype)], dim=1)[:, :reach].flip(1)
    if inputs.cu_seqlens is None:
        return last_inputs(x[:, :reach].flip(1), inputs.initial_state, None, reach)
    return final_state(in_reverse(inputs, "x")).flip(0)


def last_inputs(x: Tensor, initial_state: Tensor | None, cu_seqlens: Tensor | None, reach: int) -> Tensor:
    """The last ``reach`` inputs of every segment, those of its initial state where it is shorter."""
    segments = x.shape[0] if cu_seqlens is None else len(cu_seqlens) - 1
    state = x.new_zeros(segments, reach, x.shape[2]) if initial_state is None else initial_state
    dtype = torch.promote_types(x.dtype, state.dtype)
    if cu_seqlens is None and torch.compiler.is_compiling():  # sizes may be open: no case for short inputs
        return torch.cat([state.to(dtype), x.to(dtype)], dim=1)[:, x.shape[1] :]
    if cu_seqlens is None:
        recent = x[:, max(0, x.shape[1] - reach) :]
        return torch.cat([state[:, recent.shape[1] :].to(dtype), recent.to(dtype)], dim=1)
    bounds = cu_seqlens.to(x.device)
    at = bounds[1:, None] + torch.arange(-reach, 0, device=x.device)
    before = at - bounds[:-1, None]  # negative: that far before the segment
    older = torch.take_along_dim(state, (before + reach).clamp(max=reach - 1)[..., None], dim=1) if reach else state
    return torch.where((before >= 0)[..., None], x[0][at.clamp(min=0)].to(dtype), older.to(dtype))
