"""Norms of images with channels last, next to those of :mod:`~seqconv.layers.norms`.

With mean μ and variance σ² over the channels of a cell (``image``: over channels and cells) of C channels:

==============  ====================================  ============================================
``image``       ``(x - μ) / √(σ² + ε) · w + b``       group norm with one group (AFFNet, SPANet)
``uncentred``   ``x / √(σ² + ε) · w``                 "BiasFree" layer norm of Restormer
``unit``        ``(x - μ) / max(√C σ, ε) · w``        vectors of length one (ParCNetV2)
==============  ====================================  ============================================
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from seqconv_kernels._core.errors import unknown_name
from seqconv_kernels._core.precision import accumulation_dtype

from ...layers.norms import NORMS, Norm, create_norm


class CellBatchNorm(nn.BatchNorm2d):
    """Statistics of each channel over the images and cells of a batch."""

    def forward(self, input: Float[Tensor, "batch rows columns channels"]) -> Tensor:
        """Normalise every channel."""
        return super().forward(input.movedim(-1, 1)).movedim(1, -1)


class ImageNorm(Norm):
    """Statistics over the cells and channels of each image."""

    per_token = False

    def __init__(self, d_model: int, *, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight, self.bias = nn.Parameter(torch.empty(d_model)), nn.Parameter(torch.empty(d_model))
        self.reset_parameters()

    def forward(
        self, x: Float[Tensor, "batch rows columns d_model"], mask: Bool[Tensor, "batch rows columns"] | None = None
    ) -> Float[Tensor, "batch rows columns d_model"]:
        """Normalise whole images; ``mask`` is not read."""
        return F.group_norm(x.movedim(-1, 1), 1, self.weight, self.bias, self.eps).movedim(1, -1)


class UncentredNorm(Norm):
    """Variance over the channels of each cell, the mean stays."""

    def __init__(self, d_model: int, *, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps, self.weight = eps, nn.Parameter(torch.empty(d_model))
        self.reset_parameters()

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        wide = x.to(accumulation_dtype(x))
        scaled = wide * (wide.var(-1, correction=0, keepdim=True) + self.eps).rsqrt()
        return scaled.to(x.dtype) * self.weight


class UnitNorm(Norm):
    """Cells less their mean, scaled to length one."""

    def __init__(self, d_model: int, *, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps, self.weight = eps, nn.Parameter(torch.empty(d_model))
        self.reset_parameters()

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        wide = x.to(accumulation_dtype(x))
        unit = F.normalize(wide - wide.mean(-1, keepdim=True), dim=-1, eps=self.eps)
        return unit.to(x.dtype) * self.weight


IMAGE_NORMS: Mapping[str, Callable[..., Norm]] = {"image": ImageNorm, "uncentred": UncentredNorm, "unit": UnitNorm}


def create_image_norm(name: str, d_model: int, *, eps: float = 1e-5, **options: Any) -> Norm:
    """Build a norm of images by name, or one of :mod:`~seqconv.layers.norms` with ``options`` of its own.

    Raises:
        ValueError: an unknown name; the nearest are named.
    """
    if name in IMAGE_NORMS:
        return IMAGE_NORMS[name](d_model, eps=eps)
    if name not in NORMS:
        raise unknown_name("create_image_norm", "norm", name, [*IMAGE_NORMS, *NORMS])
    return create_norm(name, d_model, eps=eps, **options)
