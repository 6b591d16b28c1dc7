"""Orthonormal bases of many tall matrices at once, by matrix products alone.

``x = q r`` by Cholesky factors of the shifted Gram matrix, three times over: each pass divides the condition by
about 1e7, so that bases as ill-conditioned as float64 can hold come out orthonormal (Fukaya et al. 2020, SIAM J.
Sci. Comput. 42, shifted CholeskyQR3). Several times faster than batched Householder QR.
"""

import torch
from jaxtyping import Float
from torch import Tensor

PASSES = 3


def orthonormalise(
    x: Float[Tensor, "channels rows k"],
) -> tuple[Float[Tensor, "channels rows k"], Float[Tensor, "channels k k"]]:
    """Orthonormal columns q and the upper triangular r with ``x = q r``; a zero column stays zero."""
    eye = torch.eye(x.shape[2], dtype=x.dtype)
    q, r = x, eye.expand(x.shape[0], -1, -1)
    for _ in range(PASSES):
        gram = q.transpose(1, 2) @ q
        trace = gram.diagonal(dim1=1, dim2=2).sum(1)
        shift = 11 * x.shape[2] * torch.finfo(x.dtype).eps * trace + torch.finfo(x.dtype).tiny
        factor = torch.linalg.cholesky(gram + shift[:, None, None] * eye, upper=True)
        q = q @ torch.linalg.solve_triangular(factor, eye.expand_as(factor), upper=True)
        r = factor @ r
    return q, r
