"""Recurrences with a matrix state in Triton as a PyTorch operator: forward, backward, shapes for the compiler.

Equation, per head::

    S'[t] = diag(exp(log_decay[t])) S[t-1]
    S[t] = S'[t] + k[t] (beta[t] e[t])^T,    e[t] = v[t]   or, for the delta rule,   v[t] - S'[t]^T k[t]
    o[t] = scale * S[t]^T q[t]

Forward, two kernels of :mod:`.triton_forward`: the products within all chunks, in parallel; then state passing, in
which one program per segment, head and block of value channels takes its chunks in order, its state in registers, and
writes the outputs. Backward: both again for the states and errors, then the two kernels of :mod:`.triton_backward`,
whose head has the adjoint recurrence. Nothing but the inputs is kept from the forward.

What bounds them, per token and head of d_k = d_v = 128 in bfloat16 with chunks of 64 rows (delta rule: 32):

==========================  =============  =================
forward                     bytes moved    matrix operations
==========================  =============  =================
no decay                    1.8 KB         0.10 MFLOP
scalar decay                1.8 KB         0.13 MFLOP
vector decay in float32     3.3 KB         0.21 MFLOP
delta rule, scalar decay    1.9 KB         0.27 MFLOP
delta rule, vector decay    4.5 KB         0.48 MFLOP
==========================  =============  =================

The backward moves about three times as much: it writes two states per chunk. Bytes are the limit, and next to them,
for a vector decay, some 20 other instructions per channel, token and level. ``segments * heads * d_v / BV`` programs
pass states; where these do not fill the GPU, the limit is the latency of one chunk after the other.

What a state is made of is kept in float32 and multiplied in two or three passes
(:func:`~.triton_chunk.precise_dot`): rounded to bfloat16 at every chunk, the state of the delta rule came out 500 times
less accurate. Outputs and gradients round once on the way, like the tensors that hold them.
"""

from typing import Any

import torch
from torch import Tensor

from .._core.operator.inputs import gradients_by_name, save_inputs, saved_inputs
from .._core.operator.operators import operator
from .._core.triton.support import accumulator_dtype
from . import WIDEST_KEY
from .triton_launch import Inputs, Launch

Gradients = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


def linear_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor | None,
    beta: Tensor | None,
    scale: float,
    state: Tensor | None,
    cu_seqlens: Tensor | None,
    *,
    delta: bool,
) -> tuple[Tensor, Tensor]:
    """Outputs (batch, length, heads, d_v) typed like ``v``, final states (segments, heads, d_k, d_v), at least float32.

    Args:
        log_decay: (batch, length, heads[, d_k]).
        beta: strength of what is written, (batch, length, heads).
        state: before the first token of each segment, (segments, heads, d_k, d_v).
        delta: write the error at the key (the delta rule) rather than the value.
    """
    dtype = torch.promote_types(torch.promote_types(q.dtype, k.dtype), v.dtype)
    log_decay, beta = (t if t is None or t.dim() == 4 else t[..., None] for t in (log_decay, beta))
    inputs = Inputs(q.to(dtype), k.to(dtype), v.to(dtype), log_decay, beta, state, cu_seqlens, scale, delta)
    o, final_state = _forward(inputs) if delta or q.shape[3] <= WIDEST_KEY else _by_blocks_of_keys(inputs)
    return o.to(v.dtype), final_state


def _by_blocks_of_keys(inputs: Inputs) -> tuple[Tensor, Tensor]:
    """Keys wider than a program holds: without the delta rule rows of the state do not depend on each other.

    Each block of key channels has an output of its own, and the output is their sum, in the dtype of the state.
    """
    outputs, states = [], []
    for start in range(0, inputs.q.shape[3], WIDEST_KEY):
        part = slice(start, start + WIDEST_KEY)
        decay, state = inputs.log_decay, inputs.initial_state
        decay = decay if decay is None or decay.shape[3] == 1 else decay[..., part]
        state = None if state is None else state[:, :, part]
        q, k = inputs.q[..., part], inputs.k[..., part]
        o, last = _forward(inputs._replace(q=q, k=k, log_decay=decay, initial_state=state))
        outputs.append(o.to(last.dtype))
        states.append(last)
    return torch.stack(outputs).sum(0), torch.cat(states, dim=2)


def _outputs(inputs: Inputs) -> tuple[Tensor, Tensor]:
    (batch, length, _, d_v), q = inputs.v.shape, inputs.q
    state = (inputs.segments, inputs.heads, q.shape[3], d_v)
    return q.new_empty(batch, length, inputs.heads, d_v), q.new_empty(state, dtype=accumulator_dtype(q))


@operator("linear_attention_triton", _outputs)
def _forward(inputs: Inputs) -> tuple[Tensor, Tensor]:
    """The output and the final states."""
    if inputs.q.numel() == 0:
        o, final = _outputs(inputs)
        return o, final
    launch = Launch(inputs)
    o = launch.per_token(launch.d_v, launch.dtype)
    return o, launch.forward(launch.intra_chunk(), o, None, None)


def _shaped(found: tuple[Tensor, ...] | None, inputs: Inputs) -> Gradients:
    """Gradients shaped and typed like the tensors, summed over the heads that share one; empty for an absent tensor."""
    tensors, shaped = inputs[:6], []
    for place, tensor in enumerate(tensors):
        if tensor is None or found is None:
            shaped.append(inputs.q.new_zeros(0 if tensor is None else tensor.shape))
            continue
        # Heads are axis 2 of tensors over time and axis 1 of the state.
        gradient, axis = found[place], 1 if place == 5 else 2
        if gradient.shape[axis] != tensor.shape[axis]:
            # Grouped heads: the kernels give a gradient per head of the state, the tensor's own head adds them up.
            gradient = gradient.unflatten(axis, (tensor.shape[axis], -1)).sum(axis + 1)
        shaped.append(gradient.to(tensor.dtype))
    q, k, v, log_decay, beta, state = shaped
    return q, k, v, log_decay, beta, state


@operator("linear_attention_triton_backward", lambda inputs, *_: _shaped(None, inputs))
def _backward(inputs: Inputs, do: Tensor, dfinal: Tensor | None) -> Gradients:
    """Gradients of the tensors, empty for those that are absent."""
    if inputs.q.numel() == 0:
        return _shaped(None, inputs)
    dfinal = None if dfinal is None else dfinal.contiguous()
    return _shaped(Launch(inputs).backward(do, dfinal), inputs)


def _setup_context(ctx: Any, arguments: tuple[Inputs], output: tuple[Tensor, Tensor]) -> None:
    ctx.set_materialize_grads(False)
    save_inputs(ctx, arguments[0])


def _differentiate(ctx: Any, do: Tensor | None, dfinal: Tensor | None) -> dict[str, Tensor | None]:
    inputs, _ = saved_inputs(ctx, Inputs)
    do = torch.zeros_like(_outputs(inputs)[0]) if do is None else do
    return gradients_by_name(inputs, _backward(inputs, do, dfinal))


_forward.differentiate(_setup_context, _differentiate)
