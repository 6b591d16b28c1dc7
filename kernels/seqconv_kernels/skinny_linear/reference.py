"""Readable form of :func:`seqconv_kernels.skinny_linear`: any floating dtype, device and number of rows."""

import torch.nn.functional as F
from torch import Tensor

from .._core.checks import check_floating
from .._core.native import accumulator_dtype
from .spec import Inputs


def skinny_linear(inputs: Inputs) -> Tensor:
    """Y = x (scale ⊙ W)^T + b; torch's own layer where the dtypes agree."""
    x, weight, bias, scale = inputs
    floating = None if scale is not None else weight
    check_floating("skinny_linear", {"x": x, "weight": floating, "bias": bias, "scale": scale}, x.device)
    dtypes = {t.dtype for t in (x, weight, bias) if t is not None}
    if len(dtypes) == 1 and scale is None:
        return F.linear(x, weight, bias)
    wide = accumulator_dtype(x)
    dense = weight.to(wide)
    if scale is not None:
        dense = (dense.unflatten(1, (scale[0].numel(), -1)) * scale.to(wide).view(len(scale), -1, 1)).flatten(1)
    return F.linear(x.to(wide), dense, None if bias is None else bias.to(wide)).to(x.dtype)
