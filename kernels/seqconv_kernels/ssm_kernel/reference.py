"""Readable forms of :func:`seqconv_kernels.vandermonde` and :func:`seqconv_kernels.cauchy`, whole matrices at once."""

import torch
from torch import Tensor

from .nodes import half_angle_nodes
from .spec import CauchyInputs, VandermondeInputs


def vandermonde(inputs: VandermondeInputs) -> Tensor:
    """k[l] = Re(sum_n residues_n exp(log_poles_n l))."""
    residues, log_poles, length = inputs
    lags = torch.arange(length, device=residues.device).to(residues.real.dtype)
    return torch.einsum("jcn,cnl->jcl", residues, torch.exp(log_poles[..., None] * lags)).real


def cauchy(inputs: CauchyInputs) -> Tensor:
    """r[f] = sum_n v_n / (2i s_f - c_f poles_n) + conj(v_n) / (2i s_f - c_f conj(poles_n))."""
    v, poles, length = inputs
    s, c = half_angle_nodes(length, v)
    numerators = torch.cat([v, v.conj()], dim=-1)
    resolvent = 1 / (2j * s - c * torch.cat([poles, poles.conj()], dim=-1)[..., None])
    return torch.einsum("jcn,cnf->jcf", numerators, resolvent)
