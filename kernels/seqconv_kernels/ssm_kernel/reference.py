"""Readable forms of :func:`seqconv_kernels.vandermonde` and :func:`seqconv_kernels.cauchy`, whole matrices at once."""

import math

import torch
from torch import Tensor


def vandermonde(residues: Tensor, log_poles: Tensor, length: int) -> Tensor:
    """k[l] = Re(sum_n residues_n exp(log_poles_n l))."""
    lags = torch.arange(length, device=residues.device).to(residues.real.dtype)
    return torch.einsum("jcn,cnl->jcl", residues, torch.exp(log_poles[..., None] * lags)).real


def cauchy(v: Tensor, poles: Tensor, length: int) -> Tensor:
    """r[f] = sum_n v_n / (i s_f - c_f poles_n) + conj(v_n) / (i s_f - c_f conj(poles_n))."""
    s, c = half_angle_nodes(length, v)
    numerators = torch.cat([v, v.conj()], dim=-1)
    resolvent = 1 / (1j * s - c * torch.cat([poles, poles.conj()], dim=-1)[..., None])
    return torch.einsum("jcn,cnf->jcf", numerators, resolvent)


def half_angle_nodes(length: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """``(2 sin(pi f / length), cos(pi f / length))`` for f = 0 .. length // 2, rounded once; the last cosine of an
    even length is exactly 0.
    """
    f = torch.arange(length // 2 + 1, device=like.device)
    s = 2 * torch.sin(f.double() * (math.pi / length))
    c = torch.sin((length - 2 * f).double() * (math.pi / (2 * length)))
    return s.to(like.real.dtype), c.to(like.real.dtype)
