"""``selective_scan_fn`` and ``mamba_inner_fn`` of Mamba-1 on seqconv's ops: channels before the length.

B and C may be constant in time, vary with it, or vary per group of channels, each on its own; A may be complex, as in
S4D, where the output is twice the real part. Source: ``mamba_ssm/ops/selective_scan_interface.py`` of
state-spaces/mamba at e9594ce1.
"""

from functools import partial, reduce
from math import lcm
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from seqconv_kernels import linear_scan, selective_scan
from seqconv_kernels._core.complex import as_complex
from seqconv_kernels._core.errors import argument_error

from ..causal_conv1d import causal_conv1d_fn

COMPLEX_FACTOR = 2
"""The conjugate half of a complex state is not computed: it doubles the real part."""


def selective_scan_fn(
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
    *,
    implementation: str | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """Scan whole sequences; differentiable, the last state included.

    Args:
        u, delta, z: (batch, dim, seqlen).
        A: (dim, dstate), real or complex.
        B, C: (dim, dstate), (batch, dstate, seqlen) or (batch, groups, dstate, seqlen); with a complex A those that
            vary in time are real, (..., 2 * seqlen), real and imaginary parts in turn.
        D, delta_bias: (dim).
        delta_softplus: pass ``delta`` through a softplus.
        return_last_state: also return the state after the last input, (batch, dim, dstate).
        implementation: of the op.
    """
    batch, dim, length = u.shape
    if A.is_complex():
        B, C = (_complex_weights(t, length) for t in (B, C))
    weights = _same_groups([_over_time(t, batch, length) for t in (B, C)], dim)
    dtype = reduce(torch.promote_types, (t.dtype for t in (u, delta, *weights, z) if t is not None))
    scan: Any = _complex_scan if A.is_complex() else partial(selective_scan, implementation=implementation)
    real = dtype.to_real() if dtype.is_complex else dtype
    rows = [None if t is None else t.to(real).mT for t in (u, delta, z)]
    y, last = scan(
        rows[0],
        rows[1],
        A,
        *(t.to(dtype) for t in weights),
        D,
        rows[2],
        delta_bias=delta_bias,
        delta_softplus=delta_softplus,
        return_final_state=True,
    )
    y = y.mT.to(u.dtype)
    return (y, last) if return_last_state else y


def mamba_inner_fn(
    xz: Tensor,
    conv1d_weight: Tensor,
    conv1d_bias: Tensor | None,
    x_proj_weight: Tensor,
    delta_proj_weight: Tensor,
    out_proj_weight: Tensor,
    out_proj_bias: Tensor | None,
    A: Tensor,
    B: Tensor | None = None,
    C: Tensor | None = None,
    D: Tensor | None = None,
    delta_bias: Tensor | None = None,
    B_proj_bias: Tensor | None = None,
    C_proj_bias: Tensor | None = None,
    delta_softplus: bool = True,
    checkpoint_lvl: int = 1,
    b_rms_weight: Tensor | None = None,
    c_rms_weight: Tensor | None = None,
    dt_rms_weight: Tensor | None = None,
    b_c_dt_rms_eps: float = 1e-6,
    *,
    implementation: str | None = None,
) -> Tensor:
    """A Mamba-1 layer after its first projection: convolution, projections, scan, gate, last projection.

    Args:
        xz: (batch, 2 * dim, seqlen).
        conv1d_weight: (dim, 1, width).
        conv1d_bias: (dim).
        x_proj_weight: (dt_rank + dstate of each projected B and C, dim).
        delta_proj_weight: (dim, dt_rank).
        out_proj_weight, out_proj_bias: (d_model, dim) and (d_model).
        A, B, C, D, delta_bias, delta_softplus: as for :func:`selective_scan_fn`; B and C are projected if not given.
        B_proj_bias, C_proj_bias: added to the projected ones.
        checkpoint_lvl: of the original: what its backward pass computes again.
        b_rms_weight, c_rms_weight, dt_rms_weight, b_c_dt_rms_eps: norms of B, C, projected or given, and the time step.
        implementation: of the ops.

    Returns:
        (batch, seqlen, d_model).

    Raises:
        ValueError: a norm of a given B or C that is constant in time, has several groups or is complex.
    """
    inputs, z = xz.chunk(2, dim=1)
    taps = conv1d_weight[:, 0]
    x: Any = causal_conv1d_fn(inputs, taps, conv1d_bias, activation="silu", implementation=implementation)
    projected = F.linear(x.mT, x_proj_weight)  # (batch, seqlen, dt_rank + ...)
    rank, width = delta_proj_weight.shape[1], A.shape[-1] * (COMPLEX_FACTOR if A.is_complex() else 1)
    delta = _normed(F.linear(projected[..., :rank], delta_proj_weight), dt_rms_weight, b_c_dt_rms_eps)
    if B is None:
        B = _weights(projected[..., rank : rank + width], B_proj_bias, b_rms_weight, b_c_dt_rms_eps, A)
    else:
        B = _normed_over_time("b_rms_weight", B, b_rms_weight, b_c_dt_rms_eps, A)
    if C is None:
        C = _weights(projected[..., -width:], C_proj_bias, c_rms_weight, b_c_dt_rms_eps, A)
    else:
        C = _normed_over_time("c_rms_weight", C, c_rms_weight, b_c_dt_rms_eps, A)
    y: Any = selective_scan_fn(x, delta.mT, A, B, C, D, z, delta_bias, delta_softplus, implementation=implementation)
    return F.linear(y.mT, out_proj_weight, out_proj_bias)


selective_scan_ref = partial(selective_scan_fn, implementation="reference")
mamba_inner_ref = partial(mamba_inner_fn, implementation="reference")


def _over_time(weights: Tensor, batch: int, length: int) -> Tensor:
    """(batch, seqlen, groups, dstate); a constant is a group per channel."""
    if weights.dim() == 2:
        return weights.expand(batch, length, *weights.shape)
    grouped = weights[:, None] if weights.dim() == 3 else weights
    return grouped.permute(0, 3, 1, 2)


def _same_groups(weights: list[Tensor], dim: int) -> list[Tensor]:
    """As many groups of channels for B as for C; none at all where one serves all channels."""
    groups = lcm(*(t.shape[2] for t in weights))
    if groups == 1:
        return [t[:, :, 0] for t in weights]
    return [t.repeat_interleave(groups // t.shape[2], dim=2) for t in weights]


def _complex_weights(weights: Tensor, length: int) -> Tensor:
    return weights if weights.dim() == 2 else as_complex(weights.unflatten(-1, (length, 2)))


def _complex_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    *,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    return_final_state: bool,
) -> tuple[Tensor, Tensor]:
    """``h[t] = exp(dt[t] A) h[t-1] + dt[t] B[t] u[t]``, ``y = 2 Re(C[t] h[t])``: all states are held at once."""
    wide = torch.promote_types(u.dtype, torch.float32)
    dt = delta.to(wide) if delta_bias is None else delta.to(wide) + delta_bias
    dt = F.softplus(dt) if delta_softplus else dt
    B, C = (_per_channel(t, u.shape[-1]) for t in (B, C))
    h, last = linear_scan((dt[..., None] * A).exp(), (dt * u)[..., None] * B, return_final_state=True)
    y = COMPLEX_FACTOR * (h * C).sum(-1).real
    y = y if D is None else y + D * u
    return (y if z is None else y * F.silu(z.to(wide))).to(u.dtype), last


def _per_channel(weights: Tensor, dim: int) -> Tensor:
    if weights.dim() == 3:
        return weights[:, :, None]
    return weights.repeat_interleave(dim // weights.shape[2], dim=2)


def _weights(x: Tensor, bias: Tensor | None, norm: Tensor | None, eps: float, A: Tensor) -> Tensor:
    """Projected B or C as :func:`selective_scan_fn` takes it: (batch, dstate, seqlen), or twice the length."""
    x = _normed(x if bias is None else x + bias.to(x.dtype), norm, eps)
    return x.unflatten(-1, (-1, 2)).permute(0, 2, 1, 3).flatten(2) if A.is_complex() else x.mT


def _normed_over_time(name: str, x: Tensor, norm: Tensor | None, eps: float, A: Tensor) -> Tensor:
    """A given B or C, (batch, dstate, seqlen) or with an axis of one group before dstate, after its norm."""
    if norm is None:
        return x
    if A.is_complex() or x.dim() < 3 or (x.dim() == 4 and x.shape[1] > 1):
        got = f"{name} for {'a complex A and ' * A.is_complex()}weights of shape {tuple(x.shape)}"
        wanted = "real ones that vary in time, in one group"
        raise argument_error("mamba_inner_fn", got, wanted, f"leave out {name}")
    return _normed(x.mT, norm, eps).mT


def _normed(x: Tensor, weight: Tensor | None, eps: float) -> Tensor:
    return x if weight is None else F.rms_norm(x, x.shape[-1:], weight, eps)
