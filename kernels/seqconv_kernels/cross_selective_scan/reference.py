"""Readable form of :func:`seqconv_kernels.cross_selective_scan`: one direction after the other, any floating dtype."""

import torch
from torch import Tensor

from ..selective_scan.reference import selective_scan
from ..selective_scan.spec import Inputs as Scan
from .spec import Inputs


def cross_selective_scan(inputs: Inputs) -> Tensor:
    """y[o_k[s]] = sum over k of the scan of u[o_k[s]]."""
    u, A, D, bias = inputs.u, inputs.A, inputs.D, inputs.delta_bias
    outputs = []
    for k in range(A.shape[0]):
        place = inputs.orders[:, k, :, None].expand(u.shape[0], -1, 1)
        u_k, delta, B, C = (
            x.take_along_dim(place, 1) for x in (u, inputs.delta[:, :, k], inputs.B[:, :, k], inputs.C[:, :, k])
        )
        of_direction = [None if parameter is None else parameter[k] for parameter in (D, bias)]
        scan = Scan(u_k, delta, A[k], B, C, of_direction[0], None, of_direction[1], inputs.delta_softplus, None)
        y, _ = selective_scan(scan)
        outputs.append(torch.zeros_like(y).scatter(1, place.expand_as(y), y))
    total: Tensor = torch.stack(outputs).sum(0)
    return total
