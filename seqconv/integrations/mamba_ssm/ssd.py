"""The scan of Mamba-2 under the names of the original: whole, and with convolution, norm and projection.

Source: ``mamba_ssm/ops/triton/ssd_combined.py`` of state-spaces/mamba at e9594ce1.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from seqconv_kernels import ssd
from seqconv_kernels._core.errors import argument_error

from ..arguments import unserved
from ..causal_conv1d import causal_conv1d_fn
from ..segments import Runs, runs_of, states_of_all, without_empty
from .norms import rmsnorm_fn
from .selective_scan import selective_scan_fn

NO_LIMIT = (0.0, float("inf"))


def mamba_chunk_scan_combined(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    chunk_size: int,
    D: Tensor | None = None,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    initial_states: Tensor | None = None,
    seq_idx: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    dt_softplus: bool = False,
    dt_limit: Sequence[float] = NO_LIMIT,
    return_final_states: bool = False,
    return_varlen_states: bool = False,
    state_dtype: torch.dtype | None = None,
) -> Tensor | tuple[Tensor, ...]:
    """Scan whole sequences; differentiable, the states included.

    Args:
        x, z: (batch, seqlen, heads, headdim).
        dt: (batch, seqlen, heads).
        A, dt_bias: (heads).
        B, C: (batch, seqlen, groups, dstate).
        chunk_size: of the original; the result does not depend on it.
        D: (heads) or (heads, headdim).
        initial_states: (batch, heads, headdim, dstate); with ``seq_idx`` of the rows that begin with sequence 0, as in
            the original.
        seq_idx: (batch, seqlen), the sequence of each token; the state starts again at a change; -1 for padding, whose
            output is zero.
        cu_seqlens: (sequences + 1), used with ``return_varlen_states``: bounds of the sequences in a batch of one.
        dt_softplus: pass ``dt`` through a softplus.
        dt_limit: least and largest time step, applied last.
        return_final_states: also return the state in which each row ends, (batch, heads, headdim, dstate).
        return_varlen_states: also return the state in which each sequence of ``cu_seqlens`` ends, empty ones included.
        state_dtype: of the states between the chunks of the original; here they are float32 at least.

    Returns:
        y, or (y, final states), (y, varlen states), (y, final states, varlen states).

    Raises:
        ValueError: ``return_varlen_states`` without ``cu_seqlens``, or with other sequences in ``seq_idx``.
    """
    name = "mamba_chunk_scan_combined"
    options: dict[str, Any] = {"dt_bias": dt_bias, "dt_softplus": dt_softplus, "dt_limit": _limit(dt_limit)}
    tokens = (x, dt, B, C, z)
    bounds, stay = (None, None) if not return_varlen_states else _bounds(name, cu_seqlens, x)
    runs = None if seq_idx is None else runs_of(name, seq_idx, (x.shape[0], x.shape[1]))
    if runs is None and bounds is None:
        y, last = _scan(tokens, A, D, initial_states, options)
        return (y, last) if return_final_states else y
    runs = _one_run_each(name, runs, bounds) if runs is None or bounds is not None else runs
    states = None if initial_states is None else _entering(runs, initial_states)
    packed = tuple(None if t is None else runs.pack(t) for t in tokens)
    y, last = _scan(packed, A, D, states, {**options, "cu_seqlens": runs.bounds})
    y = runs.unpack(y, x)
    others = [last[runs.last]] if return_final_states else []
    others += [states_of_all(cu_seqlens, stay, None, last)] if return_varlen_states and cu_seqlens is not None else []
    return (y, *others) if others else y


def mamba_chunk_scan(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    chunk_size: int,
    D: Tensor | None = None,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    dt_softplus: bool = False,
) -> Tensor:
    """:func:`mamba_chunk_scan_combined` without states, boundaries and limits."""
    y: Any = mamba_chunk_scan_combined(x, dt, A, B, C, chunk_size, D, z, dt_bias, dt_softplus=dt_softplus)
    return y  # type: ignore[no-any-return]


def mamba_split_conv1d_scan_combined(
    zxbcdt: Tensor,
    conv1d_weight: Tensor,
    conv1d_bias: Tensor | None,
    dt_bias: Tensor,
    A: Tensor,
    D: Tensor,
    chunk_size: int,
    initial_states: Tensor | None = None,
    seq_idx: Tensor | None = None,
    dt_limit: Sequence[float] = NO_LIMIT,
    return_final_states: bool = False,
    activation: str | None = "silu",
    rmsnorm_weight: Tensor | None = None,
    rmsnorm_eps: float = 1e-6,
    outproj_weight: Tensor | None = None,
    outproj_bias: Tensor | None = None,
    headdim: int | None = None,
    ngroups: int = 1,
    norm_before_gate: bool = True,
    state_dtype: torch.dtype | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """A Mamba-2 layer after its first projection: convolution, scan, gate, norm, last projection.

    Args:
        zxbcdt: (batch, seqlen, 2 * d_nonssm + 2 * dim + 2 * groups * dstate + heads): two halves of a gated MLP next to
            the scan, z, x, B, C and dt.
        conv1d_weight: (dim + 2 * groups * dstate, width).
        conv1d_bias: (dim + 2 * groups * dstate).
        dt_bias, A, D, initial_states, seq_idx, dt_limit, return_final_states, chunk_size, state_dtype: as for
            :func:`mamba_chunk_scan_combined`; ``dt`` passes through a softplus.
        activation: after the convolution.
        rmsnorm_weight, rmsnorm_eps: gated norm over each group, (dim).
        outproj_weight, outproj_bias: (d_model, d_nonssm + dim) and (d_model).
        headdim: width of a head, if D has one axis.
        ngroups: of B and C.
        norm_before_gate: norm the scan's output, then multiply by ``silu(z)``; otherwise the other way round.

    Returns:
        (batch, seqlen, d_nonssm + dim or d_model), or also the final states.

    Raises:
        ValueError: neither ``headdim`` nor a D with two axes; ``outproj_bias`` without its weight.
    """
    if outproj_weight is None:
        unserved("mamba_split_conv1d_scan_combined without outproj_weight", outproj_bias=outproj_bias)
    heads, width = D.shape[0], D.shape[1] if D.dim() == 2 else headdim
    if width is None:
        remedy = "pass headdim"
        raise argument_error("mamba_split_conv1d_scan_combined", "D of one axis", "headdim with it", remedy)
    dim, state = heads * width, (conv1d_weight.shape[0] - heads * width) // 2
    d_nonssm = (zxbcdt.shape[-1] - 2 * dim - 2 * state - heads) // 2
    mlp, z, xBC, dt = zxbcdt.split([2 * d_nonssm, dim, dim + 2 * state, heads], dim=-1)
    convolved: Any = causal_conv1d_fn(xBC.mT, conv1d_weight, conv1d_bias, seq_idx, activation=activation)
    x, B, C = convolved.mT.split([dim, state, state], dim=-1)
    out: Any = mamba_chunk_scan_combined(
        x.unflatten(-1, (heads, width)),
        dt,
        A,
        B.unflatten(-1, (ngroups, -1)),
        C.unflatten(-1, (ngroups, -1)),
        chunk_size,
        D,
        z.unflatten(-1, (heads, width)) if rmsnorm_weight is None else None,
        dt_bias,
        initial_states,
        seq_idx,
        dt_softplus=True,
        dt_limit=dt_limit,
        return_final_states=True,
    )
    y, last = out[0].flatten(2), out[1]
    if rmsnorm_weight is not None:
        y = rmsnorm_fn(y, rmsnorm_weight, None, z, rmsnorm_eps, dim // ngroups, norm_before_gate)
    if d_nonssm:
        gate, value = mlp.chunk(2, dim=-1)
        y = torch.cat([F.silu(gate) * value, y], dim=-1)
    y = y if outproj_weight is None else F.linear(y, outproj_weight, outproj_bias)
    return (y, last) if return_final_states else y


def ssd_selective_scan(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    dt_softplus: bool = False,
    dt_limit: Sequence[float] = NO_LIMIT,
) -> Tensor:
    """The scan with heads as groups of channels, which may differ inside a head.

    Args:
        x, z: (batch, seqlen, heads, headdim).
        dt: (batch, seqlen, heads) or (batch, seqlen, heads, headdim).
        A: (heads) or (heads * headdim, dstate).
        B, C: (batch, seqlen, groups, dstate).
        D, dt_bias: (heads) or (heads, headdim).
        dt_softplus, dt_limit: as for :func:`mamba_chunk_scan_combined`.
    """
    heads, width = x.shape[2:]
    steps = (dt[..., None] if dt.dim() == 3 else dt).expand(x.shape).flatten(2)
    bias, skip = (None if t is None else _per_channel(t, width) for t in (dt_bias, D))
    if _limit(dt_limit) is not None:
        steps = steps if bias is None else steps + bias
        steps = (F.softplus(steps) if dt_softplus else steps).clamp(*dt_limit)
        bias, dt_softplus = None, False
    A = A.repeat_interleave(width)[:, None].expand(-1, B.shape[-1]) if A.dim() == 1 else A
    y: Any = selective_scan_fn(
        x.flatten(2).mT,
        steps.to(x.dtype).mT,
        A.to(torch.promote_types(A.dtype, torch.float32)),
        B.permute(0, 2, 3, 1),
        C.permute(0, 2, 3, 1),
        skip,
        None if z is None else z.flatten(2).mT,
        bias,
        dt_softplus,
    )
    return y.mT.unflatten(-1, (heads, width))  # type: ignore[no-any-return]


def _per_channel(x: Tensor, width: int) -> Tensor:
    return x.flatten() if x.dim() == 2 else x.repeat_interleave(width)


def _scan(
    tokens: tuple[Tensor | None, ...], A: Tensor, D: Tensor | None, state: Tensor | None, options: dict[str, Any]
) -> tuple[Tensor, Tensor]:
    x, dt, B, C, z = tokens
    run: Any = ssd
    y, last = run(x, dt, A, B, C, D, z, initial_state=state, return_final_state=True, **options)
    return y, last


def _limit(dt_limit: Sequence[float]) -> tuple[float, ...] | None:
    """``None`` where nothing is cut: without a softplus a negative time step passes."""
    return None if tuple(dt_limit) == NO_LIMIT else tuple(dt_limit)


def _bounds(name: str, cu_seqlens: Tensor | None, x: Tensor) -> tuple[Tensor, Tensor | None]:
    if cu_seqlens is None or x.shape[0] != 1:
        got = f"return_varlen_states with cu_seqlens={cu_seqlens} and a batch of {x.shape[0]}"
        raise argument_error(name, got, "cu_seqlens and a batch of 1", "pass the bounds of the sequences")
    bounds: tuple[Tensor, Tensor | None] = without_empty(cu_seqlens)
    return bounds


def _one_run_each(name: str, runs: Runs | None, bounds: Tensor | None) -> Runs:
    """The runs, which have to be the sequences of ``cu_seqlens``."""
    assert bounds is not None
    if runs is None or runs.bounds.tolist() != bounds.tolist():
        got = "seq_idx that does not change at cu_seqlens" if runs is not None else "cu_seqlens without seq_idx"
        raise argument_error(name, got, "the same sequences in both", "pass seq_idx of the sequences of cu_seqlens")
    return runs


def _entering(runs: Runs, states: Tensor) -> Tensor:
    """Initial states of all runs: those of the rows that begin with sequence 0, else zero."""
    entering = states * (runs.index == 0).view(-1, 1, 1, 1).to(states.dtype)
    return states.new_zeros(len(runs.bounds) - 1, *states.shape[1:]).index_copy(0, runs.first, entering)
