"""Scans of the whole image and convolutions of a neighbourhood, next to each other (MambaAD's LSS module).

With φ a linear layer of each cell (or a depthwise convolution), a norm of each channel over the image and a SiLU::

    s = (blocks of x + ss2d(norm x)) x            c_k = φ_after(φ_k(φ_before x))      for every kernel size k
    y = x + W [s, c_5, c_7]

Source: He et al. 2024, "MambaAD" (arXiv 2404.06564), and ``model/mambaad.py`` of lewandofskee/MambaAD at 04344525.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from seqconv_kernels._core.errors import argument_error

from ..mixers.ss2d import SS2D, depthwise_conv2d
from .block import Block2d

NORM_EPS = 1e-6
ORDERS = tuple(
    f"hilbert{view}{way}"
    for way in ("", "_reversed")
    for view in ("", "_transposed", "_rotated", "_rotated_transposed")
)
"""The eight directions of the published models."""


class LocalBranch(nn.Module):
    """``φ_after(φ_k(φ_before x))``, channels first."""

    def __init__(self, channels: int, size: int) -> None:
        super().__init__()
        self.before, self.after = nn.Conv2d(channels, channels, 1), nn.Conv2d(channels, channels, 1)
        self.depthwise = depthwise_conv2d(channels, size, bias=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """As He et al., by the outputs."""
        for conv in (self.before, self.depthwise, self.after):
            _reset(conv)

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch channels height width"]:
        for conv in (self.before, self.depthwise, self.after):
            x = F.silu(F.instance_norm(conv(x)))
        return x


class LocalStateSpaceBlock(nn.Module):
    """Blocks of scans, with convolutions next to them.

    Args:
        d_model: width of inputs and outputs.
        depth: blocks of scans.
        kernels: sizes of the depthwise convolutions, odd.
        mixer_options: of :class:`~seqconv.vision.mixers.ss2d.SS2D`; eight directions of the Hilbert curve by default.
        drop_path: probability of leaving out a scan for an image.

    Raises:
        ValueError: no block, even kernels, or as the mixer.
    """

    def __init__(
        self,
        d_model: int,
        *,
        depth: int = 2,
        kernels: Sequence[int] = (5, 7),
        mixer_options: Mapping[str, Any] | None = None,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        if depth < 1 or any(size < 1 or size % 2 == 0 for size in kernels):
            got = f"depth={depth}, kernels={tuple(kernels)}"
            raise argument_error("LocalStateSpaceBlock", got, "a block, odd kernels", "correct the sizes")
        options: dict[str, Any] = {"orders": ORDERS, **(mixer_options or {})}
        self.blocks = nn.ModuleList(
            Block2d(SS2D(d_model, **options), mlp_ratio=0.0, norm_eps=NORM_EPS, drop_path=drop_path)
            for _ in range(depth)
        )
        self.branches = nn.ModuleList(LocalBranch(d_model, size) for size in kernels)
        self.out_proj = nn.Conv2d((1 + len(kernels)) * d_model, d_model, 1)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """All convolutions as He et al., by the outputs; those of the scans have zero biases too."""
        _reset(self.out_proj)
        for block in cast(Iterable[Block2d], self.blocks):
            conv = cast(SS2D, block.mixer).conv2d
            if conv is not None:
                _reset(conv)

    def forward(self, x: Float[Tensor, "batch rows columns d_model"]) -> Float[Tensor, "batch rows columns d_model"]:
        """The images with both added; in training of more than one cell each."""
        scanned, image = x, x.movedim(-1, 1)
        for block in self.blocks:
            scanned = block(scanned)
        found = torch.cat([scanned.movedim(-1, 1), *(branch(image) for branch in self.branches)], dim=1)
        y: Tensor = self.out_proj(found).movedim(1, -1)
        return x + y


def _reset(conv: nn.Conv2d) -> None:
    fan_out = conv.weight[0].numel() // conv.weight.shape[1] * conv.out_channels // conv.groups
    nn.init.normal_(conv.weight, std=(2 / fan_out) ** 0.5)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
