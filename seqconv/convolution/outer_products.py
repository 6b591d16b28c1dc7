"""Convolution of outer products within heads: what MultiHyena and H3 have in common.

Per head, with projections of ``head_dim`` numbers and one impulse response h::

    Z_t = k_t v_t^T,   S = h * Z + D Z  along t,   y_t = S_t^T q_t

Projections are (..., head_dim, num_heads): the impulse response belongs to the last axis.
"""

from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor

from seqconv_kernels._core.precision import accumulation_dtype

from ..state import State
from .long_convolution import LongConvolution, convolve


def split_heads(x: Float[Tensor, "*rows width"], num_heads: int) -> Float[Tensor, "*rows head_dim num_heads"]:
    """Head after head along the last axis, to (..., head_dim, num_heads)."""
    return cast(Tensor, x.unflatten(-1, (num_heads, -1))).transpose(-1, -2)


def convolve_outer(
    q: Float[Tensor, "batch length head_dim num_heads"],
    k: Float[Tensor, "batch length head_dim num_heads"],
    v: Float[Tensor, "batch length head_dim num_heads"],
    convolution: LongConvolution,
    D: Float[Tensor, " num_heads"],
) -> Float[Tensor, "batch length head_dim num_heads"]:
    """Whole sequences; inputs at padding must be zero.

    One row of Z at a time: the whole of Z is head_dim times the activations.
    """
    head_dim = k.shape[-2]
    kernel = convolution.kernels(k.shape[1])[0]._replace(heads=head_dim)
    y, skip = torch.zeros_like(v, dtype=accumulation_dtype(v)), D.repeat(head_dim)
    for i in range(head_dim):
        row = (k[..., i : i + 1, :] * v).flatten(-2)
        y = y + convolve(row, kernel, skip=skip).view(v.shape) * q[..., i : i + 1, :]
    return y.to(v.dtype)


def convolve_outer_from(
    q: Float[Tensor, "batch *length head_dim num_heads"],
    k: Float[Tensor, "batch *length head_dim num_heads"],
    v: Float[Tensor, "batch *length head_dim num_heads"],
    convolution: LongConvolution,
    D: Float[Tensor, " num_heads"],
    state: State,
) -> tuple[Float[Tensor, "batch *length head_dim num_heads"], State]:
    """Any number of tokens from a state of ``convolution``, whose heads are the entries of Z; or one without length."""
    head_dim, num_heads = k.shape[-2:]
    z = (k[..., :, None, :] * v[..., None, :, :]).flatten(-3)
    run = convolution.prefill if k.dim() == 4 else convolution.step
    sums, after = run(z, state, skip=D.repeat(head_dim**2))
    rows = cast(Tensor, sums.unflatten(-1, (head_dim, head_dim, num_heads)))
    return (q[..., :, None, :] * rows).sum(-3), after
