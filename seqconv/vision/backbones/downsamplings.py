"""From cells to fewer cells: the layers between the stages of hierarchical backbones.

==============  ====================================================================================================
``merge``       2 by 2 cells as one, a norm, projection (Swin's patch merging, VMamba v1)
``conv``        3 by 3 convolution of stride 2, a norm (VMamba v3, CSWin), one in front or none (SpectFormer, PVTv2)
``conv2``       2 by 2 convolution of stride 2, a norm (VMamba v2, EfficientVMamba, PVT); an odd last row is left out
``batch_norm``  3 by 3 convolution of stride 2, batch norm (RMT)
``mobile``      a wide depthwise convolution with squeeze and excitation, local mixing around it (MobileMamba)
``strided``     a norm or none, then a convolution of stride 2 (HorNet, ParCNetV2, Sequencer, SPANet)
``project``     a projection of every cell: as many cells as before (Sequencer)
==============  ====================================================================================================

Source: ``vmamba.py`` of MzeroMiko/VMamba at 2ed52ead, whose merging takes even sizes alone; here odd ones are padded
with zeros on the right and at the bottom, as in Swin.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from seqconv_kernels._core.errors import argument_error, unknown_name

from ..mixers.mobile_mamba import MobileDownsample
from .cell_norm import create_image_norm


class PatchMerging(nn.Module):
    """2 by 2 cells side by side, in the order (0, 0), (1, 0), (0, 1), (1, 1) of (row, column), normed and projected.

    Args:
        d_in, d_out: widths.
        norm, eps, norm_options: the norm, see :mod:`~seqconv.vision.backbones.cell_norm`, its ε and other options.
    """

    def __init__(
        self,
        d_in: int,
        d_out: int,
        *,
        norm: str = "layer",
        eps: float = 1e-5,
        norm_options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.norm = create_image_norm(norm, 4 * d_in, eps=eps, **(norm_options or {}))
        self.proj = nn.Linear(4 * d_in, d_out, bias=False)

    def forward(self, x: Float[Tensor, "batch rows columns d_in"]) -> Float[Tensor, "batch half_rows half_columns d"]:
        """Half of the rows and columns, rounded up."""
        x = F.pad(x, (0, 0, 0, x.shape[2] % 2, 0, x.shape[1] % 2))
        merged = torch.cat([x[:, i::2, j::2] for j in (0, 1) for i in (0, 1)], dim=-1)
        y: Tensor = self.proj(self.norm(merged))
        return y


class BatchNormDownsample(nn.Module):
    """A 3 by 3 convolution of stride 2, and a batch norm."""

    def __init__(self, d_in: int, d_out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(d_in, d_out, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(d_out)

    def forward(self, x: Float[Tensor, "batch rows columns d_in"]) -> Float[Tensor, "batch half_rows half_columns d"]:
        """Half of the rows and columns, rounded up."""
        y: Tensor = self.norm(self.conv(x.movedim(-1, 1))).movedim(1, -1)
        return y


class ConvDownsample(nn.Module):
    """A convolution of stride 2, and a norm.

    Args:
        d_in, d_out: widths.
        size: rows and columns of the convolution: 3, or 2, which leaves out the last row or column of an odd number.
        norm, eps, norm_options: the norm, see :mod:`~seqconv.vision.backbones.cell_norm`, its ε and other options.
        input_norm, input_norm_eps, input_norm_options: a norm in front of the convolution, as the other one; without an
            ε there is none.
    """

    def __init__(
        self,
        d_in: int,
        d_out: int,
        *,
        size: int = 3,
        norm: str = "layer",
        eps: float = 1e-5,
        norm_options: Mapping[str, Any] | None = None,
        input_norm: str = "layer",
        input_norm_eps: float | None = None,
        input_norm_options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.input_norm: nn.Module = nn.Identity()
        if input_norm_eps is not None:
            self.input_norm = create_image_norm(input_norm, d_in, eps=input_norm_eps, **(input_norm_options or {}))
        self.conv, self.whole = nn.Conv2d(d_in, d_out, size, stride=2, padding=size // 3), size == 2
        self.norm = create_image_norm(norm, d_out, eps=eps, **(norm_options or {}))

    def forward(self, x: Float[Tensor, "batch rows columns d_in"]) -> Float[Tensor, "batch half_rows half_columns d"]:
        """Half of the rows and columns, rounded up."""
        y: Tensor = self.norm(self.conv(self.input_norm(x).movedim(-1, 1)).movedim(1, -1))
        return y


class StridedConv(nn.Module):
    """A norm or none, then a convolution.

    Args:
        d_in, d_out: widths.
        size: rows and columns of the convolution: 3 with a row of zeros around, or as many as ``stride``.
        stride: cells from an output to the next.
        norm: its name, see :mod:`~seqconv.vision.backbones.cell_norm`; ``"none"`` for none.
        eps: ε of the norm.

    Raises:
        ValueError: another size, an unknown norm.
    """

    def __init__(
        self, d_in: int, d_out: int, *, size: int = 2, stride: int = 2, norm: str = "none", eps: float = 1e-5
    ) -> None:
        super().__init__()
        if size not in (stride, 3):
            wanted = f"3 or {stride}"
            raise argument_error("StridedConv", f"size={size} with stride={stride}", wanted, "correct the size")
        self.stride, self.whole = stride, size == stride
        self.norm = nn.Identity() if norm == "none" else create_image_norm(norm, d_in, eps=eps)
        self.conv = nn.Conv2d(d_in, d_out, size, stride=stride, padding=0 if self.whole else 1)

    def forward(self, x: Float[Tensor, "batch rows columns d_in"]) -> Float[Tensor, "batch _ _ d_out"]:
        """Fewer rows and columns."""
        y: Tensor = self.conv(self.norm(x).movedim(-1, 1)).movedim(1, -1)
        return y


DOWNSAMPLINGS: Mapping[str, Callable[..., nn.Module]] = {
    "merge": PatchMerging,
    "conv": ConvDownsample,
    "conv2": partial(ConvDownsample, size=2),
    "batch_norm": BatchNormDownsample,
    "mobile": MobileDownsample,
    "strided": StridedConv,
    "project": partial(StridedConv, size=1, stride=1),
}


def create_downsampling(name: str, d_in: int, d_out: int, **options: Any) -> nn.Module:
    """Build a downsampling by name, with ``options`` of its own.

    Raises:
        ValueError: an unknown name; the nearest are named.
    """
    if name not in DOWNSAMPLINGS:
        raise unknown_name("create_downsampling", "downsampling", name, DOWNSAMPLINGS)
    return DOWNSAMPLINGS[name](d_in, d_out, **options)


def downsampling_strides(downsamplings: nn.ModuleList) -> tuple[list[int], bool]:
    """Cells of the first stage per cell of each stage, and whether one of them leaves out what fills no cell."""
    strides = [1]
    for downsampling in downsamplings:
        strides.append(strides[-1] * int(getattr(downsampling, "stride", 2)))
    return strides, any(getattr(downsampling, "whole", False) for downsampling in downsamplings)
