"""``causal_conv1d_fn`` and ``causal_conv1d_update`` on seqconv's op: channels before the length.

Source: ``causal_conv1d/causal_conv1d_interface.py`` of Dao-AILab/causal-conv1d at 0d2252d1 (1.6.1).
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from seqconv_kernels import causal_conv1d
from seqconv_kernels import causal_conv1d_step as step
from seqconv_kernels._core.errors import argument_error

from .. import pools
from ..arguments import activation_of, unserved
from ..segments import runs_of


def causal_conv1d_fn(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    seq_idx: Tensor | None = None,
    initial_states: Tensor | None = None,
    return_final_states: bool = False,
    final_states_out: Tensor | None = None,
    activation: str | None = None,
    *,
    implementation: str | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """Convolve whole sequences; differentiable.

    Args:
        x: (batch, dim, seqlen), in any strides.
        weight: (dim, width).
        bias: (dim).
        seq_idx: (batch, seqlen), the sequence of each token; no tap reaches over a change; -1 for padding, whose output
            is zero.
        initial_states: (batch, dim, width - 1), the inputs before ``x``.
        return_final_states: also return the last ``width - 1`` inputs.
        final_states_out: where they are written to.
        activation: ``None``, ``"silu"`` or ``"swish"``.
        implementation: of the op.

    Returns:
        (batch, dim, seqlen), or also (batch, dim, width - 1); both typed like ``x``.

    Raises:
        ValueError: another activation; ``seq_idx`` together with states, as in the original.
    """
    name = "causal_conv1d_fn"
    silu = activation_of(name, activation)
    rows = x.mT
    run: Any = partial(causal_conv1d, weight=weight, bias=bias, activation=silu, implementation=implementation)
    if seq_idx is not None:
        if initial_states is not None or return_final_states:
            remedy = "leave out initial_states and return_final_states"
            raise argument_error(name, "seq_idx together with states", "one of them", remedy)
        runs = runs_of(name, seq_idx, (rows.shape[0], rows.shape[1]))
        y: Tensor = runs.unpack(run(runs.pack(rows), cu_seqlens=runs.bounds), rows).mT
        return y
    before = None if initial_states is None else initial_states.mT
    y, after = (t.mT for t in run(rows, initial_state=before, return_final_state=True))
    if not return_final_states:
        return y
    after = after.to(x.dtype)
    return y, after if final_states_out is None else final_states_out.copy_(after)


def causal_conv1d_update(
    x: Tensor,
    conv_state: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: str | bool | None = None,
    cache_seqlens: Tensor | None = None,
    conv_state_indices: Tensor | None = None,
    *,
    num_accepted_tokens: Tensor | None = None,
    implementation: str | None = None,
) -> Tensor:
    """One or several time steps after the inputs in ``conv_state``, which are moved on in place.

    Args:
        x: (batch, dim) or (batch, dim, seqlen).
        conv_state: (batch or rows of a pool, dim, state_len), at least ``width - 1`` inputs, the newest last.
        weight: (dim, width).
        bias: (dim).
        activation: ``None``, ``"silu"`` or ``"swish"``.
        cache_seqlens: (batch), tokens so far: ``conv_state`` is then a ring, and ``x`` goes to ``cache_seqlens %
            state_len`` and on.
        conv_state_indices: (batch), row of the pool; -1 for none, with an output of zero.
        num_accepted_tokens: (batch), how many of the tokens of the call before were kept, as vLLM's function of this
            name takes it: a state has its first ``width - 2 + seqlen`` inputs for that, and begins after the newest
            input kept.
        implementation: of the op.

    Returns:
        Like ``x``.

    Raises:
        ValueError: another activation; a state that is too short; accepted tokens of a ring.
    """
    name = "causal_conv1d_update"
    silu, width, length = activation_of(name, activation), weight.shape[1], conv_state.shape[-1]
    tokens = x[..., None] if x.dim() == 2 else x
    least = width - 1 if num_accepted_tokens is None else width - 2 + tokens.shape[-1]
    if length < least:
        got, wanted = f"conv_state of {length} inputs", f"at least {least}"
        raise argument_error(name, got, wanted, "keep more inputs")
    pools.check_indices(name, "conv_state_indices", conv_state_indices, x.shape[0])
    old, move = pools.read(conv_state, conv_state_indices), _shift
    if num_accepted_tokens is not None:
        unserved(f"{name} with num_accepted_tokens", cache_seqlens=cache_seqlens)
        move = partial(_accept, num_accepted_tokens)
    elif cache_seqlens is not None:
        move = partial(_turn, cache_seqlens)
    before, after = move(old, tokens, width - 1)
    y: Any  # of either function, with or without a state
    state = before.mT.to(tokens.dtype).contiguous()
    if tokens.shape[-1] == 1:
        y, _ = step(tokens[..., 0], weight, bias, state=state.clone(), activation=silu, implementation=implementation)
        y = y[..., None]
    else:
        y = causal_conv1d(tokens.mT, weight, bias, initial_state=state, activation=silu, implementation=implementation)
        y = y.mT
    pools.write(conv_state, after, conv_state_indices)
    out = pools.blank(y, conv_state_indices)
    return out[..., 0] if x.dim() == 2 else out


def causal_conv1d_ref(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    initial_states: Tensor | None = None,
    return_final_states: bool = False,
    final_states_out: Tensor | None = None,
    activation: str | None = None,
    *,
    seq_idx: Tensor | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """:func:`causal_conv1d_fn` on the op's reference; ``seq_idx`` has no place among the original's arguments."""
    states: Any = initial_states, return_final_states, final_states_out, activation
    return causal_conv1d_fn(x, weight, bias, seq_idx, *states, implementation="reference")


causal_conv1d_update_ref = partial(causal_conv1d_update, implementation="reference")


def _shift(state: Tensor, x: Tensor, before: int) -> tuple[Tensor, Tensor]:
    """The ``before`` newest inputs, and the state after ``x``."""
    length = state.shape[-1]
    both = torch.cat([state, x.to(state.dtype)], dim=-1)
    return state[..., length - before :], both[..., both.shape[-1] - length :]


def _accept(accepted: Tensor, state: Tensor, x: Tensor, before: int) -> tuple[Tensor, Tensor]:
    """The same where ``accepted`` (batch) of the tokens of the call before were kept, from the first one on.

    The inputs before the tokens of that call begin at the state's first place, so those before these begin at
    ``accepted - 1``; of the next call at most all tokens of this one are kept.
    """
    place = (accepted.long() - 1).clamp(min=0)[:, None, None] + torch.arange(before, device=x.device)
    history = state.gather(2, place.expand(-1, state.shape[1], -1))
    used = before - 1 + x.shape[-1]
    after = torch.cat([history[..., 1:], x.to(state.dtype), state[..., used:]], dim=-1)
    return history, after


def _turn(tokens: Tensor, state: Tensor, x: Tensor, before: int) -> tuple[Tensor, Tensor]:
    """The same for rings after ``tokens`` (batch) inputs."""
    length, steps = state.shape[-1], torch.arange(-before, x.shape[-1], device=x.device)
    place = ((tokens.long()[:, None] + steps) % length)[:, None].expand(-1, state.shape[1], -1)
    newest = x[..., max(0, x.shape[-1] - length) :]  # of two inputs for one place the later one
    after = state.scatter(2, place[..., place.shape[-1] - newest.shape[-1] :], newest.to(state.dtype))
    return state.gather(2, place[..., :before]), after
