"""Initial values that depend on the place of a layer in its stack."""

import torch
from torch import Tensor, nn

from seqconv_kernels._core.precision import accumulation_dtype

from ..types import LayerContext


@torch.no_grad()
def reset_residual_projection(projection: nn.Linear, layer: LayerContext | None) -> None:
    """Draw the weight of a projection into the residual stream again, smaller by the root of what is summed there.

    As a Linear layer's own, divided by ``√(residuals · depth)``, so that the variance of the stream does not grow with
    the depth: ``rescale_prenorm_residual`` of state-spaces/mamba (``mamba_ssm/models/mixer_seq_simple.py`` at e9594ce),
    after GPT-2. Outside of a stack (``layer=None``) nothing changes.
    """
    if layer is not None:
        bound = (projection.in_features * layer.residuals * layer.depth) ** -0.5
        projection.weight.uniform_(-bound, bound)


@torch.no_grad()
def reset_orthogonal(weight: Tensor, gain: float = 1.0) -> None:
    """Fill a matrix with orthogonal rows or columns, computed in float32 at least."""
    wide = torch.empty_like(weight, dtype=accumulation_dtype(weight))
    weight.copy_(nn.init.orthogonal_(wide, gain))
