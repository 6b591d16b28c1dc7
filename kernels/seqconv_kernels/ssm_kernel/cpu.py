"""The Vandermonde and Cauchy products in C++ as PyTorch operators: forward, backward, their shapes for the compiler.

The operators take the parts of numbers, see :mod:`.parts`. Backward, with ``g`` the gradient of the result:

Vandermonde, ``z = exp(log_pole)``: ``dresidue = sum_l g[l] conj(z)^l``, and ``dlog_pole = conj(residue) sum_l l g[l]
conj(z)^l``. Cauchy, ``q = 1 / (2i s - c pole)``: ``dv = sum_f conj(q[f]) g[f]`` and ``dpole = sum_f conj(c[f] v q[f]^2)
g[f]``, and the same through the conjugate of each pair.
"""

from typing import Any

import torch
from torch import Tensor

from .._core import native
from .._core.complex import view_output_as_complex
from .._core.operator.double_backward import differentiate_again
from .._core.operator.operators import Operator
from .parts import (
    cauchy_gradients,
    empty_gradients,
    empty_resolvents,
    empty_taps,
    keep,
    to_parts,
    vandermonde_gradients,
)
from .spec import CauchyInputs, VandermondeInputs

CAUCHY_PADDING = 16


def vandermonde(inputs: VandermondeInputs) -> Tensor:
    """k[l] = Re(sum_n residues_n exp(log_poles_n l))."""
    taps: Tensor = _VANDERMONDE(to_parts(inputs.residues), to_parts(inputs.log_poles), inputs.length)
    return taps


def cauchy(inputs: CauchyInputs) -> Tensor:
    """The resolvent at the roots of unity."""
    return view_output_as_complex(_CAUCHY(to_parts(inputs.v), to_parts(inputs.poles), inputs.length))


def _vandermonde(residues: Tensor, log_poles: Tensor, length: int) -> Tensor:
    given, taps = [residues.contiguous(), log_poles.contiguous()], empty_taps(residues, log_poles, length)
    native.library().vandermonde_forward(*map(native.view, (*given, taps)), torch.get_num_threads())
    return taps


def _vandermonde_backward(residues: Tensor, log_poles: Tensor, dtaps: Tensor) -> tuple[Tensor, Tensor]:
    given, gradients = [t.contiguous() for t in (residues, log_poles, dtaps)], empty_gradients(residues, log_poles)
    native.library().vandermonde_backward(*map(native.view, (*given, *gradients)), torch.get_num_threads())
    return gradients


def _nodes(length: int, like: Tensor) -> Tensor:
    """For tau = 2 tan(pi f / length), f < (length + 1) // 2: tau in two parts, its square, and the factors of the sums.

    The last axis is filled up with zeros to a multiple of :data:`CAUCHY_PADDING`.
    """
    regular = (length + 1) // 2
    f = torch.arange(regular, dtype=torch.float64)
    cosine = torch.sin((length - 2 * f) * (torch.pi / (2 * length)))
    tau = 2 * torch.sin(f * (torch.pi / length)) / cosine
    high = tau.to(like.dtype)
    rows = torch.stack(
        [high, tau - high, tau.square(), -2 / cosine, -4 * tau.square() / cosine, 2 * tau / cosine, -4 * tau / cosine]
    )
    return torch.nn.functional.pad(rows, (0, -regular % CAUCHY_PADDING)).to(like.dtype)


def _cauchy(v: Tensor, poles: Tensor, length: int) -> Tensor:
    given, r = [v.contiguous(), poles.contiguous(), _nodes(length, v)], empty_resolvents(v, poles, length)
    native.library().cauchy_forward(*map(native.view, given), length, native.view(r), torch.get_num_threads())
    return r


def _cauchy_backward(v: Tensor, poles: Tensor, length: int, dr: Tensor) -> tuple[Tensor, Tensor]:
    given, gradients = [v.contiguous(), poles.contiguous(), _nodes(length, v)], empty_gradients(v, poles)
    dr = dr.contiguous()
    results = map(native.view, (dr, *gradients))
    native.library().cauchy_backward(*map(native.view, given), length, *results, torch.get_num_threads())
    return gradients


def _differentiate_vandermonde(ctx: Any, dtaps: Tensor) -> tuple[Tensor, Tensor, None]:
    return *_VANDERMONDE_BACKWARD(*ctx.saved_tensors, dtaps), None


def _differentiate_cauchy(ctx: Any, dr: Tensor) -> tuple[Tensor, Tensor, None]:
    return *_CAUCHY_BACKWARD(*ctx.saved_tensors, ctx.length, dr), None


_VANDERMONDE = Operator("vandermonde", _vandermonde, empty_taps)
_VANDERMONDE_BACKWARD = Operator("vandermonde_backward", _vandermonde_backward, empty_gradients)
_CAUCHY = Operator("cauchy_pairs", _cauchy, empty_resolvents)
_CAUCHY_BACKWARD = Operator("cauchy_pairs_backward", _cauchy_backward, empty_gradients)
_VANDERMONDE.differentiate(keep, _differentiate_vandermonde)
_CAUCHY.differentiate(keep, _differentiate_cauchy)
differentiate_again(_VANDERMONDE_BACKWARD, vandermonde_gradients)
differentiate_again(_CAUCHY_BACKWARD, cauchy_gradients)
