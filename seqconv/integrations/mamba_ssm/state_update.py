"""``selective_state_update``: one time step of Mamba-1 and Mamba-2, whose states are moved on in place.

Source: ``mamba_ssm/ops/triton/selective_state_update.py`` of state-spaces/mamba at e9594ce1.
"""

from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from seqconv_kernels import selective_scan_step, ssd_step
from seqconv_kernels._core.errors import argument_error

from .. import pools


def selective_state_update(
    state: Tensor,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    dt_softplus: bool = False,
    state_batch_indices: Tensor | None = None,
    *,
    num_accepted_tokens: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    implementation: str | None = None,
) -> Tensor:
    """One time step; ``state`` is moved on in place, in its own dtype.

    What belongs to a head may be one number spread over its channels (strides of zero), as Mamba-2 passes it.

    Args:
        state: (batch or rows of a pool, dim, dstate) or (..., heads, dim, dstate), of any floating dtype.
        x, dt, z: (batch, dim) or (batch, heads, dim).
        A: (dim, dstate) or (heads, dim, dstate).
        B, C: (batch, dstate) or (batch, groups, dstate).
        D, dt_bias: (dim) or (heads, dim).
        dt_softplus: pass ``dt`` through a softplus.
        state_batch_indices: (batch), row of the pool; -1 for none, with an output of zero.
        num_accepted_tokens: (sequences), as vLLM's function of this name takes it: ``state_batch_indices`` is
            (sequences, tokens), a row for the state after each token, and a sequence begins with that of its row
            ``num_accepted_tokens - 1``.
        cu_seqlens: bounds of sequences of several tokens, which are then the rows of ``x``; also vLLM's.
        implementation: of the op.

    Returns:
        Like ``x``.

    Raises:
        ValueError: sequences of several tokens without their rows of the pool.
    """
    if num_accepted_tokens is not None or cu_seqlens is not None:
        run: Any = partial(_step, A=A, D=D, dt_bias=dt_bias, dt_softplus=dt_softplus, implementation=implementation)
        sequences = _Sequences.of(x.shape[0], state_batch_indices, num_accepted_tokens, cu_seqlens)
        return _verify(state, {"x": x, "dt": dt, "B": B, "C": C, "z": z}, run, sequences)
    pools.check_indices("selective_state_update", "state_batch_indices", state_batch_indices, x.shape[0])
    before = pools.read(state, state_batch_indices)
    before = before.to(torch.promote_types(before.dtype, torch.float32))
    options: Any = {"dt_bias": dt_bias, "dt_softplus": dt_softplus, "implementation": implementation}
    y, after = _step(before, x, dt, A, B, C, D, z, **options)
    pools.write(state, after, state_batch_indices)
    return pools.blank(y, state_batch_indices)


selective_state_update_ref = partial(selective_state_update, implementation="reference")


class _Sequences(NamedTuple):
    """Sequences of several tokens next to each other.

    Attributes:
        starts, lengths: (sequences).
        rows: of the pool, (sequences, tokens).
        first: row that each begins with, (sequences).
        each: whether the state after every token is kept, not the last one alone.
    """

    starts: Tensor
    lengths: Tensor
    rows: Tensor
    first: Tensor
    each: bool

    @classmethod
    def of(cls, tokens: int, rows: Tensor | None, accepted: Tensor | None, cu_seqlens: Tensor | None) -> "_Sequences":
        """As the arguments describe them.

        Raises:
            ValueError: no rows of the pool, or fewer than tokens.
        """
        function = "selective_state_update"
        if rows is None:
            given = "num_accepted_tokens" if accepted is not None else "cu_seqlens"
            remedy = "pass state_batch_indices"
            raise argument_error(function, f"{given} alone", "state_batch_indices with it", remedy)
        rows = rows[:, None] if rows.dim() == 1 else rows
        bounds = torch.arange(tokens + 1, device=rows.device) if cu_seqlens is None else cu_seqlens.long()
        longest = int(bounds.diff().max())
        if accepted is not None and rows.shape[1] < longest:
            got = f"state_batch_indices of {rows.shape[1]} rows for sequences of up to {longest} tokens"
            raise argument_error(function, got, "a row per token", "give more rows")
        first = rows[:, :1] if accepted is None else rows.gather(1, (accepted.long() - 1).clamp(min=0)[:, None])
        return cls(bounds[:-1], bounds.diff(), rows, first[:, 0], accepted is not None)


def _verify(pool: Tensor, tokens: dict[str, Tensor | None], run: Any, sequences: _Sequences) -> Tensor:
    """All sequences one token on, as often as the longest has tokens."""
    given = {name: t for name, t in tokens.items() if t is not None}
    wide = torch.promote_types(pool.dtype, torch.float32)
    states, out = pools.read(pool, sequences.first).to(wide), torch.zeros_like(given["x"])
    there = sequences.first >= 0
    for step in range(int(sequences.lengths.max())):
        here = ((sequences.lengths > step) & there).nonzero()[:, 0]
        token = sequences.starts[here] + step
        y, after = run(states[here], **{name: t[token] for name, t in given.items()})
        out[token], states[here] = y.to(out.dtype), after.to(wide)
        if sequences.each:
            pools.write(pool, after, sequences.rows[here, step])
    if not sequences.each:
        pools.write(pool, states[there], sequences.rows[there, 0])
    return out


def _step(
    state: Tensor,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    **options: Any,
) -> tuple[Tensor, Tensor]:
    """The output and the next state."""
    dt_bias = options.pop("dt_bias")
    run = _per_head if _tied(dt, A, dt_bias) else _per_channel
    return run(state, x, dt, A, B, C, D, z, dt_bias, **options)


def _tied(dt: Tensor, A: Tensor, dt_bias: Tensor | None) -> bool:
    """Whether the time step and A are one number per head."""
    over_channels = [dt.stride(-1), A.stride(-1), A.stride(-2), *([] if dt_bias is None else [dt_bias.stride(-1)])]
    return A.dim() == 3 and dt.dim() == 3 and not any(over_channels)


def _per_head(
    state: Tensor,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
    **options: Any,
) -> tuple[Tensor, Tensor]:
    B, C = (t[:, None] if t.dim() == 2 else t for t in (B, C))
    bias = None if dt_bias is None else dt_bias[..., 0]
    return ssd_step(x, dt[..., 0], A[..., 0, 0], B, C, D, z, state=state, dt_bias=bias, **options)


def _per_channel(
    state: Tensor,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
    *,
    dt_softplus: bool,
    implementation: str | None,
) -> tuple[Tensor, Tensor]:
    """Heads are groups of channels."""
    dtype = torch.promote_types(torch.promote_types(x.dtype, dt.dtype), torch.promote_types(B.dtype, C.dtype))
    y, after = selective_scan_step(
        x.flatten(1).to(dtype),
        dt.flatten(1).to(dtype),
        A.flatten(0, -2),
        B.to(dtype),
        C.to(dtype),
        None if D is None else D.flatten(),
        None if z is None else z.flatten(1).to(dtype),
        state=state.flatten(1, -2),
        delta_bias=None if dt_bias is None else dt_bias.flatten(),
        delta_softplus=dt_softplus,
        implementation=implementation,
    )
    return y.view(x.shape).to(x.dtype), after.view(state.shape)
