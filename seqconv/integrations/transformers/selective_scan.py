"""``selective_scan_fn`` and ``mamba_inner_fn`` as transformers' Mamba layers call them, channels before length.

A decoding step of ``MambaMixer`` is one list of ops where nothing else takes part in the layer (``decoding/fused.py``).
"""

from typing import Any

import torch
from torch import Tensor, nn

from seqconv_kernels import selective_scan, selective_scan_step
from seqconv_kernels.token_program import Unfused, unsupported_reason

from ...decoding.fused import StepProgram, plain
from .call import Call, cached_states, for_backward, recurrent_state
from .linear import is_plain
from .padding import NO_STEP, skipped


def selective_scan_fn(
    call: Call,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    return_last_state: bool = False,
    **unused: Any,
) -> Tensor | tuple[Tensor, Tensor]:
    """Scan whole sequences, from the state that the cache holds.

    transformers passes no state: there a prompt given in two chunks starts again at the second.

    Args:
        call: of the layer.
        u, delta, z: (batch, channels, length).
        A: (channels, d_state).
        B, C: (batch, d_state, length).
        D, delta_bias: (channels).
        delta_softplus: pass ``delta`` through a softplus.
        return_last_state: also return the last state, (batch, channels, d_state), float32.
        unused: which of transformers' own forms to take.
    """
    state = for_backward(_initial_state(call))
    delta, delta_bias = _adapted_time_step(call, u, delta, delta_bias)
    if (padding := skipped(call, u.shape[-1])) is not None:
        delta = delta.masked_fill(padding[:, None], NO_STEP if delta_softplus else 0)
    rows = _one_dtype(u.mT, delta.mT, B.mT, C.mT, None if z is None else z.mT)
    documents = call.documents
    bounds = None
    if documents is not None:
        rows = [None if t is None else documents.pack(t) for t in rows]
        bounds, state = documents.bounds, None
    x, dt, B, C, gate = rows
    y, last = selective_scan(
        x,
        dt,
        A,
        B,
        C,
        D,
        gate,
        delta_bias=delta_bias,
        delta_softplus=delta_softplus,
        initial_state=state,
        return_final_state=True,
        cu_seqlens=bounds,
    )
    y = (y if documents is None else documents.unpack(y)).mT.to(u.dtype)
    return (y, last) if return_last_state else y


def selective_scan_update(
    call: Call,
    state: Tensor,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
    dt_softplus: bool,
) -> Tensor:
    """One time step of Mamba-1; ``state`` (batch, channels, d_state) is moved on in place."""
    dt, dt_bias = _adapted_time_step(call, x[..., None], dt[..., None], dt_bias)
    x_, dt_, B, C, gate = _one_dtype(x, dt[..., 0], B, C, z)
    y, after = selective_scan_step(
        x_, dt_, A, B, C, D, gate, state=state.clone(), delta_bias=dt_bias, delta_softplus=dt_softplus
    )
    state.copy_(after)
    return y.to(x.dtype)


def mamba_inner_fn(call: Call, *args: Any, **kwargs: Any) -> None:
    """Nothing: the layer then calls its projections as modules, so that adapters and quantised layers act.

    The fused function takes the weights of the projections and passes over what wraps them.
    """


def mamba_step(call: Call, hidden_states: Tensor, attention_mask: Tensor | None = None, **unused: Any) -> Tensor:
    """``MambaMixer.forward`` of one token, (batch, 1, hidden_size), whose states in the cache are overwritten.

    Raises:
        Unfused: more tokens, no state yet, or a layer with a part that is called as a module.
    """
    held = cached_states(call)
    if hidden_states.shape[1] != 1 or held is None or attention_mask is not None or call.documents is not None:
        raise Unfused
    layer: Any = call.layer
    x, conv, ssm = hidden_states[:, 0], held.conv_states[0], held.recurrent_states[0]
    begun = conv is not None and ssm is not None and not getattr(held, "record_past", False)
    if not begun or unsupported_reason(x) is not None or nn.modules.module._has_any_global_hook():
        raise Unfused
    if layer.activation != "silu" or not is_plain(layer.in_proj):
        raise Unfused
    program, channels, rank = StepProgram(x, type(layer.in_proj)), layer.intermediate_size, layer.time_step_rank
    uz = program.write_linear(layer.in_proj, program.tensor_rows(x, wide=True))
    u, conv1d, dt_proj = program.buffer(channels), plain(layer.conv1d, nn.Conv1d), layer.dt_proj
    program.conv(uz, u, program.state(conv, in_place=True).mT, conv1d.weight, conv1d.bias, activation="silu")
    low, delta, y = program.write_linear(layer.x_proj, u), program.buffer(channels), program.buffer(channels)
    program.linear(low, delta, plain(dt_proj, type(layer.in_proj)).weight)
    BC = (low.columns(rank), low.columns(rank + layer.ssm_state_size))
    state = program.state(ssm, in_place=True)
    program.scan(u, delta, *BC, uz.columns(channels), y, layer.A_log.float(), dt_proj.bias, layer.D, state)
    program.write_linear(layer.out_proj, y, program.stream)
    return program.written()[:, None]


def _initial_state(call: Call) -> Tensor | None:
    """The state in the cache: (batch, channels, d_state), of Zamba's next head where heads are scanned one by one."""
    state = recurrent_state(call)
    if state is None or state.dim() == 3:
        return state
    head = len(call.heads)
    call.heads.append(head)
    return state[:, head]


def _adapted_time_step(call: Call, u: Tensor, delta: Tensor, delta_bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """The time step through ``dt_proj`` as a module, where something wraps it: transformers multiplies by its weight.

    The low-rank time step is computed again from the input of the scan.
    """
    layer: Any = call.layer
    projection = getattr(layer, "dt_proj", None)
    if projection is None or is_plain(projection):
        return delta, delta_bias
    low = layer.x_proj(u.mT)[..., : layer.time_step_rank]
    norm = getattr(layer, "dt_layernorm", None)
    return projection(low if norm is None else norm(low)).mT, None  # the module adds the bias


def _one_dtype(*tensors: Tensor | None) -> list[Any]:
    """All in the widest dtype among them (norms of time step, B and C may leave another one)."""
    dtype = tensors[0].dtype if tensors[0] is not None else torch.float32
    for t in tensors[1:]:
        dtype = dtype if t is None else torch.promote_types(dtype, t.dtype)
    return [None if t is None else t.to(dtype) for t in tensors]
