"""``A^t v`` for all t up to a length, by doubling: from p powers K follow 2 p as ``[K, A^p K]``.

The adjoint halves in the same way: ``sum over t of (A^t)^T g_t`` is that sum with ``A²`` in place of A over
``g_{2t} + A^T g_{2t+1}``. Both are operators, since the number of doublings depends on the length, which a compiler may
keep open.
"""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float64
from torch import Tensor

from seqconv_kernels._core.operator.operators import operator
from seqconv_kernels._core.operator.sizes import is_exporting_to_onnx


def matrix_powers(
    A: Float64[Tensor, "n n"], v: Float64[Tensor, "n columns"], length: int
) -> Float64[Tensor, "length n columns"]:
    """``A^t v`` for t from 0; differentiable once, in v alone."""
    powers: Tensor = (_doubled if is_exporting_to_onnx() else _powers)(A.detach(), v, length)
    return powers


def _doubled(A: Tensor, v: Tensor, length: int) -> Tensor:
    found = v[None].clone()
    while len(found) < length:
        found = torch.cat([found, A @ found])
        A = A @ A
    return found[:length].clone()


_powers = operator("matrix_powers", lambda A, v, length: v.new_empty(length, *v.shape))(_doubled)


@operator("matrix_powers_adjoint", lambda A, g: g.new_empty(g.shape[1:]))
def _adjoint(A: Tensor, g: Tensor) -> Tensor:
    g = g.clone()
    while len(g) > 1:
        g = F.pad(g, (0, 0, 0, 0, 0, len(g) % 2))
        g = g[0::2] + A.mT @ g[1::2]
        A = A @ A
    return g[0].clone()


def _save(ctx: Any, arguments: tuple[Tensor, Tensor, int], output: Tensor) -> None:
    ctx.save_for_backward(arguments[0])


def _differentiate(ctx: Any, g: Tensor) -> dict[str, Tensor]:
    return {"v": _adjoint(ctx.saved_tensors[0], g)}


_powers.differentiate(_save, _differentiate)
